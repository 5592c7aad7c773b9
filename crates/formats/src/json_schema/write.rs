//! Columns against a schema: which column is which property, what is written for null, and which
//! text is JSON already.

use super::facts::equal;
use super::shape::{Form, Model, Property, Shape, Text};
use crate::columns::entry_fields;
use crate::json::encode::encodable;
use crate::json::writer::Writer;
use crate::values::{excerpt, parse_uuid};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Fields};
use serde_json::Value;

/// A column of one batch and how it is written.
pub(super) enum Put<'a> {
    /// As JSON has it, without a check.
    Plain(Writer<'a>),
    /// Text that must be one of the schema's, or a UUID.
    Checked(&'a ArrayRef, &'a Text),
    /// A number or boolean that must be one of these.
    Listed(Writer<'a>, &'a [Value]),
    /// Text that is JSON.
    Json(&'a ArrayRef),
    List(&'a ArrayRef, Box<Member<'a>>),
    Map(&'a ArrayRef, Box<Member<'a>>),
    Object(Vec<(Vec<u8>, Member<'a>)>),
}

/// A value in something else.
pub(super) struct Member<'a> {
    name: String,
    array: &'a ArrayRef,
    put: Put<'a>,
    null: OnNull,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnNull {
    Write,
    /// The property is left out.
    Omit,
    Refuse,
}

#[derive(Default)]
pub(super) struct Binder {
    /// All that does not fit.
    pub errors: Vec<String>,
}

impl Binder {
    pub fn object<'a>(
        &mut self,
        properties: &'a [Property],
        model: Model,
        fields: &'a Fields,
        columns: &'a [ArrayRef],
        path: &str,
    ) -> Put<'a> {
        for property in properties.iter().filter(|property| property.required) {
            if !fields.iter().any(|field| *field.name() == property.name) {
                self.errors.push(format!("property `{path}{}` has no column", property.name));
            }
        }
        let mut members = Vec::with_capacity(columns.len());
        for (field, array) in fields.iter().zip(columns) {
            let name = format!("{path}{}", field.name());
            let property = properties.iter().find(|property| property.name == *field.name());
            let (put, null) = match property {
                Some(property) => {
                    let null = match (property.shape.null, property.required) {
                        (true, _) => OnNull::Write,
                        (false, false) => OnNull::Omit,
                        (false, true) => OnNull::Refuse,
                    };
                    (self.value(&property.shape, array, &name), null)
                }
                None => {
                    if model == Model::Closed {
                        self.errors.push(format!(
                            "the schema has no property `{name}` and allows no others"
                        ));
                    }
                    (self.plain(array, &name), OnNull::Write)
                }
            };
            let mut key = serde_json::to_vec(field.name()).expect("a name is always JSON");
            key.push(b':');
            members.push((key, Member { name, array, put, null }));
        }
        Put::Object(members)
    }

    fn plain<'a>(&mut self, array: &'a ArrayRef, name: &str) -> Put<'a> {
        if !encodable(array.data_type()) {
            self.errors.push(format!("`{name}` of type {} has no JSON form", array.data_type()));
        }
        Put::Plain(Writer::new(array))
    }

    fn value<'a>(&mut self, shape: &'a Shape, array: &'a ArrayRef, name: &str) -> Put<'a> {
        match (&shape.form, array.data_type()) {
            (_, DataType::Null) => self.plain(array, name),
            (Form::Json, DataType::Utf8) => Put::Json(array),
            (Form::Json, _) => self.plain(array, name),
            (Form::Text(text @ (Text::Uuid | Text::OneOf(_))), DataType::Utf8) => {
                Put::Checked(array, text)
            }
            (Form::Text(_), data_type) if is_text(data_type) => self.plain(array, name),
            (Form::Plain, data_type) if is_number_of(shape, data_type) => self.plain(array, name),
            (Form::Listed(values), data_type) if is_number_of(shape, data_type) => {
                Put::Listed(Writer::new(array), values)
            }
            (Form::List(item), DataType::List(_)) => {
                let values = array.as_list::<i32>().values();
                let member = self.member(item, values, format!("{name}[]"));
                Put::List(array, Box::new(member))
            }
            (Form::Map(value), DataType::Map(entries, _)) if has_text_keys(entries) => {
                let values = array.as_map().values();
                let member = self.member(value, values, format!("{name}[]"));
                Put::Map(array, Box::new(member))
            }
            (Form::Struct(properties, model), DataType::Struct(fields)) => {
                let columns = array.as_struct().columns();
                self.object(properties, *model, fields, columns, &format!("{name}."))
            }
            (Form::Struct(..), DataType::Interval(_)) => self.plain(array, name),
            (_, data_type) => {
                let found = millstream_core::types::name(data_type);
                let class = shape.class();
                self.errors.push(format!("`{name}` is {found}, where the schema has {class}"));
                self.plain(array, name)
            }
        }
    }

    fn member<'a>(&mut self, shape: &'a Shape, array: &'a ArrayRef, name: String) -> Member<'a> {
        let null = if shape.null { OnNull::Write } else { OnNull::Refuse };
        Member { put: self.value(shape, array, &name), name, array, null }
    }
}

