//! Columns as Avro values: the columns of one batch bound to a schema, then written row by row.
//!
//! Binding resolves names, types and unions once a batch; a row is then a walk over typed slices
//! that appends to one buffer. Binding empty columns tells whether the types fit at all.

use super::cursor::Fault;
use super::json::{Style, decimal_bytes, put_bytes, put_long, write_json};
use super::schema::{Field, Id, Logical, Schema, Type};
use super::shape::{branch_names, leaf};
use crate::columns::{CHUNK, units_per_second};
use crate::values;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{NullBuffer, i256};
use arrow_schema::{DataType, IntervalUnit, TimeUnit};

/// Writes the values of one column (or of a field's default).
pub(crate) enum Put<'a> {
    Null,
    Default(Vec<u8>),
    /// In a union: the tag of null, the tag of the value.
    Optional(Option<NullBuffer>, i64, i64, Box<Put<'a>>),
    /// In a union without null: the tag of the value.
    Tagged(i64, Box<Put<'a>>),
    /// Nulls are rejected here.
    Required(NullBuffer, Box<Put<'a>>),
    Dictionary(Vec<usize>, Box<Put<'a>>),
    Boolean(&'a BooleanArray),
    Int(&'a [i32]),
    Long(&'a [i64]),
    /// Integers of another width, which must fit: `true` where 32 bits are the most.
    Integers(Vec<i64>, bool),
    Unsigned(&'a [u64]),
    /// Times `.1`, then divided by `.2`; `.3` where 32 bits are the most.
    Scaled(&'a [i64], i64, i64, bool),
    Days(&'a [i32], i64),
    Float(&'a [f32]),
    FloatToDouble(&'a [f32]),
    IntToFloat(&'a [i32]),
    IntToDouble(&'a [i32]),
    Double(&'a [f64]),
    Bytes(Slices<'a>),
    /// Bytes that must have this size.
    Fixed(Slices<'a>, usize),
    Enum(Slices<'a>, &'a [String]),
    Ip(&'a FixedSizeBinaryArray),
    UuidText(&'a FixedSizeBinaryArray),
    UuidFixed(Slices<'a>),
    /// Unscaled values times ten to the `.1`; size of the `fixed`; digits at most.
    Decimal128(&'a [i128], u32, Option<usize>, u8),
    Decimal256(&'a [i256], u32, Option<usize>, u8),
    Duration(&'a [IntervalMonthDayNano]),
    List(Offsets<'a>, Box<Put<'a>>),
    Map(Offsets<'a>, Slices<'a>, Box<Put<'a>>),
    Record(Vec<(&'a str, Put<'a>)>),
    /// A struct of branches: its nulls, the tag of null, and a tag and nulls for each branch.
    Branches(Option<NullBuffer>, Option<i64>, Vec<(i64, Option<NullBuffer>, Put<'a>)>),
    /// JSON text as a value of this type.
    Json(Slices<'a>, &'a Schema, Id),
}

/// Byte strings of any Arrow layout.
pub(crate) enum Slices<'a> {
    Short(&'a [i32], &'a [u8]),
    Long(&'a [i64], &'a [u8]),
    Text(&'a StringViewArray),
    Binary(&'a BinaryViewArray),
    Fixed(&'a FixedSizeBinaryArray),
}

pub(crate) enum Offsets<'a> {
    Short(&'a [i32]),
    Long(&'a [i64]),
}

impl Slices<'_> {
    /// Appends the bytes of a row behind their number; short ones as a whole chunk cut back.
    #[inline]
    fn put(&self, row: usize, out: &mut Vec<u8>) {
        if let Slices::Short(offsets, data) = self {
            let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
            let len = to - from;
            if len <= CHUNK
                && let Some(chunk) = data[from..].first_chunk::<CHUNK>()
            {
                // The number of so few bytes is a byte itself.
                out.push((len as u8) << 1);
                let end = out.len() + len;
                out.extend_from_slice(chunk);
                return out.truncate(end);
            }
        }
        put_bytes(self.get(row), out);
    }

    #[inline]
    fn get(&self, row: usize) -> &[u8] {
        match self {
            Slices::Short(offsets, data) => &data[offsets[row] as usize..offsets[row + 1] as usize],
            Slices::Long(offsets, data) => &data[offsets[row] as usize..offsets[row + 1] as usize],
            Slices::Text(array) => array.value(row).as_bytes(),
            Slices::Binary(array) => array.value(row),
            Slices::Fixed(array) => array.value(row),
        }
    }
}

impl Offsets<'_> {
    #[inline]
    fn get(&self, row: usize) -> (usize, usize) {
        match self {
            Offsets::Short(offsets) => (offsets[row] as usize, offsets[row + 1] as usize),
            Offsets::Long(offsets) => (offsets[row] as usize, offsets[row + 1] as usize),
        }
    }
}

impl Put<'_> {
    /// Appends the value of a row. After an error the buffer holds a part of it.
    pub fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Put::Optional(nulls, null, some, inner) => {
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    put_long(*null, out);
                } else {
                    put_long(*some, out);
                    inner.put(row, out)?;
                }
            }
            Put::Required(nulls, inner) => {
                if nulls.is_null(row) {
                    return Err(Fault::new("null, which the schema does not allow"));
                }
                inner.put(row, out)?;
            }
            Put::Tagged(tag, inner) => {
                put_long(*tag, out);
                inner.put(row, out)?;
            }
            Put::Bytes(slices) => slices.put(row, out),
            Put::Int(values) => put_long(values[row].into(), out),
            Put::Long(values) => put_long(values[row], out),
            Put::Double(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Put::Float(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Put::Boolean(values) => out.push(values.value(row).into()),
            Put::Null => {}
            Put::Default(bytes) => out.extend_from_slice(bytes),
            Put::Dictionary(keys, values) => values.put(keys[row], out)?,
            Put::Integers(values, narrow) => put_long(fit(values[row], *narrow)?, out),
            Put::Unsigned(values) => {
                let value = i64::try_from(values[row]);
                put_long(value.map_err(|_| out_of_range(values[row]))?, out);
            }
            Put::Scaled(values, times, per, narrow) => {
                let scaled = values[row].checked_mul(*times);
                let scaled = scaled.ok_or_else(|| out_of_range(values[row]))?.div_euclid(*per);
                put_long(fit(scaled, *narrow)?, out);
            }
            Put::Days(values, units) => put_long(i64::from(values[row]) * units, out),
            Put::FloatToDouble(values) => {
                out.extend_from_slice(&f64::from(values[row]).to_le_bytes());
            }
            Put::IntToFloat(values) => {
                out.extend_from_slice(&(values[row] as f32).to_le_bytes());
            }
            Put::IntToDouble(values) => {
                out.extend_from_slice(&f64::from(values[row]).to_le_bytes());
            }
            Put::Fixed(slices, size) => {
                let bytes = slices.get(row);
                if bytes.len() != *size {
                    let len = bytes.len();
                    return Err(Fault::new(format!("{len} bytes, where {size} are due")));
                }
                out.extend_from_slice(bytes);
            }
            Put::Enum(slices, symbols) => {
                let text = slices.get(row);
                let at = symbols.iter().position(|symbol| symbol.as_bytes() == text);
                let at = at.ok_or_else(|| {
                    let text = String::from_utf8_lossy(text);
                    let known = values::excerpt(&symbols.join(", "));
                    Fault::new(format!("`{}` is none of {known}", values::excerpt(&text)))
                })?;
                put_long(at as i64, out);
            }
            Put::Ip(array) => {
                put_bytes(values::ip_text(sixteen(array.value(row))?).as_bytes(), out)
            }
            Put::UuidText(array) => {
                put_bytes(values::uuid_text(&sixteen(array.value(row))?).as_bytes(), out);
            }
            Put::UuidFixed(slices) => {
                let text = String::from_utf8_lossy(slices.get(row));
                let uuid = values::parse_uuid(&text).ok_or_else(|| {
                    Fault::new(format!("`{}` is not a UUID", values::excerpt(&text)))
                })?;
                out.extend_from_slice(&uuid);
            }
            Put::Decimal128(values, zeros, size, digits) => {
                put_decimal(i256::from_i128(values[row]), *zeros, *size, *digits, out)?;
            }
            Put::Decimal256(values, zeros, size, digits) => {
                put_decimal(values[row], *zeros, *size, *digits, out)?;
            }
            Put::Duration(values) => {
                let value = values[row];
                let millis = value.nanoseconds / 1_000_000;
                for part in [value.months.into(), value.days.into(), millis] {
                    let part = u32::try_from(part)
                        .map_err(|_| Fault::new("an interval with a negative or too large part"))?;
                    out.extend_from_slice(&part.to_le_bytes());
                }
            }
            Put::List(offsets, items) => {
                let (from, to) = offsets.get(row);
                if from != to {
                    put_long((to - from) as i64, out);
                    for item in from..to {
                        items.put(item, out)?;
                    }
                }
                out.push(0);
            }
            Put::Map(offsets, keys, items) => {
                let (from, to) = offsets.get(row);
                if from != to {
                    put_long((to - from) as i64, out);
                    for item in from..to {
                        keys.put(item, out);
                        items.put(item, out)?;
                    }
                }
                out.push(0);
            }
            Put::Record(fields) => {
                for (name, field) in fields {
                    field.put(row, out).map_err(|fault| fault.within(name))?;
                }
            }
            Put::Branches(nulls, null, branches) => {
                let absent = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                let mut there = branches.iter().filter(|(_, nulls, _)| {
                    !absent && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
                });
                match (there.next(), there.next(), null) {
                    (Some((tag, _, branch)), None, _) => {
                        put_long(*tag, out);
                        branch.put(row, out)?;
                    }
                    (None, _, Some(null)) => put_long(*null, out),
                    (None, _, None) => {
                        return Err(Fault::new("null, which the schema does not allow"));
                    }
                    (Some(_), Some(_), _) => {
                        return Err(Fault::new("more than one branch of a union is set"));
                    }
                }
            }
            Put::Json(slices, schema, id) => {
                let value = serde_json::from_slice(slices.get(row))
                    .map_err(|error| Fault::new(format!("the text is not JSON: {error}")))?;
                write_json(schema, *id, &value, Style::Text, out).map_err(Fault::new)?;
            }
        }
        Ok(())
    }
}

fn fit(value: i64, narrow: bool) -> Result<i64, Fault> {
    if narrow && i32::try_from(value).is_err() {
        return Err(out_of_range(value));
    }
    Ok(value)
}

#[cold]
fn out_of_range(value: impl std::fmt::Display) -> Fault {
    Fault::new(format!("{value} is out of range"))
}

fn sixteen(bytes: &[u8]) -> Result<[u8; 16], Fault> {
    bytes.try_into().map_err(|_| Fault::new("an address is not 16 bytes"))
}

fn put_decimal(
    value: i256,
    zeros: u32,
    size: Option<usize>,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let ten = i256::from_i128(10);
    let scaled = ten.checked_pow(zeros).and_then(|factor| value.checked_mul(factor));
    let max = ten.checked_pow(digits.into());
    let bytes = scaled
        .filter(|v| max.is_none_or(|max| v.checked_abs().is_some_and(|v| v < max)))
        .and_then(|value| decimal_bytes(value, size))
        .ok_or_else(|| Fault::new(format!("a decimal of more than {digits} digits")))?;
    match size {
        Some(_) => out.extend_from_slice(&bytes),
        None => put_bytes(&bytes, out),
    }
    Ok(())
}

/// Binds columns to a schema and notes all that does not fit.
pub(crate) struct Binder<'a> {
    pub schema: &'a Schema,
    pub errors: Vec<String>,
}

impl<'a> Binder<'a> {
    /// The fields of a record, each with the column of its name.
    pub fn record(
        &mut self,
        fields: &'a [Field],
        names: impl Iterator<Item = &'a str> + Clone,
        columns: &'a [ArrayRef],
        path: &str,
    ) -> Put<'a> {
        let mut puts = Vec::with_capacity(fields.len());
        for field in fields {
            let at = names.clone().position(|name| name == field.name);
            let at = at.or_else(|| {
                names.clone().position(|name| super::derive::legal_name(name) == field.name)
            });
            let path = join(path, &field.name);
            let put = match (at, &field.default) {
                (Some(at), _) => self.bind(field.type_id, &columns[at], &path),
                (None, Some(default)) => self.default(field.type_id, default, &path),
                (None, None) => {
                    self.errors
                        .push(format!("field `{path}` has no column of its name and no default"));
                    None
                }
            };
            puts.extend(put.map(|put| (field.name.as_str(), put)));
        }
        for name in names {
            let fits =
                |field: &Field| field.name == name || field.name == super::derive::legal_name(name);
            if !fields.iter().any(fits) {
                let path = join(path, name);
                self.errors.push(format!("column `{path}` has no field of its name in the schema"));
            }
        }
        Put::Record(puts)
    }

    fn default(&mut self, id: Id, default: &serde_json::Value, path: &str) -> Option<Put<'a>> {
        let mut bytes = Vec::new();
        match write_json(self.schema, id, default, Style::Default, &mut bytes) {
            Ok(()) => Some(Put::Default(bytes)),
            Err(why) => {
                self.errors.push(format!("the default of field `{path}`: {why}"));
                None
            }
        }
    }

    fn bind(&mut self, id: Id, array: &'a ArrayRef, path: &str) -> Option<Put<'a>> {
        if let Type::Union(branches) = self.schema.kind(id) {
            return self.union(id, branches, array, path);
        }
        let put = self.solid(id, array, path)?;
        Some(match array.logical_nulls() {
            Some(nulls) if nulls.null_count() > 0 && !matches!(put, Put::Null) => {
                Put::Required(nulls, Box::new(put))
            }
            _ => put,
        })
    }

    fn union(
        &mut self,
        id: Id,
        branches: &'a [Id],
        array: &'a ArrayRef,
        path: &str,
    ) -> Option<Put<'a>> {
        let schema = self.schema;
        let null = branches.iter().position(|b| matches!(schema.kind(*b), Type::Null));
        let tag = |at: usize| at as i64;
        if let (Some(null), DataType::Null) = (null, array.data_type()) {
            return Some(Put::Tagged(tag(null), Box::new(Put::Null)));
        }
        let solid: Vec<usize> = (0..branches.len()).filter(|at| Some(*at) != null).collect();
        if let (DataType::Struct(fields), true) = (array.data_type(), solid.len() > 1) {
            let ids: Vec<Id> = solid.iter().map(|at| branches[*at]).collect();
            let names = branch_names(schema, &ids);
            if fields.iter().all(|field| names.contains(field.name())) {
                let array = array.as_struct();
                let mut puts = Vec::with_capacity(fields.len());
                for (field, column) in fields.iter().zip(array.columns()) {
                    let Some(at) = names.iter().position(|name| name == field.name()) else {
                        continue;
                    };
                    let put = self.solid(ids[at], column, &join(path, field.name()))?;
                    puts.push((tag(solid[at]), column.logical_nulls(), put));
                }
                return Some(Put::Branches(array.nulls().cloned(), null.map(tag), puts));
            }
        }
        let exact = |at: &usize| {
            let node = schema.node(branches[*at]);
            !matches!(node.kind, Type::Enum(..))
                && leaf(&node.kind, node.logical) == *array.data_type()
        };
        let (first, second): (Vec<usize>, Vec<usize>) = solid.iter().partition(|at| exact(at));
        for at in first.into_iter().chain(second) {
            let before = self.errors.len();
            if let Some(put) = self.solid(branches[at], array, path)
                && self.errors.len() == before
            {
                let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
                return Some(match (null, nulls) {
                    (Some(null), nulls) => Put::Optional(nulls, tag(null), tag(at), Box::new(put)),
                    (None, Some(nulls)) => {
                        Put::Required(nulls, Box::new(Put::Tagged(tag(at), Box::new(put))))
                    }
                    (None, None) => Put::Tagged(tag(at), Box::new(put)),
                });
            }
            // Of a single branch its own complaint says more than that nothing fits.
            if solid.len() > 1 {
                self.errors.truncate(before);
            } else {
                return None;
            }
        }
        self.mismatch(id, array, path)
    }

    fn solid(&mut self, id: Id, array: &'a ArrayRef, path: &str) -> Option<Put<'a>> {
        if let Some(dictionary) = array.as_any_dictionary_opt() {
            let values = self.solid(id, dictionary.values(), path)?;
            let keys = match dictionary.values().is_empty() {
                true => vec![0; array.len()],
                false => dictionary.normalized_keys(),
            };
            // A null among the dictionary's values shows in the logical nulls of the whole.
            return Some(Put::Dictionary(keys, Box::new(values)));
        }
        let schema = self.schema;
        let node = schema.node(id);
        let put = match (&node.kind, array.data_type()) {
            (Type::Null, DataType::Null) => Put::Null,
            (Type::Boolean, DataType::Boolean) => Put::Boolean(array.as_boolean()),
            (Type::Int, other) => match (node.logical, other) {
                (None, DataType::Int32) => Put::Int(array.as_primitive::<Int32Type>().values()),
                (None, _) => integers(array, true).or_mismatch(self, id, array, path)?,
                (Some(Logical::Date), DataType::Date32) => {
                    Put::Int(array.as_primitive::<Date32Type>().values())
                }
                (Some(Logical::TimeMillis), _) => {
                    times(array, 1_000, true).or_mismatch(self, id, array, path)?
                }
                _ => return self.mismatch(id, array, path),
            },
            (Type::Long, other) => match (node.logical, other) {
                (None, DataType::Int64) => Put::Long(array.as_primitive::<Int64Type>().values()),
                (None, DataType::Int32) => Put::Int(array.as_primitive::<Int32Type>().values()),
                (None, DataType::UInt64) => {
                    Put::Unsigned(array.as_primitive::<UInt64Type>().values())
                }
                (None, _) => integers(array, false).or_mismatch(self, id, array, path)?,
                (Some(Logical::TimeMicros), _) => {
                    times(array, 1_000_000, false).or_mismatch(self, id, array, path)?
                }
                (Some(logical), _) => {
                    let DataType::Timestamp(unit, _) = leaf(&node.kind, Some(logical)) else {
                        return self.mismatch(id, array, path);
                    };
                    timestamps(array, units_per_second(unit)).or_mismatch(self, id, array, path)?
                }
            },
            (Type::Float, DataType::Float32) => {
                Put::Float(array.as_primitive::<Float32Type>().values())
            }
            (Type::Double, DataType::Float64) => {
                Put::Double(array.as_primitive::<Float64Type>().values())
            }
            (Type::Double, DataType::Float32) => {
                Put::FloatToDouble(array.as_primitive::<Float32Type>().values())
            }
            (Type::Double, DataType::Int32) => {
                Put::IntToDouble(array.as_primitive::<Int32Type>().values())
            }
            (Type::Float, DataType::Int32) => {
                Put::IntToFloat(array.as_primitive::<Int32Type>().values())
            }
            (Type::Bytes | Type::Fixed(..), other) => {
                let size = match node.kind {
                    Type::Fixed(_, size) => Some(size),
                    _ => None,
                };
                match (node.logical, other) {
                    (Some(Logical::Decimal { precision, scale }), DataType::Decimal128(_, s))
                        if *s <= scale =>
                    {
                        let values = array.as_primitive::<Decimal128Type>().values();
                        Put::Decimal128(values, (scale - s) as u32, size, precision)
                    }
                    (Some(Logical::Decimal { precision, scale }), DataType::Decimal256(_, s))
                        if *s <= scale =>
                    {
                        let values = array.as_primitive::<Decimal256Type>().values();
                        Put::Decimal256(values, (scale - s) as u32, size, precision)
                    }
                    (Some(Logical::Decimal { .. }), _) => return self.mismatch(id, array, path),
                    (Some(Logical::Duration), DataType::Interval(IntervalUnit::MonthDayNano)) => {
                        Put::Duration(array.as_primitive::<IntervalMonthDayNanoType>().values())
                    }
                    (Some(Logical::Duration), _) => return self.mismatch(id, array, path),
                    (Some(Logical::Uuid), _) if text(array).is_some() => {
                        Put::UuidFixed(text(array)?)
                    }
                    _ => match (bytes(array), size) {
                        (Some(slices), Some(size)) => Put::Fixed(slices, size),
                        (Some(slices), None) => Put::Bytes(slices),
                        (None, _) => return self.mismatch(id, array, path),
                    },
                }
            }
            (Type::String, DataType::FixedSizeBinary(16)) => match node.logical {
                Some(Logical::Uuid) => Put::UuidText(array.as_fixed_size_binary()),
                _ => Put::Ip(array.as_fixed_size_binary()),
            },
            (Type::String, _) => match text(array) {
                Some(slices) => Put::Bytes(slices),
                None => return self.mismatch(id, array, path),
            },
            (Type::Enum(_, symbols, _), _) => match text(array) {
                Some(slices) => Put::Enum(slices, symbols),
                None => return self.mismatch(id, array, path),
            },
            (Type::Array(item), DataType::List(_)) => {
                let list = array.as_list::<i32>();
                let items = self.bind(*item, list.values(), &join(path, "[]"))?;
                Put::List(Offsets::Short(list.value_offsets()), Box::new(items))
            }
            (Type::Array(item), DataType::LargeList(_)) => {
                let list = array.as_list::<i64>();
                let items = self.bind(*item, list.values(), &join(path, "[]"))?;
                Put::List(Offsets::Long(list.value_offsets()), Box::new(items))
            }
            (Type::Map(value), DataType::Map(..)) => {
                let map = array.as_map();
                let Some(keys) = text(map.keys()) else { return self.mismatch(id, array, path) };
                let values = self.bind(*value, map.values(), &join(path, "{}"))?;
                Put::Map(Offsets::Short(map.value_offsets()), keys, Box::new(values))
            }
            (Type::Record(_, fields), DataType::Struct(_)) => {
                let array = array.as_struct();
                let names = array.fields().iter().map(|field| field.name().as_str());
                self.record(fields, names, array.columns(), path)
            }
            (Type::Record(..), _) if text(array).is_some() && schema.is_recursive(id) => {
                Put::Json(text(array)?, schema, id)
            }
            _ => return self.mismatch(id, array, path),
        };
        Some(put)
    }

    fn mismatch(&mut self, id: Id, array: &dyn Array, path: &str) -> Option<Put<'a>> {
        let mut wanted = self.schema.describe(id);
        if let Some(logical) = self.schema.node(id).logical {
            wanted = format!("{wanted} ({logical:?})");
        }
        self.errors.push(format!(
            "column `{path}` of type {} cannot be written as {wanted}",
            millstream_core::types::name(array.data_type()),
        ));
        None
    }
}

trait OrMismatch<'a> {
    fn or_mismatch(
        self,
        binder: &mut Binder<'a>,
        id: Id,
        array: &dyn Array,
        path: &str,
    ) -> Option<Put<'a>>;
}

impl<'a> OrMismatch<'a> for Option<Put<'a>> {
    fn or_mismatch(
        self,
        binder: &mut Binder<'a>,
        id: Id,
        array: &dyn Array,
        path: &str,
    ) -> Option<Put<'a>> {
        self.or_else(|| binder.mismatch(id, array, path))
    }
}

fn integers(array: &ArrayRef, narrow: bool) -> Option<Put<'_>> {
    macro_rules! widened {
        ($type:ty) => {
            array.as_primitive::<$type>().values().iter().map(|v| i64::from(*v)).collect()
        };
    }
    let values: Vec<i64> = match array.data_type() {
        DataType::Int8 => widened!(Int8Type),
        DataType::Int16 => widened!(Int16Type),
        DataType::Int32 => widened!(Int32Type),
        DataType::Int64 => widened!(Int64Type),
        DataType::UInt8 => widened!(UInt8Type),
        DataType::UInt16 => widened!(UInt16Type),
        DataType::UInt32 => widened!(UInt32Type),
        _ => return None,
    };
    Some(Put::Integers(values, narrow))
}

fn times(array: &ArrayRef, units: i64, narrow: bool) -> Option<Put<'_>> {
    let (values, own): (&[i64], i64) = match array.data_type() {
        DataType::Time64(TimeUnit::Microsecond) => {
            (array.as_primitive::<Time64MicrosecondType>().values(), 1_000_000)
        }
        DataType::Time64(TimeUnit::Nanosecond) => {
            (array.as_primitive::<Time64NanosecondType>().values(), 1_000_000_000)
        }
        DataType::Time32(TimeUnit::Millisecond) => {
            let values = array.as_primitive::<Time32MillisecondType>().values();
            return Some(Put::Days(values, units / 1_000));
        }
        DataType::Time32(TimeUnit::Second) => {
            return Some(Put::Days(array.as_primitive::<Time32SecondType>().values(), units));
        }
        _ => return None,
    };
    let (times, per) = ratio(units, own);
    Some(Put::Scaled(values, times, per, narrow))
}

fn timestamps(array: &ArrayRef, units: i64) -> Option<Put<'_>> {
    let (values, own): (&[i64], i64) = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            (array.as_primitive::<TimestampSecondType>().values(), 1)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            (array.as_primitive::<TimestampMillisecondType>().values(), 1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            (array.as_primitive::<TimestampMicrosecondType>().values(), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            (array.as_primitive::<TimestampNanosecondType>().values(), 1_000_000_000)
        }
        DataType::Date32 => {
            // Nanoseconds overflow beyond 292 years; a date column is that of days.
            let days = array.as_primitive::<Date32Type>().values();
            return (units <= 1_000_000).then_some(Put::Days(days, 86_400 * units));
        }
        _ => return None,
    };
    Some(match ratio(units, own) {
        (1, 1) => Put::Long(values),
        (times, per) => Put::Scaled(values, times, per, false),
    })
}

fn ratio(wanted: i64, own: i64) -> (i64, i64) {
    if wanted >= own { (wanted / own, 1) } else { (1, own / wanted) }
}

fn text(array: &ArrayRef) -> Option<Slices<'_>> {
    Some(match array.data_type() {
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            Slices::Short(array.value_offsets(), array.value_data())
        }
        DataType::LargeUtf8 => {
            let array = array.as_string::<i64>();
            Slices::Long(array.value_offsets(), array.value_data())
        }
        DataType::Utf8View => Slices::Text(array.as_string_view()),
        _ => return None,
    })
}

fn bytes(array: &ArrayRef) -> Option<Slices<'_>> {
    Some(match array.data_type() {
        DataType::Binary => {
            let array = array.as_binary::<i32>();
            Slices::Short(array.value_offsets(), array.value_data())
        }
        DataType::LargeBinary => {
            let array = array.as_binary::<i64>();
            Slices::Long(array.value_offsets(), array.value_data())
        }
        DataType::BinaryView => Slices::Binary(array.as_binary_view()),
        DataType::FixedSizeBinary(_) => Slices::Fixed(array.as_fixed_size_binary()),
        _ => return None,
    })
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
