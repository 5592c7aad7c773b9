//! What the tests share: records, an in-memory registry, random schemas with values of them, and
//! the comparison of a decoded row with the value that it came from.

use apache_avro::types::Value;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{
    Decoded, Decoder, Encoded, Error, Guid, Headers, Record, Records, RecordsBuilder,
    RegisteredSchema, Result, SchemaKind, Schemas,
};
use millstream_formats::avro::{AvroDecoder, AvroOptions, Framing};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub fn records<'a>(values: impl IntoIterator<Item = Option<&'a [u8]>>) -> Records {
    let mut builder = RecordsBuilder::new();
    let mut next = 0;
    for value in values {
        builder.push(Record {
            offset: next,
            timestamp: 0,
            key: None,
            value,
            headers: Headers::default(),
        });
        next += 1;
    }
    builder.finish(next)
}

pub fn records_of<T: AsRef<[u8]>>(values: &[T]) -> Records {
    records(values.iter().map(|value| Some(value.as_ref())))
}

/// A registry in memory.
#[derive(Default)]
pub struct Registry {
    pub schemas: HashMap<u32, (SchemaKind, String)>,
    pub guids: HashMap<Guid, u32>,
    pub down: AtomicBool,
    pub asked: AtomicUsize,
}

impl Registry {
    pub fn new<T: Into<String>>(schemas: impl IntoIterator<Item = (u32, T)>) -> Arc<Self> {
        let schemas =
            schemas.into_iter().map(|(id, text)| (id, (SchemaKind::Avro, text.into()))).collect();
        Arc::new(Self { schemas, ..Self::default() })
    }
}

#[async_trait]
impl Schemas for Registry {
    async fn by_id(&self, id: u32) -> Result<Arc<RegisteredSchema>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(Error::retry("registry", "the registry is down"));
        }
        let (kind, text) = self
            .schemas
            .get(&id)
            .ok_or_else(|| Error::reject("unknown_schema", format!("schema {id} not found")))?;
        Ok(Arc::new(RegisteredSchema {
            id,
            kind: *kind,
            text: text.as_str().into(),
            references: Vec::new(),
        }))
    }

    async fn by_guid(&self, guid: Guid) -> Result<Arc<RegisteredSchema>> {
        match self.guids.get(&guid) {
            Some(id) => self.by_id(*id).await,
            None => Err(Error::reject("unknown_schema", format!("schema {guid} not found"))),
        }
    }

    async fn latest(&self, _: &str) -> Result<Option<Arc<RegisteredSchema>>> {
        Ok(None)
    }

    async fn register(&self, _: &str, _: SchemaKind, _: &str) -> Result<u32> {
        Err(Error::stop("registry", "read only"))
    }
}

pub fn options(framing: Framing, reader_schema: &str) -> AvroOptions {
    AvroOptions {
        framing,
        reader_schema: reader_schema.to_owned(),
        columns: None,
        writer_schema: None,
        record_bytes_max: 8 << 20,
    }
}

pub fn bare(schema: &str) -> AvroDecoder {
    AvroDecoder::new(options(Framing::Bare, schema), Registry::new([] as [(u32, &str); 0])).unwrap()
}

pub fn decode(decoder: &mut dyn Decoder, records: &Records) -> Decoded {
    block_on(decoder.prepare(records)).unwrap();
    let decoded = decoder.decode(records).unwrap();
    assert_eq!(decoded.batch.len() + decoded.rejected.len(), records.len());
    assert_eq!(decoded.batch.rows.schema(), decoder.schema());
    let mut rows: Vec<u32> = decoded.batch.origin.iter().collect();
    rows.extend(decoded.rejected.iter().map(|r| r.source_row));
    rows.sort_unstable();
    assert_eq!(rows, (0..records.len() as u32).collect::<Vec<_>>(), "each row ends once");
    decoded
}

pub fn rows_of(encoded: &Encoded) -> Vec<Vec<u8>> {
    (0..encoded.len()).map(|row| encoded.row(row).to_vec()).collect()
}

