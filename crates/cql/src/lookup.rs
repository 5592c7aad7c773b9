//! Many keys in one call: grouped by replica, asked with `IN`, matched by the key that comes back.
//!
//! ```text
//!  keys ─► cells ─┬─ null, or no such value: a miss without a call
//!                 └─ groups: same leading columns, same replica, at most `group` keys
//!                       └─ SELECT k, .. WHERE a = ? AND k IN ?   some at a time
//!                             └─ fails? its halves are asked, down to one key
//! ```

use crate::cluster::{Cluster, Execution};
use crate::prepared::Prepared;
use crate::read::Column;
use crate::route::Towards;
use crate::write::Writer;
use crate::{error, types};
use ahash::AHashMap;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take_record_batch;
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use millstream_core::{Disposition, Error, Found, Lookup, LookupKey, Result};
use scylla::cluster::metadata::{ColumnType, NativeType};
use scylla::deserialize::row::ColumnIterator;
use scylla::errors::SerializationError;
use scylla::response::PagingState;
use scylla::response::query_result::{QueryResult, QueryRowsResult};
use scylla::routing::Shard;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use scylla::statement::prepared::PreparedStatement;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// More than this in one `IN` is refused by ScyllaDB.
pub const GROUP_MAX: usize = 100;

/// A server reads the keys of a request at the same time: with many large requests under way its reads
/// stand in each other's way, and fewer keys are answered a second.
const TURN_KEYS: usize = 8;

#[derive(Debug, Clone)]
pub struct CqlLookupOptions {
    pub keyspace: String,
    pub table: String,
    /// The columns to fetch; all unless given.
    pub columns: Option<Vec<String>>,
    /// Keys in one request.
    pub group: usize,
    /// Requests under way at a time, of all partitions together. One counts for each [`TURN_KEYS`] of
    /// its keys.
    pub concurrency: usize,
    /// Rows of one key: all of them up to a number, or the first by clustering order.
    pub rows: Rows,
    pub execution: Execution,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    First,
    /// A key with more rows is an error.
    All {
        max: usize,
    },
}

/// A table as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub keyspace: String,
    pub name: String,
    pub partition_key: Vec<String>,
    pub clustering: Vec<String>,
    /// The keys first, then the others by name.
    columns: Vec<(String, ColumnType<'static>)>,
}

impl Table {
    /// The error is a sentence for the user.
    pub fn of(cluster: &Cluster, keyspace: &str, table: &str) -> Result<Table> {
        let state = cluster.session.get_cluster_state();
        let Some(space) = state.get_keyspace(keyspace) else {
            return Err(Error::stop("no_table", format!("there is no keyspace `{keyspace}`")));
        };
        let view = space.views.get(table).map(|view| &view.view_metadata);
        let Some(found) = space.tables.get(table).or(view) else {
            let told = format!("there is no table `{table}` in the keyspace `{keyspace}`");
            return Err(Error::stop("no_table", told));
        };
        let keys: Vec<_> = found.partition_key.iter().chain(&found.clustering_key).collect();
        let mut others: Vec<_> = found.columns.keys().filter(|name| !keys.contains(name)).collect();
        others.sort();
        let columns = keys
            .into_iter()
            .chain(others)
            .filter_map(|name| Some((name.clone(), found.columns.get(name)?.typ.clone())));
        Ok(Table {
            keyspace: keyspace.to_owned(),
            name: table.to_owned(),
            partition_key: found.partition_key.clone(),
            clustering: found.clustering_key.clone(),
            columns: columns.collect(),
        })
    }

