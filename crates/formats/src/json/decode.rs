//! JSON objects into columns. Decoding streams: no tree of the document is built.

use crate::columns::{Column, Kind};
use crate::run::{Refusal, Rows};
use crate::values;
use arrow_schema::{DataType, Fields, SchemaRef};
use millstream_core::{Decoded, Decoder, Records, Result, types};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use std::fmt;

#[derive(Debug, Clone)]
pub struct JsonOptions {
    pub record_bytes_max: usize,
}

/// Decodes one JSON object a record. A key without a column is ignored, a column without a key is
/// null; a value of another type rejects the record.
pub struct JsonDecoder {
    rows: Rows,
    options: JsonOptions,
}

impl JsonDecoder {
    pub fn new(columns: SchemaRef, options: JsonOptions) -> Result<JsonDecoder> {
        Ok(JsonDecoder { rows: Rows::new(columns)?, options })
    }
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> SchemaRef {
        self.rows.schema().clone()
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let schema = self.rows.schema().clone();
        let fields = schema.fields();
        self.rows.decode(records, self.options.record_bytes_max, |value, columns, _| {
            let mut parser = serde_json::Deserializer::from_slice(value);
            Object { fields, columns }
                .deserialize(&mut parser)
                .and_then(|()| parser.end())
                .map_err(|error| Refusal::malformed(sentence(&error, value)))
        })
    }
}

pub(crate) fn sentence(error: &serde_json::Error, value: &[u8]) -> String {
    if error.is_data() {
        // The place that serde adds is where it noticed, which is after the value.
        let text = error.to_string();
        return match text.rfind(" at line ") {
            Some(end) => text[..end].to_owned(),
            None => text,
        };
    }
    if value.iter().all(u8::is_ascii_whitespace) {
        return "the record is empty, where a JSON object was expected".into();
    }
    format!("not JSON: {error}")
}

/// Fills one row of these columns from an object.
struct Object<'a> {
    fields: &'a Fields,
    columns: &'a mut [Column],
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
        let mut filled = vec![false; self.columns.len()];
        // Keys mostly come in the order of the columns.
        let mut expected = 0;
        while let Some(key) = map.next_key_seed(Key { fields: self.fields, expected })? {
            let Some(at) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let name = self.fields[at].name();
            if std::mem::replace(&mut filled[at], true) {
                return Err(A::Error::custom(format!("field `{name}` occurs twice")));
            }
            expected = at + 1;
            map.next_value_seed(Value { column: &mut self.columns[at], name })?;
        }
        for (at, _) in filled.iter().enumerate().filter(|(_, filled)| !**filled) {
            if !self.columns[at].is_nullable() {
                let name = self.fields[at].name();
                return Err(A::Error::custom(format!("field `{name}` is missing")));
            }
            self.columns[at].append_null();
        }
        Ok(())
    }
}

/// The column of a key.
struct Key<'a> {
    fields: &'a Fields,
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
        if self.fields.get(self.expected).is_some_and(|field| field.name() == key) {
            return Ok(Some(self.expected));
        }
        Ok(self.fields.iter().position(|field| field.name() == key))
    }
}

/// Appends one value to a column.
pub(crate) struct Value<'a> {
    pub column: &'a mut Column,
    /// For messages; empty where the caller says which value it is.
    pub name: &'a str,
}

impl Value<'_> {
    pub fn wrong<E: serde::de::Error>(&self, found: impl fmt::Display) -> E {
        let wanted = types::name(self.column.data_type());
        self.refused(format!("expected {wanted}, found {found}"))
    }

    fn refused<E: serde::de::Error>(&self, why: String) -> E {
        match self.name {
            "" => E::custom(why),
            name => E::custom(format!("field `{name}`: {why}")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&types::name(self.column.data_type()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if !self.column.is_nullable() {
            return Err(self.wrong("null"));
        }
        self.column.append_null();
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        let Kind::Bool(values) = &mut self.column.kind else { return Err(self.wrong(value)) };
        values.append(value);
        self.column.valid();
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        let data_type = self.column.data_type().clone();
        match (&mut self.column.kind, &data_type) {
            (Kind::I64(values), DataType::Int64) => values.push(value),
            (Kind::I64(values), DataType::Timestamp(unit, _)) => {
                match values::from_millis(value, *unit) {
                    Some(value) => values.push(value),
                    None => {
                        let range = values::timestamps_of(*unit);
                        return Err(self.refused(format!(
                            "{value} milliseconds since 1970 are out of range: {range}"
                        )));
                    }
                }
            }
            (Kind::I32(values), DataType::Int32) => match i32::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return Err(self.wrong(value)),
            },
            (Kind::F64(values), _) => values.push(value as f64),
            (Kind::F32(values), _) => values.push(value as f32),
            (Kind::I128(_) | Kind::I256(_), _) => return self.decimal(&value.to_string()),
            _ => return Err(self.wrong(value)),
        }
        self.column.valid();
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        // 2^63 as a float; every integral float below it is an i64.
        let integral = value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0;
        match &mut self.column.kind {
            Kind::F64(values) => values.push(value),
            Kind::F32(values) => values.push(value as f32),
            Kind::I128(_) | Kind::I256(_) => return self.decimal(&format!("{value:?}")),
            Kind::I32(_) | Kind::I64(_) if integral => return self.visit_i64(value as i64),
            _ => return Err(self.wrong(value)),
        }
        self.column.valid();
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        let data_type = self.column.data_type();
        let takes_text = matches!(
            data_type,
            DataType::Utf8
                | DataType::Binary
                | DataType::FixedSizeBinary(_)
                | DataType::Date32
                | DataType::Time64(_)
                | DataType::Timestamp(_, _)
                | DataType::Decimal128(_, _)
                | DataType::Decimal256(_, _)
        );
        if !takes_text {
            return Err(self.wrong(format!("the text `{}`", values::excerpt(value))));
        }
        values::append_text(self.column, value).map_err(|why| self.refused(why))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Kind::List(offsets, item) = &mut self.column.kind else {
            return Err(self.wrong("an array"));
        };
        let mut end = offsets[offsets.len() - 1];
        while seq.next_element_seed(Value { column: item, name: self.name })?.is_some() {
            end = end.checked_add(1).ok_or_else(|| A::Error::custom(values::FULL))?;
        }
        offsets.push(end);
        self.column.valid();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let data_type = self.column.data_type().clone();
        match (&mut self.column.kind, &data_type) {
            (Kind::Struct(columns), DataType::Struct(fields)) => {
                Object { fields, columns }.visit_map(map)?;
            }
            (Kind::Hollow(count), _) => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                *count += 1;
            }
            (Kind::Map(offsets, keys, column), _) => {
                let mut end = offsets[offsets.len() - 1];
                while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    keys.push_grown(key.as_bytes()).map_err(|_| A::Error::custom(values::FULL))?;
                    map.next_value_seed(Value { column, name: self.name })?;
                    end = end.checked_add(1).ok_or_else(|| A::Error::custom(values::FULL))?;
                }
                offsets.push(end);
            }
            _ => return Err(self.wrong("an object")),
        }
        self.column.valid();
        Ok(())
    }
}

impl Value<'_> {
    fn decimal<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        values::append_text(self.column, text).map_err(|why| self.refused(why))
    }
}
