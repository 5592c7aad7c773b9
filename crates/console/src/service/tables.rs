//! Tables: what there is, loading files into them, reading rows.

use super::{Reply, Service, blocking, end, nothing};
use crate::answers;
use crate::protocol::TableShape;
use crate::{Error, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_connectors::file::rows as file_rows;
use millstream_core::types;
use millstream_engine::Target;
use millstream_tables::{Database, Scan, Table, TableSpec};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How many reasons of rejected rows are told.
const REASONS_MAX: usize = 5;

pub struct Load {
    pub table: String,
    pub file: PathBuf,
    pub delimiter: char,
    pub shape: TableShape,
    pub timestamp: Option<String>,
}

pub struct Range {
    pub prefix: Vec<String>,
    pub from: Vec<String>,
    pub to: Vec<String>,
    pub limit: Option<u64>,
}

impl Service {
    pub async fn tables(&self, reply: Reply) -> Result<Value> {
        for table in self.home().tables.tables() {
            reply.row(row(&table)?).await?;
        }
        nothing()
    }

    pub async fn create_table(&self, table: String, shape: TableShape) -> Result<Value> {
        if shape.columns.is_empty() {
            return Err(Error::mistake(format!(
                "the table `{table}` needs columns: --column NAME:TYPE for each"
            )));
        }
        let columns = columns(&shape)?;
        let spec = spec(&table, &shape, columns)?;
        if let Some(known) = self.home().tables.table(&table) {
            // That it could be one at all is said first.
            let spec = TableSpec { name: format!("{table}.new"), ..spec };
            let checked = self.home().tables.check_table(&spec).map_err(Error::from);
            checked.map_err(|error| Error {
                message: error.message.replace(&spec.name, &table),
                ..error
            })?;
            let differences = all_differences(known.spec(), &shape)?;
            refuse_other_shape(&table, &differences, "drop it first, or choose another name")?;
            return end(answers::CreatedTable { created: false, table: row(&known)? });
        }
        let tables = self.home().tables.clone();
        let table = blocking(move || row(&tables.create_table(spec)?)).await?;
        end(answers::CreatedTable { created: true, table })
    }

    pub async fn drop_table(&self, name: String) -> Result<Value> {
        self.table(&name)?;
        self.refuse_table_in_use(&name)?;
        let tables = self.home().tables.clone();
        blocking(move || Ok(tables.drop_table(&name)?)).await?;
        nothing()
    }

    /// A running pipeline would find its table gone and hold.
    fn refuse_table_in_use(&self, table: &str) -> Result<()> {
        let Some(engine) = &self.0.engine else { return Ok(()) };
        let target = Target::Table(table.to_owned());
        for report in engine.reports() {
            let Some(pipeline) = engine.pipeline(&report.name) else { continue };
            let does = match pipeline.writes(&target) {
                true => "writes",
                false if pipeline.tables_read.iter().any(|read| read == table) => "looks up",
                false => continue,
            };
            return Err(Error::mistake(format!(
                "the pipeline `{}` {does} the table `{table}`: stop it before dropping the table",
                report.name
            )));
        }
        Ok(())
    }

    pub async fn load_table(&self, load: Load) -> Result<Value> {
        let tables = self.home().tables.clone();
        end(blocking(move || load.run(&tables)).await?)
    }

    pub async fn get_row(&self, table: String, key: Vec<String>, reply: Reply) -> Result<Value> {
        let table = self.table(&table)?;
        blocking(move || {
            let key = table.key(&strs(&key))?;
            let found = table.get_many(&key, None)?;
            send(&found.rows, &reply)
        })
        .await?;
        nothing()
    }

    pub async fn scan_table(&self, table: String, range: Range, reply: Reply) -> Result<Value> {
        let table = self.table(&table)?;
        blocking(move || {
            let key = |values: &[String]| match values {
                [] => Ok(None),
                values => table.key(&strs(values)).map(Some),
            };
            let scan = Scan {
                prefix: key(&range.prefix)?,
                from: key(&range.from)?,
                to: key(&range.to)?,
                limit: range.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
                ..Scan::default()
            };
            for batch in table.scan(scan)? {
                send(&batch?, &reply)?;
            }
            Ok(())
        })
        .await?;
        nothing()
    }
}

impl Load {
    fn run(self, tables: &Database) -> Result<answers::Loaded> {
        let delimiter = u8::try_from(self.delimiter)
            .map_err(|_| Error::mistake("a delimiter is one ASCII character"))?;
        let known = tables.table(&self.table);
        let mut wanted = columns(&self.shape)?;
        if let Some(table) = &known {
            let differences = differences(table.spec(), &self.shape)?;
            refuse_other_shape(
                &self.table,
                &differences,
                "leave --key, --clustering and --column out to load into it as it is, or load into \
                 another table",
            )?;
            // The table's own types, for the columns that the file has.
            let in_file = file_rows::columns_of(&self.file, delimiter).map_err(Error::mistake)?;
            wanted = table
                .schema()
                .fields()
                .iter()
                .filter(|field| in_file.field_with_name(field.name()).is_ok())
                .map(|field| field.as_ref().clone())
                .collect();
        }
        let wanted = match wanted.is_empty() {
            true => None,
            false => Some(self.with_all_columns(wanted, delimiter, known.is_some())?),
        };
        let mut loaded = answers::Loaded { created: known.is_none(), ..answers::Loaded::default() };
        let mut table = known;
        // The file's mistakes come as text; what the table says keeps whose turn it is.
        let mut failed = None;
        let read = file_rows::read(&self.file, wanted, delimiter, |batch| {
            self.write(tables, &mut table, &batch, &mut loaded).map_err(|error| {
                let said = error.message.clone();
                failed = Some(error);
                said
            })
        });
        match (failed, read) {
            (Some(error), _) => return Err(error),
            (None, read) => read.map_err(Error::mistake)?,
        };
        tables.persist()?;
        Ok(loaded)
    }

    fn write(
        &self,
        tables: &Database,
        table: &mut Option<Table>,
        batch: &RecordBatch,
        loaded: &mut answers::Loaded,
    ) -> Result<()> {
        let table = match table {
            Some(table) => table,
            None => {
                let fields = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
                let spec = spec(&self.table, &self.shape, fields)?;
                table.insert(tables.create_table(spec)?)
            }
        };
        let times = self.timestamp.as_ref().map(|column| times(batch, column)).transpose()?;
        let ttl = self.shape.ttl_ms.map(Duration::from_millis);
        let written = table.write(batch, times.as_ref(), ttl)?;
        loaded.rows += written.rows;
        loaded.rejected += written.rejected.len() as u64;
        let room = REASONS_MAX.saturating_sub(loaded.reasons.len());
        loaded.reasons.extend(written.rejected.into_iter().take(room).map(|(_, why)| why));
        Ok(())
    }

    /// The columns that were given types, and all others of the file as they are.
    fn with_all_columns(
        &self,
        typed: Vec<Field>,
        delimiter: u8,
        only_these: bool,
    ) -> Result<SchemaRef> {
        if only_these {
            return Ok(Arc::new(Schema::new(typed)));
        }
        let all = file_rows::columns_of(&self.file, delimiter).map_err(Error::mistake)?;
        if let Some(strange) = typed.iter().find(|f| all.field_with_name(f.name()).is_err()) {
            let names: Vec<&str> = all.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(Error::mistake(format!(
                "{} has no column `{}`; it has {}",
                self.file.display(),
                strange.name(),
                names.join(", ")
            )));
        }
        let fields: Vec<Field> = all
            .fields()
            .iter()
            .map(|field| {
                let given = typed.iter().find(|typed| typed.name() == field.name());
                given.unwrap_or(field.as_ref()).clone()
            })
            .collect();
        Ok(Arc::new(Schema::new(fields)))
    }
}

fn row(table: &Table) -> Result<answers::Table> {
    let spec = table.spec();
    Ok(answers::Table {
        name: spec.name.clone(),
        key: spec.partition_key.clone(),
        clustering: spec.clustering.clone(),
        columns: spec
            .columns
            .fields()
            .iter()
            .map(|field| (field.name().clone(), types::name(field.data_type())))
            .collect(),
        ttl_ms: spec.ttl.map(|ttl| ttl.as_millis() as u64),
        rows_estimate: table.count_estimate()?,
    })
}

fn spec(table: &str, shape: &TableShape, fields: Vec<Field>) -> Result<TableSpec> {
    if shape.key.is_empty() {
        return Err(Error::mistake(format!(
            "the table `{table}` is not there yet: say which columns are its key with --key"
        )));
    }
    Ok(TableSpec {
        name: table.to_owned(),
        columns: Arc::new(Schema::new(fields)),
        partition_key: shape.key.clone(),
        clustering: shape.clustering.clone(),
        ttl: shape.ttl_ms.map(Duration::from_millis),
        grace: TableSpec::GRACE,
    })
}

/// What a table that is there has otherwise than what was given; what was not given is no
/// difference.
fn differences(known: &TableSpec, shape: &TableShape) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (what, is, given) in [
        ("key", &known.partition_key, &shape.key),
        ("clustering", &known.clustering, &shape.clustering),
    ] {
        if !given.is_empty() && is != given {
            let list = |names: &[String]| match names {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            found.push(format!("its {what} is {}, not {}", list(is), list(given)));
        }
    }
    for field in columns(shape)? {
        let given = millstream_tables::canonical(field.data_type())
            .map_err(|why| Error::mistake(format!("column `{}`: {why}", field.name())))?;
        match known.columns.field_with_name(field.name()) {
            Ok(is) if *is.data_type() == given => {}
            Ok(is) => found.push(format!(
                "its column `{}` is {}, not {}",
                field.name(),
                types::name(is.data_type()),
                types::name(&given)
            )),
            Err(_) => found.push(format!("it has no column `{}`", field.name())),
        }
    }
    Ok(found)
}

/// What a table that is there has otherwise than one that is described whole.
fn all_differences(known: &TableSpec, shape: &TableShape) -> Result<Vec<String>> {
    let mut found = differences(known, shape)?;
    if shape.clustering.is_empty() && !known.clustering.is_empty() {
        found.push(format!("its clustering is {}, not none", known.clustering.join(", ")));
    }
    for field in known.columns.fields() {
        if !shape.columns.iter().any(|(name, _)| name == field.name()) {
            found.push(format!("it has a column `{}`, which is not given", field.name()));
        }
    }
    let given = shape.ttl_ms.map(Duration::from_millis);
    if known.ttl != given {
        let text = |ttl: Option<Duration>| match ttl {
            Some(ttl) => format!("{} s", ttl.as_secs_f64()),
            None => "none".to_owned(),
        };
        found.push(format!("its time-to-live is {}, not {}", text(known.ttl), text(given)));
    }
    Ok(found)
}

fn refuse_other_shape(table: &str, differences: &[String], way_out: &str) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::mistake(format!(
        "the table `{table}` is there with another shape: {}; {way_out}",
        differences.join(", ")
    )))
}

