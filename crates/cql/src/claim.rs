//! Rows that are inserted unless their key is there, with the outcome as columns.
//!
//! ```text
//!  keys ─► statements ─► rounds: no partition twice ─► INSERT .. IF NOT EXISTS, some at a time
//!          null, no such value: a miss                   └─ applied? else the row that is there
//! ```
//!
//! The answer may stay away although the row was inserted. A serial read then shows the row that is
//! there, and when that has the values that were to be inserted, it is ours; where there is none, it is
//! inserted again. The row of an event that is worked on once more after a crash is ours alike.

mod passes;

use self::passes::settle_all;
use crate::cluster::{Cluster, Execution};
use crate::encode::{Encoded, Layout, Marker, Statement};
use crate::lookup::{Table, quoted};
use crate::pace::Pace;
use crate::prepared::Prepared;
use crate::read::Column;
use crate::sink::{Nulls, Operation, pause};
use crate::write::Writer;
use crate::{error, types};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StructArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;
use async_trait::async_trait;
use millstream_core::{Disposition, Error, Found, Lookup, LookupKey, Result};
use scylla::cluster::metadata::{ColumnKind, ColumnType, NativeType};
use scylla::deserialize::row::ColumnIterator;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use std::sync::Arc;

/// The column that says whose row is there: true where it is the one that was asked for.
pub const APPLIED: &str = "applied";
/// The column with the row that is there.
pub const STORED: &str = "stored";

/// How often a row is sent before others have their turn.
const ATTEMPTS: u32 = 3;
/// What the store calls the outcome.
const OUTCOME: &str = "[applied]";

#[derive(Debug, Clone)]
pub struct CqlClaimOptions {
    pub keyspace: String,
    pub table: String,
    /// The columns to know of the row that is there; all unless given.
    pub columns: Option<Vec<String>>,
    /// As the table says unless given.
    pub ttl_seconds: Option<u32>,
    /// Requests under way at a time, of all partitions together.
    pub concurrency: usize,
    pub serial: SerialConsistency,
    pub execution: Execution,
    /// Only look what the outcome would be.
    pub read_only: bool,
}

/// A table bound to the columns that are inserted.
pub struct CqlClaim {
    cluster: Arc<Cluster>,
    options: CqlClaimOptions,
    schema: SchemaRef,
    /// The columns of the row that is there.
    stored: Vec<Stored>,
    layout: Layout,
    /// None where only what the outcome would be is asked for.
    insert: Option<Prepared>,
    look: Prepared,
    pace: Pace,
}

struct Stored {
    name: String,
    cql: ColumnType<'static>,
    /// Where it stands among what is inserted, if it does.
    asked: Option<Asked>,
}

struct Asked {
    marker: usize,
    /// Its place among the columns of a call's keys.
    given: usize,
}

/// What is there of a key.
struct Outcome {
    applied: bool,
    /// None where there was no row.
    row: Option<Row>,
}

/// The cells in the order of [`CqlClaim::stored`].
type Row = Vec<Option<Vec<u8>>>;

/// The columns of the answers, of a table that has these. The error is a sentence for the user.
pub fn claim_columns(table: &Schema) -> Result<SchemaRef, String> {
    if let Some(taken) = [APPLIED, STORED].iter().find(|name| table.index_of(name).is_ok()) {
        return Err(format!(
            "the table has a column `{taken}`, which is what the outcome is called; name the others \
             in `columns`"
        ));
    }
    let mut fields: Vec<Field> = table.fields().iter().map(|field| (**field).clone()).collect();
    fields.push(Field::new(APPLIED, DataType::Boolean, true));
    fields.push(Field::new(STORED, DataType::Struct(table.fields().clone()), true));
    Ok(Arc::new(Schema::new(fields)))
}

impl Table {
    /// Whether rows of these columns and types can be inserted and known again.
    pub fn takes_claim(&self, key: &LookupKey, types: &[DataType]) -> Result<(), String> {
        let LookupKey::Equal(names) = key else {
            return Err("a row is inserted by equality, not by a range".into());
        };
        let named = format!("{}.{}", self.keyspace, self.name);
        let keys: Vec<_> = self.partition_key.iter().chain(&self.clustering).collect();
        if let Some(missing) = keys.iter().find(|name| !names.contains(name)) {
            let keys: Vec<_> = keys.iter().map(|name| name.as_str()).collect();
            return Err(format!(
                "the key of `{named}` is {}: the ON gives no `{missing}`",
                keys.join(", ")
            ));
        }
        if names.len() == keys.len() {
            return Err(format!(
                "the ON gives `{named}` no value beside its key: all rows of one key would count as \
                 the first"
            ));
        }
        for (name, data_type) in names.iter().zip(types) {
            let cql = self.column(name)?;
            Writer::new(data_type, cql).map_err(|why| format!("column `{name}`: {why}"))?;
            // Sets, maps and their like come back in another order, or as nothing when empty.
            if !matches!(cql, ColumnType::Native(_)) {
                return Err(format!(
                    "`{name}` of `{named}` is no simple value: whether the one that is there is the \
                     same cannot be told"
                ));
            }
        }
        Ok(())
    }
}

