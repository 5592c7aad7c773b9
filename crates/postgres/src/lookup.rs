//! Many keys in one call.
//!
//! ```text
//!  keys ─► cells ─┬─ no such value can be there: a miss without a call
//!                 └─ some at a time ─► SELECT k, .. WHERE k = ANY($1)            one column, told by bytes
//!                                      SELECT n, .. FROM UNNEST($1, $2) JOIN ..  otherwise
//! ```
//!
//! Several statements are under way on each of a few connections; the server answers them in turn.

use crate::error;
use crate::read::Column;
use crate::server::Server;
use crate::session::{Failure, Session};
use crate::table::{Column as Described, Table, quoted};
use crate::transaction::Raw;
use crate::types::{Kind, kind};
use crate::write::{Writer, array, cell};
use ahash::AHashMap;
use arrow_array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::{Error, Found, Lookup, LookupKey, Result};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_postgres::Statement;
use tokio_postgres::types::{FromSql, Type};

const TEXT_OID: u32 = 25;

#[derive(Debug, Clone)]
pub struct PgLookupOptions {
    pub schema: Option<String>,
    pub table: String,
    /// The columns to fetch; all unless given.
    pub columns: Option<Vec<String>>,
    /// Keys in one statement.
    pub group: usize,
    /// Statements under way at a time, of all partitions together.
    pub concurrency: usize,
    /// A key with more rows is an error.
    pub rows_max: usize,
}

/// A table bound to the columns that it is asked by.
pub struct PgLookup {
    server: Arc<Server>,
    options: PgLookupOptions,
    name: String,
    schema: SchemaRef,
    fetched: Vec<Kind>,
    key: Vec<KeyColumn>,
    /// The first column is the key itself, not its number.
    by_value: bool,
    statement: String,
    under_way: Semaphore,
}

struct KeyColumn {
    writer: Writer,
    /// The type of the elements that are sent.
    oid: u32,
}

impl PgLookup {
    /// `key_types` are the types that the key's columns will come in.
    pub async fn open(
        server: Arc<Server>,
        options: PgLookupOptions,
        key: &LookupKey,
        key_types: &[DataType],
    ) -> Result<PgLookup> {
        let wrong = |why: String| Error::stop("lookup", why);
        let LookupKey::Equal(names) = key else {
            return Err(wrong("a PostgreSQL table is asked by equality, not by a range".into()));
        };
        let session = server.shared().await?;
        let table = Table::described(&session, options.schema.as_deref(), &options.table).await?;
        table.can_be_asked_by(names).map_err(wrong)?;
        let schema = table.schema(options.columns.as_deref()).map_err(wrong)?;
        let asked: Vec<&Described> =
            names.iter().map(|name| table.column(name)).collect::<Result<_, _>>().map_err(wrong)?;
        let mut key = Vec::new();
        for (column, arrow) in asked.iter().zip(key_types) {
            let writer = Writer::new(arrow, &column.kind, &column.sql)
                .map_err(|why| wrong(format!("the key `{}`: {why}", column.name)))?;
            let oid = if column.kind == Kind::Cast { TEXT_OID } else { column.oid };
            key.push(KeyColumn { writer, oid });
        }
        let fetched: Vec<&Described> = schema
            .fields()
            .iter()
            .map(|field| table.column(field.name()))
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        let by_value = matches!(&asked[..], [alone] if alone.told_by_bytes);
        let lookup = PgLookup {
            statement: statement(&table, &fetched, &asked, by_value),
            fetched: fetched.iter().map(|column| column.kind.clone()).collect(),
            name: table.told(),
            under_way: Semaphore::new(options.concurrency.max(1)),
            server,
            options,
            schema,
            key,
            by_value,
        };
        lookup.prepare(&session).await?.map_err(|failure| failure.of(&lookup.what()))?;
        Ok(lookup)
    }

    fn what(&self) -> String {
        format!("looking up in {}", self.name)
    }

    /// The statement on a connection, whose columns are what they were when the look-up was opened.
    async fn prepare(&self, session: &Session) -> Result<Result<Statement, Failure>> {
        let prepared = match session.prepare(&self.statement).await {
            Ok(prepared) => prepared,
            Err(failure) => return Ok(Err(failure)),
        };
        let columns = prepared.columns().iter().skip(1).zip(&self.fetched);
        for (column, known) in columns {
            let is = kind(column.type_(), column.type_modifier());
            if is != *known && *known != Kind::Cast {
                let told = format!(
                    "{}: column `{}` is not of the type that it had; give it back, or start again",
                    self.what(),
                    column.name()
                );
                // Until then rows wait, and the statement is prepared anew.
                session.forget(&self.statement);
                return Err(Error::retry("table_changed", told));
            }
        }
        Ok(Ok(prepared))
    }