    /// The columns as rows have them. Those of a type that is not known are left out, unless named.
    pub fn schema(&self, columns: Option<&[String]>) -> Result<SchemaRef, String> {
        let fields = match columns {
            None => self
                .columns
                .iter()
                .filter_map(|(name, cql)| Some(Field::new(name, types::arrow(cql).ok()?, true)))
                .collect(),
            Some(names) => names
                .iter()
                .map(|name| {
                    let data_type = types::arrow(self.column(name)?);
                    let data_type = data_type.map_err(|why| format!("column `{name}`: {why}"))?;
                    Ok(Field::new(name, data_type, true))
                })
                .collect::<Result<Vec<_>, String>>()?,
        };
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Whether rows can be found by these columns: the whole partition key, and clustering columns
    /// from the first on.
    pub fn can_be_asked_by(&self, key: &[String]) -> Result<(), String> {
        let all: Vec<&String> = self.partition_key.iter().chain(&self.clustering).collect();
        let prefix = key.len() >= self.partition_key.len()
            && key.len() <= all.len()
            && all[..key.len()].iter().all(|column| key.contains(column));
        if prefix {
            return Ok(());
        }
        let names = |names: &[String]| names.join(", ");
        let then = match self.clustering.is_empty() {
            true => String::new(),
            false => format!(", and may go on with {}", names(&self.clustering)),
        };
        Err(format!(
            "`{}.{}` cannot be asked by {}: a key has {}{then}",
            self.keyspace,
            self.name,
            names(key),
            names(&self.partition_key),
        ))
    }

    /// The same, and whether these types go into its key's.
    pub fn takes_key(&self, key: &LookupKey, types: &[DataType]) -> Result<(), String> {
        let LookupKey::Equal(names) = key else {
            return Err("a CQL table is asked by equality, not by a range".into());
        };
        self.can_be_asked_by(names)?;
        for (name, data_type) in names.iter().zip(types) {
            let writer = Writer::new(data_type, self.column(name)?);
            writer.map_err(|why| format!("the key `{name}`: {why}"))?;
        }
        Ok(())
    }

    /// Whether so many columns of the key are a partition, of more rows than one.
    fn asks_whole_partitions(&self, columns: usize) -> bool {
        columns == self.partition_key.len() && !self.clustering.is_empty()
    }

    fn answers_one_row(&self, columns: usize, rows: Rows) -> bool {
        let whole = columns == self.partition_key.len() + self.clustering.len();
        whole || (rows == Rows::First && self.asks_whole_partitions(columns))
    }

    pub(crate) fn is_counter(&self, name: &str) -> bool {
        matches!(self.column(name), Ok(ColumnType::Native(NativeType::Counter)))
    }

    pub(crate) fn has_counters(&self) -> bool {
        self.columns.iter().any(|(name, _)| self.is_counter(name))
    }

    pub(crate) fn column(&self, name: &str) -> Result<&ColumnType<'static>, String> {
        let found = self.columns.iter().find(|(column, _)| column == name);
        found.map(|(_, cql)| cql).ok_or_else(|| {
            let known: Vec<_> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
            let Table { keyspace, name: table, .. } = self;
            format!("`{keyspace}.{table}` has no column `{name}`; it has {}", known.join(", "))
        })
    }
}

/// A table bound to the columns that it is asked by.
pub struct CqlLookup {
    cluster: Arc<Cluster>,
    options: CqlLookupOptions,
    schema: SchemaRef,
    /// The columns to fetch, in the order of `schema`.
    fetched: Vec<ColumnType<'static>>,
    key: Vec<KeyColumn>,
    /// Where the column that rows are matched by stands in `schema`; it comes first, and once.
    matched: Option<usize>,
    /// The columns of `key` that are the partition key, when `IN` is by its last one.
    routed: bool,
    /// Whether no key has more than one row that comes. Such an answer is not asked for in pages: for
    /// pages the server reads the keys of a request one after the other.
    one_row: bool,
    prepared: Prepared,
    under_way: Semaphore,
}

struct KeyColumn {
    /// Where it stands among the columns of a call's keys.
    given: usize,
    writer: Writer,
}

