//! An update as its writer gives it: operators, fields and values, in which a text that begins with
//! `$` is a column of the row, and `$$` stands for a `$`.
//!
//! ```yaml
//! $set: { "site.name": $name, seen: $seen_at, source: web }
//! $inc: { visits: 1 }
//! ```

use crate::types::Stored;
use crate::write::{self, Digits, Writer};
use arrow_array::ArrayRef;
use arrow_schema::Schema;
use serde_json::{Map, Value};

/// The operators, and whether doing them twice is doing them once.
const OPERATORS: [(&str, bool); 15] = [
    ("$set", true),
    ("$setOnInsert", true),
    ("$unset", true),
    ("$min", true),
    ("$max", true),
    ("$currentDate", true),
    ("$addToSet", true),
    ("$pull", true),
    ("$pullAll", true),
    ("$rename", true),
    ("$inc", false),
    ("$mul", false),
    ("$push", false),
    ("$pop", false),
    ("$bit", false),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Map<String, Value>);

/// A template with the places of its columns.
#[derive(Debug)]
pub(crate) struct Bound(Vec<(Box<[u8]>, Fields)>);

/// Names with what is written under them.
type Fields = Vec<(Box<[u8]>, Node)>;

#[derive(Debug)]
enum Node {
    Column {
        column: usize,
        writer: Writer,
    },
    /// An element under an empty name.
    Literal(Vec<u8>),
    Document(Fields),
    Array(Vec<Node>),
}

impl Template {
    /// The error is a sentence for the user.
    pub fn parse(value: Value) -> Result<Template, String> {
        let Value::Object(operators) = value else {
            return Err("an update is operators with their fields, such as `$set`".into());
        };
        if operators.is_empty() {
            return Err("an update has at least one operator, such as `$set`".into());
        }
        for (name, fields) in &operators {
            if !OPERATORS.iter().any(|(known, _)| known == name) {
                let known = OPERATORS.map(|(known, _)| known).join(", ");
                return Err(format!("`{name}` is no operator of an update; known are {known}"));
            }
            if fields.as_object().is_none_or(Map::is_empty) {
                return Err(format!("`{name}` has fields with their values"));
            }
        }
        Ok(Template(operators))
    }

    /// Whether an update that is done twice has done the same as once.
    pub fn is_idempotent(&self) -> bool {
        let same = |name| OPERATORS.iter().any(|(known, same)| *known == name && *same);
        self.0.keys().all(|name| same(name.as_str()))
    }

    pub(crate) fn bind(
        &self,
        rows: &Schema,
        stored: &dyn Fn(&str) -> Stored,
    ) -> Result<Bound, String> {
        let mut bound = Vec::new();
        for (operator, fields) in &self.0 {
            let fields = fields.as_object().into_iter().flatten();
            let fields = fields.map(|(name, value)| {
                let node = Node::new(value, rows, stored);
                Ok((write::field_name(name)?, node.map_err(|e| format!("`{name}`: {e}"))?))
            });
            let fields = fields.collect::<Result<Vec<_>, String>>();
            let fields = fields.map_err(|why| format!("`{operator}`: {why}"))?;
            bound.push((write::field_name(operator)?, fields));
        }
        Ok(Bound(bound))
    }
}

impl Bound {
    /// Appends the operators that have something to do for this row; false when none has.
    pub fn write(
        &self,
        columns: &[ArrayRef],
        row: usize,
        nulls: bool,
        out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        let mut any = false;
        for (operator, fields) in &self.0 {
            let before = out.len();
            let at = write::begin_document(operator, out);
            let mut some = false;
            for (name, node) in fields {
                some |= node.write(name, columns, row, nulls, out)?;
            }
            write::end(out, at)?;
            match some {
                true => any = true,
                // Older servers refuse an operator without fields.
                false => out.truncate(before),
            }
        }
        Ok(any)
    }
}

