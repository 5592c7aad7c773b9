//! One table: writing and deleting rows.

use crate::catalog::{Layout, TableSpec, list, millis};
use crate::columns::{View, lost, stored_as};
use crate::error::Doing;
use crate::key::KEY_BYTES_MAX;
use crate::row::{self, ROW_BYTES_MAX};
use crate::store::{Open, OpenTable, Store};
use crate::version::{SUFFIX_BYTES, end_delete_key, end_row_key, start_delete, start_row};
use crate::{Error, Result};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{Field, SchemaRef};
use millstream_core::fault;
use parking_lot::RwLockReadGuard;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A handle to a table, as it was described when the handle was made. Cheap to clone.
#[derive(Clone)]
pub struct Table {
    pub(crate) store: Arc<Store>,
    pub(crate) layout: Arc<Layout>,
}

/// What became of the rows of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    pub rows: u64,
    pub bytes: u64,
    /// Rows of the batch that this table can never take, and why, in order.
    pub rejected: Vec<(u32, String)>,
}

impl Table {
    pub(crate) fn new(store: Arc<Store>, layout: Arc<Layout>) -> Self {
        Self { store, layout }
    }

    pub fn spec(&self) -> &TableSpec {
        &self.layout.spec
    }

    pub fn name(&self) -> &str {
        &self.layout.spec.name
    }

    pub fn schema(&self) -> SchemaRef {
        self.layout.schema().clone()
    }

    /// The columns of the key, in order: the partition key, then the clustering.
    pub fn key_columns(&self) -> impl Iterator<Item = &Field> {
        self.layout.key.iter().map(|at| self.layout.schema().field(*at))
    }

    /// How many rows there are, roughly: versions that do not count and expired rows are in it
    /// until they are compacted or swept.
    pub fn count_estimate(&self) -> Result<u64> {
        let open = self.store.enter()?;
        Ok(self.enter(&open)?.keyspace.approximate_len() as u64)
    }

    /// Writes rows, by column name: all in one step, in the journal but not durable before the next
    /// commit or persist. Columns that are not given are null.
    ///
    /// `timestamps_us` are microseconds since 1970, one for each row; the row with the highest
    /// counts, whatever order they come in. Without them every row counts as written later than
    /// all before it. `ttl` goes before the table's own and counts from now; zero is for ever.
    ///
    /// After an error nothing of the batch was written, or the database must be reopened.
    pub fn write(
        &self,
        rows: &RecordBatch,
        timestamps_us: Option<&Int64Array>,
        ttl: Option<Duration>,
    ) -> Result<Written> {
        let columns = Columns::bind(&self.layout, rows)?;
        let (keys, values) = columns.views()?;
        let stamps = Stamps::of(&self.store, rows.num_rows(), timestamps_us)?;
        let ttl = ttl.or(self.layout.spec.ttl).filter(|ttl| !ttl.is_zero());
        let expires_ms = ttl.map(|ttl| {
            let ttl = i64::try_from(millis(ttl)).unwrap_or(i64::MAX);
            self.store.now_ms().saturating_add(ttl)
        });
        self.put(rows.num_rows(), |row, key, value| {
            columns.check(row)?;
            self.encode_key(&keys, row, key)?;
            let timestamp = stamps.at(row)?;
            start_row(expires_ms, value);
            let start = value.len();
            row::encode(&values, row, value);
            if value.len() > ROW_BYTES_MAX {
                return Err(format!(
                    "the row has {} bytes, and a table takes up to {ROW_BYTES_MAX}",
                    value.len()
                ));
            }
            end_row_key(timestamp, &value[start..], key);
            Ok(())
        })
    }

    /// Deletes rows by their full keys; the same rules as for [`write`](Table::write) hold. A row
    /// written with a higher timestamp stays, and a delete wins over a write with the same one.
    pub fn delete(
        &self,
        keys: &RecordBatch,
        timestamps_us: Option<&Int64Array>,
    ) -> Result<Written> {
        let columns = Columns::bind(&self.layout, keys)?;
        let (views, _) = columns.views()?;
        let stamps = Stamps::of(&self.store, keys.num_rows(), timestamps_us)?;
        let now_ms = self.store.now_ms();
        self.put(keys.num_rows(), |row, key, value| {
            columns.check(row)?;
            self.encode_key(&views, row, key)?;
            start_delete(now_ms, value);
            end_delete_key(stamps.at(row)?, key);
            Ok(())
        })
    }

    /// Writes the table's newest rows out of memory and merges all its files into one level. Blocks
    /// for as long as that takes; nothing needs it but a wish for space or speed now.
    pub fn compact(&self) -> Result<()> {
        let open = self.store.enter_to_write()?;
        let table = self.enter(&open)?;
        table.keyspace.rotate_memtable_and_wait().doing("cannot write out a table")?;
        table.keyspace.major_compact().doing("cannot compact a table")
    }