impl CqlLookup {
    /// `key_types` are the types that the key's columns will come in.
    pub async fn open(
        cluster: Arc<Cluster>,
        options: CqlLookupOptions,
        key: &LookupKey,
        key_types: &[DataType],
    ) -> Result<CqlLookup> {
        let wrong = |why: String| Error::stop("lookup", why);
        let LookupKey::Equal(names) = key else {
            return Err(wrong("a CQL table is asked by equality, not by a range".into()));
        };
        let table = Table::of(&cluster, &options.keyspace, &options.table)?;
        table.can_be_asked_by(names).map_err(wrong)?;
        let schema = table.schema(options.columns.as_deref()).map_err(wrong)?;
        let ordered: Vec<&String> =
            table.partition_key.iter().chain(&table.clustering).take(names.len()).collect();
        let mut key = Vec::new();
        for name in &ordered {
            let given = names.iter().position(|one| one == *name);
            let given = given.ok_or_else(|| wrong(format!("`{name}` is given twice")))?;
            let cql = table.column(name).map_err(wrong)?;
            let writer = Writer::new(&key_types[given], cql)
                .map_err(|why| wrong(format!("the key `{name}`: {why}")))?;
            key.push(KeyColumn { given, writer });
        }
        let fetched = schema.fields().iter().map(|field| table.column(field.name()).cloned());
        let fetched = fetched.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let what = format!("looking up in {}.{}", options.keyspace, options.table);
        let text = statement(&table, &schema, &ordered, options.rows);
        let set = |prepared: &mut PreparedStatement| prepared.set_is_idempotent(true);
        let matched = ordered.last().and_then(|last| schema.index_of(last).ok());
        Ok(CqlLookup {
            matched,
            prepared: Prepared::new(&cluster, text, what, &options.execution, set).await?,
            routed: ordered.len() == table.partition_key.len(),
            one_row: table.answers_one_row(ordered.len(), options.rows),
            under_way: Semaphore::new(options.concurrency.max(1)),
            cluster,
            options,
            schema,
            fetched,
            key,
        })
    }

    fn what(&self) -> String {
        format!("looking up in {}.{}", self.options.keyspace, self.options.table)
    }

    /// The cells of the keys that can be there at all.
    fn cells(&self, keys: &RecordBatch) -> Cells {
        let columns: Vec<&ArrayRef> = self.key.iter().map(|k| keys.column(k.given)).collect();
        let mut cells =
            Cells { width: self.key.len(), bytes: Vec::new(), ends: Vec::new(), keys: Vec::new() };
        for row in 0..keys.num_rows() {
            let (bytes, ends) = (cells.bytes.len(), cells.ends.len());
            let whole = self.key.iter().zip(&columns).all(|(key, column)| {
                let start = cells.bytes.len();
                cells.bytes.extend_from_slice(&[0; LENGTH]);
                let written = key.writer.write(column, row, &mut cells.bytes);
                let length = (cells.bytes.len() - start - LENGTH) as u32;
                cells.bytes[start..start + LENGTH].copy_from_slice(&length.to_ne_bytes());
                cells.ends.push(cells.bytes.len());
                // What the column's type cannot hold is no row's key.
                written == Ok(true)
            });
            if whole {
                cells.keys.push(row as u32);
            } else {
                cells.bytes.truncate(bytes);
                cells.ends.truncate(ends);
            }
        }
        cells
    }

