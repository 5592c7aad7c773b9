//! Rows by key from a store: the enrichment that a JOIN in the SQL asks for.

use crate::Result;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;

/// The columns that a lookup is asked by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LookupKey {
    /// Rows whose columns equal the key's, column by column.
    Equal(Vec<String>),
    /// Rows with `start <= key AND key <= end`.
    Range { start: String, end: String },
}

/// A store, already bound to the key columns it is asked by. Shared by all partition tasks.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// The columns of the rows found.
    fn schema(&self) -> SchemaRef;

    /// The rows for many keys in one call. `keys` has one column for each column of the key, in its
    /// order and of the same type (one column, of the start column's type, for a range). Keys are
    /// distinct and hold no null.
    async fn get_many(&self, keys: &RecordBatch) -> Result<Found>;

    /// Tells how many rows of a batch asked with the keys of a call, and how many of them found
    /// something: keys are distinct, and one may stand for many rows.
    fn served(&self, rows: u64, found: u64) {
        let _ = (rows, found);
    }

    /// A number that changes when the store's content is replaced as a whole (a file that was
    /// reloaded), so that caches above can drop what they hold.
    fn generation(&self) -> u64 {
        0
    }
}

/// The rows of key `i` are `rows[ends[i - 1]..ends[i]]` (from 0 for the first); none is a miss.
#[derive(Debug, Clone)]
pub struct Found {
    pub rows: RecordBatch,
    pub ends: Vec<u32>,
}

impl Found {
    pub fn of(&self, key: usize) -> std::ops::Range<usize> {
        let from = if key == 0 { 0 } else { self.ends[key - 1] as usize };
        from..self.ends[key] as usize
    }
}

impl LookupKey {
    pub fn columns(&self) -> Vec<&str> {
        match self {
            LookupKey::Equal(columns) => columns.iter().map(String::as_str).collect(),
            LookupKey::Range { start, end } => vec![start, end],
        }
    }
}
