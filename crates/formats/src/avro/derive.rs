//! An Avro schema for columns that have none yet.

use arrow_schema::{DataType, Field, IntervalUnit, Schema, TimeUnit};
use serde_json::{Value, json};
use std::collections::HashSet;

/// The schema of a topic that is written with these columns. What may be null becomes a union with
/// null, which is its default; names are made legal. [`super::AvroEncoder`] finds the columns again.
pub fn avro_schema_for(name: &str, arrow: &Schema) -> String {
    let mut deriver = Deriver { names: HashSet::new() };
    let mut parts = name.rsplitn(2, '.');
    let short = legal_name(parts.next().unwrap_or_default());
    deriver.names.insert(short.clone());
    let fields: Vec<Value> =
        arrow.fields().iter().map(|field| deriver.field(field, &short)).collect();
    let mut record = json!({ "type": "record", "name": short });
    if let Some(namespace) = parts.next() {
        let namespace: Vec<String> = namespace.split('.').map(legal_name).collect();
        record["namespace"] = namespace.join(".").into();
    }
    record["fields"] = fields.into();
    record.to_string()
}

/// The name with what Avro does not allow replaced by `_`.
pub(crate) fn legal_name(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let mut out: String = name.chars().map(legal).collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

struct Deriver {
    /// Names of records and fixed types: each may be defined once.
    names: HashSet<String>,
}

impl Deriver {
    fn field(&mut self, field: &Field, parent: &str) -> Value {
        let name = legal_name(field.name());
        let type_value = self.nullable(field, &format!("{parent}_{name}"));
        match field.is_nullable() || *field.data_type() == DataType::Null {
            true => json!({ "name": name, "type": type_value, "default": null }),
            false => json!({ "name": name, "type": type_value }),
        }
    }

    fn nullable(&mut self, field: &Field, path: &str) -> Value {
        let solid = self.solid(field.data_type(), path);
        match field.is_nullable() && solid != json!("null") {
            true => json!(["null", solid]),
            false => solid,
        }
    }

    fn solid(&mut self, data_type: &DataType, path: &str) -> Value {
        let logical = |base: &str, name: &str| json!({ "type": base, "logicalType": name });
        match data_type {
            DataType::Null => json!("null"),
            DataType::Boolean => json!("boolean"),
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::UInt8
            | DataType::UInt16 => json!("int"),
            DataType::UInt32 | DataType::Int64 | DataType::UInt64 => json!("long"),
            DataType::Float16 | DataType::Float32 => json!("float"),
            DataType::Float64 => json!("double"),
            DataType::Date32 | DataType::Date64 => logical("int", "date"),
            DataType::Time32(_) => logical("int", "time-millis"),
            DataType::Time64(_) => logical("long", "time-micros"),
            DataType::Timestamp(unit, zone) => {
                let unit = match unit {
                    TimeUnit::Second | TimeUnit::Millisecond => "millis",
                    TimeUnit::Microsecond => "micros",
                    TimeUnit::Nanosecond => "nanos",
                };
                let local = if zone.is_some() { "" } else { "local-" };
                logical("long", &format!("{local}timestamp-{unit}"))
            }
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                // Avro has no negative scale: the zeros are written out.
                let scale = i16::from(*scale);
                let precision = i16::from(*precision) + (-scale).max(0);
                json!({
                    "type": "bytes", "logicalType": "decimal",
                    "precision": precision, "scale": scale.max(0),
                })
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                let name = self.unique(path);
                json!({ "type": "fixed", "name": name, "size": 12, "logicalType": "duration" })
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => json!("bytes"),
            // An address is written as text.
            DataType::FixedSizeBinary(16) => json!("string"),
            DataType::FixedSizeBinary(_) => json!("bytes"),
            DataType::List(item) | DataType::LargeList(item) => {
                json!({ "type": "array", "items": self.nullable(item, path) })
            }
            DataType::Map(entries, _) => match crate::columns::entry_fields(entries) {
                Some((_, value)) => {
                    json!({ "type": "map", "values": self.nullable(value, path) })
                }
                None => json!("null"),
            },
            DataType::Struct(fields) => {
                let name = self.unique(path);
                let fields: Vec<Value> =
                    fields.iter().map(|field| self.field(field, &name)).collect();
                json!({ "type": "record", "name": name, "fields": fields })
            }
            DataType::Dictionary(_, values) => self.solid(values, path),
            _ => json!("string"),
        }
    }

    fn unique(&mut self, path: &str) -> String {
        let mut name = path.to_owned();
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}
