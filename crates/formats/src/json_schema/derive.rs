//! A JSON Schema for columns that have none yet.

use crate::columns::entry_fields;
use arrow_schema::{DataType, Field, Fields, Schema};
use serde_json::{Map, Value, json};

/// The schema of a topic that is written with these columns. No other properties are allowed, so
/// that a column may be added later and what was written before still reads; columns without nulls
/// are required.
pub fn json_schema_for(title: &str, arrow: &Schema) -> String {
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
    });
    let body = object(arrow.fields());
    if let Some(schema) = schema.as_object_mut() {
        schema.extend(body);
    }
    schema.to_string()
}

fn object(fields: &Fields) -> Map<String, Value> {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name().clone(), nullable(field))).collect();
    let required: Vec<&String> = fields
        .iter()
        .filter(|field| !field.is_nullable() && *field.data_type() != DataType::Null)
        .map(|field| field.name())
        .collect();
    let mut object = Map::new();
    object.insert("type".into(), "object".into());
    object.insert("properties".into(), properties.into());
    if !required.is_empty() {
        object.insert("required".into(), json!(required));
    }
    object.insert("additionalProperties".into(), false.into());
    object
}

fn nullable(field: &Field) -> Value {
    let mut value = solid(field.data_type());
    if field.is_nullable()
        && let Some(Value::String(word)) = value.get("type")
        && word != "null"
    {
        value["type"] = json!([word, "null"]);
    }
    value
}

fn solid(data_type: &DataType) -> Value {
    let text = |format: &str| json!({ "type": "string", "format": format });
    match data_type {
        DataType::Null => json!({ "type": "null" }),
        DataType::Boolean => json!({ "type": "boolean" }),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            json!({ "type": "integer", "format": "int32" })
        }
        DataType::UInt32 | DataType::Int64 | DataType::UInt64 => json!({ "type": "integer" }),
        DataType::Float16 | DataType::Float32 => json!({ "type": "number", "format": "float" }),
        DataType::Float64 => json!({ "type": "number" }),
        DataType::Date32 => text("date"),
        DataType::Time64(_) => text("time-local"),
        DataType::Timestamp(_, Some(_)) => text("date-time"),
        DataType::Timestamp(_, None) => text("date-time-local"),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            let (precision, scale) = (i16::from(*precision), i16::from(*scale));
            json!({
                "type": "string", "format": "decimal",
                "precision": precision + (-scale).max(0), "scale": scale.max(0),
            })
        }
        DataType::FixedSizeBinary(16) => text("ip"),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => {
            json!({ "type": "string", "contentEncoding": "base64" })
        }
        DataType::List(item) | DataType::LargeList(item) => {
            json!({ "type": "array", "items": nullable(item) })
        }
        DataType::Map(entries, _) => match entry_fields(entries) {
            Some((_, value)) => {
                json!({ "type": "object", "additionalProperties": nullable(value) })
            }
            None => json!({ "type": "object" }),
        },
        DataType::Struct(fields) => object(fields).into(),
        DataType::Interval(_) => {
            let number = || json!({ "type": "integer" });
            json!({
                "type": "object",
                "properties": { "months": number(), "days": number(), "nanos": number() },
                "required": ["months", "days", "nanos"],
                "additionalProperties": false,
            })
        }
        DataType::Dictionary(_, values) => solid(values),
        _ => json!({ "type": "string" }),
    }
}
