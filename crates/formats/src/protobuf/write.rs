//! Columns as Protobuf: bound to a message's fields once a batch, then written row by row.

use super::parse::Label;
use super::schema::{Field, Kind, Scalar, Schema, WellKnown};
use super::text;
use super::wire::Fault;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, ListArray, MapArray};
use arrow_schema::{DataType, IntervalUnit, TimeUnit};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const RUN: u32 = 2;
const FIXED32: u32 = 5;
const DAY_SECONDS: i64 = 86_400;

/// A message whose fields have their columns.
pub(super) struct Message<'a> {
    fields: Vec<Bound<'a>>,
}

struct Bound<'a> {
    field: &'a Field,
    array: &'a ArrayRef,
    form: Form<'a>,
}

enum Form<'a> {
    One(Value<'a>),
    Many(&'a ListArray, Value<'a>),
    Map(&'a MapArray, Scalar, Value<'a>),
}

/// One value of a column.
struct Value<'a> {
    array: &'a ArrayRef,
    kind: Kind,
    /// The columns of a message that is a struct.
    message: Option<Message<'a>>,
}

/// Binds the columns of a struct, or of rows; adds to `errors` all that they disagree in.
pub(super) fn bind<'a>(
    schema: &'a Schema,
    message: usize,
    columns: &'a [ArrayRef],
    names: &[&str],
    place: &str,
    errors: &mut Vec<String>,
) -> Message<'a> {
    let message = &schema.messages[message];
    let mut fields = Vec::new();
    for (array, name) in columns.iter().zip(names) {
        match message.fields.iter().find(|field| field.name == *name) {
            None => errors.push(format!("`{}` has no field `{place}{name}`", message.name)),
            Some(field) => {
                let place = format!("{place}{name}");
                if let Some(form) = form(schema, field, array, &place, errors) {
                    fields.push(Bound { field, array, form });
                }
            }
        }
    }
    for field in &message.fields {
        if field.label == Label::Required && !names.contains(&field.name.as_str()) {
            errors
                .push(format!("there is no column for `{place}{}`, which is required", field.name));
        }
    }
    // The order of the numbers is what other serializers write.
    fields.sort_by_key(|bound| bound.field.number);
    Message { fields }
}

fn form<'a>(
    schema: &'a Schema,
    field: &'a Field,
    array: &'a ArrayRef,
    place: &str,
    errors: &mut Vec<String>,
) -> Option<Form<'a>> {
    let due = match (field.key, field.label, array.data_type()) {
        (Some(key), _, DataType::Map(..)) => {
            let map = array.as_map();
            let value = value(schema, field.kind, map.values(), place, errors)?;
            return Some(Form::Map(map, key, value));
        }
        (None, Label::Repeated, DataType::List(_)) => {
            let list = array.as_list();
            let value = value(schema, field.kind, list.values(), place, errors)?;
            return Some(Form::Many(list, value));
        }
        (Some(_), ..) => "a map",
        (None, Label::Repeated, _) => "a list",
        _ => return value(schema, field.kind, array, place, errors).map(Form::One),
    };
    errors.push(format!("`{place}` is {due}, its column of type {}", array.data_type()));
    None
}

