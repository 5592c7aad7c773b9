//! JSON text into the columns of a shape. A value of another type than the schema says refuses the
//! record and says where, as a JSON pointer.

use super::facts::equal;
use super::shape::{Form, Property, Shape, Text};
use crate::columns::{Column, Kind};
use crate::json::decode::{Value as Scalar, sentence};
use crate::values;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// How deep JSON text may nest that no type bounds.
const JSON_DEPTH_MAX: usize = 100;
/// How many values of an `enum` a message lists.
const SHOWN_MAX: usize = 8;

/// Fills one row from a record. The columns are those of the properties.
pub(super) fn record(
    properties: &[Property],
    columns: &mut [Column],
    text: &[u8],
) -> Result<(), String> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let mut trail = Trail::default();
    let read = Object { properties, columns, trail: &mut trail };
    let result = read.deserialize(&mut parser).and_then(|()| parser.end());
    result.map_err(|error| match error.is_data() && !trail.steps.is_empty() {
        true => format!("at {}: {}", trail.pointer(), sentence(&error, text)),
        false => sentence(&error, text),
    })
}

/// Where a value lies, noted on the way out of one that is wrong.
#[derive(Default)]
struct Trail {
    steps: Vec<String>,
}

impl Trail {
    #[cold]
    fn note(&mut self, step: impl fmt::Display) {
        self.steps.push(step.to_string().replace('~', "~0").replace('/', "~1"));
    }

    fn pointer(&self) -> String {
        self.steps.iter().rev().map(|step| format!("/{step}")).collect()
    }
}

struct Object<'a> {
    properties: &'a [Property],
    columns: &'a mut [Column],
    trail: &'a mut Trail,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { properties, columns, trail } = self;
        let mut filled = vec![false; columns.len()];
        // Keys mostly come in the order of the columns.
        let mut expected = 0;
        while let Some(key) = map.next_key_seed(Key { properties, expected })? {
            let Some(at) = key else {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            };
            let Property { name, shape, .. } = &properties[at];
            if std::mem::replace(&mut filled[at], true) {
                return Err(A::Error::custom(format!("property `{name}` occurs twice")));
            }
            expected = at + 1;
            let reading = Reading { shape, column: &mut columns[at], trail: &mut *trail };
            map.next_value_seed(reading).inspect_err(|_| trail.note(name))?;
        }
        for (at, _) in filled.iter().enumerate().filter(|(_, filled)| !**filled) {
            let Property { name, required, default, shape } = &properties[at];
            let column = &mut columns[at];
            match default {
                Some(default) => stand_in(shape, column, default)
                    .map_err(|why| A::Error::custom(format!("the default of `{name}`: {why}")))?,
                None if *required => {
                    return Err(A::Error::custom(format!("property `{name}` is missing")));
                }
                None => column.append_null(),
            }
        }
        Ok(())
    }
}

/// Appends a value that the schema has in place of one that is absent.
fn stand_in(shape: &Shape, column: &mut Column, value: &Value) -> Result<(), String> {
    let text = value.to_string();
    let mut parser = serde_json::Deserializer::from_str(&text);
    let mut trail = Trail::default();
    let reading = Reading { shape, column, trail: &mut trail };
    reading.deserialize(&mut parser).map_err(|error| sentence(&error, text.as_bytes()))
}

/// The place of a key among the properties.
struct Key<'a> {
    properties: &'a [Property],
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        if self.properties.get(self.expected).is_some_and(|property| property.name == key) {
            return Ok(Some(self.expected));
        }
        Ok(self.properties.iter().position(|property| property.name == key))
    }
}

/// Appends one value to its column.
struct Reading<'a> {
    shape: &'a Shape,
    column: &'a mut Column,
    trail: &'a mut Trail,
}

impl<'a> Reading<'a> {
    fn scalar(self) -> Scalar<'a> {
        Scalar { column: self.column, name: "" }
    }

    /// Whether the value is one of those that the schema lists.
    fn check<E: serde::de::Error>(&self, value: impl Into<Value>) -> Result<(), E> {
        let Form::Listed(values) = &self.shape.form else { return Ok(()) };
        let value = value.into();
        match values.iter().any(|listed| equal(listed, &value)) {
            true => Ok(()),
            false => Err(E::custom(none_of(&value, values))),
        }
    }
}

