//! A JSON Schema as Arrow columns, with what is to be checked of each value.

use super::References;
use super::facts::{Facts, Type};
use arrow_schema::{DataType, Field as Column, Fields, TimeUnit};
use millstream_schemas::json::{Documents, Place};
use serde_json::Value;
use std::sync::Arc;

/// Types that share parts may grow without end when each part is written out.
const COLUMNS_MAX: usize = 10_000;
/// How deep types may lie in each other; what is deeper is JSON text.
const DEPTH_MAX: usize = 48;

/// A value's type.
#[derive(Debug)]
pub(super) struct Shape {
    pub data_type: DataType,
    /// Whether the column may hold nulls: also where what is around the value may be absent.
    pub nullable: bool,
    /// Whether the value itself may be null.
    pub null: bool,
    pub form: Form,
}

#[derive(Debug)]
pub(super) enum Form {
    /// Numbers and booleans, and null.
    Plain,
    /// What a JSON string holds.
    Text(Text),
    /// One of these values, none of which is text.
    Listed(Vec<Value>),
    /// Anything, as JSON text.
    Json,
    List(Box<Shape>),
    Map(Box<Shape>),
    Struct(Vec<Property>, Model),
}

#[derive(Debug)]
pub(super) enum Text {
    Any,
    Uuid,
    OneOf(Vec<String>),
}

/// Whether an object may have properties that the schema does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    Open,
    Closed,
}

#[derive(Debug)]
pub(super) struct Property {
    pub name: String,
    pub required: bool,
    /// What stands for a required value that is absent.
    pub default: Option<Value>,
    pub shape: Shape,
}

/// The properties of the object that rows are.
pub(super) fn rows(text: &str, references: &References) -> Result<Vec<Property>, String> {
    object(text, references).map(|(properties, _)| properties)
}

pub(super) fn object(
    text: &str,
    references: &References,
) -> Result<(Vec<Property>, Model), String> {
    let documents = Documents::parse(text, references)?;
    let mut shaper = Shaper { documents: &documents, left: COLUMNS_MAX, open: Vec::new() };
    let facts = Facts::of(&documents, documents.root())?;
    match shaper.from(&facts, false)?.form {
        Form::Struct(properties, model) => Ok((properties, model)),
        _ => Err("rows need an object with `properties`".into()),
    }
}

pub(super) fn arrow_fields(properties: &[Property]) -> Fields {
    properties
        .iter()
        .map(|property| {
            let shape = &property.shape;
            Column::new(&property.name, shape.data_type.clone(), shape.nullable)
        })
        .collect()
}

/// Where a writer's type can never be read as a reader's, if it is anywhere.
pub(super) fn conflict(reader: &[Property], writer: &[Property]) -> Option<String> {
    reader.iter().find_map(|wanted| {
        let given = writer.iter().find(|given| given.name == wanted.name)?;
        differ(&wanted.shape, &given.shape).map(|why| format!("/{}{why}", wanted.name))
    })
}

fn differ(reader: &Shape, writer: &Shape) -> Option<String> {
    match (&reader.form, &writer.form) {
        (Form::Json, _) | (_, Form::Json) => None,
        (Form::Struct(reader, _), Form::Struct(writer, _)) => conflict(reader, writer),
        (Form::List(reader), Form::List(writer)) | (Form::Map(reader), Form::Map(writer)) => {
            differ(reader, writer).map(|why| format!("/*{why}"))
        }
        _ => {
            let (wanted, given) = (reader.class(), writer.class());
            let fits = wanted == given || given == "null" || wanted == "null";
            (!fits).then(|| format!(" is {given}, where the reader has {wanted}"))
        }
    }
}

impl Shape {
    /// The kind of JSON value, for messages.
    pub fn class(&self) -> &'static str {
        match &self.form {
            Form::Text(_) => "a string",
            Form::List(_) => "an array",
            Form::Map(_) | Form::Struct(..) => "an object",
            Form::Json => "any value",
            Form::Plain | Form::Listed(_) => match self.data_type {
                DataType::Boolean => "a boolean",
                DataType::Null => "null",
                _ => "a number",
            },
        }
    }

    fn json(nullable: bool, null: bool) -> Shape {
        Shape { data_type: DataType::Utf8, nullable: nullable || null, null, form: Form::Json }
    }
}

