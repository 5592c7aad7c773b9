//! Columns as parts of records: what the sinks that write records share.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMillisecondType;
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, MapArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Schema, SchemaRef, TimeUnit};
use millstream_core::{Error, Header, Headers, Result};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Which columns become which part. What is not named is not written.
#[derive(Debug, Clone, Default)]
pub struct RecordColumns {
    /// The record's key.
    pub key: Option<String>,
    /// The record's timestamp; the time of writing without one.
    pub timestamp: Option<String>,
    /// A map of names to values: the record's headers.
    pub headers: Option<String>,
    /// A boolean: where it is true the record has no value. It is not among the value's columns.
    pub tombstone: Option<String>,
}

/// The parts of one batch's rows.
pub struct RecordParts {
    keys: Option<Texts>,
    timestamps: Option<ArrayRef>,
    headers: Option<MapArray>,
    tombstones: Option<BooleanArray>,
    now: i64,
}

/// A column whose values are bytes of some kind.
pub enum Texts {
    Text(StringArray),
    Bytes(BinaryArray),
}

impl RecordColumns {
    /// Whether these columns can be what they are to be; what `check` asks before a row flows.
    pub fn accepts(&self, schema: &Schema) -> Result<(), String> {
        if let Some(key) = &self.key {
            match find(schema, key)?.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary => {}
                DataType::Dictionary(..) | DataType::Boolean => {}
                t if t.is_integer() || t.is_temporal() => {}
                other => {
                    return Err(format!(
                        "column `{key}` is {}: a key is text, bytes or a whole number",
                        millstream_core::types::name(other)
                    ));
                }
            }
        }
        if let Some(timestamp) = &self.timestamp {
            let field = find(schema, timestamp)?;
            if !matches!(field.data_type(), DataType::Timestamp(..) | DataType::Int64) {
                return Err(format!(
                    "column `{timestamp}` is {}: a record's timestamp is a timestamp or a bigint of milliseconds",
                    millstream_core::types::name(field.data_type())
                ));
            }
        }
        if let Some(headers) = &self.headers {
            let field = find(schema, headers)?;
            let of_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::Binary);
            let fits = match field.data_type() {
                DataType::Map(entries, _) => match entries.data_type() {
                    DataType::Struct(f) => f.len() == 2 && f.iter().all(|f| of_text(f.data_type())),
                    _ => false,
                },
                _ => false,
            };
            if !fits {
                return Err(format!(
                    "column `{headers}` is {}: headers are a map<string> or a map<bytes>",
                    millstream_core::types::name(field.data_type())
                ));
            }
        }
        if let Some(tombstone) = &self.tombstone {
            let field = find(schema, tombstone)?;
            if *field.data_type() != DataType::Boolean {
                return Err(format!(
                    "column `{tombstone}` is {}: which rows are tombstones is a boolean",
                    millstream_core::types::name(field.data_type())
                ));
            }
            if self.key.is_none() {
                return Err("a tombstone deletes a key: name the column of the `key` too".into());
            }
            if schema.fields().len() == 1 {
                return Err(format!("there is no column beside `{tombstone}` to write"));
            }
        }
        Ok(())
    }

    /// The columns that are encoded.
    pub fn value_schema(&self, schema: &SchemaRef) -> SchemaRef {
        let Some(tombstone) = &self.tombstone else { return schema.clone() };
        let fields = schema.fields().iter().filter(|field| field.name() != tombstone).cloned();
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The same of rows.
    pub fn values<'a>(&self, rows: &'a RecordBatch) -> Result<Cow<'a, RecordBatch>> {
        let Some(tombstone) = &self.tombstone else { return Ok(Cow::Borrowed(rows)) };
        let fields = rows.schema_ref().fields().iter().enumerate();
        let kept: Vec<usize> =
            fields.filter(|(_, field)| field.name() != tombstone).map(|(at, _)| at).collect();
        let rows = rows.project(&kept);
        rows.map(Cow::Owned)
            .map_err(|e| Error::stop("tombstone", "leaving a column out").because(e))
    }

    pub fn of(&self, rows: &RecordBatch) -> Result<RecordParts> {
        let headers = match &self.headers {
            Some(name) => Some(
                column(rows, name)?
                    .as_map_opt()
                    .cloned()
                    .ok_or_else(|| Error::stop("headers", format!("column `{name}` is no map")))?,
            ),
            None => None,
        };
        Ok(RecordParts {
            keys: self.key.as_ref().map(|name| Texts::of(rows, name)).transpose()?,
            timestamps: self.timestamps(rows)?,
            tombstones: match &self.tombstone {
                Some(name) => column(rows, name)?.as_boolean_opt().cloned(),
                None => None,
            },
            headers,
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
        })
    }

    fn timestamps(&self, rows: &RecordBatch) -> Result<Option<ArrayRef>> {
        let Some(name) = &self.timestamp else { return Ok(None) };
        let column = column(rows, name)?;
        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        Ok(Some(match column.data_type() {
            DataType::Timestamp(TimeUnit::Millisecond, _) => column,
            _ => arrow_cast::cast(&column, &millis)
                .map_err(|e| Error::stop("timestamp", "casting a timestamp").because(e))?,
        }))
    }
}

