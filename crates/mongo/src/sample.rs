//! What the documents of a collection look like, learnt from some of them.
//!
//! Where all that was seen of a field is one type, or numbers that one type holds exactly, that is its
//! type. Where it is not, somebody has to say what is meant.

use crate::cluster::{Cluster, ReadFrom};
use crate::find::{FindCommand, for_each};
use crate::read::kind_of;
use crate::text::uuid;
use crate::types::{ColumnType, Columns, Stored};
use arrow_schema::{DataType, Field, TimeUnit};
use millstream_core::{Error, Result};
use mongodb::bson::{RawBsonRef, RawDocument};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How many fields a document may have before they look like the keys of a map.
const FIELDS_MAX: usize = 200;

/// How deep documents are looked into.
const DEPTH_MAX: usize = 16;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampled {
    /// How many documents were looked at.
    pub documents: usize,
    pub columns: Columns,
    /// Fields that no type was seen of: only nulls, or empty arrays.
    pub untyped: Vec<String>,
}

/// Looks at up to `documents` of the smallest and as many of the largest `_id`s. The error names the
/// fields that no type fits, and what there is of the others.
pub async fn sample(
    cluster: &Cluster,
    database: &str,
    collection: &str,
    documents: usize,
    read_from: ReadFrom,
    timeout: Duration,
) -> Result<Sampled> {
    let what = format!("sampling {database}.{collection}");
    let (mut seen, mut ends) = (Seen::default(), Vec::new());
    for descending in [false, true] {
        let sort = [("_id".to_owned(), descending)];
        let find = FindCommand { sort: &sort, ..FindCommand::all(collection) };
        let find = find.limited(documents.max(1)).build(timeout);
        let find = find.map_err(|why| Error::stop("lookup", why))?;
        let taken = cluster.find(database, find, read_from, timeout, &what, |batch| {
            for_each(&batch, &what, |document| {
                if let Ok(Some(id)) = document.get("_id") {
                    let id = format!("{id:?}");
                    // A small collection comes from both ends.
                    if ends.contains(&id) {
                        return Ok(());
                    }
                    ends.push(id);
                }
                seen.add(document);
                Ok(())
            })?;
            Ok(true)
        });
        taken.await?;
    }
    seen.judge(&format!("{database}.{collection}")).map_err(|why| Error::stop("lookup", why))
}

impl Sampled {
    /// The columns as a pipeline file declares them.
    pub fn declaration(&self) -> String {
        declaration(&self.columns)
    }
}

fn declaration(columns: &Columns) -> String {
    let columns = columns.iter().map(|(name, of)| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match plain {
            true => format!("{name}: {}", quoted(&of.name())),
            false => format!("{}: {}", serde_json::Value::from(name.as_str()), quoted(&of.name())),
        }
    });
    format!("columns: {{ {} }}", columns.collect::<Vec<_>>().join(", "))
}

/// Types with signs that YAML knows stand in quotes.
fn quoted(name: &str) -> String {
    match name.contains([',', '[', '<']) {
        true => format!("\"{name}\""),
        false => name.to_owned(),
    }
}

/// What was seen in one place of the documents.
#[derive(Debug, Default)]
struct Seen {
    documents: usize,
    /// Values that are not null, by their kind.
    kinds: BTreeMap<&'static str, usize>,
    /// Of documents, in the order in which they were seen.
    fields: Vec<(String, Seen)>,
    /// Of arrays.
    items: Option<Box<Seen>>,
    too_deep: bool,
}

impl Seen {
    fn add(&mut self, document: &RawDocument) {
        self.documents += 1;
        self.enter(document, 0);
    }

    fn enter(&mut self, document: &RawDocument, depth: usize) {
        for element in document {
            let Ok((name, value)) = element else { continue };
            let name = name.as_str();
            let at = match self.fields.iter().position(|(known, _)| known == name) {
                Some(at) => at,
                None if self.fields.len() > FIELDS_MAX => continue,
                None => {
                    self.fields.push((name.to_owned(), Seen::default()));
                    self.fields.len() - 1
                }
            };
            self.fields[at].1.value(value, depth + 1);
        }
    }

    fn value(&mut self, value: RawBsonRef<'_>, depth: usize) {
        let kind = match value {
            RawBsonRef::Null | RawBsonRef::Undefined => return,
            RawBsonRef::Binary(binary) if uuid(binary).is_some() => "a UUID",
            other => kind_of(other),
        };
        *self.kinds.entry(kind).or_default() += 1;
        if depth > DEPTH_MAX {
            self.too_deep = true;
            return;
        }
        match value {
            RawBsonRef::Document(document) => self.enter(document, depth),
            RawBsonRef::Array(array) => {
                let items = self.items.get_or_insert_default();
                array.into_iter().flatten().for_each(|value| items.value(value, depth + 1));
            }
            _ => {}
        }
    }

    fn judge(&self, collection: &str) -> Result<Sampled, String> {
        if self.documents == 0 {
            return Err(format!(
                "`{collection}` has no documents to learn its columns from: declare `columns`"
            ));
        }
        let mut sampled =
            Sampled { documents: self.documents, columns: Vec::new(), untyped: Vec::new() };
        let mut ambiguous = Vec::new();
        for (name, seen) in &self.fields {
            // A name with a dot in it would be read as a path.
            let judged = match name.contains('.') || name.is_empty() {
                true => Err("its name is no path of a field".to_owned()),
                false => seen.of_field(),
            };
            match judged {
                Ok(Some(of)) => sampled.columns.push((name.clone(), of)),
                Ok(None) => sampled.untyped.push(name.clone()),
                Err(why) => ambiguous.push(format!("`{name}`: {why}")),
            }
        }
        if self.fields.len() > FIELDS_MAX {
            ambiguous.push(format!("there are more than {FIELDS_MAX} fields"));
        }
        if ambiguous.is_empty() {
            return Ok(sampled);
        }
        Err(format!(
            "the columns of `{collection}` are not clear from {} documents: {}; declare those that \
             are needed, such as `{}`",
            self.documents,
            ambiguous.join("; "),
            sampled.declaration(),
        ))
    }