    /// Keys that go into one request.
    fn groups(&self, cells: &Cells) -> Vec<Group> {
        let towards = self.routed && self.cluster.has_choice();
        let state = towards.then(|| self.cluster.session.get_cluster_state());
        let mut open: AHashMap<(&[u8], Option<Replica>), Vec<u32>> = AHashMap::new();
        let mut groups = Vec::new();
        for key in 0..cells.len() {
            let replica = state.as_ref().and_then(|state| {
                let Options { keyspace, table, .. } = &self.options;
                let partition = Partition { cells, key };
                let token = state.compute_token(keyspace, table, &partition).ok()?;
                let replicas = state.get_token_endpoints(keyspace, table, token);
                let own = self.cluster.options();
                let is = |own: &Option<String>, of: &Option<String>| own.is_none() || own == of;
                let mut near = replicas
                    .iter()
                    .filter(|(node, _)| {
                        is(&own.datacenter, &node.datacenter) && node.is_connected()
                    })
                    .peekable();
                let first = near.peek().copied();
                let (node, shard) = near.find(|(node, _)| is(&own.rack, &node.rack)).or(first)?;
                Some((node.host_id, *shard))
            });
            let group = open.entry((cells.prefix(key), replica)).or_default();
            group.push(key as u32);
            if group.len() >= self.options.group {
                groups.push(Group { keys: std::mem::take(group), replica });
            }
        }
        let rest = open.into_iter().filter(|(_, keys)| !keys.is_empty());
        groups.extend(rest.map(|((_, replica), keys)| Group { keys, replica }));
        groups
    }

    /// One request; when it fails for what it asked, its halves.
    fn ask<'a>(&'a self, cells: &'a Cells, group: Group) -> BoxFuture<'a, Result<Vec<Page>>> {
        async move {
            let failed = match self.request(cells, &group).await {
                Ok(pages) => return Ok(vec![Page { keys: group.keys, pages }]),
                Err(error) => error,
            };
            if failed.disposition() == Disposition::Reject {
                self.prepared.look_now().await?;
            }
            let by_content = failed.disposition() == Disposition::Reject
                || matches!(failed.kind(), "timeout" | "store");
            if group.keys.len() == 1 || !by_content {
                return Err(failed);
            }
            let Group { mut keys, replica } = group;
            let second = keys.split_off(keys.len() / 2);
            let mut found = self.ask(cells, Group { keys, replica }).await?;
            found.extend(self.ask(cells, Group { keys: second, replica }).await?);
            Ok(found)
        }
        .boxed()
    }