#[cold]
fn none_of(found: impl fmt::Display, values: &[impl fmt::Display]) -> String {
    let shown: Vec<_> =
        values.iter().take(SHOWN_MAX).map(|v| values::excerpt(&v.to_string())).collect();
    let more = if values.len() > SHOWN_MAX { ", …" } else { "" };
    format!("`{}` is none of {}{more}", values::excerpt(&found.to_string()), shown.join(", "))
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !matches!(self.shape.form, Form::Json) {
            return deserializer.deserialize_any(self);
        }
        let raw: &RawValue = serde::Deserialize::deserialize(deserializer)?;
        match (raw.get(), &mut self.column.kind) {
            ("null", _) if self.shape.null => self.column.append_null(),
            ("null", _) => return Err(self.scalar().wrong("null")),
            (text, Kind::Str(runs)) => {
                let text = compact(text).map_err(D::Error::custom)?;
                runs.push_grown(&text).map_err(|_| D::Error::custom(values::FULL))?;
                self.column.valid();
            }
            _ => return Err(self.scalar().wrong("JSON")),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shape.class())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if !self.shape.null || !self.column.is_nullable() {
            return Err(self.scalar().wrong("null"));
        }
        self.column.append_null();
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.check(value)?;
        self.scalar().visit_bool(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.check(value)?;
        // A column of moments takes numbers elsewhere; here the schema says that it is text.
        match self.shape.form {
            Form::Text(_) => Err(self.scalar().wrong(value)),
            _ => self.scalar().visit_i64(value),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => {
                self.check(value)?;
                match self.shape.form {
                    Form::Text(_) => Err(self.scalar().wrong(value)),
                    _ => self.scalar().visit_u64(value),
                }
            }
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.check(value)?;
        match self.shape.form {
            Form::Text(_) => Err(self.scalar().wrong(value)),
            _ => self.scalar().visit_f64(value),
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        let refused = match &self.shape.form {
            Form::Text(Text::Uuid) if values::parse_uuid(value).is_none() => {
                Some(format!("`{}` is not a UUID", values::excerpt(value)))
            }
            Form::Text(Text::OneOf(words)) if !words.iter().any(|word| word == value) => {
                Some(none_of(value, words))
            }
            Form::Text(_) => None,
            _ => {
                let found = format!("the text `{}`", values::excerpt(value));
                return Err(self.scalar().wrong(found));
            }
        };
        match refused {
            Some(why) => Err(E::custom(why)),
            None => self.scalar().visit_str(value),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { shape, column, trail } = self;
        let (Form::List(shape), Kind::List(offsets, item)) = (&shape.form, &mut column.kind) else {
            return Err(Scalar { column, name: "" }.wrong("an array"));
        };
        let mut end = offsets[offsets.len() - 1];
        let mut at = 0_usize;
        loop {
            let reading = Reading { shape, column: item, trail: &mut *trail };
            match seq.next_element_seed(reading) {
                Ok(Some(())) => at += 1,
                Ok(None) => break,
                Err(error) => {
                    trail.note(at);
                    return Err(error);
                }
            }
            end = end.checked_add(1).ok_or_else(|| A::Error::custom(values::FULL))?;
        }
        offsets.push(end);
        column.valid();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { shape, column, trail } = self;
        match (&shape.form, &mut column.kind) {
            (Form::Struct(properties, _), Kind::Struct(columns)) => {
                Object { properties, columns, trail }.visit_map(map)?;
            }
            (Form::Map(shape), Kind::Map(offsets, keys, value)) => {
                let mut end = offsets[offsets.len() - 1];
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    keys.push_grown(key.as_bytes()).map_err(|_| A::Error::custom(values::FULL))?;
                    let reading = Reading { shape, column: value, trail: &mut *trail };
                    map.next_value_seed(reading).inspect_err(|_| trail.note(&key))?;
                    end = end.checked_add(1).ok_or_else(|| A::Error::custom(values::FULL))?;
                }
                offsets.push(end);
            }
            _ => return Err(Scalar { column, name: "" }.wrong("an object")),
        }
        column.valid();
        Ok(())
    }
}

/// JSON text without the space between its parts.
fn compact(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_usize);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'[' | b'{' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(format!("it nests more than {JSON_DEPTH_MAX} deep"));
                }
            }
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        out.push(byte);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_outside_of_text_is_left_out() {
        let text = compact("{ \"a \\\" b\" : [ 1 ,\n 2 ] }").unwrap();
        assert_eq!(text, br#"{"a \" b":[1,2]}"#);
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(compact(&nested(JSON_DEPTH_MAX)).is_ok());
        assert!(compact(&nested(JSON_DEPTH_MAX + 1)).is_err());
    }
}