fn value<'a>(
    schema: &'a Schema,
    kind: Kind,
    array: &'a ArrayRef,
    place: &str,
    errors: &mut Vec<String>,
) -> Option<Value<'a>> {
    let data_type = array.data_type();
    let mut message = None;
    let fits = match kind {
        // A column of nothing but nulls says nothing of its type.
        _ if *data_type == DataType::Null => true,
        Kind::Scalar(scalar) => holds(scalar, data_type),
        Kind::Enum(_) => is_text(data_type) || *data_type == DataType::Int32,
        Kind::Message(at) => match (schema.messages[at].known, data_type) {
            (Some(WellKnown::Timestamp), DataType::Timestamp(..)) => true,
            (Some(WellKnown::Duration), DataType::Interval(IntervalUnit::MonthDayNano)) => true,
            (Some(WellKnown::Wrapper(scalar)), data_type) => holds(scalar, data_type),
            (Some(WellKnown::Timestamp | WellKnown::Duration), _) => false,
            (None, DataType::Struct(fields)) => {
                let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
                let (columns, place) = (array.as_struct().columns(), format!("{place}."));
                message = Some(bind(schema, at, columns, &names, &place, errors));
                true
            }
            (_, data_type) => is_text(data_type),
        },
    };
    if !fits {
        let due = match kind {
            Kind::Scalar(scalar) => format!("{scalar:?}").to_lowercase(),
            Kind::Enum(_) => "an enum".to_owned(),
            Kind::Message(at) => format!("a `{}`", schema.messages[at].name),
        };
        errors.push(format!("`{place}` is {due}, its column of type {data_type}"));
        return None;
    }
    Some(Value { array, kind, message })
}

fn holds(scalar: Scalar, data_type: &DataType) -> bool {
    match scalar {
        Scalar::Double => matches!(data_type, DataType::Float64 | DataType::Float32),
        Scalar::Float => *data_type == DataType::Float32,
        Scalar::Bool => *data_type == DataType::Boolean,
        Scalar::String => is_text(data_type),
        Scalar::Bytes => {
            matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
        }
        _ => data_type.is_integer() || matches!(data_type, DataType::Decimal128(_, 0)),
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl Message<'_> {
    pub fn put(&self, schema: &Schema, row: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        for bound in &self.fields {
            bound.put(schema, row, out).map_err(|fault| fault.within(&bound.field.name))?;
        }
        Ok(())
    }
}

impl Bound<'_> {
    fn put(&self, schema: &Schema, row: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        let field = self.field;
        let null = self.array.is_null(row) || *self.array.data_type() == DataType::Null;
        match &self.form {
            // A list and a map that are null are empty, which is what a reader makes of them.
            _ if null && matches!(field.label, Label::Repeated | Label::Explicit) => Ok(()),
            _ if null => Err(Fault::new("it is null, and the field cannot be absent")),
            Form::One(value) => {
                let start = out.len();
                value.put(schema, field.number, row, out)?;
                // What is not told from an absent value is not written.
                if field.label == Label::Implicit && value.is_zero(schema, row)? {
                    out.truncate(start);
                }
                Ok(())
            }
            Form::Many(list, value) => {
                let offsets = list.value_offsets();
                let items = offsets[row] as usize..offsets[row + 1] as usize;
                if field.packed && !items.is_empty() {
                    tag(field.number, RUN, out);
                    return run(out, |out| {
                        items.into_iter().try_for_each(|item| value.bare(schema, item, out))
                    });
                }
                items.into_iter().try_for_each(|item| value.put(schema, field.number, item, out))
            }
            Form::Map(map, key, value) => {
                let offsets = map.value_offsets();
                let keys = map.keys().as_string_opt::<i32>();
                let keys = keys.ok_or_else(|| Fault::new("the map's keys are no text"))?;
                for entry in offsets[row] as usize..offsets[row + 1] as usize {
                    tag(field.number, RUN, out);
                    run(out, |out| {
                        text::scalar(*key, 1, keys.value(entry), out)?;
                        value.put(schema, 2, entry, out)
                    })?;
                }
                Ok(())
            }
        }
    }
}

