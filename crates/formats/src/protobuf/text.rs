//! Text as Protobuf: JSON for messages whose columns are JSON text, the keys of maps, the names of
//! enums. The opposite of `json`.

use super::parse::Label;
use super::schema::{Enum, Field, Kind, Scalar, Schema, WellKnown};
use super::wire::Fault;
use super::write::{put_integer, put_run, run, tag, varint, wire_type};
use crate::values::{base64_decode, excerpt, parse_timestamp};
use arrow_schema::TimeUnit;
use serde_json::Value;
use std::ops::RangeInclusive;

const DEPTH_MAX: usize = 100;
const RUN: u32 = 2;

/// The years 1 to 9999, as seconds since 1970.
pub(super) const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The fields of a message that is written as JSON, without its length.
pub(super) fn message(
    schema: &Schema,
    message: usize,
    json: &str,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let value: Value = serde_json::from_str(json)
        .map_err(|error| Fault::new(format!("its text is not JSON: {error}")))?;
    body(schema, message, &value, 0, out)
}

/// The number of an enum's name, or of a number as text.
pub(super) fn symbol(found: &Enum, text: &str) -> Result<i32, Fault> {
    let number = found.numbers.get(text).copied().or_else(|| text.parse().ok());
    number.ok_or_else(|| Fault::new(format!("`{}` is no name of the enum", excerpt(text))))
}

/// A tagged scalar that is given as text, as the keys of maps are.
pub(super) fn scalar(
    kind: Scalar,
    number: u32,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    tag(number, wire_type(kind), out);
    let wrong = || Fault::new(format!("`{}` is no key of its type", excerpt(text)));
    match kind {
        Scalar::String => put_run(text.as_bytes(), out),
        Scalar::Bool => out.push(u8::from(text.parse::<bool>().map_err(|_| wrong())?)),
        _ => put_integer(kind, text.parse().map_err(|_| wrong())?, out)?,
    }
    Ok(())
}

/// The fields of a `Timestamp` or a `Duration`.
pub(super) fn moment(seconds: i64, nanos: i64, out: &mut Vec<u8>) {
    for (number, value) in [(1, seconds), (2, nanos)] {
        if value != 0 {
            tag(number, 0, out);
            varint(value as u64, out);
        }
    }
}

fn body(
    schema: &Schema,
    at: usize,
    value: &Value,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::new(format!("messages are nested over {DEPTH_MAX} deep")));
    }
    let found = &schema.messages[at];
    let wrong = |due: &str| {
        Err(Fault::new(format!("{} is where {due} is due", excerpt(&value.to_string()))))
    };
    match (found.known, value) {
        (Some(WellKnown::Timestamp), Value::String(text)) => {
            let micros = parse_timestamp(text, TimeUnit::Microsecond);
            let Some(micros) = micros else { return wrong("a timestamp") };
            moment(micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) * 1000, out);
            Ok(())
        }
        (Some(WellKnown::Duration), Value::String(text)) => {
            let Some((seconds, nanos)) = duration(text) else { return wrong("a duration") };
            moment(seconds, nanos, out);
            Ok(())
        }
        (Some(WellKnown::Timestamp | WellKnown::Duration), _) => wrong("a text"),
        (Some(WellKnown::Wrapper(kind)), value) => single(kind, 1, value, out),
        (Some(WellKnown::Struct | WellKnown::ListValue), value) => {
            field(schema, &found.fields[0], value, depth, out)
        }
        (Some(WellKnown::Value), value) => {
            let number = match value {
                Value::Null => 1,
                Value::Number(_) => 2,
                Value::String(_) => 3,
                Value::Bool(_) => 4,
                Value::Object(_) => 5,
                Value::Array(_) => 6,
            };
            let Some(member) = found.fields.iter().find(|field| field.number == number) else {
                return wrong("a value");
            };
            match value {
                Value::Null => {
                    out.extend_from_slice(&[8, 0]);
                    Ok(())
                }
                _ => element(schema, member, number, value, depth, out),
            }
        }
        (None, Value::Object(members)) => {
            for (name, value) in members {
                let member = found.fields.iter().find(|field| field.name == *name);
                let member = member.ok_or_else(|| {
                    Fault::new(format!("`{}` has no field `{}`", found.name, excerpt(name)))
                })?;
                field(schema, member, value, depth, out).map_err(|fault| fault.within(name))?;
            }
            Ok(())
        }
        (None, _) => wrong("an object"),
    }
}

