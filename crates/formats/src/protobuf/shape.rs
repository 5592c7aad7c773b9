//! A message as Arrow columns.

use super::parse::Label;
use super::schema::{Field, Kind, Scalar, Schema, WellKnown};
use arrow_schema::{DataType, Field as Column, Fields, IntervalUnit, TimeUnit};
use std::sync::Arc;

/// Types that share parts may grow without end when each part is written out.
const COLUMNS_MAX: usize = 10_000;

/// The columns of a message; those in `only`, when it is given: `site`, or `site.name` for one field
/// of a message. A path goes as deep as structs do, and names all that is below its end.
pub(super) fn fields(
    schema: &Schema,
    message: usize,
    only: Option<&[String]>,
) -> Result<Fields, String> {
    if schema.messages[message].known.is_some() {
        return Err(format!("rows cannot be of type `{}`", schema.messages[message].name));
    }
    let paths = only.map(|only| only.iter().map(String::as_str).collect::<Vec<_>>());
    let found = &schema.messages[message];
    for path in paths.iter().flatten() {
        let first = first(path);
        if !found.fields.iter().any(|field| field.name == first) {
            return Err(format!("message `{}` has no field `{first}`", found.name));
        }
    }
    let mut shaper = Shaper { schema, left: COLUMNS_MAX, around: vec![message] };
    shaper.columns(message, false, paths.as_deref())
}

fn first(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

struct Shaper<'a> {
    schema: &'a Schema,
    left: usize,
    /// The messages that the one at hand is in: one that is in itself has no end of columns.
    around: Vec<usize>,
}

impl Shaper<'_> {
    /// The fields of a message that the paths name, all without paths.
    fn columns(
        &mut self,
        message: usize,
        optional: bool,
        paths: Option<&[&str]>,
    ) -> Result<Fields, String> {
        let schema = self.schema;
        let fields = &schema.messages[message].fields;
        // A path to a field that is not there names the whole message.
        let known = |path: &&str| fields.iter().any(|field| field.name == first(path));
        let paths = paths.filter(|paths| paths.iter().all(known));
        let mut columns = Vec::new();
        for field in fields {
            let Some(paths) = paths else {
                columns.push(self.column(field, optional, None)?);
                continue;
            };
            let named = paths.iter().filter(|path| first(path) == field.name);
            // A path that ends here names all that is below.
            let below: Vec<Option<&str>> =
                named.map(|path| path.split_once('.').map(|(_, rest)| rest)).collect();
            if !below.is_empty() {
                let below: Option<Vec<&str>> = below.into_iter().collect();
                columns.push(self.column(field, optional, below.as_deref())?);
            }
        }
        Ok(columns.into())
    }

    /// `within_optional`: what lies in a nullable struct is nullable too, so that a reader who
    /// looks past the struct's own nulls still sees them.
    fn column(
        &mut self,
        field: &Field,
        within_optional: bool,
        paths: Option<&[&str]>,
    ) -> Result<Column, String> {
        let repeated = field.label == Label::Repeated;
        let nullable = within_optional || field.label == Label::Explicit;
        // An element stands for itself; the struct of an absent message is null.
        let paths = paths.filter(|_| !repeated);
        let value = self.value(field.kind, nullable && !repeated, paths)?;
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

    fn value(
        &mut self,
        kind: Kind,
        optional: bool,
        paths: Option<&[&str]>,
    ) -> Result<DataType, String> {
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
        let columns = self.columns(message, optional, paths);
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