impl Node {
    fn new(value: &Value, rows: &Schema, stored: &dyn Fn(&str) -> Stored) -> Result<Node, String> {
        let mut out = Vec::new();
        match value {
            Value::Null => write::null(b"", &mut out),
            Value::Bool(value) => write::boolean(b"", *value, &mut out),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(n), _) => match i32::try_from(n) {
                    Ok(n) => write::int(b"", n, &mut out),
                    Err(_) => write::long(b"", n, &mut out),
                },
                (None, Some(n)) => write::double(b"", n, &mut out),
                (None, None) => return Err(format!("the number {number} is too large")),
            },
            Value::String(text) => {
                match text.strip_prefix('$') {
                    None => write::words(b"", text, &mut out)?,
                    Some(rest) if rest.starts_with('$') => write::words(b"", rest, &mut out)?,
                    Some(name) => {
                        let column = rows.index_of(name).map_err(|_| {
                        format!("the rows have no column `{name}`; a text that begins with `$` is `$$…`")
                    })?;
                        let writer = Writer::new(rows.field(column).data_type(), stored(name))?;
                        return Ok(Node::Column { column, writer });
                    }
                }
            }
            Value::Array(items) => {
                let items = items.iter().map(|item| Node::new(item, rows, stored));
                return Ok(Node::Array(items.collect::<Result<_, _>>()?));
            }
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| {
                    Ok((write::field_name(name)?, Node::new(value, rows, stored)?))
                });
                return Ok(Node::Document(fields.collect::<Result<_, String>>()?));
            }
        }
        Ok(Node::Literal(out))
    }

    /// False for a column's null that is left out.
    fn write(
        &self,
        name: &[u8],
        columns: &[ArrayRef],
        row: usize,
        nulls: bool,
        out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        match self {
            Node::Literal(bytes) => write::renamed(name, bytes, out),
            Node::Column { column, writer } => {
                if !writer.write(name, &columns[*column], row, nulls, out)? {
                    if !nulls {
                        return Ok(false);
                    }
                    write::null(name, out);
                }
            }
            Node::Document(fields) => {
                let at = write::begin_document(name, out);
                for (name, node) in fields {
                    node.write(name, columns, row, nulls, out)?;
                }
                write::end(out, at)?;
            }
            Node::Array(items) => {
                let at = write::begin_array(name, out);
                for (index, item) in items.iter().enumerate() {
                    let mut digits = Digits::default();
                    // An array keeps its places.
                    item.write(digits.of(index), columns, row, true, out)?;
                }
                write::end(out, at)?;
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int64Array, RecordBatch, StringArray};
    use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
    use serde_json::json;
    use std::sync::Arc;

    fn written(template: Value, nulls: bool) -> Result<Document, String> {
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("name", Arc::new(StringArray::from(vec![Some("x")])) as ArrayRef, true),
            ("gone", Arc::new(Int64Array::from(vec![None])), true),
        ])
        .unwrap();
        let bound = Template::parse(template)?.bind(&rows.schema(), &|_| Stored::Plainly)?;
        let mut out = Vec::new();
        let at = write::begin(&mut out);
        bound.write(rows.columns(), 0, nulls, &mut out)?;
        write::end(&mut out, at)?;
        Ok(Document::try_from(&RawDocumentBuf::from_bytes(out).unwrap()).unwrap())
    }

    #[test]
    fn columns_and_literals_stand_where_the_template_has_them() {
        let template = json!({
            "$set": { "a.b": "$name", "c": { "d": "$gone", "e": [1, "$gone", "$$x"] }, "f": "$gone" },
            "$inc": { "n": 1 },
            "$unset": { "g": "$gone" },
        });
        let kept = doc! {
            "$set": { "a.b": "x", "c": { "e": [1, Bson::Null, "$x"] } }, "$inc": { "n": 1 },
        };
        assert_eq!(written(template.clone(), false).unwrap(), kept);
        let nested = doc! { "d": Bson::Null, "e": [1, Bson::Null, "$x"] };
        let all = doc! {
            "$set": { "a.b": "x", "c": nested, "f": Bson::Null },
            "$inc": { "n": 1 },
            "$unset": { "g": Bson::Null },
        };
        assert_eq!(written(template, true).unwrap(), all);
    }

    #[test]
    fn a_wrong_template_is_a_sentence() {
        for (template, told) in [
            (json!("x"), "an update is operators"),
            (json!({}), "at least one operator"),
            (json!({ "name": "$name" }), "`name` is no operator"),
            (json!({ "$set": {} }), "`$set` has fields"),
            (json!({ "$set": { "a": "$nom" } }), "`$set`: `a`: the rows have no column `nom`"),
        ] {
            let error = written(template, false).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_counts_twice_is_known() {
        let of = |value| Template::parse(value).unwrap().is_idempotent();
        assert!(of(json!({ "$set": { "a": 1 }, "$max": { "b": 1 } })));
        assert!(!of(json!({ "$set": { "a": 1 }, "$inc": { "b": 1 } })));
    }
}
