//! Messages as JSON text, for columns whose type has no end: messages that contain themselves, and
//! `google.protobuf.Struct`.
//!
//! Fields have the names of the file, 64-bit numbers are numbers, bytes are in base64, moments in
//! RFC 3339, and an absent field is left out.

use super::parse::Label;
use super::read::{integer, key_text, mistyped, moment};
use super::schema::{Field, Kind, Scalar, Schema, WellKnown};
use super::wire::{Cursor, Fault, Raw, utf8};
use crate::values::{base64_into, timestamp_text};
use arrow_schema::TimeUnit;
use std::fmt::Write;

/// As deep as Protobuf's own parsers go.
const DEPTH_MAX: usize = 100;
/// How much longer than its bytes a text may be.
const GROWTH_MAX: usize = 32;

/// A message, given in the parts that it came in.
pub(super) fn message(
    schema: &Schema,
    message: usize,
    slices: &[&[u8]],
    out: &mut String,
) -> Result<(), Fault> {
    let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
    let mut writer = Writer { schema, out, text_max: 4096 + bytes * GROWTH_MAX };
    writer.message(message, slices, 0)
}

struct Writer<'a> {
    schema: &'a Schema,
    out: &'a mut String,
    text_max: usize,
}

impl Writer<'_> {
    fn message(&mut self, at: usize, slices: &[&[u8]], depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::new(format!("messages are nested over {DEPTH_MAX} deep")));
        }
        if self.out.len() > self.text_max {
            return Err(Fault::new("it is far longer as JSON than its bytes are"));
        }
        let message = &self.schema.messages[at];
        if let Some(WellKnown::Timestamp) = message.known {
            let (seconds, nanos) = moment(slices)?;
            let micros =
                seconds.checked_mul(1_000_000).and_then(|all| all.checked_add(nanos / 1000));
            let text = micros.and_then(|all| timestamp_text(all, TimeUnit::Microsecond, true));
            self.text(&text.ok_or_else(|| Fault::new("it is no timestamp"))?);
            return Ok(());
        }
        if let Some(WellKnown::Duration) = message.known {
            let (seconds, nanos) = moment(slices)?;
            let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
            let (seconds, nanos) = (seconds.unsigned_abs(), nanos.unsigned_abs());
            let _ = write!(self.out, "\"{sign}{seconds}.{nanos:09}s\"");
            return Ok(());
        }
        let mut parts: Vec<(usize, Raw<'_>)> = Vec::new();
        for slice in slices {
            let mut cursor = Cursor::new(slice);
            while let Some((number, raw)) = cursor.field()? {
                if let Some(at) = message.fields.iter().position(|field| field.number == number) {
                    // Another member of the same oneof is forgotten.
                    if let Some(oneof) = message.fields[at].oneof {
                        let other = |other: usize| {
                            other != at && message.fields[other].oneof == Some(oneof)
                        };
                        if parts.last().is_some_and(|(last, _)| other(*last)) {
                            parts.retain(|(found, _)| !other(*found));
                        }
                    }
                    parts.push((at, raw));
                }
            }
        }
        parts.sort_by_key(|(at, _)| *at);
        let of = |number: u32| {
            let found = message.fields.iter().position(|field| field.number == number);
            let found = parts.iter().filter(move |(at, _)| Some(*at) == found);
            found.map(|(_, raw)| *raw).collect::<Vec<_>>()
        };
        match message.known {
            Some(WellKnown::Wrapper(scalar)) => {
                return self.scalar(scalar, of(1).last().copied());
            }
            Some(WellKnown::Struct) => {
                return self.field(&message.fields[0], &of(1), depth);
            }
            Some(WellKnown::ListValue) => {
                return self.field(&message.fields[0], &of(1), depth);
            }
            Some(WellKnown::Value) => {
                return match parts.last() {
                    Some((at, _)) if message.fields[*at].number != 1 => {
                        let field = &message.fields[*at];
                        let raws: Vec<_> = parts.iter().map(|(_, raw)| *raw).collect();
                        self.field(field, &raws, depth)
                    }
                    _ => {
                        self.out.push_str("null");
                        Ok(())
                    }
                };
            }
            _ => {}
        }
        self.out.push('{');
        let mut first = true;
        for group in parts.chunk_by(|left, right| left.0 == right.0) {
            if !std::mem::take(&mut first) {
                self.out.push(',');
            }
            let field = &message.fields[group[0].0];
            self.text(&field.name);
            self.out.push(':');
            let raws: Vec<_> = group.iter().map(|(_, raw)| *raw).collect();
            self.field(field, &raws, depth).map_err(|fault| fault.within(&field.name))?;
        }
        self.out.push('}');
        Ok(())
    }

    fn field(&mut self, field: &Field, raws: &[Raw<'_>], depth: usize) -> Result<(), Fault> {
        if let Some(key) = field.key {
            return self.map(key, field.kind, raws, depth);
        }
        if field.label != Label::Repeated {
            return self.value(field.kind, raws, depth);
        }
        self.out.push('[');
        let mut first = true;
        for raw in raws {
            let packed = match (field.kind, raw) {
                (Kind::Scalar(scalar), Raw::Bytes(bytes)) if scalar.is_packable() => {
                    Some((scalar, bytes))
                }
                (Kind::Enum(_), Raw::Bytes(bytes)) => Some((Scalar::Int32, bytes)),
                _ => None,
            };
            let Some((scalar, bytes)) = packed else {
                self.comma(&mut first);
                self.value(field.kind, &[*raw], depth)?;
                continue;
            };
            let mut cursor = Cursor::new(bytes);
            while !cursor.rest.is_empty() {
                self.comma(&mut first);
                let raw = match scalar {
                    Scalar::Double | Scalar::Fixed64 | Scalar::Sfixed64 => {
                        Raw::Fixed64(u64::from_le_bytes(cursor.array()?))
                    }
                    Scalar::Float | Scalar::Fixed32 | Scalar::Sfixed32 => {
                        Raw::Fixed32(u32::from_le_bytes(cursor.array()?))
                    }
                    _ => Raw::Varint(cursor.varint()?),
                };
                self.value(field.kind, &[raw], depth)?;
            }
        }
        self.out.push(']');
        Ok(())
    }

    fn map(
        &mut self,
        key: Scalar,
        kind: Kind,
        raws: &[Raw<'_>],
        depth: usize,
    ) -> Result<(), Fault> {
        let mut entries: Vec<(String, Vec<Raw<'_>>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for raw in raws {
            let Raw::Bytes(bytes) = raw else { return Err(mistyped("an entry", *raw)) };
            let (mut name, mut values) = (None, Vec::new());
            let mut cursor = Cursor::new(bytes);
            while let Some((number, raw)) = cursor.field()? {
                match number {
                    1 => name = Some(raw),
                    2 => values.push(raw),
                    _ => {}
                }
            }
            let name = key_text(key, name)?;
            match places.get(&name) {
                Some(at) => {
                    let at: usize = *at;
                    entries[at].1 = values;
                }
                None => {
                    places.insert(name.clone(), entries.len());
                    entries.push((name, values));
                }
            }
        }
        self.out.push('{');
        let mut first = true;
        for (name, values) in &entries {
            self.comma(&mut first);
            self.text(name);
            self.out.push(':');
            self.value(kind, values, depth)?;
        }
        self.out.push('}');
        Ok(())
    }

    /// One value from the parts that it came in; its zero value from none.
    fn value(&mut self, kind: Kind, raws: &[Raw<'_>], depth: usize) -> Result<(), Fault> {
        match kind {
            Kind::Scalar(scalar) => self.scalar(scalar, raws.last().copied()),
            Kind::Enum(at) => {
                let number = match raws.last() {
                    None => 0,
                    Some(Raw::Varint(number)) => *number as i32,
                    Some(other) => return Err(mistyped("an enum", *other)),
                };
                match self.schema.enums[at].names.get(&number) {
                    Some(name) => self.text(name),
                    None => self.text(&number.to_string()),
                }
                Ok(())
            }
            Kind::Message(at) => {
                let slices = raws.iter().map(|raw| match raw {
                    Raw::Bytes(bytes) => Ok(*bytes),
                    other => Err(mistyped("a message", *other)),
                });
                let slices: Vec<&[u8]> = slices.collect::<Result<_, _>>()?;
                self.message(at, &slices, depth + 1)
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar, raw: Option<Raw<'_>>) -> Result<(), Fault> {
        match (scalar, raw) {
            (Scalar::String, None) | (Scalar::Bytes, None) => self.out.push_str("\"\""),
            (Scalar::String, Some(Raw::Bytes(bytes))) => self.text(utf8(bytes)?),
            (Scalar::Bytes, Some(Raw::Bytes(bytes))) => {
                let mut text = Vec::new();
                base64_into(bytes, &mut text);
                self.text(&String::from_utf8_lossy(&text));
            }
            (Scalar::Bool, None) => self.out.push_str("false"),
            (Scalar::Bool, Some(Raw::Varint(value))) => {
                self.out.push_str(if value != 0 { "true" } else { "false" });
            }
            (Scalar::Double, Some(Raw::Fixed64(bits))) => self.float(f64::from_bits(bits)),
            (Scalar::Float, Some(Raw::Fixed32(bits))) => {
                let value = f32::from_bits(bits);
                // The shortest text of the narrow number, not of its wide neighbour.
                self.float(value.to_string().parse().unwrap_or(f64::from(value)));
            }
            (_, None) => self.out.push('0'),
            (kind, Some(raw)) => {
                let _ = write!(self.out, "{}", integer(kind, raw)?);
            }
        }
        Ok(())
    }

    fn float(&mut self, value: f64) {
        match serde_json::Number::from_f64(value) {
            Some(number) => {
                let _ = write!(self.out, "{number}");
            }
            // JSON has no such number.
            None if value.is_nan() => self.out.push_str("\"NaN\""),
            None if value > 0.0 => self.out.push_str("\"Infinity\""),
            None => self.out.push_str("\"-Infinity\""),
        }
    }

    fn text(&mut self, text: &str) {
        let _ = write!(self.out, "{}", serde_json::Value::from(text));
    }

    fn comma(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(',');
        }
    }
}
