//! Avro values as JSON text, and JSON as Avro values: how recursive columns, defaults, dead
//! letters and `tap` are shown and written.

use super::cursor::{Cursor, Fault, check_depth, utf8};
use super::plan::{same_type, source_of};
use super::schema::{Id, Logical, Schema, Type};
use super::skip::by_schema;
use crate::values;
use arrow_buffer::i256;
use arrow_schema::{DataType, TimeUnit};
use serde_json::Value;
use std::fmt::Write;

/// Writes values as JSON, as the reader's schema sees them. Unions are shown by their value alone,
/// bytes in base64, decimals as strings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonText<'a> {
    pub writer: &'a Schema,
    pub reader: &'a Schema,
}

impl JsonText<'_> {
    pub fn write(
        &self,
        w: Id,
        r: Id,
        cursor: &mut Cursor<'_>,
        out: &mut String,
        depth: usize,
    ) -> Result<(), Fault> {
        check_depth(depth)?;
        match (self.writer.kind(w), self.reader.kind(r)) {
            (Type::Union(branches), _) => {
                let branch = branches[cursor.branch(branches.len())?];
                self.write(branch, r, cursor, out, depth + 1)
            }
            (_, Type::Union(branches)) => {
                let same = branches.iter().find(|b| same_type(self.writer, w, self.reader, **b));
                let fit = same.or_else(|| branches.iter().find(|b| self.promotes(w, **b)));
                match fit {
                    Some(branch) => self.write(w, *branch, cursor, out, depth + 1),
                    None => Err(self.mismatch(w, r)),
                }
            }
            (Type::Record(_, written), Type::Record(_, read)) => {
                out.push('{');
                let mut first = true;
                let mut filled = vec![false; read.len()];
                for field in written {
                    let done = match source_of(read, &field.name) {
                        Some(at) if !filled[at] => {
                            filled[at] = true;
                            key(&read[at].name, &mut first, out);
                            self.write(field.type_id, read[at].type_id, cursor, out, depth + 1)
                        }
                        _ => by_schema(self.writer, field.type_id, cursor, depth + 1),
                    };
                    done.map_err(|fault| fault.within(&field.name))?;
                }
                for (field, _) in read.iter().zip(&filled).filter(|(_, filled)| !**filled) {
                    cursor.free(1)?;
                    self.default(
                        field.type_id,
                        field.default.as_ref(),
                        out,
                        &mut first,
                        &field.name,
                    )?;
                }
                out.push('}');
                Ok(())
            }
            (Type::Array(w), Type::Array(r)) => {
                out.push('[');
                let mut first = true;
                loop {
                    let (items, _) = cursor.block(self.writer.node(*w).bytes_min)?;
                    if items == 0 {
                        break;
                    }
                    for _ in 0..items {
                        comma(&mut first, out);
                        self.write(*w, *r, cursor, out, depth + 1)?;
                    }
                }
                out.push(']');
                Ok(())
            }
            (Type::Map(w), Type::Map(r)) => {
                out.push('{');
                let mut first = true;
                loop {
                    let (items, _) = cursor.block(1 + self.writer.node(*w).bytes_min)?;
                    if items == 0 {
                        break;
                    }
                    for _ in 0..items {
                        key(utf8(cursor.bytes()?)?, &mut first, out);
                        self.write(*w, *r, cursor, out, depth + 1)?;
                    }
                }
                out.push('}');
                Ok(())
            }
            _ => self.leaf(w, r, cursor, out),
        }
    }

    fn leaf(&self, w: Id, r: Id, cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), Fault> {
        let read = self.reader.node(r);
        match (self.writer.kind(w), &read.kind) {
            (Type::Null, Type::Null) => out.push_str("null"),
            (Type::Boolean, Type::Boolean) => {
                out.push_str(if cursor.boolean()? { "true" } else { "false" });
            }
            (Type::Int, Type::Int | Type::Long) => number(cursor.int()?.into(), read.logical, out),
            (Type::Long, Type::Long) => number(cursor.long()?, read.logical, out),
            (Type::Int, Type::Float | Type::Double) => real(cursor.int()?.into(), out),
            (Type::Long, Type::Float | Type::Double) => real(cursor.long()? as f64, out),
            (Type::Float, Type::Float) => {
                let value = f32::from_le_bytes(cursor.array()?);
                match value.is_finite() {
                    // By its own digits, not those of the double beside it.
                    true => put(out, format_args!("{value:?}")),
                    false => real(value.into(), out),
                }
            }
            (Type::Float, Type::Double) => real(f32::from_le_bytes(cursor.array()?).into(), out),
            (Type::Double, Type::Double) => real(f64::from_le_bytes(cursor.array()?), out),
            (Type::String | Type::Bytes, Type::String) => quote(utf8(cursor.bytes()?)?, out),
            (Type::String | Type::Bytes, Type::Bytes) => {
                binary(cursor.bytes()?, read.logical, out);
            }
            (Type::Fixed(_, size), Type::Fixed(_, wanted)) if size == wanted => {
                binary(cursor.take(*size)?, read.logical, out);
            }
            (Type::Enum(_, symbols, _), Type::Enum(_, known, default)) => {
                let symbol = &symbols[cursor.symbol(symbols.len())?];
                let at = known.iter().position(|k| k == symbol).or(*default);
                match at {
                    Some(at) => quote(&known[at], out),
                    None => return Err(Fault::new(format!("`{symbol}` is no symbol here"))),
                }
            }
            _ => return Err(self.mismatch(w, r)),
        }
        Ok(())
    }

    fn default(
        &self,
        id: Id,
        default: Option<&Value>,
        out: &mut String,
        first: &mut bool,
        name: &str,
    ) -> Result<(), Fault> {
        let missing = || Fault::new("the field is missing and has no default").within(name);
        let mut bytes = Vec::new();
        write_json(self.reader, id, default.ok_or_else(missing)?, Style::Default, &mut bytes)
            .map_err(|why| Fault::new(why).within(name))?;
        key(name, first, out);
        let own = JsonText { writer: self.reader, reader: self.reader };
        own.write(id, id, &mut Cursor::new(&bytes, true), out, 0)
    }

    fn promotes(&self, w: Id, r: Id) -> bool {
        matches!(
            (self.writer.kind(w), self.reader.kind(r)),
            (Type::Int, Type::Long | Type::Float | Type::Double)
                | (Type::Long, Type::Float | Type::Double)
                | (Type::Float, Type::Double)
                | (Type::String, Type::Bytes)
                | (Type::Bytes, Type::String)
        )
    }

    fn mismatch(&self, w: Id, r: Id) -> Fault {
        let (w, r) = (self.writer.describe(w), self.reader.describe(r));
        Fault::new(format!("{w} was written, {r} is wanted"))
    }
}