    /// The keys as the server has them, without those that it cannot have.
    fn cells(&self, keys: &RecordBatch) -> Cells {
        let mut cells = Cells { width: self.key.len(), ..Cells::default() };
        for row in 0..keys.num_rows() {
            let start = cells.bytes.len();
            let written = self.key.iter().zip(keys.columns()).all(|(key, column)| {
                let there = cell(&key.writer, column, row, &mut cells.bytes).is_ok();
                cells.ends.push(cells.bytes.len());
                there && !arrow_array::Array::is_null(column, row)
            });
            if written {
                cells.keys.push(row as u32);
            } else {
                cells.bytes.truncate(start);
                cells.ends.truncate(cells.keys.len() * cells.width);
            }
        }
        cells
    }

    /// The rows of some keys, each with its key's place in the call.
    async fn ask(&self, cells: &Cells, group: Range<usize>) -> Result<(Vec<u32>, RecordBatch)> {
        let _turn = self.under_way.acquire().await;
        let session = self.server.shared().await?;
        let mut failure = match self.attempt(&session, cells, group.clone()).await? {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        };
        if failure.is_stale() {
            // The table is another one; the same question may do.
            session.forget(&self.statement);
            failure = match self.attempt(&session, cells, group).await? {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
        }
        if matches!(failure, Failure::Silence(_)) {
            self.server.retire(&session);
        }
        Err(failure.of(&self.what()))
    }

    async fn attempt(
        &self,
        session: &Session,
        cells: &Cells,
        group: Range<usize>,
    ) -> Result<Result<(Vec<u32>, RecordBatch), Failure>> {
        let prepared = match self.prepare(session).await? {
            Ok(prepared) => prepared,
            Err(failure) => return Ok(Err(failure)),
        };
        let patience = session.patience();
        match tokio::time::timeout(patience, self.fetch(session, &prepared, cells, group)).await {
            Ok(fetched) => fetched,
            Err(_) => Ok(Err(Failure::Silence(patience))),
        }
    }

    async fn fetch(
        &self,
        session: &Session,
        prepared: &Statement,
        cells: &Cells,
        group: Range<usize>,
    ) -> Result<Result<(Vec<u32>, RecordBatch), Failure>> {
        let wrong = |why: String| Error::reject("lookup", format!("{}: {why}", self.what()));
        let rows_max = self.options.rows_max;
        let limit = (group.len() * rows_max) as i64 + 1;
        let mut params = cells.arrays(&self.key, group.clone()).map_err(wrong)?;
        params.push(limit.to_be_bytes().to_vec());
        let params: Vec<_> = params.into_iter().map(Raw).collect();
        let names: AHashMap<&[u8], usize> = match self.by_value {
            true => group.clone().map(|key| (cells.cell(key, 0), key)).collect(),
            false => AHashMap::new(),
        };
        let rows = match session.client.query_raw(prepared, params).await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error.into())),
        };
        let mut rows = pin!(rows);
        let mut columns: Vec<Column> = self.fetched.iter().map(Column::new).collect();
        let mut of_key = Vec::new();
        let mut counts = vec![0_usize; group.len()];
        loop {
            let row = match rows.try_next().await {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => return Ok(Err(error.into())),
            };
            let cell = |at: usize| match row.try_get::<_, Option<Cell<'_>>>(at) {
                Ok(cell) => Ok(cell.map(|cell| cell.0)),
                Err(error) => Err(error::of(&error, &self.what())),
            };
            let place = cell(0)?.and_then(|told| match self.by_value {
                true => names.get(told).map(|key| key - group.start),
                // They are counted from 1.
                false => {
                    let number = i64::from_be_bytes(told.try_into().ok()?);
                    usize::try_from(number).ok()?.checked_sub(1)
                }
            });
            let Some(count) = place.and_then(|place| counts.get_mut(place)) else {
                return Err(wrong("a row came that nobody asked for".into()));
            };
            *count += 1;
            if *count > rows_max {
                let told =
                    format!("{}: a key has more than {rows_max} rows; see `max_rows`", self.what());
                return Err(Error::reject("too_many_rows", told));
            }
            of_key.push(cells.keys[group.start + place.unwrap_or_default()]);
            for (at, column) in columns.iter_mut().enumerate() {
                column.push(cell(at + 1)?).map_err(|why| {
                    wrong(format!("column `{}` has {why}", self.schema.field(at).name()))
                })?;
            }
        }
        let columns = columns.into_iter().map(Column::finish).collect::<Result<Vec<_>, _>>();
        let columns = columns.map_err(|e| wrong(e.to_string()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(of_key.len()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        Ok(Ok((of_key, rows.map_err(|e| wrong(e.to_string()))?)))
    }
}

#[async_trait]
impl Lookup for PgLookup {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let cells = self.cells(keys);
        let size = self.options.group.max(1);
        let groups = (0..cells.keys.len()).step_by(size);
        let asked =
            groups.map(|start| self.ask(&cells, start..(start + size).min(cells.keys.len())));
        let asked: Vec<_> = asked.collect();
        let mut answers = stream::iter(asked).buffer_unordered(self.options.concurrency.max(1));
        let mut of_key = Vec::new();
        let mut batches = Vec::new();
        while let Some(answer) = answers.next().await {
            let (keys, rows) = answer?;
            of_key.extend(keys);
            batches.push(rows);
        }
        drop(answers);
        let stop = |error| Error::stop("lookup", self.what()).because(error);
        let rows = concat_batches(&self.schema, &batches).map_err(stop)?;
        in_order(keys.num_rows(), &of_key, rows).map_err(stop)
    }
}

