//! The rows of a batch as statements: the documents of an insert, or the parts of an update or a
//! delete.

use crate::template::Bound;
use crate::write::{self, DOCUMENT_BYTES_MAX, Writer};
use ahash::AHashMap;
use arrow_array::{ArrayRef, RecordBatch};
use mongodb::bson::oid::ObjectId;
use std::ops::Range;

/// A column, and the field that it is written to.
#[derive(Debug)]
pub(crate) struct Field {
    pub name: Box<[u8]>,
    pub column: usize,
    pub writer: Writer,
}

#[derive(Debug)]
pub(crate) enum Form {
    /// A document; with an `_id` of ours when the rows have none.
    Insert,
    /// What has the key is replaced.
    Upsert,
    Update {
        update: Bound,
        upsert: bool,
    },
    Delete,
}

#[derive(Debug)]
pub(crate) struct Layout {
    /// The fields that documents are found by; none for an insert whose `_id` is ours.
    pub key: Vec<Field>,
    /// The fields of a whole document.
    pub fields: Vec<Field>,
    pub form: Form,
    /// Whether a null is written, or its field left out.
    pub nulls: bool,
}

/// What one row asks for, as an element of the command's array has it.
#[derive(Debug)]
pub(crate) struct Statement {
    pub row: u32,
    pub bytes: Vec<u8>,
}

pub(crate) struct Encoded {
    pub statements: Vec<Statement>,
    /// The statements of each key, in the order of the rows.
    pub of_key: Vec<Vec<usize>>,
    pub rejected: Vec<(u32, String)>,
}

impl Layout {
    pub fn makes_ids(&self) -> bool {
        matches!(self.form, Form::Insert) && self.key.is_empty()
    }

    /// `ids` are those of the rows when this makes them.
    pub fn encode(&self, rows: &RecordBatch, ids: &[ObjectId]) -> Encoded {
        let mut encoded = Encoded {
            statements: Vec::with_capacity(rows.num_rows()),
            of_key: Vec::with_capacity(rows.num_rows()),
            rejected: Vec::new(),
        };
        let mut known: AHashMap<Vec<u8>, usize> = AHashMap::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let (bytes, key) = match self.statement(rows.columns(), row, ids.get(row)) {
                Ok(statement) => statement,
                Err(why) => {
                    encoded.rejected.push((row as u32, why));
                    continue;
                }
            };
            let statement = encoded.statements.len();
            encoded.statements.push(Statement { row: row as u32, bytes });
            if key.is_empty() {
                encoded.of_key.push(vec![statement]);
                continue;
            }
            let place = *known.entry(key).or_insert(encoded.of_key.len());
            match encoded.of_key.get_mut(place) {
                Some(before) => before.push(statement),
                None => encoded.of_key.push(vec![statement]),
            }
        }
        encoded
    }

    /// A row's statement, and the bytes of its key.
    fn statement(
        &self,
        columns: &[ArrayRef],
        row: usize,
        id: Option<&ObjectId>,
    ) -> Result<(Vec<u8>, Vec<u8>), String> {
        let mut key = Vec::new();
        for field in &self.key {
            let column = &columns[field.column];
            if !field.writer.write(&field.name, column, row, self.nulls, &mut key)? {
                let name = String::from_utf8_lossy(&field.name);
                return Err(format!("the key `{name}` is null"));
            }
        }
        let mut out = Vec::with_capacity(256);
        let statement = write::begin(&mut out);
        match &self.form {
            Form::Insert => {
                if let Some(id) = id.filter(|_| self.key.is_empty()) {
                    write::object_id(b"_id", *id, &mut out);
                }
                self.document(columns, row, &mut out)?;
            }
            Form::Upsert => {
                self.query(&key, &mut out)?;
                let at = write::begin_document(b"u", &mut out);
                self.document(columns, row, &mut out)?;
                write::end(&mut out, at)?;
                write::boolean(b"upsert", true, &mut out);
            }
            Form::Update { update, upsert } => {
                self.query(&key, &mut out)?;
                let at = write::begin_document(b"u", &mut out);
                if !update.write(columns, row, self.nulls, &mut out)? {
                    // Nothing to change but that the document is there.
                    let set = write::begin_document(b"$set", &mut out);
                    out.extend_from_slice(&key);
                    write::end(&mut out, set)?;
                }
                write::end(&mut out, at)?;
                write::boolean(b"upsert", *upsert, &mut out);
            }
            Form::Delete => {
                self.query(&key, &mut out)?;
                write::int(b"limit", 1, &mut out);
            }
        }
        write::end(&mut out, statement)?;
        if out.len() > DOCUMENT_BYTES_MAX {
            return Err(format!(
                "the document has {} bytes; MongoDB takes {DOCUMENT_BYTES_MAX}",
                out.len()
            ));
        }
        Ok((out, key))
    }

    fn query(&self, key: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let at = write::begin_document(b"q", out);
        out.extend_from_slice(key);
        write::end(out, at)
    }

    fn document(&self, columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        for field in &self.fields {
            let column = &columns[field.column];
            let written = field.writer.write(&field.name, column, row, self.nulls, out)?;
            if !written && self.nulls {
                write::null(&field.name, out);
            }
        }
        Ok(())
    }
}