impl Value<'_> {
    /// A tag and the value.
    fn put(
        &self,
        schema: &Schema,
        number: u32,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let wire = match self.kind {
            Kind::Scalar(scalar) => wire_type(scalar),
            Kind::Enum(_) => VARINT,
            Kind::Message(_) => RUN,
        };
        tag(number, wire, out);
        self.bare(schema, row, out)
    }

    fn bare(&self, schema: &Schema, row: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.array.is_null(row) || *self.array.data_type() == DataType::Null {
            return Err(Fault::new("it has a null inside, which Protobuf has not"));
        }
        match self.kind {
            Kind::Scalar(scalar) => put_scalar(scalar, self.array, row, out),
            Kind::Enum(at) => {
                varint(i64::from(self.symbol(schema, at, row)?) as u64, out);
                Ok(())
            }
            Kind::Message(at) => run(out, |out| match (&self.message, schema.messages[at].known) {
                (Some(message), _) => message.put(schema, row, out),
                (None, Some(WellKnown::Timestamp)) => {
                    let (seconds, nanos) = timestamp(self.array, row)?;
                    text::moment(seconds, nanos, out);
                    Ok(())
                }
                (None, Some(WellKnown::Duration)) => {
                    let value = self.array.as_primitive::<IntervalMonthDayNanoType>().value(row);
                    if value.months != 0 {
                        return Err(Fault::new("a duration cannot have months"));
                    }
                    let days = i64::from(value.days) * DAY_SECONDS;
                    let (seconds, nanos) =
                        (value.nanoseconds / 1_000_000_000, value.nanoseconds % 1_000_000_000);
                    text::moment(days + seconds, nanos, out);
                    Ok(())
                }
                (None, Some(WellKnown::Wrapper(scalar))) => {
                    tag(1, wire_type(scalar), out);
                    put_scalar(scalar, self.array, row, out)
                }
                (None, _) => text::message(schema, at, string(self.array, row), out),
            }),
        }
    }

    fn is_zero(&self, schema: &Schema, row: usize) -> Result<bool, Fault> {
        let mut bare = Vec::new();
        match self.kind {
            Kind::Enum(at) => Ok(self.symbol(schema, at, row)? == 0),
            Kind::Message(_) => Ok(false),
            Kind::Scalar(Scalar::String) => Ok(string(self.array, row).is_empty()),
            Kind::Scalar(Scalar::Bytes) => Ok(binary(self.array, row).is_empty()),
            Kind::Scalar(scalar) => {
                put_scalar(scalar, self.array, row, &mut bare)?;
                Ok(bare.iter().all(|byte| *byte == 0))
            }
        }
    }

    fn symbol(&self, schema: &Schema, at: usize, row: usize) -> Result<i32, Fault> {
        match self.array.data_type() {
            DataType::Int32 => Ok(self.array.as_primitive::<Int32Type>().value(row)),
            _ => text::symbol(&schema.enums[at], string(self.array, row)),
        }
    }
}

fn put_scalar(
    scalar: Scalar,
    array: &ArrayRef,
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    match scalar {
        Scalar::String => put_run(string(array, row).as_bytes(), out),
        Scalar::Bytes => put_run(binary(array, row), out),
        Scalar::Bool => out.push(u8::from(array.as_boolean().value(row))),
        Scalar::Float => {
            out.extend_from_slice(&array.as_primitive::<Float32Type>().value(row).to_le_bytes());
        }
        Scalar::Double => {
            let value = match array.data_type() {
                DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)),
                _ => array.as_primitive::<Float64Type>().value(row),
            };
            out.extend_from_slice(&value.to_le_bytes());
        }
        _ => return put_integer(scalar, integer(array, row), out),
    }
    Ok(())
}

/// Writes a number that fits; says so of another.
pub(super) fn put_integer(scalar: Scalar, value: i128, out: &mut Vec<u8>) -> Result<(), Fault> {
    let beyond = |_| {
        let name = format!("{scalar:?}").to_lowercase();
        Fault::new(format!("{value} is beyond {name}"))
    };
    match scalar {
        Scalar::Int32 => varint(i64::from(i32::try_from(value).map_err(beyond)?) as u64, out),
        Scalar::Int64 => varint(i64::try_from(value).map_err(beyond)? as u64, out),
        Scalar::Uint32 => varint(u64::from(u32::try_from(value).map_err(beyond)?), out),
        Scalar::Uint64 => varint(u64::try_from(value).map_err(beyond)?, out),
        Scalar::Sint32 => zigzag(i64::from(i32::try_from(value).map_err(beyond)?), out),
        Scalar::Sint64 => zigzag(i64::try_from(value).map_err(beyond)?, out),
        Scalar::Fixed32 => {
            out.extend_from_slice(&u32::try_from(value).map_err(beyond)?.to_le_bytes());
        }
        Scalar::Fixed64 => {
            out.extend_from_slice(&u64::try_from(value).map_err(beyond)?.to_le_bytes());
        }
        Scalar::Sfixed32 => {
            out.extend_from_slice(&i32::try_from(value).map_err(beyond)?.to_le_bytes());
        }
        Scalar::Sfixed64 => {
            out.extend_from_slice(&i64::try_from(value).map_err(beyond)?.to_le_bytes());
        }
        _ => return Err(Fault::new("it is no integer")),
    }
    Ok(())
}