fn field(
    schema: &Schema,
    field: &Field,
    value: &Value,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let wrong = |due: &str| {
        Err(Fault::new(format!("{} is where {due} is due", excerpt(&value.to_string()))))
    };
    match (field.key, field.label, value) {
        (Some(key), _, Value::Object(entries)) => {
            for (name, value) in entries {
                tag(field.number, RUN, out);
                run(out, |out| {
                    scalar(key, 1, name, out)?;
                    element(schema, field, 2, value, depth, out)
                })?;
            }
            Ok(())
        }
        (Some(_), ..) => wrong("an object"),
        (None, Label::Repeated, Value::Array(items)) => {
            items.iter().try_for_each(|item| element(schema, field, field.number, item, depth, out))
        }
        (None, Label::Repeated, _) => wrong("a list"),
        // In JSON an absent member may be written as null.
        (None, _, Value::Null) if !is_value(schema, field.kind) => Ok(()),
        _ => element(schema, field, field.number, value, depth, out),
    }
}

fn is_value(schema: &Schema, kind: Kind) -> bool {
    matches!(kind, Kind::Message(at) if schema.messages[at].known == Some(WellKnown::Value))
}

fn element(
    schema: &Schema,
    field: &Field,
    number: u32,
    value: &Value,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    match field.kind {
        Kind::Scalar(kind) => single(kind, number, value, out),
        Kind::Enum(at) => {
            let symbol = match value {
                Value::String(text) => symbol(&schema.enums[at], text)?,
                other => other
                    .as_i64()
                    .and_then(|number| i32::try_from(number).ok())
                    .ok_or_else(|| Fault::new(format!("{other} is no name of the enum")))?,
            };
            tag(number, 0, out);
            varint(i64::from(symbol) as u64, out);
            Ok(())
        }
        Kind::Message(at) => {
            tag(number, RUN, out);
            run(out, |out| body(schema, at, value, depth + 1, out))
        }
    }
}

fn single(kind: Scalar, number: u32, value: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
    let wrong = || {
        let name = format!("{kind:?}").to_lowercase();
        Fault::new(format!("{} is where {name} is due", excerpt(&value.to_string())))
    };
    tag(number, wire_type(kind), out);
    match (kind, value) {
        (Scalar::String, Value::String(text)) => put_run(text.as_bytes(), out),
        (Scalar::Bytes, Value::String(text)) => {
            put_run(&base64_decode(text).ok_or_else(wrong)?, out);
        }
        (Scalar::Bool, Value::Bool(value)) => out.push(u8::from(*value)),
        (Scalar::Double | Scalar::Float, value) => {
            let float = match value {
                Value::String(text) => match text.as_str() {
                    "NaN" => Some(f64::NAN),
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    _ => None,
                },
                other => other.as_f64(),
            };
            let float = float.ok_or_else(wrong)?;
            match kind {
                Scalar::Float => out.extend_from_slice(&(float as f32).to_le_bytes()),
                _ => out.extend_from_slice(&float.to_le_bytes()),
            }
        }
        (Scalar::String | Scalar::Bytes | Scalar::Bool, _) => return Err(wrong()),
        (kind, Value::Number(number)) => {
            let number = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            put_integer(kind, number.ok_or_else(wrong)?, out)?;
        }
        // Numbers of 64 bits are text in Protobuf's own JSON.
        (kind, Value::String(text)) => {
            put_integer(kind, text.parse().map_err(|_| wrong())?, out)?;
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// Seconds with a fraction and an `s` behind them.
fn duration(text: &str) -> Option<(i64, i64)> {
    let number = text.strip_suffix('s')?;
    let (number, sign) = match number.strip_prefix('-') {
        Some(number) => (number, -1),
        None => (number, 1),
    };
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    Some((sign * seconds, sign * nanos))
}