fn columns(shape: &TableShape) -> Result<Vec<Field>> {
    let field = |(name, text): &(String, String)| match types::parse(text) {
        Ok(data_type) => Ok(Field::new(name, data_type, true)),
        Err(why) => Err(Error::mistake(format!("column `{name}`: {why}"))),
    };
    shape.columns.iter().map(field).collect()
}

/// The times of a column in microseconds, as writes want them.
fn times(batch: &RecordBatch, column: &str) -> Result<Int64Array> {
    let array = batch.column_by_name(column).ok_or_else(|| {
        Error::mistake(format!("the file has no column `{column}` for --timestamp"))
    })?;
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let as_micros = |array: &ArrayRef| arrow_cast::cast(array, &micros);
    let cast = match array.data_type() {
        DataType::Int64 => return Ok(array.as_primitive::<Int64Type>().clone()),
        _ => as_micros(array).map_err(|error| {
            Error::mistake(format!("the column `{column}` holds no times: {error}"))
        })?,
    };
    let times = cast.as_primitive::<TimestampMicrosecondType>();
    if times.null_count() > 0 {
        return Err(Error::mistake(format!("the column `{column}` has rows without a time")));
    }
    Ok(Int64Array::new(times.values().clone(), None))
}

fn send(batch: &RecordBatch, reply: &Reply) -> Result<()> {
    for row in super::rows::objects(batch)? {
        reply.row_blocking(row)?;
    }
    Ok(())
}

fn strs(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}