/// Random numbers that a seed replays.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Small and extreme numbers more often than chance would have them.
    pub fn long(&mut self) -> i64 {
        let value = self.next() as i64;
        match self.below(6) {
            0 => [0, 1, -1, i64::MIN, i64::MAX][self.below(5)],
            1 => value % 100,
            2 => value >> self.below(63),
            _ => value,
        }
    }

    pub fn text(&mut self) -> String {
        let pieces = ["", "a", "é", "日本", "🦀", "x".repeat(70).as_str(), "\"", "\n", "0"]
            .map(str::to_owned);
        (0..self.below(4)).map(|_| pieces[self.below(pieces.len())].clone()).collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A random schema, and a value of it whenever asked.
pub struct Generator {
    pub dice: Dice,
    /// Whether there are decimals: apache-avro does not resolve all of them.
    pub decimals: bool,
    names: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice(seed), decimals: true, names: 0 }
    }

    pub fn record(&mut self, depth: usize) -> serde_json::Value {
        self.names += 1;
        let name = format!("R{}", self.names);
        let fields: Vec<_> = (0..1 + self.dice.below(5))
            .map(|at| serde_json::json!({"name": format!("f{at}"), "type": self.any(depth)}))
            .collect();
        serde_json::json!({"type": "record", "name": name, "fields": fields})
    }

    fn any(&mut self, depth: usize) -> serde_json::Value {
        use serde_json::json;
        let logical = |base: &str, name: &str| json!({"type": base, "logicalType": name});
        let simple = if depth == 0 { 22 } else { 28 };
        self.names += 1;
        let name = format!("N{}", self.names);
        match self.dice.below(simple) {
            0 => json!("boolean"),
            1 => json!("int"),
            2 => json!("long"),
            3 => json!("float"),
            4 => json!("double"),
            5 => json!("bytes"),
            6..=8 => json!("string"),
            9 => logical("int", "date"),
            10 => logical("int", "time-millis"),
            11 => logical("long", "time-micros"),
            12 => logical("long", "timestamp-millis"),
            13 => logical("long", "timestamp-micros"),
            14 => logical("long", "local-timestamp-millis"),
            15 | 18 if !self.decimals => json!("bytes"),
            15 => json!({"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}),
            16 => json!({"type": "fixed", "name": name, "size": 1 + self.dice.below(20)}),
            17 => json!({"type": "enum", "name": name, "symbols": ["A", "B", "LONGER"]}),
            18 => json!({"type": "fixed", "name": name, "size": 9, "logicalType": "decimal",
                "precision": 20, "scale": 0}),
            19 => json!(["null", "string"]),
            20 => json!(["long", "null"]),
            21 => json!(["int"]),
            22 => json!({"type": "array", "items": self.any(depth - 1)}),
            23 => json!({"type": "map", "values": self.any(depth - 1)}),
            24 => self.record(depth - 1),
            25 => json!(["null", self.record(depth - 1)]),
            26 => json!([self.record(depth - 1), "null", "string", "long",
                {"type": "array", "items": self.any(depth - 1)}]),
            _ => json!(["string", {"type": "map", "values": self.any(depth - 1)}]),
        }
    }

    pub fn value(&mut self, schema: &apache_avro::Schema) -> Value {
        use apache_avro::Schema as S;
        let dice = &mut self.dice;
        match schema {
            S::Null => Value::Null,
            S::Boolean => Value::Boolean(dice.below(2) == 1),
            S::Int => Value::Int(dice.long() as i32),
            S::Long => Value::Long(dice.long()),
            S::Float => Value::Float(dice.long() as f32 / 7.0),
            S::Double => Value::Double(dice.long() as f64 / 7.0),
            S::Bytes => {
                let len = dice.below(30);
                Value::Bytes(dice.bytes(len))
            }
            S::String => Value::String(dice.text()),
            S::Date => Value::Date(dice.long() as i32),
            S::TimeMillis => Value::TimeMillis(dice.below(86_400_000) as i32),
            S::TimeMicros => Value::TimeMicros(dice.below(86_400_000_000) as i64),
            S::TimestampMillis => Value::TimestampMillis(dice.long()),
            S::TimestampMicros => Value::TimestampMicros(dice.long()),
            S::LocalTimestampMillis => Value::LocalTimestampMillis(dice.long()),
            S::Decimal(decimal) => {
                let value = dice.long();
                let mut bytes = value.to_be_bytes().to_vec();
                match &*decimal.inner {
                    S::Fixed(fixed) => {
                        let sign = if value < 0 { 0xff } else { 0 };
                        while bytes.len() < fixed.size {
                            bytes.insert(0, sign);
                        }
                    }
                    _ => {
                        while bytes.len() > 1
                            && ((bytes[0] == 0 && bytes[1] < 0x80)
                                || (bytes[0] == 0xff && bytes[1] >= 0x80))
                        {
                            bytes.remove(0);
                        }
                    }
                }
                Value::Decimal(bytes.into())
            }
            S::Fixed(fixed) => Value::Fixed(fixed.size, dice.bytes(fixed.size)),
            S::Enum(e) => {
                let at = dice.below(e.symbols.len());
                Value::Enum(at as u32, e.symbols[at].clone())
            }
            S::Array(array) => {
                let items = dice.below(4);
                Value::Array((0..items).map(|_| self.value(&array.items)).collect())
            }
            S::Map(map) => {
                let items = dice.below(4);
                let entry = |at| (format!("k{at}"), self.value(&map.types));
                Value::Map((0..items).map(entry).collect())
            }
            S::Record(record) => {
                let fields = record.fields.iter();
                Value::Record(fields.map(|f| (f.name.clone(), self.value(&f.schema))).collect())
            }
            S::Union(union) => {
                let at = dice.below(union.variants().len());
                let value = self.value(&union.variants()[at]);
                Value::Union(at as u32, Box::new(value))
            }
            other => panic!("no values for {other:?}"),
        }
    }
}

/// The columns of a row against a record.
pub fn assert_row(value: &Value, rows: &RecordBatch, row: usize) {
    let Value::Record(fields) = value else { panic!("{value:?} is no record") };
    assert_eq!(fields.len(), rows.num_columns());
    for (name, value) in fields {
        let column = rows.column_by_name(name).unwrap();
        assert!(same(value, column, row), "{name}: {value:?} is not {column:?} at {row}");
    }
}

pub fn same(value: &Value, array: &ArrayRef, row: usize) -> bool {
    macro_rules! primitive {
        ($type:ty) => {
            array.as_primitive::<$type>().value(row)
        };
    }
    if let Value::Union(_, inner) = value {
        let branches = match array.data_type() {
            DataType::Struct(fields) if array.is_valid(row) => {
                fields.iter().all(|f| f.is_nullable()).then(|| array.as_struct())
            }
            _ => None,
        };
        // A record beside null is a struct too; its fields are those of the value.
        let record = matches!(&**inner, Value::Record(fields)
            if branches.is_some_and(|b| fields.len() == b.num_columns()
                && fields.iter().all(|(name, _)| b.column_by_name(name).is_some())));
        return match branches {
            Some(branches) if !record => {
                let set: Vec<_> =
                    branches.columns().iter().filter(|column| column.is_valid(row)).collect();
                set.len() == 1 && same(inner, set[0], row)
            }
            _ => same(inner, array, row),
        };
    }
    if matches!(value, Value::Null) {
        return array.is_null(row) || *array.data_type() == DataType::Null;
    }
    if array.is_null(row) {
        return false;
    }
    match (value, array.data_type()) {
        (Value::Boolean(v), DataType::Boolean) => array.as_boolean().value(row) == *v,
        (Value::Int(v), DataType::Int32) => primitive!(Int32Type) == *v,
        (Value::Long(v), DataType::Int64) => primitive!(Int64Type) == *v,
        (Value::Float(v), DataType::Float32) => primitive!(Float32Type).to_bits() == v.to_bits(),
        (Value::Double(v), DataType::Float64) => primitive!(Float64Type).to_bits() == v.to_bits(),
        (Value::Bytes(v), DataType::Binary) => array.as_binary::<i32>().value(row) == v,
        (Value::Fixed(_, v), DataType::Binary) => array.as_binary::<i32>().value(row) == v,
        (Value::String(v), DataType::Utf8) => array.as_string::<i32>().value(row) == v,
        (Value::Enum(_, v), DataType::Utf8) => array.as_string::<i32>().value(row) == v,
        (Value::Date(v), DataType::Date32) => primitive!(Date32Type) == *v,
        (Value::TimeMillis(v), _) => primitive!(Time64MicrosecondType) == i64::from(*v) * 1000,
        (Value::TimeMicros(v), _) => primitive!(Time64MicrosecondType) == *v,
        (Value::TimestampMillis(v), DataType::Timestamp(TimeUnit::Millisecond, Some(_)))
        | (Value::LocalTimestampMillis(v), DataType::Timestamp(TimeUnit::Millisecond, None)) => {
            primitive!(TimestampMillisecondType) == *v
        }
        (Value::TimestampMicros(v), DataType::Timestamp(TimeUnit::Microsecond, Some(_))) => {
            primitive!(TimestampMicrosecondType) == *v
        }
        (Value::Decimal(v), DataType::Decimal128(..)) => {
            let bytes: Vec<u8> = v.clone().try_into().unwrap();
            let sign = if bytes[0] & 0x80 != 0 { -1i128 } else { 0 };
            let wide = bytes.iter().fold(sign, |sum, byte| sum << 8 | i128::from(*byte));
            primitive!(Decimal128Type) == wide
        }
        (Value::Array(items), DataType::List(_)) => {
            let list = array.as_list::<i32>().value(row);
            list.len() == items.len()
                && items.iter().enumerate().all(|(at, item)| same(item, &list, at))
        }
        (Value::Map(entries), DataType::Map(..)) => {
            let map = array.as_map().value(row);
            let (keys, values) = (map.column(0).as_string::<i32>(), map.column(1));
            map.len() == entries.len()
                && (0..map.len()).all(|at| {
                    entries.get(keys.value(at)).is_some_and(|value| same(value, values, at))
                })
        }
        (Value::Record(fields), DataType::Struct(_)) => {
            let array = array.as_struct();
            fields.len() == array.num_columns()
                && fields.iter().all(|(name, value)| {
                    array.column_by_name(name).is_some_and(|column| same(value, column, row))
                })
        }
        _ => false,
    }
}

/// The registry in memory never waits.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}