/// Which statements go together in one command, up to a number and a size, in their order.
pub(crate) fn units(
    statements: &[Statement],
    order: &[usize],
    rows_max: usize,
    bytes_max: usize,
) -> Vec<Range<usize>> {
    let mut units = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, statement) in order.iter().enumerate() {
        let len = statements[*statement].bytes.len();
        if at > start && (at - start >= rows_max.max(1) || bytes + len > bytes_max) {
            units.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += len;
    }
    if start < order.len() {
        units.push(start..order.len());
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;
    use crate::types::Stored;
    use arrow_array::{Int64Array, StringArray};
    use mongodb::bson::{Document, RawDocumentBuf, doc};
    use serde_json::json;
    use std::sync::Arc;

    fn rows() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            (
                "id",
                Arc::new(Int64Array::from(vec![Some(1), None, Some(2), Some(1)])) as ArrayRef,
                true,
            ),
            (
                "v",
                Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("d")]))
                    as ArrayRef,
                true,
            ),
        ])
        .unwrap()
    }

    fn field(name: &str, column: usize) -> Field {
        let rows = rows();
        let writer = Writer::new(rows.column(column).data_type(), Stored::Plainly).unwrap();
        Field { name: name.as_bytes().into(), column, writer }
    }

    fn encoded(form: Form, nulls: bool) -> (Vec<Document>, Encoded) {
        let layout = Layout {
            key: vec![field("_id", 0)],
            fields: vec![field("_id", 0), field("v", 1)],
            form,
            nulls,
        };
        let encoded = layout.encode(&rows(), &[]);
        let read = |s: &Statement| {
            Document::try_from(&RawDocumentBuf::from_bytes(s.bytes.clone()).unwrap()).unwrap()
        };
        (encoded.statements.iter().map(read).collect(), encoded)
    }

    #[test]
    fn rows_become_statements_and_know_their_key() {
        let (statements, all) = encoded(Form::Insert, false);
        let documents = [doc! { "_id": 1_i64, "v": "a" }, doc! { "_id": 2_i64 }];
        assert_eq!(statements[..2], documents);
        assert_eq!(all.of_key, [vec![0, 2], vec![1]]);
        assert_eq!(all.rejected, [(1, "the key `_id` is null".to_owned())]);
        let rows: Vec<_> = all.statements.iter().map(|s| s.row).collect();
        assert_eq!(rows, [0, 2, 3]);

        let (statements, _) = encoded(Form::Upsert, true);
        let replaced = doc! { "_id": 2_i64, "v": mongodb::bson::Bson::Null };
        assert_eq!(statements[1], doc! { "q": { "_id": 2_i64 }, "u": replaced, "upsert": true });
        let (statements, _) = encoded(Form::Delete, false);
        assert_eq!(statements[0], doc! { "q": { "_id": 1_i64 }, "limit": 1 });

        let template = Template::parse(json!({ "$set": { "v": "$v" } })).unwrap();
        let update = template.bind(&super::tests::rows().schema(), &|_| Stored::Plainly).unwrap();
        let (statements, _) = encoded(Form::Update { update, upsert: false }, false);
        let query = doc! { "_id": 1_i64 };
        let set = doc! { "$set": { "v": "a" } };
        assert_eq!(statements[0], doc! { "q": query, "u": set, "upsert": false });
        let nothing = doc! { "$set": { "_id": 2_i64 } };
        assert_eq!(statements[1].get_document("u").unwrap(), &nothing);
    }

    #[test]
    fn an_id_is_made_where_the_rows_have_none() {
        let layout =
            Layout { key: vec![], fields: vec![field("v", 1)], form: Form::Insert, nulls: false };
        assert!(layout.makes_ids());
        let ids: Vec<_> = (0..4).map(|_| ObjectId::new()).collect();
        let encoded = layout.encode(&rows(), &ids);
        assert_eq!(encoded.of_key.len(), 4);
        let first = RawDocumentBuf::from_bytes(encoded.statements[0].bytes.clone()).unwrap();
        assert_eq!(first.get_object_id("_id").unwrap(), ids[0]);
    }

    #[test]
    fn units_are_bounded_in_rows_and_bytes() {
        let sized = |len| Statement { row: 0, bytes: vec![0; len] };
        let statements = [sized(10), sized(90), sized(20), sized(200), sized(5)];
        let order = [4, 0, 1, 2, 3];
        assert_eq!(units(&statements, &order, 10, 100), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(units(&statements, &order, 2, 1000), [0..2, 2..4, 4..5]);
        assert!(units(&statements, &[], 2, 1000).is_empty());
    }
}