    /// None when there is nothing to tell a type by.
    fn of_field(&self) -> Result<Option<ColumnType>, String> {
        if self.too_deep {
            return Err(format!("documents nest more than {DEPTH_MAX} deep"));
        }
        let kinds: Vec<&str> = self.kinds.keys().copied().collect();
        let stored = |stored| ColumnType { data_type: DataType::Utf8, stored };
        let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        Ok(Some(match kinds[..] {
            [] => return Ok(None),
            ["a bool"] => ColumnType::plain(DataType::Boolean),
            ["a long"] | ["an int"] | ["a long", "an int"] => ColumnType::plain(DataType::Int64),
            ["a double"] | ["a double", "an int"] => ColumnType::plain(DataType::Float64),
            ["a string"] | ["a regular expression"] => ColumnType::plain(DataType::Utf8),
            ["a date"] | ["a timestamp"] => ColumnType::plain(utc),
            ["a Decimal128"] => stored(Stored::Decimal128),
            ["an ObjectId"] => stored(Stored::ObjectId),
            ["a UUID"] => stored(Stored::Uuid),
            ["a binary"] => ColumnType::plain(DataType::Binary),
            ["an array"] => {
                let item = match &self.items {
                    Some(items) => {
                        items.of_field().map_err(|why| format!("in its array, {why}"))?
                    }
                    None => None,
                };
                let Some(item) = item else { return Ok(None) };
                let list = DataType::List(Arc::new(Field::new("item", item.data_type, true)));
                ColumnType { data_type: list, stored: item.stored }
            }
            ["a document"] => {
                if self.fields.len() > FIELDS_MAX {
                    return Err(format!(
                        "a document with more than {FIELDS_MAX} fields looks like a map<T>"
                    ));
                }
                let mut fields = Vec::new();
                for (name, seen) in &self.fields {
                    let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                    if !word || name.is_empty() {
                        return Err(format!(
                            "the field `{name}` in it looks like a key of a map<T>"
                        ));
                    }
                    let of = seen.of_field().map_err(|why| format!("`{name}` in it: {why}"))?;
                    let Some(of) = of else { continue };
                    fields.push(Field::new(name, of.data_type, true));
                }
                if fields.is_empty() {
                    return Ok(None);
                }
                ColumnType::plain(DataType::Struct(fields.into()))
            }
            _ => {
                let counted = self.kinds.iter().map(|(kind, count)| format!("{kind} in {count}"));
                return Err(counted.collect::<Vec<_>>().join(", "));
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc, oid::ObjectId};

    fn judged(documents: &[Document]) -> Result<Sampled, String> {
        let mut seen = Seen::default();
        for document in documents {
            seen.add(&RawDocumentBuf::try_from(document).unwrap());
        }
        seen.judge("shop.sites")
    }

    #[test]
    fn what_is_clear_becomes_columns() {
        let id = ObjectId::new();
        let at = DateTime::from_millis(0);
        let sampled = judged(&[
            doc! { "_id": id, "n": 1, "price": 1, "name": Bson::Null, "tags": [], "x": Bson::Null },
            doc! {
                "_id": id, "n": 5_i64, "price": 1.5, "name": "a", "tags": ["t"], "at": at,
                "site": { "id": 7, "ids": [[id]], "none": {} }, "e": [],
            },
        ]);
        let sampled = sampled.unwrap();
        assert_eq!(
            sampled.declaration(),
            "columns: { _id: object_id, n: bigint, price: double, name: string, \
             tags: \"string[]\", at: timestamp, site: \"struct<id bigint, ids string[][]>\" }"
        );
        assert_eq!((sampled.documents, sampled.untyped), (2, vec!["x".into(), "e".into()]));
    }

    #[test]
    fn what_is_not_clear_is_told() {
        let told = |documents: &[Document]| judged(documents).unwrap_err();
        let mixed = told(&[doc! { "_id": 1, "v": 1 }, doc! { "_id": 2, "v": "x" }]);
        assert!(mixed.contains("from 2 documents: `v`: a string in 1, an int in 1"), "{mixed}");
        assert!(mixed.contains("such as `columns: { _id: bigint }`"), "{mixed}");
        let wide = told(&[doc! { "v": 1.5 }, doc! { "v": 1_i64 << 60 }]);
        assert!(wide.contains("a double in 1, a long in 1"), "{wide}");
        let items = told(&[doc! { "v": [1, "x"] }]);
        assert!(items.contains("in its array, a string in 1"), "{items}");
        let keys = told(&[doc! { "v": { "a-b": 1 } }]);
        assert!(keys.contains("looks like a key of a map<T>"), "{keys}");
        let many: Document = (0..300).map(|n| (format!("k{n}"), Bson::from(n))).collect();
        assert!(told(&[doc! { "v": many }]).contains("looks like a map<T>"));
        assert!(told(&[]).contains("has no documents"));
    }
}
