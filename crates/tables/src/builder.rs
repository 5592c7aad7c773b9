//! Columns under construction, filled from stored keys and rows.

use crate::{Error, Result};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int32Array, Int64Array, ListArray, MapArray, RecordBatch,
    RecordBatchOptions, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow_buffer::{BooleanBufferBuilder, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Fields, SchemaRef, TimeUnit};
use std::sync::Arc;

/// How a type is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    Bool,
    I32,
    I64,
    I128,
    F32,
    F64,
    Ip,
    Bytes,
    List,
    Struct,
}

pub(crate) struct ColumnBuilder {
    data_type: DataType,
    build: Build,
    nulls: NullBufferBuilder,
    values: Values,
    children: Vec<ColumnBuilder>,
}

enum Values {
    None,
    Bool(BooleanBufferBuilder),
    I32(Vec<i32>),
    I64(Vec<i64>),
    I128(Vec<i128>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Ip(Vec<u8>),
    Bytes(Vec<i32>, Vec<u8>),
    Offsets(Vec<i32>),
}

impl ColumnBuilder {
    pub fn new(data_type: &DataType) -> Self {
        let (build, values, children) = match data_type {
            DataType::Boolean => {
                (Build::Bool, Values::Bool(BooleanBufferBuilder::new(0)), Vec::new())
            }
            DataType::Int32 | DataType::Date32 => (Build::I32, Values::I32(Vec::new()), Vec::new()),
            DataType::Decimal128(_, _) => (Build::I128, Values::I128(Vec::new()), Vec::new()),
            DataType::Float32 => (Build::F32, Values::F32(Vec::new()), Vec::new()),
            DataType::Float64 => (Build::F64, Values::F64(Vec::new()), Vec::new()),
            DataType::FixedSizeBinary(_) => (Build::Ip, Values::Ip(Vec::new()), Vec::new()),
            DataType::Utf8 | DataType::Binary => {
                (Build::Bytes, Values::Bytes(vec![0], Vec::new()), Vec::new())
            }
            DataType::List(item) | DataType::Map(item, _) => {
                let items = vec![Self::new(item.data_type())];
                (Build::List, Values::Offsets(vec![0]), items)
            }
            DataType::Struct(fields) => {
                let fields = fields.iter().map(|f| Self::new(f.data_type())).collect();
                (Build::Struct, Values::None, fields)
            }
            _ => (Build::I64, Values::I64(Vec::new()), Vec::new()),
        };
        let nulls = NullBufferBuilder::new(0);
        Self { data_type: data_type.clone(), build, nulls, values, children }
    }

    pub fn build(&self) -> Build {
        self.build
    }

    /// The items of a list (one), or the fields of a struct.
    pub fn children(&mut self) -> &mut [ColumnBuilder] {
        &mut self.children
    }