/// Rows in the order of the keys; those of one key stay in theirs.
fn in_order(
    keys: usize,
    of_key: &[u32],
    rows: RecordBatch,
) -> Result<Found, arrow_schema::ArrowError> {
    let mut ends = vec![0_u32; keys];
    for key in of_key {
        ends[*key as usize] += 1;
    }
    let mut end = 0;
    for count in &mut ends {
        end += *count;
        *count = end;
    }
    if of_key.is_sorted() {
        return Ok(Found { rows, ends });
    }
    let mut order: Vec<u32> = (0..of_key.len() as u32).collect();
    order.sort_by_key(|row| of_key[*row as usize]);
    let rows = take_record_batch(&rows, &UInt32Array::from(order))?;
    Ok(Found { rows, ends })
}

fn statement(table: &Table, fetched: &[&Described], key: &[&Described], by_value: bool) -> String {
    let columns: Vec<_> = fetched
        .iter()
        .map(|column| match column.kind {
            Kind::Cast => format!("t.{}::text", quoted(&column.name)),
            _ => format!("t.{}", quoted(&column.name)),
        })
        .collect();
    let select = |first: String| {
        let all: Vec<_> = std::iter::once(first).chain(columns.iter().cloned()).collect();
        all.join(", ")
    };
    let limit = format!("LIMIT ${}::int8", key.len() + 1);
    let target = table.quoted();
    if let ([alone], true) = (key, by_value) {
        let name = format!("t.{}", quoted(&alone.name));
        return format!(
            "SELECT {} FROM {target} AS t WHERE {name} = ANY($1::{}[]) {limit}",
            select(name.clone()),
            alone.base
        );
    }
    let carried = |column: &Described| match column.kind {
        Kind::Cast => "text".to_owned(),
        _ => column.base.clone(),
    };
    let arrays = key.iter().enumerate();
    let arrays: Vec<_> =
        arrays.map(|(at, column)| format!("${}::{}[]", at + 1, carried(column))).collect();
    let names: Vec<_> = (0..key.len()).map(|at| format!("k{at}")).collect();
    let equal = key.iter().zip(&names).map(|(column, name)| {
        let cast = match column.kind {
            Kind::Cast => format!("::{}", column.base),
            _ => String::new(),
        };
        format!("t.{} = s.{name}{cast}", quoted(&column.name))
    });
    format!(
        "SELECT {} FROM UNNEST({}) WITH ORDINALITY AS s({}, n) JOIN {target} AS t ON {} {limit}",
        select("s.n".to_owned()),
        arrays.join(", "),
        names.join(", "),
        equal.collect::<Vec<_>>().join(" AND ")
    )
}

/// The keys' values, each with its length before it.
#[derive(Default)]
struct Cells {
    width: usize,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Which row of the call each key is.
    keys: Vec<u32>,
}

/// The bytes of a length.
const LENGTH: usize = 4;

impl Cells {
    fn with_length(&self, key: usize, column: usize) -> &[u8] {
        let at = key * self.width + column;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    fn cell(&self, key: usize, column: usize) -> &[u8] {
        &self.with_length(key, column)[LENGTH..]
    }

    /// An array a column, of some of the keys.
    fn arrays(&self, columns: &[KeyColumn], group: Range<usize>) -> Result<Vec<Vec<u8>>, String> {
        let arrays = columns.iter().enumerate().map(|(column, key)| {
            let mut out = Vec::new();
            array(key.oid, group.len(), 0, &mut out)?;
            group.clone().for_each(|at| out.extend_from_slice(self.with_length(at, column)));
            Ok(out)
        });
        arrays.collect()
    }
}

/// The bytes of a value, whatever its type.
struct Cell<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Cell<'a> {
    fn from_sql(
        _: &Type,
        bytes: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Cell(bytes))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
