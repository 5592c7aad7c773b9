//! The columns of one batch bound to a schema: names, types and unions resolved, once a batch.
//! Binding empty columns tells whether the types fit at all.

use super::json::{Style, write_json};
use super::schema::{Field, Id, Logical, Schema, Type};
use super::shape::{branch_names, leaf};
use super::write::{Offsets, Put, Slices};
use crate::columns::units_per_second;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, IntervalUnit, TimeUnit};

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
                    timestamps(array, unit).or_mismatch(self, id, array, path)?
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
    Some(Put::Scaled(values, times, per, narrow, None))
}

fn timestamps(array: &ArrayRef, unit: TimeUnit) -> Option<Put<'_>> {
    let units = units_per_second(unit);
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
        (times, per) => Put::Scaled(values, times, per, false, Some(unit)),
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