    pub fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::None => self.children.iter_mut().for_each(ColumnBuilder::push_null),
            Values::Bool(values) => values.append(false),
            Values::I32(values) => values.push(0),
            Values::I64(values) => values.push(0),
            Values::I128(values) => values.push(0),
            Values::F32(values) => values.push(0.0),
            Values::F64(values) => values.push(0.0),
            Values::Ip(values) => values.extend_from_slice(&[0; 16]),
            Values::Bytes(offsets, _) | Values::Offsets(offsets) => {
                let end = offsets[offsets.len() - 1];
                offsets.push(end);
            }
        }
    }

    pub fn push_bool(&mut self, value: bool) -> Result<()> {
        let Values::Bool(values) = &mut self.values else { return Err(mistyped()) };
        values.append(value);
        self.present()
    }

    pub fn push_i32(&mut self, value: i32) -> Result<()> {
        let Values::I32(values) = &mut self.values else { return Err(mistyped()) };
        values.push(value);
        self.present()
    }

    pub fn push_i64(&mut self, value: i64) -> Result<()> {
        let Values::I64(values) = &mut self.values else { return Err(mistyped()) };
        values.push(value);
        self.present()
    }

    pub fn push_i128(&mut self, value: i128) -> Result<()> {
        let Values::I128(values) = &mut self.values else { return Err(mistyped()) };
        values.push(value);
        self.present()
    }

    pub fn push_f32(&mut self, value: f32) -> Result<()> {
        let Values::F32(values) = &mut self.values else { return Err(mistyped()) };
        values.push(value);
        self.present()
    }

    pub fn push_f64(&mut self, value: f64) -> Result<()> {
        let Values::F64(values) = &mut self.values else { return Err(mistyped()) };
        values.push(value);
        self.present()
    }

    /// A string, bytes, or an address.
    pub fn push_bytes(&mut self, value: &[u8]) -> Result<()> {
        match &mut self.values {
            Values::Bytes(offsets, bytes) => {
                bytes.extend_from_slice(value);
                offsets.push(offset(bytes.len())?);
            }
            Values::Ip(bytes) if value.len() == 16 => bytes.extend_from_slice(value),
            _ => return Err(mistyped()),
        }
        self.present()
    }

    /// The items pushed since the last list are one list.
    pub fn close_list(&mut self) -> Result<()> {
        let (Values::Offsets(offsets), [items]) = (&mut self.values, &*self.children) else {
            return Err(mistyped());
        };
        offsets.push(offset(items.nulls.len())?);
        self.present()
    }

    /// A value was pushed to each field.
    pub fn close_struct(&mut self) -> Result<()> {
        self.present()
    }

    fn present(&mut self) -> Result<()> {
        self.nulls.append_non_null();
        Ok(())
    }

    pub fn finish(mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        let offsets = |offsets: Vec<i32>| OffsetBuffer::new(ScalarBuffer::from(offsets));
        let mut children = self.children.into_iter();
        let array = (|| -> Result<ArrayRef, ArrowError> {
            Ok(match (self.values, &self.data_type) {
                (Values::Bool(mut values), _) => {
                    Arc::new(BooleanArray::new(values.finish(), nulls))
                }
                (Values::I32(values), DataType::Date32) => {
                    Arc::new(Date32Array::new(values.into(), nulls))
                }
                (Values::I32(values), _) => Arc::new(Int32Array::new(values.into(), nulls)),
                (Values::I64(values), DataType::Time64(_)) => {
                    Arc::new(Time64MicrosecondArray::new(values.into(), nulls))
                }
                (Values::I64(values), DataType::Timestamp(TimeUnit::Millisecond, zone)) => {
                    let array = TimestampMillisecondArray::new(values.into(), nulls);
                    Arc::new(array.with_timezone_opt(zone.clone()))
                }
                (Values::I64(values), DataType::Timestamp(_, zone)) => {
                    let array = TimestampMicrosecondArray::new(values.into(), nulls);
                    Arc::new(array.with_timezone_opt(zone.clone()))
                }
                (Values::I64(values), _) => Arc::new(Int64Array::new(values.into(), nulls)),
                (Values::I128(values), data_type) => {
                    let array = Decimal128Array::new(values.into(), nulls);
                    Arc::new(array.with_data_type(data_type.clone()))
                }
                (Values::F32(values), _) => Arc::new(Float32Array::new(values.into(), nulls)),
                (Values::F64(values), _) => Arc::new(Float64Array::new(values.into(), nulls)),
                (Values::Ip(values), _) => {
                    Arc::new(FixedSizeBinaryArray::try_new(16, values.into(), nulls)?)
                }
                (Values::Bytes(ends, bytes), DataType::Utf8) => {
                    Arc::new(StringArray::try_new(offsets(ends), bytes.into(), nulls)?)
                }
                (Values::Bytes(ends, bytes), _) => {
                    Arc::new(BinaryArray::try_new(offsets(ends), bytes.into(), nulls)?)
                }
                (Values::Offsets(ends), DataType::Map(entries, sorted)) => {
                    let rows = children.next().map(ColumnBuilder::finish_struct);
                    let rows = rows.expect("a map has entries")?;
                    Arc::new(MapArray::try_new(
                        entries.clone(),
                        offsets(ends),
                        rows,
                        nulls,
                        *sorted,
                    )?)
                }
                (Values::Offsets(ends), DataType::List(item)) => {
                    let items = children.next().expect("a list has items");
                    let items = items.finish().map_err(external)?;
                    Arc::new(ListArray::try_new(item.clone(), offsets(ends), items, nulls)?)
                }
                (_, DataType::Struct(fields)) => {
                    Arc::new(structs(fields.clone(), children, nulls)?)
                }
                (_, other) => unreachable!("a column of the type {other} is built by its own arm"),
            })
        })();
        array.map_err(|error| Error::Damaged(error.to_string()))
    }

    fn finish_struct(mut self) -> Result<StructArray, ArrowError> {
        let nulls = self.nulls.finish();
        match &self.data_type {
            DataType::Struct(fields) => structs(fields.clone(), self.children.into_iter(), nulls),
            _ => unreachable!("the entries of a map are a struct"),
        }
    }
}

fn structs(
    fields: Fields,
    children: impl Iterator<Item = ColumnBuilder>,
    nulls: Option<arrow_buffer::NullBuffer>,
) -> Result<StructArray, ArrowError> {
    let columns =
        children.map(|child| child.finish().map_err(external)).collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new(fields, columns, nulls)
}

fn offset(end: usize) -> Result<i32> {
    i32::try_from(end).map_err(|_| {
        Error::refused("the rows asked for are more than 2 GiB; ask for fewer at a time")
    })
}

fn mistyped() -> Error {
    Error::Damaged("a value is not of the type of its column".into())
}

fn external(error: Error) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

/// The builders' rows as one batch of `rows` rows, with or without columns.
pub(crate) fn batch(
    schema: &SchemaRef,
    builders: Vec<ColumnBuilder>,
    rows: usize,
) -> Result<RecordBatch> {
    let columns = builders.into_iter().map(ColumnBuilder::finish).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|error| Error::Damaged(error.to_string()))
}
