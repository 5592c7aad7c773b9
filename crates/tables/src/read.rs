//! Reading: rows by many keys, and scans in key order.

use crate::builder::{ColumnBuilder, batch};
use crate::catalog::{Layout, list};
use crate::columns::{View, stored_as};
use crate::error::Doing;
use crate::key::{self, after_prefix};
use crate::row;
use crate::table::Table;
use crate::version::{Resolve, Resolved, SUFFIX_BYTES, Version};
use crate::{Error, Result};
use arrow_array::{ArrayRef, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array};
use arrow_cast::cast;
use arrow_schema::{DataType, Schema, SchemaRef};
use fjall::{Guard, Readable};
use millstream_core::{Found, types};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A batch of a scan ends at this many rows, or bytes as they are stored.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 1024 * 1024;

/// Which rows of a table, in key order. Key values are batches of one row whose columns are the
/// first columns of the key; [`Table::key`] makes them from text.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Only rows whose key begins with this.
    pub prefix: Option<RecordBatch>,
    /// From the first row whose key begins with this, or the next one.
    pub from: Option<RecordBatch>,
    /// Up to the last row whose key begins with this, or the one before.
    pub to: Option<RecordBatch>,
    pub limit: Option<usize>,
    /// The columns wanted, in this order; all when not given.
    pub projection: Option<Vec<String>>,
    /// Goes on behind where an earlier scan stopped; see [`Rows::resume_token`].
    pub resume: Option<Vec<u8>>,
}

/// The rows of a scan. Each batch is read when it is asked for, so that a long scan keeps nothing
/// open: a row that is written behind where the scan is now will be seen.
pub struct Rows {
    table: Table,
    reader: Reader,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    left: usize,
    last: Option<Vec<u8>>,
}

impl Table {
    /// The rows of many keys in one call: `keys` has the first columns of the key by name, in any
    /// order, at least those of the partition key. A null key finds nothing.
    pub fn get_many(&self, keys: &RecordBatch, projection: Option<&[String]>) -> Result<Found> {
        let columns = self.key_prefix(keys)?;
        if columns.len() < self.layout.spec.partition_key.len() {
            return Err(Error::Refused(format!(
                "table `{}` is asked by {}, and that is not its partition key: {}",
                self.name(),
                list(keys.schema().fields().iter().map(|f| f.name().as_str())),
                list(self.layout.spec.partition_key.iter().map(String::as_str))
            )));
        }
        self.find(&columns, keys.num_rows(), &Reader::new(&self.layout, projection)?)
    }

    /// The rows for keys given as the first columns of the key, in its order and types.
    pub(crate) fn find(&self, keys: &[ArrayRef], rows: usize, reader: &Reader) -> Result<Found> {
        let views = self.views(keys)?;
        let full = views.len() == self.layout.key.len();
        let mut builders = reader.builders();
        let mut ends = Vec::with_capacity(rows);
        let mut found = 0u32;
        let (mut prefix, mut scratch) = (Vec::new(), Vec::new());

        let open = self.store.enter()?;
        let table = self.enter(&open)?;
        let now_ms = self.store.now_ms();
        let snapshot = open.db.snapshot();
        for row in 0..rows {
            if !views.iter().any(|view| view.is_null(row)) {
                prefix.clear();
                views.iter().for_each(|view| view.encode_key(row, &mut prefix));
                let mut resolve = Resolve::default();
                let mut newest: Option<Version> = None;
                for guard in snapshot.prefix(&table.keyspace, &prefix) {
                    let version = version(guard)?;
                    if full {
                        // Only versions with the newest timestamp can count.
                        let newest = newest.get_or_insert_with(|| version.clone());
                        if version.key.get(..prefix.len() + 8) != newest.key.get(..prefix.len() + 8)
                        {
                            break;
                        }
                    }
                    if let Resolved::Row(version) = resolve.push(version)? {
                        found += reader.push(&version, now_ms, &mut builders, &mut scratch)?;
                    }
                }
                if let Some(version) = resolve.finish() {
                    found += reader.push(&version, now_ms, &mut builders, &mut scratch)?;
                }
            }
            ends.push(found);
        }
        drop(open);
        self.store.counters.rows_read.fetch_add(u64::from(found), Ordering::Relaxed);
        Ok(Found { rows: batch(&reader.schema, builders, found as usize)?, ends })
    }