/// Whether rows can be inserted there on a condition at all. The error is a sentence for the user.
pub fn can_be_claimed(cluster: &Cluster, keyspace: &str, table: &str) -> Result<(), String> {
    let state = cluster.session.get_cluster_state();
    let Some(space) = state.get_keyspace(keyspace) else { return Ok(()) };
    if space.views.contains_key(table) {
        return Err(format!("`{keyspace}.{table}` is a view: rows are inserted into its table"));
    }
    let columns = space.tables.get(table).into_iter().flat_map(|found| &found.columns);
    for (name, column) in columns {
        if column.kind == ColumnKind::Static {
            return Err(format!(
                "`{name}` of `{keyspace}.{table}` is static: it is of many rows, and cannot say \
                 which of them was first"
            ));
        }
        if matches!(column.typ, ColumnType::Native(NativeType::Counter)) {
            return Err(format!("`{name}` of `{keyspace}.{table}` counts: it cannot be inserted"));
        }
    }
    Ok(())
}

impl CqlClaim {
    /// `key_types` are the types that the key's columns will come in.
    pub async fn open(
        cluster: Arc<Cluster>,
        options: CqlClaimOptions,
        key: &LookupKey,
        key_types: &[DataType],
    ) -> Result<CqlClaim> {
        let wrong = |why: String| Error::stop("lookup", why);
        let table = Table::of(&cluster, &options.keyspace, &options.table)?;
        can_be_claimed(&cluster, &options.keyspace, &options.table).map_err(wrong)?;
        table.takes_claim(key, key_types).map_err(wrong)?;
        let columns = table.schema(options.columns.as_deref()).map_err(wrong)?;
        let schema = claim_columns(&columns).map_err(wrong)?;

        let names = key.columns();
        let keys: Vec<&str> =
            table.partition_key.iter().chain(&table.clustering).map(String::as_str).collect();
        let values = names.iter().copied().filter(|name| !keys.contains(name));
        let order: Vec<&str> = keys.iter().copied().chain(values).collect();
        let place = |name: &str| names.iter().position(|given| *given == name);
        let mut markers = Vec::new();
        for name in &order {
            let column = place(name).ok_or_else(|| wrong(format!("`{name}` is not given")))?;
            let cql = table.column(name).map_err(wrong)?;
            let writer = Writer::new(&key_types[column], cql).map_err(wrong)?;
            markers.push(Marker::Column { column, writer, is_key: true });
        }
        let mut stored = Vec::new();
        for field in columns.fields() {
            let name = field.name();
            let marker = order.iter().position(|asked| asked == name);
            let asked = marker.zip(place(name)).map(|(marker, given)| Asked { marker, given });
            let cql = table.column(name).map_err(wrong)?.clone();
            stored.push(Stored { name: name.clone(), cql, asked });
        }
        let CqlClaimOptions { serial, ref execution, .. } = options;
        let named = format!("{}.{}", options.keyspace, options.table);
        let insert = match options.read_only {
            true => None,
            false => {
                let statement = insert(&table, &order, options.ttl_seconds);
                let set = move |prepared: &mut PreparedStatement| {
                    prepared.set_is_idempotent(false);
                    prepared.set_serial_consistency(Some(serial));
                };
                let what = format!("inserting into {named}");
                Some(Prepared::new(&cluster, statement, what, execution, set).await?)
            }
        };
        if let Some(unknown) = order.iter().find(|name| columns.index_of(name).is_err()) {
            let told = format!("`{unknown}` is inserted: it must be one of `columns`");
            return Err(wrong(told));
        }
        let statement = look(&table, &stored, &keys);
        let set = move |prepared: &mut PreparedStatement| {
            prepared.set_is_idempotent(true);
            prepared.set_consistency(match serial {
                SerialConsistency::Serial => Consistency::Serial,
                SerialConsistency::LocalSerial => Consistency::LocalSerial,
            });
        };
        let what = format!("looking what is in {named}");
        let look = Prepared::new(&cluster, statement, what, execution, set).await?;
        Ok(CqlClaim {
            layout: Layout {
                markers,
                partition: 0..table.partition_key.len(),
                key: 0..keys.len(),
                timestamp: None,
                nulls: Nulls::Unset,
                operation: Operation::InsertIfNotExists(options.serial),
            },
            pace: Pace::new(options.concurrency),
            cluster,
            options,
            schema,
            stored,
            insert,
            look,
        })
    }