    /// Encodes each row by `encode`, or rejects it, and commits them as one batch.
    fn put(
        &self,
        rows: usize,
        mut encode: impl FnMut(usize, &mut Vec<u8>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<Written> {
        let mut written = Written::default();
        let open = self.store.enter_to_write()?;
        self.store.check_space(&open)?;
        let table = self.enter(&open)?;
        let mut batch = fjall::OwnedWriteBatch::with_capacity(open.db.clone(), rows);
        let (mut key, mut value) = (Vec::with_capacity(64), Vec::with_capacity(512));
        for row in 0..rows {
            key.clear();
            value.clear();
            match encode(row, &mut key, &mut value) {
                Ok(()) => {
                    written.rows += 1;
                    written.bytes += (key.len() + value.len()) as u64;
                    batch.insert(&table.keyspace, key.as_slice(), value.as_slice());
                }
                Err(why) => written.rejected.push((row as u32, why)),
            }
        }
        {
            let _gate = self.pass(&table)?;
            self.store.commit(batch, "cannot write rows to the journal of the tables")?;
        }
        fault::point("tables.write");
        self.store.wrote(&open, written.rows, written.bytes);
        let rejected = written.rejected.len() as u64;
        self.store.counters.rows_rejected.fetch_add(rejected, Ordering::Relaxed);
        Ok(written)
    }

    #[inline]
    fn encode_key(&self, keys: &[View<'_>], row: usize, key: &mut Vec<u8>) -> Result<(), String> {
        for (index, column) in keys.iter().enumerate() {
            if column.is_null(row) {
                let name = self.layout.schema().field(self.layout.key[index]).name();
                return Err(format!("the key column `{name}` is null"));
            }
            column.encode_key(row, key);
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(format!(
                "the key has {} bytes, and a table takes up to {KEY_BYTES_MAX}",
                key.len()
            ));
        }
        key.reserve(SUFFIX_BYTES);
        Ok(())
    }

    /// The table in an open database, if it is still this one.
    pub(crate) fn enter(&self, open: &Open) -> Result<Arc<OpenTable>> {
        match open.table(self.name()) {
            Some(table) if table.layout.id == self.layout.id => Ok(table),
            _ => Err(Error::Dropped(self.name().to_owned())),
        }
    }

    fn pass<'a>(&self, table: &'a OpenTable) -> Result<RwLockReadGuard<'a, bool>> {
        let dropped = table.gate.read();
        if *dropped { Err(Error::Dropped(self.name().to_owned())) } else { Ok(dropped) }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(self.spec()).finish()
    }
}

/// A batch's columns in the table's types and order.
struct Columns<'a> {
    layout: &'a Layout,
    /// One for each column of the table.
    arrays: Vec<Option<ArrayRef>>,
    /// Rows whose value in a column the table's type cannot express.
    lost: Vec<(&'a str, BooleanBuffer)>,
}

impl<'a> Columns<'a> {
    fn bind(layout: &'a Layout, rows: &RecordBatch) -> Result<Self> {
        let schema = layout.schema();
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; schema.fields().len()];
        let mut missed = Vec::new();
        for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            let Some((at, column)) = schema.fields().find(field.name()) else {
                return Err(Error::Refused(format!(
                    "table `{}` has no column `{}`; it has {}",
                    layout.spec.name,
                    field.name(),
                    list(schema.fields().iter().map(|f| f.name().as_str()))
                )));
            };
            let stored = stored_as(column.name(), array, column.data_type())?;
            if let Some(rows) = lost(array, &stored) {
                missed.push((column.name().as_str(), rows));
            }
            arrays[at] = Some(stored);
        }
        for at in &layout.key {
            if arrays[*at].is_none() {
                return Err(Error::Refused(format!(
                    "the rows have no column `{}`, which is in the key of table `{}`",
                    schema.field(*at).name(),
                    layout.spec.name
                )));
            }
        }
        Ok(Self { layout, arrays, lost: missed })
    }

    fn views(&self) -> Result<(Vec<View<'_>>, Vec<Option<View<'_>>>)> {
        let view = |at: usize| -> Result<Option<View<'_>>> {
            let Some(array) = &self.arrays[at] else { return Ok(None) };
            let view = View::of(array.as_ref()).ok_or_else(|| {
                Error::Refused(format!("a table cannot hold the type {}", array.data_type()))
            })?;
            Ok(Some(view))
        };
        let mut keys = Vec::with_capacity(self.layout.key.len());
        for at in &self.layout.key {
            keys.extend(view(*at)?);
        }
        let values = self.layout.values.iter().map(|at| view(*at)).collect::<Result<_>>()?;
        Ok((keys, values))
    }

    #[inline]
    fn check(&self, row: usize) -> Result<(), String> {
        for (column, rows) in &self.lost {
            if rows.value(row) {
                return Err(format!("the value of `{column}` is out of the range of its column"));
            }
        }
        Ok(())
    }
}

/// The write timestamp of each row.
enum Stamps<'a> {
    /// Row `i` has this and `i`.
    From(i64),
    Given(&'a Int64Array),
}

impl<'a> Stamps<'a> {
    fn of(store: &Store, rows: usize, given: Option<&'a Int64Array>) -> Result<Self> {
        match given {
            Some(given) if given.len() != rows => {
                Err(Error::Refused(format!("{rows} rows came with {} timestamps", given.len())))
            }
            Some(given) => Ok(Stamps::Given(given)),
            None => Ok(Stamps::From(store.stamps(rows))),
        }
    }

    #[inline]
    fn at(&self, row: usize) -> Result<i64, String> {
        match self {
            Stamps::From(first) => Ok(first.saturating_add(row as i64)),
            Stamps::Given(given) if given.is_null(row) => {
                Err("the write timestamp is null".to_owned())
            }
            Stamps::Given(given) => Ok(given.value(row)),
        }
    }
}
