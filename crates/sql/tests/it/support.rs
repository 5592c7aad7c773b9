//! Rows as JSON in and out, and lookups that answer from memory.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_json::{ReaderBuilder, WriterBuilder};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select_rows::pick;
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Error, Found, Lookup, LookupKey, Rejection, Result, types};
use millstream_sql::{Query, Ran, plan};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// `name type, name type!, …`; a `!` means that it holds no null.
pub fn schema(text: &str) -> SchemaRef {
    let DataType::Struct(fields) =
        types::parse(&format!("struct<{}>", text.replace('!', ""))).unwrap()
    else {
        unreachable!()
    };
    let fields: Vec<Field> = fields
        .iter()
        .map(|field| {
            let required = text.split(',').any(|part| {
                let part = part.trim();
                part.ends_with('!') && part.split(' ').next() == Some(field.name())
            });
            field.as_ref().clone().with_nullable(!required)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// JSON objects, one after the other. A text in a column of addresses is written as one.
pub fn rows(schema: &SchemaRef, json: &str) -> RecordBatch {
    let plain: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match *field.data_type() == types::IP {
            true => Field::new(field.name(), DataType::Utf8, true),
            false => field.as_ref().clone().with_nullable(true),
        })
        .collect();
    let mut decoder = ReaderBuilder::new(Arc::new(Schema::new(plain))).build_decoder().unwrap();
    decoder.decode(json.as_bytes()).unwrap();
    let batch = decoder.flush().unwrap();
    let columns = match batch {
        None => return RecordBatch::new_empty(schema.clone()),
        Some(batch) => batch
            .columns()
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| match *field.data_type() == types::IP {
                true => address(column),
                false => column.clone(),
            })
            .collect(),
    };
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

fn address(texts: &arrow_array::ArrayRef) -> arrow_array::ArrayRef {
    let values = texts.as_string::<i32>().iter().map(|text| {
        text.map(|text| match text.parse().unwrap() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        })
    });
    let array = arrow_array::FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16);
    Arc::new(array.unwrap())
}

/// The rows as JSON objects, one a line, nulls written out.
pub fn json(rows: &RecordBatch) -> Vec<String> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow_json::writer::LineDelimited>(Vec::new());
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(str::to_owned).collect()
}

pub fn planned(sql: &str, input: &SchemaRef, lookups: &[(&str, Arc<Memory>)]) -> Query {
    let schemas: BTreeMap<String, SchemaRef> =
        lookups.iter().map(|(name, lookup)| ((*name).to_owned(), lookup.schema())).collect();
    plan(sql, input, &schemas).unwrap_or_else(|errors| {
        panic!("{sql}\n{}", errors.iter().map(|e| format!("{e}\n")).collect::<String>())
    })
}

/// Plans, binds and runs.
pub fn run(sql: &str, batch: Batch, lookups: &[(&str, Arc<Memory>)]) -> Result<Ran> {
    let query = planned(sql, &batch.rows.schema(), lookups);
    let bound = query
        .lookups()
        .iter()
        .map(|usage| {
            let (_, lookup) = lookups.iter().find(|(name, _)| *name == usage.name).unwrap();
            Arc::new(lookup.asking(&usage.key)) as Arc<dyn Lookup>
        })
        .collect();
    let step = query.bind(bound)?;
    step.run(batch).now_or_never().expect("these lookups never wait")
}

/// The rows that come out, and the rejections as `row kind: reason`.
pub fn outcome(sql: &str, input: &SchemaRef, json_rows: &str) -> (Vec<String>, Vec<String>) {
    let ran = run(sql, Batch::same(rows(input, json_rows)), &[]).unwrap();
    (json(&ran.batch.rows), rejections(&ran.rejected))
}

pub fn rejections(rejected: &[Rejection]) -> Vec<String> {
    rejected.iter().map(|r| format!("{} {}: {}", r.source_row, r.kind, r.reason)).collect()
}