    async fn request(&self, cells: &Cells, group: &Group) -> Result<Vec<QueryRowsResult>> {
        let turns = group.keys.len().div_ceil(TURN_KEYS).min(self.options.concurrency.max(1));
        let _turns = self.under_way.acquire_many(turns as u32).await;
        let mut prepared = self.prepared.get().await?;
        if let Some((node, shard)) = group.replica {
            let otherwise = self.cluster.routing.clone();
            let mut towards = PreparedStatement::clone(&prepared);
            towards.set_load_balancing_policy(Some(Arc::new(Towards {
                node,
                shard: Some(shard),
                otherwise,
            })));
            prepared = Arc::new(towards);
        }
        let values = Values { cells, keys: &group.keys };
        if self.one_row {
            let answer = self.cluster.session.execute_unpaged(&prepared, &values).await;
            return Ok(vec![self.rows_of(answer.map_err(|error| self.failed(error))?)?]);
        }
        let (mut pages, mut state) = (Vec::new(), PagingState::start());
        let mut rows = 0;
        loop {
            let answer = self.cluster.session.execute_single_page(&prepared, &values, state).await;
            let (page, next) = answer.map_err(|error| self.failed(error))?;
            let page = self.rows_of(page)?;
            rows += page.rows_num();
            pages.push(page);
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(pages),
                ControlFlow::Continue(next) => state = next,
            }
            if let Rows::All { max } = self.options.rows
                && rows > max * group.keys.len()
            {
                return Err(self.too_many(max));
            }
        }
    }

    fn rows_of(&self, answer: QueryResult) -> Result<QueryRowsResult> {
        let rows =
            answer.into_rows_result().map_err(|e| Error::stop("cql", self.what()).because(e))?;
        if let Some(shape) = self.prepared.shape()
            && let Err(changed) = shape.still_gives(rows.column_specs().as_slice(), &self.what())
        {
            self.prepared.forget();
            return Err(changed);
        }
        Ok(rows)
    }

    fn failed(&self, error: scylla::errors::ExecutionError) -> Error {
        let error = error::of_execution(error, &self.what());
        if matches!(error.kind(), "no_table" | "unprepared") {
            // One that was made again needs another statement.
            self.prepared.forget();
        }
        error
    }

    fn too_many(&self, max: usize) -> Error {
        let told = format!("{}: a key has more than {max} rows; see `max_rows`", self.what());
        Error::reject("too_many_rows", told)
    }

    /// Rows in the order of the keys.
    fn found(&self, cells: &Cells, keys: usize, pages: &[Page]) -> Result<Found> {
        let stop = |why: String| Error::stop("lookup", format!("{}: {why}", self.what()));
        let mut columns = self.fetched.iter().map(Column::new).collect::<Result<Vec<_>, _>>();
        let columns = columns.as_mut().map_err(|why| stop(why.clone()))?;
        // Which key each row that came is of, and how many rows each key has.
        let mut key_of: Vec<u32> = Vec::with_capacity(keys);
        let mut counts: Vec<u32> = vec![0; keys];
        for page in pages {
            let names: AHashMap<&[u8], u32> =
                page.keys.iter().map(|key| (cells.last(*key as usize), *key)).collect();
            for page in &page.pages {
                let all = page.rows::<ColumnIterator>().map_err(|e| stop(e.to_string()))?;
                for row in all {
                    let mut row = row.map_err(|e| stop(e.to_string()))?;
                    let mut cell = || {
                        let cell = row.next().transpose().map_err(|e| stop(e.to_string()))?;
                        Ok::<_, Error>(cell.and_then(|cell| cell.slice).map(|s| s.as_slice()))
                    };
                    let name = cell()?;
                    let Some(key) = name.and_then(|name| names.get(name)) else {
                        return Err(stop("a row came that nobody asked for".into()));
                    };
                    let key = cells.keys[*key as usize];
                    let count = &mut counts[key as usize];
                    match self.options.rows {
                        Rows::First if *count > 0 => continue,
                        Rows::All { max } if *count as usize >= max => {
                            return Err(self.too_many(max));
                        }
                        _ => *count += 1,
                    }
                    key_of.push(key);
                    let fields = self.schema.fields().iter();
                    for (at, (column, field)) in columns.iter_mut().zip(fields).enumerate() {
                        let cell = if self.matched == Some(at) { name } else { cell()? };
                        column.push(cell).map_err(|_| {
                            self.prepared.forget();
                            stop(format!("`{}` is not of the type it had", field.name()))
                        })?;
                    }
                }
            }
        }
        let columns = std::mem::take(columns).into_iter().map(Column::finish);
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|e| stop(e.to_string()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(key_of.len()));
        let came = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| stop(e.to_string()))?;
        let ends: Vec<u32> = counts
            .iter()
            .scan(0, |end, count| {
                *end += count;
                Some(*end)
            })
            .collect();
        // Where the next row of each key goes: rows of one key stay in the order in which they came.
        let mut places: Vec<u32> =
            ends.iter().zip(&counts).map(|(end, count)| end - count).collect();
        let mut order = vec![0; key_of.len()];
        for (row, key) in key_of.iter().enumerate() {
            let place = &mut places[*key as usize];
            order[*place as usize] = row as u32;
            *place += 1;
        }
        let rows =
            take_record_batch(&came, &UInt32Array::from(order)).map_err(|e| stop(e.to_string()))?;
        Ok(Found { rows, ends })
    }
}

type Options = CqlLookupOptions;

#[async_trait]
impl Lookup for CqlLookup {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let cells = self.cells(keys);
        let groups = self.groups(&cells);
        let asked = groups.into_iter().map(|group| self.ask(&cells, group));
        let mut asked = stream::iter(asked).buffer_unordered(self.options.concurrency.max(1));
        let mut pages = Vec::new();
        while let Some(answer) = asked.next().await {
            pages.extend(answer?);
        }
        drop(asked);
        self.found(&cells, keys.num_rows(), &pages)
    }
}