    fn what(&self) -> String {
        format!("inserting into {}.{}", self.options.keyspace, self.options.table)
    }

    /// The statements, of a table that may have been made again.
    fn statements(&self) -> impl Iterator<Item = &Prepared> {
        self.insert.iter().chain([&self.look])
    }

    /// Asks for a row until its outcome is known.
    async fn settle(&self, encoded: &Encoded, statement: &Statement) -> Result<Outcome> {
        let mut attempts = 0;
        loop {
            let turn = self.pace.turn().await;
            // It may be there though whoever inserted it heard nothing, or of a trouble.
            let error = match self.outcome(encoded, statement, attempts > 0).await {
                Ok(mut outcome) => {
                    turn.went_well();
                    outcome.applied = outcome.applied || self.is_ours(encoded, statement, &outcome);
                    return Ok(outcome);
                }
                Err(error) => error,
            };
            if matches!(error.kind(), "overloaded" | "timeout" | "unavailable") {
                self.pace.slow_down();
            }
            if matches!(error.kind(), "no_table" | "unprepared") {
                // One that was made again needs another statement.
                self.statements().for_each(Prepared::forget);
            }
            attempts += 1;
            if error.disposition() != Disposition::Retry || attempts == ATTEMPTS {
                return Err(error);
            }
            // Who pauses keeps its turn: the store has trouble.
            tokio::time::sleep(pause(attempts)).await;
            // A call that goes on for long may outlive its table.
            self.look_again().await?;
        }
    }

    async fn outcome(
        &self,
        encoded: &Encoded,
        statement: &Statement,
        may_be_there: bool,
    ) -> Result<Outcome> {
        if may_be_there || self.insert.is_none() {
            let key = encoded.first_values(statement, self.layout.key.len());
            let (_, row) = self.request(&self.look, "looking what is in", key).await?;
            if row.is_some() || self.insert.is_none() {
                return Ok(Outcome { applied: row.is_none(), row });
            }
        }
        let Some(insert) = &self.insert else { return Err(self.stop("nothing to insert")) };
        match self.request(insert, "inserting into", encoded.values(statement)).await? {
            (Some(true), _) => Ok(Outcome { applied: true, row: None }),
            (Some(false), row) => Ok(Outcome { applied: false, row }),
            (None, _) => Err(self.stop("the answer says no outcome")),
        }
    }

    /// What the store calls the outcome, if it says one, and the cells of the row that it shows.
    async fn request(
        &self,
        prepared: &Prepared,
        doing: &str,
        values: impl SerializeRow,
    ) -> Result<(Option<bool>, Option<Row>)> {
        let current = prepared.get().await?;
        let what = || format!("{doing} {}.{}", self.options.keyspace, self.options.table);
        let answer = match self.cluster.session.execute_unpaged(&current, values).await {
            Ok(answer) => answer,
            Err(error) => {
                let error = error::of_execution(error, &what());
                if error.disposition() == Disposition::Reject {
                    // Perhaps it is the table that is wrong, not the row.
                    prepared.look_now().await?;
                }
                return Err(error);
            }
        };
        let rows = answer.into_rows_result().map_err(|error| self.stop(error))?;
        let row = rows.maybe_first_row::<ColumnIterator>().map_err(|error| self.stop(error))?;
        let Some(row) = row else { return Ok((None, None)) };
        let mut applied = None;
        let mut cells = vec![None; self.stored.len()];
        for cell in row {
            let cell = cell.map_err(|error| self.stop(error))?;
            let bytes = cell.slice.map(|slice| slice.as_slice());
            let name = cell.spec.name();
            if name == OUTCOME {
                applied = bytes.map(|bytes| bytes != [0]);
            } else if let Some(at) = self.stored.iter().position(|column| column.name == name) {
                if simple(cell.spec.typ()) != simple(&self.stored[at].cql) {
                    let told = format!(
                        "{}: the column `{name}` is {} now, and was {} at the start; make it so again, \
                         or start again",
                        what(),
                        types::name(cell.spec.typ()),
                        types::name(&self.stored[at].cql),
                    );
                    return Err(Error::retry("table_changed", told));
                }
                cells[at] = bytes.map(<[u8]>::to_vec);
            }
        }
        Ok((applied, Some(cells)))
    }

    /// A table that was made again is noticed now and then, by what is done first.
    async fn look_again(&self) -> Result<()> {
        self.insert.as_ref().unwrap_or(&self.look).look_again().await
    }

    fn stop(&self, why: impl ToString) -> Error {
        Error::stop("cql", format!("{}: {}", self.what(), why.to_string()))
    }