    /// For each value the last row whose key is at or before it, where the row's column `end` (of
    /// the reader's) is not before it. Of the reader's columns those `shown` are given.
    pub(crate) fn find_range(
        &self,
        values: &ArrayRef,
        reader: &Reader,
        end: usize,
        shown: &[usize],
    ) -> Result<Found> {
        let views = self.views(std::slice::from_ref(values))?;
        let view = &views[0];
        let mut builders = reader.builders();
        let (mut near, mut found) = (Vec::with_capacity(values.len()), 0u32);
        let (mut key, mut scratch) = (Vec::new(), Vec::new());

        let open = self.store.enter()?;
        let table = self.enter(&open)?;
        let now_ms = self.store.now_ms();
        let snapshot = open.db.snapshot();
        for row in 0..values.len() {
            let mut is_there = false;
            if !view.is_null(row) {
                key.clear();
                view.encode_key(row, &mut key);
                let mut upto = after_prefix(key.clone()).map_or(Bound::Unbounded, Bound::Excluded);
                // Rows that are deleted or expired are passed over.
                while !is_there {
                    let below = (Bound::Unbounded, upto.as_ref().map(Vec::as_slice));
                    let last = snapshot.range::<&[u8], _>(&table.keyspace, below).next_back();
                    let Some(last) = last.map(version).transpose()? else { break };
                    let mut resolve = Resolve::default();
                    for guard in snapshot.prefix(&table.keyspace, last.row_key()) {
                        resolve.push(version(guard)?)?;
                    }
                    if let Some(version) = resolve.finish() {
                        let pushed = reader.push(&version, now_ms, &mut builders, &mut scratch)?;
                        is_there = pushed > 0;
                        found += pushed;
                    }
                    upto = Bound::Excluded(last.row_key().to_vec());
                }
            }
            near.push(is_there);
        }
        drop(open);
        self.store.counters.rows_read.fetch_add(u64::from(found), Ordering::Relaxed);
        let rows = batch(&reader.schema, builders, found as usize)?;

        let column = rows.column(end).clone();
        let Some(last) = View::of(column.as_ref()) else {
            return Err(Error::refused("the end of a range is of a type that has no order"));
        };
        let (mut taken, mut ends) = (Vec::new(), Vec::with_capacity(values.len()));
        let (mut at, mut end_key) = (0, Vec::new());
        for (row, is_there) in near.into_iter().enumerate() {
            if is_there {
                key.clear();
                end_key.clear();
                view.encode_key(row, &mut key);
                if !last.is_null(at) {
                    last.encode_key(at, &mut end_key);
                    if key <= end_key {
                        taken.push(at as u32);
                    }
                }
                at += 1;
            }
            ends.push(taken.len() as u32);
        }
        let taken = UInt32Array::from(taken);
        let rows = rows
            .project(shown)
            .and_then(|rows| arrow_select::take::take_record_batch(&rows, &taken))
            .map_err(|error| Error::Refused(error.to_string()))?;
        Ok(Found { rows, ends })
    }

    /// Reads rows in key order.
    pub fn scan(&self, scan: Scan) -> Result<Rows> {
        let reader = Reader::new(&self.layout, scan.projection.as_deref())?;
        let mut from = Bound::Unbounded;
        let mut to = Bound::Unbounded;
        if let Some(prefix) = &scan.prefix {
            let prefix = self.key_bytes(prefix)?;
            to = after_prefix(prefix.clone()).map_or(Bound::Unbounded, Bound::Excluded);
            from = Bound::Included(prefix);
        }
        if let Some(key) = &scan.from {
            from = later(from, Bound::Included(self.key_bytes(key)?));
        }
        if let Some(key) = &scan.to
            && let Some(end) = after_prefix(self.key_bytes(key)?)
        {
            to = match to {
                Bound::Excluded(known) => Bound::Excluded(known.min(end)),
                _ => Bound::Excluded(end),
            };
        }
        if let Some(last) = scan.resume
            && let Some(next) = after_prefix(last)
        {
            from = later(from, Bound::Included(next));
        }
        let left = scan.limit.unwrap_or(usize::MAX);
        Ok(Rows { table: self.clone(), reader, from, to, left, last: None })
    }