/// A lookup that holds its rows in memory and notes what it was asked.
#[derive(Debug, Clone)]
pub struct Memory {
    rows: RecordBatch,
    key: Option<LookupKey>,
    fail: Option<&'static str>,
    pub asked: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Memory {
    pub fn new(columns: &str, json_rows: &str) -> Arc<Self> {
        let rows = rows(&schema(columns), json_rows);
        Arc::new(Self { rows, key: None, fail: None, asked: Arc::default() })
    }

    pub fn with_metadata(mut self: Arc<Self>, key: &str, value: &str) -> Arc<Self> {
        let this = Arc::make_mut(&mut self);
        let metadata = [(key.to_owned(), value.to_owned())].into();
        let schema = Schema::clone(&this.rows.schema()).with_metadata(metadata);
        this.rows = this.rows.clone().with_schema(Arc::new(schema)).unwrap();
        self
    }

    /// The same rows, asked by this key.
    pub fn asking(&self, key: &LookupKey) -> Self {
        Self { key: Some(key.clone()), ..self.clone() }
    }

    /// With the first row as often as this.
    pub fn with_copies(mut self: Arc<Self>, copies: u32) -> Arc<Self> {
        let this = Arc::make_mut(&mut self);
        let places = std::iter::repeat_n(0, copies as usize).chain(1..this.rows.num_rows() as u32);
        let places = arrow_array::UInt32Array::from_iter_values(places);
        this.rows = arrow_select::take::take_record_batch(&this.rows, &places).unwrap();
        self
    }

    pub fn failing(mut self: Arc<Self>, kind: &'static str) -> Arc<Self> {
        Arc::make_mut(&mut self).fail = Some(kind);
        self
    }
}

#[async_trait]
impl Lookup for Memory {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        if let Some(kind) = self.fail {
            return Err(Error::retry(kind, "the store is away"));
        }
        self.asked.lock().unwrap().push(json(keys));
        for column in keys.columns() {
            assert_eq!(column.null_count(), 0, "keys hold no null");
        }
        let columns: Vec<_> = self
            .key
            .as_ref()
            .unwrap()
            .columns()
            .into_iter()
            .map(|name| self.rows.column_by_name(name).unwrap().clone())
            .collect();
        let compare = |row: usize, key: usize, column: usize, key_column: usize| {
            let key = &keys.column(key_column).slice(key, 1);
            let value = &columns[column].slice(row, 1);
            assert_eq!(key.data_type(), value.data_type(), "keys are of the key's type");
            arrow_select_rows::order(value, key)
        };
        let mut picked = Vec::new();
        let mut ends = Vec::new();
        for key in 0..keys.num_rows() {
            for row in 0..self.rows.num_rows() {
                let hit = match self.key.as_ref().unwrap() {
                    LookupKey::Equal(names) => {
                        (0..names.len()).all(|c| compare(row, key, c, c).is_some_and(|o| o.is_eq()))
                    }
                    LookupKey::Range { .. } => {
                        compare(row, key, 0, 0).is_some_and(|o| o.is_le())
                            && compare(row, key, 1, 0).is_some_and(|o| o.is_ge())
                    }
                };
                if hit {
                    picked.push(row as u32);
                }
            }
            ends.push(picked.len() as u32);
        }
        Ok(Found { rows: pick(&self.rows, &picked), ends })
    }
}

mod arrow_select_rows {
    use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
    use std::cmp::Ordering;

    pub fn pick(rows: &RecordBatch, indices: &[u32]) -> RecordBatch {
        let indices = UInt32Array::from(indices.to_vec());
        let columns = rows
            .columns()
            .iter()
            .map(|column| arrow_select::take::take(column, &indices, None).unwrap())
            .collect();
        RecordBatch::try_new(rows.schema(), columns).unwrap()
    }

    /// Of two arrays of one value; none when one is null.
    pub fn order(a: &ArrayRef, b: &ArrayRef) -> Option<Ordering> {
        if a.is_null(0) || b.is_null(0) {
            return None;
        }
        use datafusion_common::ScalarValue;
        let [a, b] = [a, b].map(|value| ScalarValue::try_from_array(value, 0).unwrap());
        a.partial_cmp(&b)
    }
}