fn number(value: i64, logical: Option<Logical>, out: &mut String) {
    let text = logical.and_then(|logical| match logical {
        Logical::Date => i32::try_from(value).ok().and_then(values::date_text),
        Logical::TimeMillis => values::time_text(value, TimeUnit::Millisecond),
        Logical::TimeMicros => values::time_text(value, TimeUnit::Microsecond),
        other => {
            let DataType::Timestamp(unit, zone) = super::shape::leaf(&Type::Long, Some(other))
            else {
                return None;
            };
            values::timestamp_text(value, unit, zone.is_some())
        }
    });
    match text {
        Some(text) => quote(&text, out),
        None => put(out, format_args!("{value}")),
    }
}

fn real(value: f64, out: &mut String) {
    match value.is_finite() {
        true => put(out, format_args!("{value:?}")),
        false => put(out, format_args!("\"{value}\"")),
    }
}

fn binary(bytes: &[u8], logical: Option<Logical>, out: &mut String) {
    let text = match (logical, bytes) {
        (Some(Logical::Decimal { scale, .. }), _) => {
            values::be_i256(bytes).map(|value| values::decimal_text(value, scale))
        }
        (Some(Logical::Uuid), _) => bytes.try_into().ok().map(values::uuid_text),
        (Some(Logical::Duration), [m0, m1, m2, m3, d0, d1, d2, d3, s0, s1, s2, s3]) => {
            let part = |bytes: [&u8; 4]| u32::from_le_bytes(bytes.map(|byte| *byte));
            let (months, days) = (part([m0, m1, m2, m3]), part([d0, d1, d2, d3]));
            let millis = part([s0, s1, s2, s3]);
            put(out, format_args!(r#"{{"months":{months},"days":{days},"millis":{millis}}}"#));
            return;
        }
        _ => None,
    };
    match text {
        Some(text) => quote(&text, out),
        None => {
            let mut text = Vec::new();
            values::base64_into(bytes, &mut text);
            quote(&String::from_utf8_lossy(&text), out);
        }
    }
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string cannot fail");
}

fn comma(first: &mut bool, out: &mut String) {
    if !std::mem::replace(first, false) {
        out.push(',');
    }
}

fn key(name: &str, first: &mut bool, out: &mut String) {
    comma(first, out);
    quote(name, out);
    out.push(':');
}

fn quote(text: &str, out: &mut String) {
    let quoted = serde_json::to_string(text).expect("a string is always JSON");
    out.push_str(&quoted);
}

/// What JSON is read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The specification's for defaults: bytes are the characters U+0000 to U+00FF.
    Default,
    /// What [`JsonText`] writes.
    Text,
}

/// Encodes JSON as a value of a type. The error says what does not fit.
pub(crate) fn write_json(
    schema: &Schema,
    id: Id,
    value: &Value,
    style: Style,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    write_value(schema, id, value, style, out, &mut { TRIES_MAX })
}

/// How many values are tried in all: unions within unions could try without end.
const TRIES_MAX: usize = 10_000_000;

fn write_value(
    schema: &Schema,
    id: Id,
    value: &Value,
    style: Style,
    out: &mut Vec<u8>,
    left: &mut usize,
) -> Result<(), String> {
    *left = left.checked_sub(1).ok_or("the value takes too many tries to be understood")?;
    let node = schema.node(id);
    let wrong = || {
        let text = value.to_string();
        format!("{} is not {}", values::excerpt(&text), schema.describe(id))
    };
    match (&node.kind, value) {
        (Type::Union(branches), _) => {
            let start = out.len();
            for (at, branch) in branches.iter().enumerate() {
                put_long(at as i64, out);
                match write_value(schema, *branch, value, style, out, left) {
                    Ok(()) => return Ok(()),
                    Err(_) => out.truncate(start),
                }
            }
            return Err(wrong());
        }
        (Type::Null, Value::Null) => {}
        (Type::Boolean, Value::Bool(value)) => out.push((*value).into()),
        (Type::Int, Value::Number(number)) => {
            let value = number.as_i64().and_then(|value| i32::try_from(value).ok());
            put_long(value.ok_or_else(wrong)?.into(), out);
        }
        (Type::Long, Value::Number(number)) => put_long(number.as_i64().ok_or_else(wrong)?, out),
        (Type::Int | Type::Long, Value::String(text)) if style == Style::Text => {
            put_long(moment(text, node.logical).ok_or_else(wrong)?, out);
        }
        (Type::Float, _) => {
            let value = real_of(value).ok_or_else(wrong)?;
            out.extend_from_slice(&(value as f32).to_le_bytes());
        }
        (Type::Double, _) => {
            out.extend_from_slice(&real_of(value).ok_or_else(wrong)?.to_le_bytes());
        }
        (Type::String, Value::String(text)) => put_bytes(text.as_bytes(), out),
        (Type::Bytes, Value::String(text)) => {
            put_bytes(&bytes_of(text, node.logical, None, style).ok_or_else(wrong)?, out);
        }
        (Type::Fixed(_, size), Value::String(text)) => {
            let bytes = bytes_of(text, node.logical, Some(*size), style).ok_or_else(wrong)?;
            if bytes.len() != *size {
                return Err(wrong());
            }
            out.extend_from_slice(&bytes);
        }
        (Type::Fixed(_, 12), Value::Object(parts)) if node.logical == Some(Logical::Duration) => {
            for name in ["months", "days", "millis"] {
                let part = parts.get(name).and_then(Value::as_u64);
                let part = part.and_then(|part| u32::try_from(part).ok()).ok_or_else(wrong)?;
                out.extend_from_slice(&part.to_le_bytes());
            }
        }
        (Type::Enum(_, symbols, _), Value::String(text)) => {
            let at = symbols.iter().position(|symbol| symbol == text).ok_or_else(wrong)?;
            put_long(at as i64, out);
        }
        (Type::Array(item), Value::Array(items)) => {
            if !items.is_empty() {
                put_long(items.len() as i64, out);
                for value in items {
                    write_value(schema, *item, value, style, out, left)?;
                }
            }
            out.push(0);
        }
        (Type::Map(item), Value::Object(entries)) => {
            if !entries.is_empty() {
                put_long(entries.len() as i64, out);
                for (key, value) in entries {
                    put_bytes(key.as_bytes(), out);
                    write_value(schema, *item, value, style, out, left)?;
                }
            }
            out.push(0);
        }
        (Type::Record(_, fields), Value::Object(entries)) => {
            let known = |key: &String| fields.iter().any(|field| field.name == *key);
            if let Some(key) = entries.keys().find(|key| !known(key)) {
                return Err(format!("{} has no field `{key}`", schema.describe(id)));
            }
            for field in fields {
                let done = match (entries.get(&field.name), &field.default) {
                    (Some(value), _) => write_value(schema, field.type_id, value, style, out, left),
                    (None, Some(value)) => {
                        write_value(schema, field.type_id, value, Style::Default, out, left)
                    }
                    (None, None) => Err("missing".to_owned()),
                };
                done.map_err(|why| format!("`{}`: {why}", field.name))?;
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn moment(text: &str, logical: Option<Logical>) -> Option<i64> {
    match logical? {
        Logical::Date => values::parse_date(text).map(i64::from),
        Logical::TimeMillis => values::parse_time(text, TimeUnit::Millisecond),
        Logical::TimeMicros => values::parse_time(text, TimeUnit::Microsecond),
        other => match super::shape::leaf(&Type::Long, Some(other)) {
            DataType::Timestamp(unit, _) => values::parse_timestamp(text, unit),
            _ => None,
        },
    }
}

fn real_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn bytes_of(
    text: &str,
    logical: Option<Logical>,
    size: Option<usize>,
    style: Style,
) -> Option<Vec<u8>> {
    match (style, logical) {
        (Style::Default, _) => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect(),
        (_, Some(Logical::Decimal { precision, scale })) => {
            decimal_bytes(values::parse_decimal(text, precision, scale)?, size)
        }
        (_, Some(Logical::Uuid)) => values::parse_uuid(text).map(|uuid| uuid.to_vec()),
        _ => values::base64_decode(text),
    }
}

/// The bytes of a decimal, as many as a `fixed` has or as few as will do.
pub(crate) fn decimal_bytes(value: i256, size: Option<usize>) -> Option<Vec<u8>> {
    let (bytes, start) = values::be_bytes(value);
    let Some(size) = size else { return Some(bytes[start..].to_vec()) };
    let sign = if bytes[0] & 0x80 != 0 { 0xff } else { 0 };
    let mut wide = vec![sign; size.checked_sub(32 - start)?];
    wide.extend_from_slice(&bytes[start..]);
    Some(wide)
}

#[inline]
pub(crate) fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    if rest < 0x80 {
        return out.push(rest as u8);
    }
    // Written as a whole and cut back, which asks for room once.
    let mut bytes = [0u8; 10];
    let mut len = 0;
    while rest >= 0x80 {
        bytes[len] = rest as u8 | 0x80;
        rest >>= 7;
        len += 1;
    }
    bytes[len] = rest as u8;
    let end = out.len() + len + 1;
    out.extend_from_slice(&bytes);
    out.truncate(end);
}

#[inline]
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}