fn integer(array: &ArrayRef, row: usize) -> i128 {
    macro_rules! of {
        ($type:ty) => {
            array.as_primitive::<$type>().value(row).into()
        };
    }
    match array.data_type() {
        DataType::Int8 => of!(Int8Type),
        DataType::Int16 => of!(Int16Type),
        DataType::Int32 => of!(Int32Type),
        DataType::UInt8 => of!(UInt8Type),
        DataType::UInt16 => of!(UInt16Type),
        DataType::UInt32 => of!(UInt32Type),
        DataType::UInt64 => of!(UInt64Type),
        DataType::Decimal128(..) => of!(Decimal128Type),
        _ => of!(Int64Type),
    }
}

fn string(array: &ArrayRef, row: usize) -> &str {
    match array.data_type() {
        DataType::LargeUtf8 => array.as_string::<i64>().value(row),
        DataType::Utf8View => array.as_string_view().value(row),
        _ => array.as_string::<i32>().value(row),
    }
}

fn binary(array: &ArrayRef, row: usize) -> &[u8] {
    match array.data_type() {
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        DataType::BinaryView => array.as_binary_view().value(row),
        _ => array.as_binary::<i32>().value(row),
    }
}

/// Seconds and the nanoseconds after them.
fn timestamp(array: &ArrayRef, row: usize) -> Result<(i64, i64), Fault> {
    let (value, units) = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            (array.as_primitive::<TimestampSecondType>().value(row), 1)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            (array.as_primitive::<TimestampMillisecondType>().value(row), 1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            (array.as_primitive::<TimestampMicrosecondType>().value(row), 1_000_000)
        }
        _ => (array.as_primitive::<TimestampNanosecondType>().value(row), 1_000_000_000),
    };
    let (seconds, rest) = (value.div_euclid(units), value.rem_euclid(units));
    match text::SECONDS.contains(&seconds) {
        true => Ok((seconds, rest * (1_000_000_000 / units))),
        false => Err(Fault::new(format!("the timestamp is not {}", crate::values::DATES))),
    }
}

pub(super) fn wire_type(scalar: Scalar) -> u32 {
    match scalar {
        Scalar::Double | Scalar::Fixed64 | Scalar::Sfixed64 => FIXED64,
        Scalar::Float | Scalar::Fixed32 | Scalar::Sfixed32 => FIXED32,
        Scalar::String | Scalar::Bytes => RUN,
        _ => VARINT,
    }
}

pub(super) fn tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    varint(u64::from(number << 3 | wire), out);
}

#[inline]
pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Where a message is declared, without the short form that its file's first has.
pub(super) fn places(path: &[usize], out: &mut Vec<u8>) {
    zigzag(path.len() as i64, out);
    path.iter().for_each(|place| zigzag(*place as i64, out));
}

pub(super) fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint((value << 1 ^ value >> 63) as u64, out);
}

pub(super) fn put_run(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes something behind its length, which is known only afterwards: most are short, and then
/// nothing moves.
pub(super) fn run(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let start = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - start - 1;
    let mut prefix = Vec::with_capacity(10);
    varint(length as u64, &mut prefix);
    match prefix.as_slice() {
        [short] => out[start] = *short,
        _ => {
            out.splice(start..=start, prefix);
        }
    }
    Ok(())
}
