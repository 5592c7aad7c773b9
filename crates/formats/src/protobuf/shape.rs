//! A message as Arrow columns.

use super::parse::Label;
use super::schema::{Field, Kind, Scalar, Schema, WellKnown};
use arrow_schema::{DataType, Field as Column, Fields, IntervalUnit, TimeUnit};
use std::sync::Arc;

/// Types that share parts may grow without end when each part is written out.
const COLUMNS_MAX: usize = 10_000;

/// The columns of a message; of those in `only`, when it is given.
pub(super) fn fields(
    schema: &Schema,
    message: usize,
    only: Option<&[String]>,
) -> Result<Fields, String> {
    if schema.messages[message].known.is_some() {
        return Err(format!("rows cannot be of type `{}`", schema.messages[message].name));
    }
    let mut shaper = Shaper { schema, left: COLUMNS_MAX, around: vec![message] };
    let wanted = |field: &&Field| only.is_none_or(|only| only.contains(&field.name));
    let columns = schema.messages[message].fields.iter().filter(wanted);
    columns.map(|field| shaper.column(field, false)).collect()
}

struct Shaper<'a> {
    schema: &'a Schema,
    left: usize,
    /// The messages that the one at hand is in: one that is in itself has no end of columns.
    around: Vec<usize>,
}

impl Shaper<'_> {
    /// `within_optional`: what lies in a nullable struct is nullable too, so that a reader who
    /// looks past the struct's own nulls still sees them.
    fn column(&mut self, field: &Field, within_optional: bool) -> Result<Column, String> {
        let repeated = field.label == Label::Repeated;
        let nullable = within_optional || field.label == Label::Explicit;
        // An element stands for itself; the struct of an absent message is null.
        let value = self.value(field.kind, nullable && !repeated)?;
        let data_type = match field.key {
            Some(_) => {
                let entry = vec![
                    Column::new("key", DataType::Utf8, false),
                    Column::new("value", value, false),
                ];
                let entries = Column::new("entries", DataType::Struct(entry.into()), false);
                DataType::Map(Arc::new(entries), false)
            }
            None if repeated => DataType::List(Arc::new(Column::new("item", value, false))),
            None => value,
        };
        Ok(Column::new(&field.name, data_type, nullable))
    }

    fn value(&mut self, kind: Kind, optional: bool) -> Result<DataType, String> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| format!("the schema has more than {COLUMNS_MAX} nested columns"))?;
        let message = match kind {
            Kind::Scalar(scalar) => return Ok(data_type(scalar)),
            Kind::Enum(_) => return Ok(DataType::Utf8),
            Kind::Message(message) => message,
        };
        let schema = self.schema;
        match schema.messages[message].known {
            Some(WellKnown::Timestamp) => {
                return Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
            }
            Some(WellKnown::Duration) => return Ok(DataType::Interval(IntervalUnit::MonthDayNano)),
            Some(WellKnown::Wrapper(scalar)) => return Ok(data_type(scalar)),
            Some(WellKnown::Struct | WellKnown::Value | WellKnown::ListValue) => {
                return Ok(DataType::Utf8);
            }
            None if self.around.contains(&message) => return Ok(DataType::Utf8),
            None => {}
        }
        self.around.push(message);
        let fields = schema.messages[message].fields.iter();
        let columns: Result<Fields, String> =
            fields.map(|field| self.column(field, optional)).collect();
        self.around.pop();
        columns.map(DataType::Struct)
    }
}

pub(super) fn data_type(scalar: Scalar) -> DataType {
    match scalar {
        Scalar::Double => DataType::Float64,
        Scalar::Float => DataType::Float32,
        Scalar::Int32 | Scalar::Sint32 | Scalar::Sfixed32 => DataType::Int32,
        Scalar::Uint32 | Scalar::Fixed32 => DataType::Int64,
        Scalar::Int64 | Scalar::Sint64 | Scalar::Sfixed64 => DataType::Int64,
        Scalar::Uint64 | Scalar::Fixed64 => DataType::Decimal128(20, 0),
        Scalar::Bool => DataType::Boolean,
        Scalar::String => DataType::Utf8,
        Scalar::Bytes => DataType::Binary,
    }
}