/// `SELECT` the last key column first, to match by, then what is asked for.
fn statement(table: &Table, schema: &Schema, key: &[&String], rows: Rows) -> String {
    let Some((last, leading)) = key.split_last() else { return String::new() };
    let fetched = schema.fields().iter().map(|field| field.name()).filter(|name| name != last);
    let columns: Vec<_> = std::iter::once(*last).chain(fetched).map(|name| quoted(name)).collect();
    let mut wanted: Vec<_> = leading.iter().map(|name| format!("{} = ?", quoted(name))).collect();
    wanted.push(format!("{} IN ?", quoted(last)));
    let by_partition = table.asks_whole_partitions(key.len());
    let limit = match rows {
        Rows::First if by_partition => " PER PARTITION LIMIT 1".to_owned(),
        Rows::All { max } if by_partition => format!(" PER PARTITION LIMIT {}", max + 1),
        _ => String::new(),
    };
    format!(
        "SELECT {} FROM {}.{} WHERE {}{limit}",
        columns.join(", "),
        quoted(&table.keyspace),
        quoted(&table.name),
        wanted.join(" AND "),
    )
}

/// A name as CQL takes it whatever letters it has.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

struct Group {
    /// Places in [`Cells`].
    keys: Vec<u32>,
    replica: Option<Replica>,
}

/// A node, and which of its shards.
type Replica = (Uuid, Shard);

/// The answer to a group.
struct Page {
    keys: Vec<u32>,
    pages: Vec<QueryRowsResult>,
}

/// The bytes of a length before each cell: without them two keys could look alike.
const LENGTH: usize = 4;

/// The keys' values as the protocol has them, column by column.
struct Cells {
    width: usize,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Which row of the call each key is.
    keys: Vec<u32>,
}

impl Cells {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn range(&self, key: usize, column: usize) -> Range<usize> {
        let at = key * self.width + column;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        start..self.ends[at]
    }

    fn cell(&self, key: usize, column: usize) -> &[u8] {
        &self.bytes[self.range(key, column)][LENGTH..]
    }

    /// What all keys of a group have in common.
    fn prefix(&self, key: usize) -> &[u8] {
        let (first, last) = (self.range(key, 0), self.range(key, self.width - 1));
        &self.bytes[first.start..last.start]
    }

    fn last(&self, key: usize) -> &[u8] {
        self.cell(key, self.width - 1)
    }
}

/// The values of one request: the leading columns once, then the list.
struct Values<'a> {
    cells: &'a Cells,
    keys: &'a [u32],
}

impl SerializeRow for Values<'_> {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter,
    ) -> Result<(), SerializationError> {
        let Some(first) = self.keys.first() else { return Ok(()) };
        for column in 0..self.cells.width - 1 {
            let cell = self.cells.cell(*first as usize, column);
            writer.make_cell_writer().set_value(cell).map_err(SerializationError::new)?;
        }
        let mut list = writer.make_cell_writer().into_value_builder();
        list.append_bytes(&(self.keys.len() as i32).to_be_bytes());
        for key in self.keys {
            let cell = self.cells.last(*key as usize);
            list.make_sub_writer().set_value(cell).map_err(SerializationError::new)?;
        }
        list.finish().map_err(SerializationError::new)?;
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// The partition key of one key, whose columns are all of it.
struct Partition<'a> {
    cells: &'a Cells,
    key: usize,
}

impl SerializeRow for Partition<'_> {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter,
    ) -> Result<(), SerializationError> {
        for column in 0..self.cells.width {
            let cell = self.cells.cell(self.key, column);
            writer.make_cell_writer().set_value(cell).map_err(SerializationError::new)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}