struct Shaper<'a> {
    documents: &'a Documents,
    left: usize,
    /// The targets of references that what is shaped lies in: one that is in itself has no end.
    open: Vec<&'a Value>,
}

impl<'a> Shaper<'a> {
    /// `within_optional`: what lies in a nullable struct is nullable too, so that a reader who
    /// looks past the struct's own nulls still sees them.
    fn shape(&mut self, place: Place<'a>, within_optional: bool) -> Result<Shape, String> {
        let facts = Facts::of(self.documents, place)?;
        self.from(&facts, within_optional)
    }

    fn from(&mut self, facts: &Facts<'a>, within_optional: bool) -> Result<Shape, String> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| format!("the schema has more than {COLUMNS_MAX} nested columns"))?;
        let within =
            |seen: &&Value| self.open.iter().any(|around| std::ptr::eq::<Value>(*around, *seen));
        if facts.through.iter().any(within) || self.open.len() > DEPTH_MAX {
            return Ok(Shape::json(within_optional, facts.allows_null()));
        }
        let length = self.open.len();
        self.open.extend(&facts.through);
        // Each level counts, also one that no reference leads to.
        self.open.push(&Value::Null);
        let shape = self.solid(facts, within_optional);
        self.open.truncate(length);
        shape
    }

    fn solid(&mut self, facts: &Facts<'a>, within_optional: bool) -> Result<Shape, String> {
        let null = facts.allows_null();
        let nullable = within_optional || null;
        let json = || Shape::json(within_optional, null);
        let Some(types) = &facts.types else {
            if facts.untold {
                return Ok(json());
            }
            return self.alternatives(facts, within_optional);
        };
        let some: Vec<Type> = types.iter().copied().filter(|t| *t != Type::Null).collect();
        let values: Option<Vec<&Value>> = facts
            .listed
            .as_ref()
            .map(|values| values.iter().copied().filter(|value| !value.is_null()).collect());
        let of = |data_type, form| Shape { data_type, nullable, null, form };
        Ok(match some.as_slice() {
            _ if facts.untold => json(),
            [] if types.is_empty() => json(),
            [] => Shape { nullable: true, null: true, ..of(DataType::Null, Form::Plain) },
            [Type::String] => self.text(facts, values, of),
            [Type::Boolean] => of(DataType::Boolean, listed(values)),
            [Type::Integer] => match facts.format {
                Some("int32") => of(DataType::Int32, listed(values)),
                _ => of(DataType::Int64, listed(values)),
            },
            [Type::Number] | [Type::Integer, Type::Number] | [Type::Number, Type::Integer] => {
                match facts.format {
                    Some("float") => of(DataType::Float32, listed(values)),
                    _ => of(DataType::Float64, listed(values)),
                }
            }
            [Type::Object] if values.is_none() => return self.object(facts, within_optional),
            [Type::Array] if values.is_none() && !facts.tuple => {
                let Some(items) = facts.items else { return Ok(json()) };
                let item = self.shape(items, false)?;
                let column = Column::new("item", item.data_type.clone(), item.nullable);
                of(DataType::List(Arc::new(column)), Form::List(Box::new(item)))
            }
            _ => json(),
        })
    }

    fn text(
        &self,
        facts: &Facts<'a>,
        values: Option<Vec<&Value>>,
        of: impl Fn(DataType, Form) -> Shape,
    ) -> Shape {
        if let Some(values) = values {
            let words = values.iter().filter_map(|value| value.as_str()).map(str::to_owned);
            return of(DataType::Utf8, Form::Text(Text::OneOf(words.collect())));
        }
        let any = |data_type| of(data_type, Form::Text(Text::Any));
        let micros = TimeUnit::Microsecond;
        match facts.format {
            Some("date-time") => any(DataType::Timestamp(micros, Some("UTC".into()))),
            Some("date-time-local") => any(DataType::Timestamp(micros, None)),
            Some("date") => any(DataType::Date32),
            Some("time-local") => any(DataType::Time64(micros)),
            Some("byte") => any(DataType::Binary),
            Some("ip") => any(millstream_core::types::IP),
            Some("uuid") => of(DataType::Utf8, Form::Text(Text::Uuid)),
            Some("decimal") => match facts.decimal {
                Some((precision @ ..=38, scale)) => any(DataType::Decimal128(precision, scale)),
                Some((precision, scale)) => any(DataType::Decimal256(precision, scale)),
                None => any(DataType::Utf8),
            },
            _ if facts.base64 => any(DataType::Binary),
            _ => any(DataType::Utf8),
        }
    }