    /// Whether the row that is there has all values that were to be inserted.
    fn is_ours(&self, encoded: &Encoded, statement: &Statement, outcome: &Outcome) -> bool {
        let Some(row) = &outcome.row else { return false };
        self.stored.iter().zip(row).all(|(column, there)| match &column.asked {
            // It was found by its key.
            Some(asked) if self.layout.key.contains(&asked.marker) => true,
            Some(asked) => there.as_deref() == encoded.value(statement, asked.marker),
            None => true,
        })
    }

    /// A row for each key that has an outcome, in the order of the keys.
    fn found(
        &self,
        keys: &RecordBatch,
        outcomes: &[Option<(&Statement, Outcome)>],
        encoded: &Encoded,
    ) -> Result<Found> {
        let stop = |why: String| Error::stop("lookup", format!("{}: {why}", self.what()));
        let stored = self.stored.iter().map(|column| Column::new(&column.cql));
        let mut stored = stored.collect::<Result<Vec<_>, _>>().map_err(stop)?;
        let (mut applied, mut rows, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for (key, outcome) in outcomes.iter().enumerate() {
            if let Some((statement, outcome)) = outcome {
                rows.push(key as u32);
                applied.push(outcome.applied);
                for (at, (into, column)) in stored.iter_mut().zip(&self.stored).enumerate() {
                    let cell = match (&outcome.row, &column.asked) {
                        (Some(row), _) => row[at].as_deref(),
                        (None, Some(asked)) => encoded.value(statement, asked.marker),
                        (None, None) => None,
                    };
                    into.push(cell).map_err(|_| {
                        self.statements().for_each(Prepared::forget);
                        stop(format!("`{}` is not of the type it had", column.name))
                    })?;
                }
            }
            ends.push(rows.len() as u32);
        }
        let stored = stored.into_iter().map(Column::finish).collect::<Result<Vec<_>, _>>();
        let stored = stored.map_err(|error| stop(error.to_string()))?;
        let rows = UInt32Array::from(rows);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for (column, there) in self.stored.iter().zip(&stored) {
            // What the ON says of a column is so, whoever came first.
            columns.push(match &column.asked {
                Some(asked) => take(keys.column(asked.given), &rows, None)
                    .map_err(|error| stop(error.to_string()))?,
                None => there.clone(),
            });
        }
        columns.push(Arc::new(BooleanArray::from(applied)));
        let fields = self.schema.fields()[..self.stored.len()].iter().cloned().collect();
        let stored = StructArray::try_new(fields, stored, None);
        columns.push(Arc::new(stored.map_err(|error| stop(error.to_string()))?));
        let rows = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| stop(error.to_string()))?;
        Ok(Found { rows, ends })
    }
}

#[async_trait]
impl Lookup for CqlClaim {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// In the order of the keys, as far as they are of one partition: a later row must not be sent
    /// while an earlier one of its key may still be inserted. Cancel safe: who is asked for again finds
    /// its own row.
    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        self.look_again().await?;
        let encoded = self.layout.encode(keys);
        let send = |statement| self.settle(&encoded, statement);
        let settled = settle_all(&encoded.rounds, self.options.concurrency, send).await?;
        let mut outcomes: Vec<_> = (0..keys.num_rows()).map(|_| None).collect();
        for (statement, outcome) in settled {
            // Conditions are not put together: it stands for one row.
            if let Some(row) = statement.rows().next() {
                outcomes[row as usize] = Some((statement, outcome));
            }
        }
        self.found(keys, &outcomes, &encoded)
    }
}

/// A type that is told by its name, where it is one.
fn simple<'a>(cql: &'a ColumnType<'_>) -> Option<&'a NativeType> {
    match cql {
        ColumnType::Native(native) => Some(native),
        _ => None,
    }
}

fn insert(table: &Table, columns: &[&str], ttl_seconds: Option<u32>) -> String {
    let names: Vec<_> = columns.iter().map(|name| quoted(name)).collect();
    let marks = vec!["?"; columns.len()];
    let ttl = ttl_seconds.map(|seconds| format!(" USING TTL {seconds}"));
    format!(
        "INSERT INTO {}.{} ({}) VALUES ({}) IF NOT EXISTS{}",
        quoted(&table.keyspace),
        quoted(&table.name),
        names.join(", "),
        marks.join(", "),
        ttl.unwrap_or_default(),
    )
}

fn look(table: &Table, stored: &[Stored], keys: &[&str]) -> String {
    let columns: Vec<_> = stored.iter().map(|column| quoted(&column.name)).collect();
    let wanted: Vec<_> = keys.iter().map(|name| format!("{} = ?", quoted(name))).collect();
    format!(
        "SELECT {} FROM {}.{} WHERE {}",
        columns.join(", "),
        quoted(&table.keyspace),
        quoted(&table.name),
        wanted.join(" AND "),
    )
}