impl Put<'_> {
    pub fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Put::Plain(writer) => writer.write(row, out)?,
            Put::Checked(array, text) => {
                let value = array.as_string::<i32>().value(row);
                match text {
                    Text::OneOf(words) if !words.iter().any(|word| word == value) => {
                        return Err(format!("`{}` is none of the schema's values", excerpt(value)));
                    }
                    Text::Uuid if parse_uuid(value).is_none() => {
                        return Err(format!("`{}` is not a UUID", excerpt(value)));
                    }
                    _ => quote(value, out),
                }
            }
            Put::Listed(writer, values) => {
                let start = out.len();
                writer.write(row, out)?;
                let value = serde_json::from_slice(&out[start..]).unwrap_or(Value::Null);
                if !values.iter().any(|listed| equal(listed, &value)) {
                    return Err(format!("`{value}` is none of the schema's values"));
                }
            }
            Put::Json(array) => {
                let text = array.as_string::<i32>().value(row);
                let parsed = serde_json::from_str::<serde::de::IgnoredAny>(text);
                parsed.map_err(|_| format!("`{}` is not JSON", excerpt(text)))?;
                out.extend_from_slice(text.as_bytes());
            }
            Put::List(array, item) => {
                let offsets = array.as_list::<i32>().value_offsets();
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                out.push(b'[');
                for at in from..to {
                    if at > from {
                        out.push(b',');
                    }
                    item.put(at, out)?;
                }
                out.push(b']');
            }
            Put::Map(array, value) => {
                let map = array.as_map();
                let (offsets, keys) = (map.value_offsets(), map.keys().as_string::<i32>());
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                out.push(b'{');
                for at in from..to {
                    if at > from {
                        out.push(b',');
                    }
                    quote(keys.value(at), out);
                    out.push(b':');
                    value.put(at, out)?;
                }
                out.push(b'}');
            }
            Put::Object(members) => {
                out.push(b'{');
                let start = out.len();
                for (key, member) in members {
                    if member.null == OnNull::Omit && member.is_null(row) {
                        continue;
                    }
                    if out.len() > start {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    member.put(row, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}

impl Member<'_> {
    fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let name = &self.name;
        if self.is_null(row) {
            if self.null == OnNull::Refuse {
                return Err(format!("column `{name}` is null, which the schema does not allow"));
            }
            out.extend_from_slice(b"null");
            return Ok(());
        }
        self.put.put(row, out).map_err(|why| match why.starts_with("column `") {
            true => why,
            false => format!("column `{name}`: {why}"),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        *self.array.data_type() == DataType::Null || self.array.is_null(row)
    }
}

/// The columns that are written as JSON strings.
fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => {
            matches!(
                other,
                DataType::Utf8
                    | DataType::LargeUtf8
                    | DataType::Utf8View
                    | DataType::Binary
                    | DataType::LargeBinary
                    | DataType::BinaryView
                    | DataType::FixedSizeBinary(_)
                    | DataType::Date32
                    | DataType::Time64(_)
                    | DataType::Timestamp(_, _)
                    | DataType::Decimal128(_, _)
                    | DataType::Decimal256(_, _)
            )
        }
    }
}

/// Whether numbers or booleans of a column are what the schema wants.
fn is_number_of(shape: &Shape, data_type: &DataType) -> bool {
    match (&shape.data_type, data_type) {
        (DataType::Boolean, found) => *found == DataType::Boolean,
        (DataType::Int32 | DataType::Int64, found) => found.is_integer(),
        (DataType::Float32 | DataType::Float64, found) => {
            found.is_integer() || matches!(found, DataType::Float32 | DataType::Float64)
        }
        _ => false,
    }
}

fn has_text_keys(entries: &arrow_schema::FieldRef) -> bool {
    entry_fields(entries).is_some_and(|(key, _)| *key.data_type() == DataType::Utf8)
}

fn quote(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is always JSON");
}