    fn object(&mut self, facts: &Facts<'a>, within_optional: bool) -> Result<Shape, String> {
        let null = facts.allows_null();
        let nullable = within_optional || null;
        if !facts.properties.is_empty() {
            let mut properties = Vec::with_capacity(facts.properties.len());
            for (name, place) in &facts.properties {
                let required = facts.required.contains(name);
                let shape = self.shape(*place, nullable || !required)?;
                let default = match required {
                    true => Facts::of(self.documents, *place)?.default.cloned(),
                    false => None,
                };
                properties.push(Property { name: (*name).to_owned(), required, default, shape });
            }
            let data_type = DataType::Struct(arrow_fields(&properties));
            let model = if facts.closed { Model::Closed } else { Model::Open };
            return Ok(Shape { data_type, nullable, null, form: Form::Struct(properties, model) });
        }
        let values = match (facts.additional, facts.patterns.as_slice()) {
            (Some(values), []) => values,
            (None, [values]) if facts.closed => *values,
            _ => return Ok(Shape::json(within_optional, null)),
        };
        let value = self.shape(values, false)?;
        let entry = vec![
            Column::new("key", DataType::Utf8, false),
            Column::new("value", value.data_type.clone(), value.nullable),
        ];
        let entries = Column::new("entries", DataType::Struct(entry.into()), false);
        let data_type = DataType::Map(Arc::new(entries), false);
        Ok(Shape { data_type, nullable, null, form: Form::Map(Box::new(value)) })
    }

    /// `oneOf` and `anyOf`, where nothing beside them says a type.
    fn alternatives(&mut self, facts: &Facts<'a>, within_optional: bool) -> Result<Shape, String> {
        let [places] = facts.alternatives.as_slice() else {
            return Ok(Shape::json(within_optional, true));
        };
        let mut null = facts.nullable;
        let mut some = Vec::new();
        for place in places {
            let branch = Facts::of(self.documents, *place)?;
            null |= branch.types.is_some() && branch.allows_null();
            if branch.types.as_deref() != Some(&[Type::Null]) {
                some.push(branch);
            }
        }
        let within_optional = within_optional || null;
        let mut shapes = Vec::with_capacity(some.len());
        for branch in &some {
            shapes.push(self.from(branch, within_optional)?);
        }
        null |= shapes.iter().any(|shape| shape.null);
        let Some(mut shape) = shapes.pop() else {
            let form = Form::Plain;
            return Ok(Shape { data_type: DataType::Null, nullable: true, null: true, form });
        };
        for other in shapes {
            shape = match either(shape, other) {
                Some(shape) => shape,
                None => return Ok(Shape::json(within_optional, null)),
            };
        }
        shape.null |= null;
        shape.nullable |= null;
        Ok(shape)
    }
}

/// What two alternatives have in common, if it is a type of one column.
fn either(a: Shape, b: Shape) -> Option<Shape> {
    let (nullable, null) = (a.nullable || b.nullable, a.null || b.null);
    let (data_type, form) = match (a.form, b.form) {
        (Form::Text(a_text), Form::Text(b_text)) if a.data_type == b.data_type => {
            let text = match (a_text, b_text) {
                (Text::OneOf(mut a), Text::OneOf(b)) => {
                    a.splice(0..0, b);
                    Text::OneOf(a)
                }
                (Text::Uuid, Text::Uuid) => Text::Uuid,
                _ => Text::Any,
            };
            (a.data_type, Form::Text(text))
        }
        (Form::Plain | Form::Listed(_), Form::Plain | Form::Listed(_)) => {
            let data_type = match (a.data_type, b.data_type) {
                (a, b) if a == b => a,
                (a, b) if a.is_numeric() && b.is_numeric() => DataType::Float64,
                _ => return None,
            };
            (data_type, Form::Plain)
        }
        _ => return None,
    };
    Some(Shape { data_type, nullable, null, form })
}

fn listed(values: Option<Vec<&Value>>) -> Form {
    match values {
        Some(values) => Form::Listed(values.into_iter().cloned().collect()),
        None => Form::Plain,
    }
}
