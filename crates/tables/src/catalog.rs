//! What a table is: its columns, its key, how long its rows live; and how that may change.

use crate::columns::canonical;
use crate::key::can_be_key;
use crate::{Error, Result};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::types;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

const NAME_BYTES_MAX: usize = 200;

/// A table as its owner describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    pub name: String,
    /// Stored in the types that [`canonical`](crate::canonical) gives. Key columns are never null,
    /// all others may be.
    pub columns: SchemaRef,
    /// What a look-up must name at least. Not empty.
    pub partition_key: Vec<String>,
    /// What tells the rows of a partition apart, in their order.
    pub clustering: Vec<String>,
    /// How long a row lives, from its write, where the write does not say.
    pub ttl: Option<Duration>,
    /// How long a deleted or expired row keeps its timestamp, so that a late write with an older
    /// one does not bring it back. [`TableSpec::GRACE`] unless there is a reason.
    pub grace: Duration,
}

impl TableSpec {
    pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

    /// The key columns, in order.
    pub fn key_columns(&self) -> impl Iterator<Item = &str> {
        self.partition_key.iter().chain(&self.clustering).map(String::as_str)
    }
}

/// A table's columns in the order they are stored.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Names the table's keyspace; a table that is dropped and made again has another.
    pub id: u64,
    pub spec: TableSpec,
    /// Where the key columns are in the schema.
    pub key: Vec<usize>,
    /// Where the other columns are, in the order in which they came to the table.
    pub values: Vec<usize>,
    pub value_types: Vec<DataType>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    id: u64,
    columns: Vec<StoredColumn>,
    partition_key: Vec<String>,
    clustering: Vec<String>,
    ttl_ms: Option<u64>,
    grace_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredColumn {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
}

impl Layout {
    /// Checks a new table's description.
    pub fn new(id: u64, mut spec: TableSpec) -> Result<Self> {
        let name = &spec.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            return Err(Error::Refused(format!(
                "`{name}` cannot name a table: use up to {NAME_BYTES_MAX} letters, digits, `_`, `-` and `.`"
            )));
        }
        if spec.partition_key.is_empty() {
            return Err(Error::Refused(format!("table `{name}` needs a key")));
        }
        let keys: Vec<String> = spec.key_columns().map(str::to_owned).collect();
        let mut fields: Vec<Field> = Vec::with_capacity(spec.columns.fields().len());
        for field in spec.columns.fields() {
            let column = field.name();
            if fields.iter().any(|known| known.name() == column) {
                return Err(Error::Refused(format!(
                    "table `{name}` has two columns that are called `{column}`"
                )));
            }
            let data_type = canonical(field.data_type()).map_err(|why| {
                Error::Refused(format!("table `{name}`, column `{column}`: {why}"))
            })?;
            fields.push(Field::new(column, data_type, !keys.contains(column)));
        }
        let mut key = Vec::with_capacity(keys.len());
        for column in &keys {
            let Some(at) = fields.iter().position(|field| field.name() == column) else {
                return Err(Error::Refused(format!(
                    "the key of table `{name}` names `{column}`, which is not one of its columns: {}",
                    list(fields.iter().map(|f| f.name().as_str()))
                )));
            };
            if key.contains(&at) {
                return Err(Error::Refused(format!(
                    "the key of table `{name}` names `{column}` twice"
                )));
            }
            if !can_be_key(fields[at].data_type()) {
                return Err(Error::Refused(format!(
                    "column `{column}` of table `{name}` is {}, which cannot be a key",
                    types::name(fields[at].data_type())
                )));
            }
            key.push(at);
        }
        let values: Vec<usize> = (0..fields.len()).filter(|at| !key.contains(at)).collect();
        let value_types = values.iter().map(|at| fields[*at].data_type().clone()).collect();
        spec.columns = Arc::new(Schema::new(fields));
        Ok(Self { id, spec, key, values, value_types })
    }

    /// This table with what a newer description adds; `None` when that is nothing. Columns may be
    /// added, and the time-to-live and the grace may change for rows written from then on.
    pub fn evolve(&self, wanted: TableSpec) -> Result<Option<Self>> {
        let name = self.spec.name.clone();
        let mut wanted = Layout::new(self.id, wanted)?.spec;
        for (what, was, is) in [
            ("partition key", &self.spec.partition_key, &wanted.partition_key),
            ("clustering", &self.spec.clustering, &wanted.clustering),
        ] {
            if was != is {
                return Err(Error::Refused(format!(
                    "the {what} of table `{name}` is {} and cannot become {}; write to a new table",
                    list(was.iter().map(String::as_str)),
                    list(is.iter().map(String::as_str))
                )));
            }
        }
        let mut fields: Vec<Field> = Vec::new();
        for was in self.spec.columns.fields() {
            let column = was.name();
            match wanted.columns.field_with_name(column) {
                Ok(is) if is.data_type() == was.data_type() => {}
                Ok(is) => {
                    return Err(Error::Refused(format!(
                        "column `{column}` of table `{name}` is {} and cannot become {}; CAST it in the SQL, or write to a new table",
                        types::name(was.data_type()),
                        types::name(is.data_type())
                    )));
                }
                Err(_) => {
                    return Err(Error::Refused(format!(
                        "table `{name}` has a column `{column}`, which is not given; a column cannot be taken away: give it (NULL will do), or write to a new table"
                    )));
                }
            }
            fields.push(was.as_ref().clone());
        }
        for is in wanted.columns.fields() {
            if !fields.iter().any(|was| was.name() == is.name()) {
                fields.push(is.as_ref().clone());
            }
        }
        wanted.columns = Arc::new(Schema::new(fields));
        if wanted == self.spec {
            return Ok(None);
        }
        Layout::new(self.id, wanted).map(Some)
    }

    pub fn keyspace(&self) -> String {
        format!("table.{}", self.id)
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.spec.columns
    }

    pub fn key_type(&self, index: usize) -> &DataType {
        self.spec.columns.field(self.key[index]).data_type()
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        let columns = self.spec.columns.fields().iter();
        let stored = Stored {
            id: self.id,
            columns: columns
                .map(|f| StoredColumn {
                    name: f.name().clone(),
                    data_type: types::name(f.data_type()),
                })
                .collect(),
            partition_key: self.spec.partition_key.clone(),
            clustering: self.spec.clustering.clone(),
            ttl_ms: self.spec.ttl.map(millis),
            grace_ms: millis(self.spec.grace),
        };
        serde_json::to_vec(&stored).map_err(|error| Error::Damaged(error.to_string()))
    }

    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = |why: String| {
            Error::Damaged(format!("the description of table `{name}` cannot be read: {why}"))
        };
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let mut fields = Vec::with_capacity(stored.columns.len());
        for column in &stored.columns {
            let data_type = types::parse(&column.data_type).map_err(damaged)?;
            fields.push(Field::new(&column.name, data_type, true));
        }
        let spec = TableSpec {
            name: name.to_owned(),
            columns: Arc::new(Schema::new(fields)),
            partition_key: stored.partition_key,
            clustering: stored.clustering,
            ttl: stored.ttl_ms.map(Duration::from_millis),
            grace: Duration::from_millis(stored.grace_ms),
        };
        Layout::new(stored.id, spec).map_err(|error| damaged(error.to_string()))
    }
}

pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