    /// A key, or the first columns of one, from text, one value for each column.
    pub fn key(&self, values: &[&str]) -> Result<RecordBatch> {
        if values.is_empty() || values.len() > self.layout.key.len() {
            return Err(Error::Refused(format!(
                "the key of table `{}` has {} columns: {}",
                self.name(),
                self.layout.key.len(),
                list(self.layout.spec.key_columns())
            )));
        }
        let mut fields = Vec::with_capacity(values.len());
        let mut columns = Vec::with_capacity(values.len());
        for (field, text) in self.key_columns().zip(values) {
            let column = parse(text, field.data_type()).ok_or_else(|| {
                Error::Refused(format!(
                    "`{text}` is not a {}, which the key column `{}` is",
                    types::name(field.data_type()),
                    field.name()
                ))
            })?;
            fields.push(field.clone());
            columns.push(column);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| Error::Refused(error.to_string()))
    }

    /// The columns of `keys` in the key's order and types.
    fn key_prefix(&self, keys: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::with_capacity(keys.num_columns());
        for field in self.key_columns().take(keys.num_columns()) {
            let Some(column) = keys.column_by_name(field.name()) else {
                return Err(Error::Refused(format!(
                    "table `{}` is asked by {}, and these are not the first columns of its key: {}",
                    self.name(),
                    list(keys.schema().fields().iter().map(|f| f.name().as_str())),
                    list(self.layout.spec.key_columns())
                )));
            };
            columns.push(stored_as(field.name(), column, field.data_type())?);
        }
        if columns.len() < keys.num_columns() {
            return Err(Error::Refused(format!(
                "the key of table `{}` has {} columns and was given {}",
                self.name(),
                columns.len(),
                keys.num_columns()
            )));
        }
        Ok(columns)
    }

    fn key_bytes(&self, key: &RecordBatch) -> Result<Vec<u8>> {
        let columns = self.key_prefix(key)?;
        let views = self.views(&columns)?;
        if key.num_rows() != 1 || views.iter().any(|view| view.is_null(0)) {
            return Err(Error::refused("the bound of a scan is one key without nulls"));
        }
        let mut bytes = Vec::new();
        views.iter().for_each(|view| view.encode_key(0, &mut bytes));
        Ok(bytes)
    }

    fn views<'a>(&self, columns: &'a [ArrayRef]) -> Result<Vec<View<'a>>> {
        let mut views = Vec::with_capacity(columns.len());
        for (index, column) in columns.iter().enumerate() {
            let view = (column.data_type() == self.layout.key_type(index))
                .then(|| View::of(column.as_ref()))
                .flatten();
            views.push(view.ok_or_else(|| {
                Error::Refused(format!(
                    "a key column of table `{}` is {} and was asked by {}",
                    self.name(),
                    types::name(self.layout.key_type(index)),
                    types::name(column.data_type())
                ))
            })?);
        }
        Ok(views)
    }
}

impl Rows {
    pub fn schema(&self) -> SchemaRef {
        self.reader.schema.clone()
    }

    /// Given to another scan, goes on behind the rows that were read; none before the first batch.
    pub fn resume_token(&self) -> Option<&[u8]> {
        self.last.as_deref()
    }

    fn read(&mut self) -> Result<Option<RecordBatch>> {
        if self.left == 0 || empty(&self.from, &self.to) {
            return Ok(None);
        }
        let mut builders = self.reader.builders();
        let (mut rows, mut bytes) = (0, 0);
        let mut scratch = Vec::new();
        let mut resolve = Resolve::default();
        let mut last = None;

        let open = self.table.store.enter()?;
        let table = self.table.enter(&open)?;
        let now_ms = self.table.store.now_ms();
        let snapshot = open.db.snapshot();
        let range = (self.from.as_ref(), self.to.as_ref());
        let range = (range.0.map(Vec::as_slice), range.1.map(Vec::as_slice));
        let mut items = snapshot.range::<&[u8], _>(&table.keyspace, range);
        while rows < self.left.min(BATCH_ROWS) && bytes < BATCH_BYTES {
            let (version, more) = match items.next() {
                Some(guard) => match resolve.push(version(guard)?)? {
                    Resolved::Row(version) => (version, true),
                    Resolved::Nothing | Resolved::Superseded(_) => continue,
                },
                None => match resolve.finish() {
                    Some(version) => (version, false),
                    None => break,
                },
            };
            let pushed = self.reader.push(&version, now_ms, &mut builders, &mut scratch)?;
            if pushed > 0 {
                rows += 1;
                bytes += version.key.len() + version.value.len();
                last = Some(version.row_key().to_vec());
            }
            if !more {
                break;
            }
        }
        drop((items, open));
        self.left -= rows;
        self.table.store.counters.rows_read.fetch_add(rows as u64, Ordering::Relaxed);
        let Some(last) = last else {
            self.left = 0;
            return Ok(None);
        };
        match after_prefix(last.clone()) {
            Some(next) => self.from = Bound::Included(next),
            None => self.left = 0,
        }
        self.last = Some(last);
        batch(&self.reader.schema, builders, rows).map(Some)
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.left = 0;
        }
        read.transpose()
    }
}