impl RecordParts {
    #[inline]
    pub fn key(&self, row: usize) -> Option<&[u8]> {
        self.keys.as_ref().and_then(|keys| keys.get(row))
    }

    #[inline]
    pub fn timestamp(&self, row: usize) -> i64 {
        let times = self.timestamps.as_ref().map(|t| t.as_primitive::<TimestampMillisecondType>());
        match times {
            Some(times) if !times.is_null(row) => times.value(row),
            _ => self.now,
        }
    }

    /// Whether any row may be one without a value.
    #[inline]
    pub fn has_tombstones(&self) -> bool {
        self.tombstones.is_some()
    }

    /// Whether the record has no value; the error is why the row cannot be such a one.
    #[inline]
    pub fn is_tombstone(&self, row: usize) -> Result<bool, String> {
        match &self.tombstones {
            Some(column) if !column.is_null(row) && column.value(row) => match self.key(row) {
                Some(_) => Ok(true),
                None => Err("a tombstone has no value, and this row no key either".into()),
            },
            _ => Ok(false),
        }
    }

    /// The headers as a record holds them; empty without any.
    pub fn headers(&self, row: usize, out: &mut Vec<u8>) {
        out.clear();
        let Some(maps) = self.headers.as_ref().filter(|maps| !maps.is_null(row)) else { return };
        let entries = maps.value(row);
        let (names, values) = (entries.column(0), entries.column(1));
        let header = |at| Header {
            key: bytes_at(names, at).unwrap_or_default(),
            value: bytes_at(values, at),
        };
        Headers::encode((0..entries.len()).map(header), out);
    }
}

impl Texts {
    pub fn of(rows: &RecordBatch, name: &str) -> Result<Texts> {
        let column = column(rows, name)?;
        Ok(match column.data_type() {
            DataType::Utf8 => Texts::Text(column.as_string().clone()),
            DataType::Binary => Texts::Bytes(column.as_binary().clone()),
            _ => {
                let text = arrow_cast::cast(&column, &DataType::Utf8)
                    .map_err(|e| Error::stop("key", "casting a key").because(e))?;
                Texts::Text(text.as_string().clone())
            }
        })
    }

    #[inline]
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Texts::Text(texts) => (!texts.is_null(row)).then(|| texts.value(row).as_bytes()),
            Texts::Bytes(bytes) => (!bytes.is_null(row)).then(|| bytes.value(row)),
        }
    }
}

fn bytes_at(array: &ArrayRef, at: usize) -> Option<&[u8]> {
    if array.is_null(at) {
        return None;
    }
    match array.data_type() {
        DataType::Utf8 => Some(array.as_string::<i32>().value(at).as_bytes()),
        DataType::Binary => Some(array.as_binary::<i32>().value(at)),
        _ => None,
    }
}

fn find<'a>(schema: &'a Schema, name: &str) -> Result<&'a arrow_schema::Field, String> {
    schema.field_with_name(name).map_err(|_| {
        let known: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        format!("there is no column `{name}`; there are {}", known.join(", "))
    })
}

fn column(rows: &RecordBatch, name: &str) -> Result<ArrayRef> {
    rows.column_by_name(name)
        .cloned()
        .ok_or_else(|| Error::stop("no_column", format!("the rows have no column `{name}`")))
}