/// Makes rows out of versions: which columns are wanted, and where each goes.
pub(crate) struct Reader {
    layout: Arc<Layout>,
    pub schema: SchemaRef,
    keys: Vec<Option<usize>>,
    values: Vec<Option<usize>>,
}

impl Reader {
    pub fn new(layout: &Arc<Layout>, projection: Option<&[String]>) -> Result<Self> {
        let all = layout.schema();
        // Where each column of the table goes.
        let mut places = vec![None; all.fields().len()];
        let schema = match projection {
            None => {
                places.iter_mut().enumerate().for_each(|(at, place)| *place = Some(at));
                all.clone()
            }
            Some(names) => {
                let mut fields = Vec::with_capacity(names.len());
                for name in names {
                    let Some((at, field)) = all.fields().find(name) else {
                        return Err(Error::Refused(format!(
                            "table `{}` has no column `{name}`; it has {}",
                            layout.spec.name,
                            list(all.fields().iter().map(|f| f.name().as_str()))
                        )));
                    };
                    if places[at].replace(fields.len()).is_some() {
                        return Err(Error::Refused(format!("column `{name}` is asked for twice")));
                    }
                    fields.push(field.clone());
                }
                Arc::new(Schema::new(fields))
            }
        };
        Ok(Self {
            layout: layout.clone(),
            schema,
            keys: layout.key.iter().map(|at| places[*at]).collect(),
            values: layout.values.iter().map(|at| places[*at]).collect(),
        })
    }

    fn builders(&self) -> Vec<ColumnBuilder> {
        self.schema.fields().iter().map(|field| ColumnBuilder::new(field.data_type())).collect()
    }

    /// Appends the row if it is to be seen; how many were appended.
    fn push(
        &self,
        version: &Version,
        now_ms: i64,
        builders: &mut [ColumnBuilder],
        scratch: &mut Vec<u8>,
    ) -> Result<u32> {
        let Some(row) = version.state()?.live(now_ms) else { return Ok(0) };
        let mut key = version.row_key();
        for (index, place) in self.keys.iter().enumerate() {
            let column = place.map(|at| &mut builders[at]);
            key::decode(self.layout.key_type(index), &mut key, column, scratch)?;
        }
        row::decode(row, &self.layout.value_types, builders, &self.values)?;
        Ok(1)
    }
}

pub(crate) fn version(guard: Guard) -> Result<Version> {
    let (key, value) = guard.into_inner().doing("cannot read a table")?;
    if key.len() <= SUFFIX_BYTES {
        return Err(Error::Damaged("a table holds a key that is too short".into()));
    }
    Ok(Version { key, value })
}

fn later(a: Bound<Vec<u8>>, b: Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    match (a, b) {
        (Bound::Included(a), Bound::Included(b)) => Bound::Included(a.max(b)),
        (_, b) => b,
    }
}

fn empty(from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    matches!((from, to), (Bound::Included(from), Bound::Excluded(to)) if from >= to)
}

fn parse(text: &str, data_type: &DataType) -> Option<ArrayRef> {
    if *data_type == types::IP {
        let bytes = match text.parse().ok()? {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        return Some(Arc::new(FixedSizeBinaryArray::try_from_iter([bytes].into_iter()).ok()?));
    }
    let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
    cast(&text, data_type).ok().filter(|column| column.null_count() == 0)
}
