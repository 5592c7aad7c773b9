//! Columns under construction: Arrow arrays that grow value by value and can be cut back to a row.
//!
//! A decoder that fails in the middle of a record leaves its columns uneven; [`Column::truncate`]
//! to the number of whole rows makes them even again.

use arrow_array::types::IntervalMonthDayNano;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, MapArray, NullArray,
    StringArray, StructArray, make_array,
};
use arrow_buffer::{
    BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer, i256,
};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType, FieldRef, Fields, IntervalUnit, TimeUnit};
use std::sync::Arc;

/// One column and whatever is nested in it.
#[derive(Debug)]
pub(crate) struct Column {
    pub kind: Kind,
    /// `None` when the column cannot hold nulls.
    pub nulls: Option<NullBufferBuilder>,
    data_type: DataType,
    /// Rows of the batch before, which is what the next one is given room for.
    rows_expected: usize,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Null(usize),
    Bool(BooleanBufferBuilder),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I128(Vec<i128>),
    I256(Vec<i256>),
    Interval(Vec<IntervalMonthDayNano>),
    Bytes(Runs),
    Str(Runs),
    Fixed(usize, Vec<u8>),
    List(Vec<i32>, Box<Column>),
    Map(Vec<i32>, Runs, Box<Column>),
    Struct(Vec<Column>),
    /// Structs without a field: only their number is kept.
    Hollow(usize),
}

/// Byte strings laid end to end, as Arrow holds them.
#[derive(Debug)]
pub(crate) struct Runs {
    pub offsets: Vec<i32>,
    pub data: Vec<u8>,
}

/// How long a short string is.
pub(crate) const CHUNK: usize = 32;

/// A column is full: its offsets count to 2 GiB.
#[derive(Debug)]
pub(crate) struct Full;

impl Runs {
    fn new() -> Self {
        Self { offsets: vec![0], data: Vec::new() }
    }

    /// Appends bytes that came from the input, whose total is known to be under 2 GiB.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.offsets.push(self.data.len() as i32);
    }

    /// Appends bytes that may be more than the input had.
    #[inline]
    pub fn push_grown(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if self.data.len() + bytes.len() > i32::MAX as usize {
            return Err(Full);
        }
        self.push(bytes);
        Ok(())
    }

    /// Appends the first `len` bytes of `rest`, which may be longer. A short one is copied as a
    /// whole chunk and cut back: that is a few stores in place of a call.
    #[inline]
    pub fn push_from(&mut self, rest: &[u8], len: usize) {
        match rest.first_chunk::<CHUNK>() {
            Some(chunk) if len <= CHUNK => {
                let end = self.data.len() + len;
                self.data.extend_from_slice(chunk);
                self.data.truncate(end);
            }
            _ => self.data.extend_from_slice(&rest[..len]),
        }
        self.offsets.push(self.data.len() as i32);
    }

    fn push_empty(&mut self) {
        self.offsets.push(self.data.len() as i32);
    }

    fn truncate(&mut self, len: usize) {
        if self.offsets.len() > len + 1 {
            self.offsets.truncate(len + 1);
        }
        self.data.truncate(self.offsets[self.offsets.len() - 1] as usize);
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        // The next batch is most likely of about this size.
        let offsets = Vec::with_capacity(self.offsets.len());
        let data = Vec::with_capacity(self.data.len() + self.data.len() / 8 + CHUNK);
        let offsets = std::mem::replace(&mut self.offsets, offsets);
        self.offsets.push(0);
        let data = std::mem::replace(&mut self.data, data);
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), Buffer::from_vec(data))
    }
}

impl Column {
    /// A column for values of this type; `None` for a type that no format here produces.
    pub fn new(data_type: &DataType, nullable: bool) -> Option<Self> {
        let kind = match data_type {
            DataType::Null => Kind::Null(0),
            DataType::Boolean => Kind::Bool(BooleanBufferBuilder::new(0)),
            DataType::Int32 | DataType::Date32 => Kind::I32(Vec::new()),
            DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(_, _) => {
                Kind::I64(Vec::new())
            }
            DataType::Float32 => Kind::F32(Vec::new()),
            DataType::Float64 => Kind::F64(Vec::new()),
            DataType::Decimal128(_, _) => Kind::I128(Vec::new()),
            DataType::Decimal256(_, _) => Kind::I256(Vec::new()),
            DataType::Interval(IntervalUnit::MonthDayNano) => Kind::Interval(Vec::new()),
            DataType::Binary => Kind::Bytes(Runs::new()),
            DataType::Utf8 => Kind::Str(Runs::new()),
            DataType::FixedSizeBinary(width) => {
                Kind::Fixed(usize::try_from(*width).ok()?, Vec::new())
            }
            DataType::List(item) => Kind::List(vec![0], Box::new(Self::of(item)?)),
            DataType::Map(entries, _) => {
                let (_, value) = entry_fields(entries)?;
                Kind::Map(vec![0], Runs::new(), Box::new(Self::of(value)?))
            }
            DataType::Struct(fields) if fields.is_empty() => Kind::Hollow(0),
            DataType::Struct(fields) => {
                Kind::Struct(fields.iter().map(Self::of).collect::<Option<_>>()?)
            }
            _ => return None,
        };
        let nulls = (nullable && *data_type != DataType::Null).then(|| NullBufferBuilder::new(0));
        Some(Self { kind, nulls, data_type: data_type.clone(), rows_expected: 0 })
    }

    pub fn of(field: &FieldRef) -> Option<Self> {
        Self::new(field.data_type(), field.is_nullable())
    }

    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Null(len) | Kind::Hollow(len) => *len,
            Kind::Bool(values) => values.len(),
            Kind::I32(values) => values.len(),
            Kind::I64(values) => values.len(),
            Kind::F32(values) => values.len(),
            Kind::F64(values) => values.len(),
            Kind::I128(values) => values.len(),
            Kind::I256(values) => values.len(),
            Kind::Interval(values) => values.len(),
            Kind::Bytes(runs) | Kind::Str(runs) => runs.offsets.len() - 1,
            Kind::Fixed(width, data) => data.len().checked_div(*width).unwrap_or(0),
            Kind::List(offsets, _) | Kind::Map(offsets, _, _) => offsets.len() - 1,
            Kind::Struct(children) => children.first().map_or(0, Column::len),
        }
    }

    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Notes that the value just appended is there.
    #[inline]
    pub fn valid(&mut self) {
        if let Some(nulls) = &mut self.nulls {
            nulls.append_non_null();
        }
    }

    pub fn is_nullable(&self) -> bool {
        self.nulls.is_some() || matches!(self.kind, Kind::Null(_))
    }

    /// Appends a null; in a column without nulls, a value that is never looked at.
    pub fn append_null(&mut self) {
        if let Some(nulls) = &mut self.nulls {
            nulls.append_null();
        }
        match &mut self.kind {
            Kind::Null(len) | Kind::Hollow(len) => *len += 1,
            Kind::Bool(values) => values.append(false),
            Kind::I32(values) => values.push(0),
            Kind::I64(values) => values.push(0),
            Kind::F32(values) => values.push(0.0),
            Kind::F64(values) => values.push(0.0),
            Kind::I128(values) => values.push(0),
            Kind::I256(values) => values.push(i256::ZERO),
            Kind::Interval(values) => values.push(IntervalMonthDayNano::ZERO),
            Kind::Bytes(runs) | Kind::Str(runs) => runs.push_empty(),
            Kind::Fixed(width, data) => data.resize(data.len() + *width, 0),
            Kind::List(offsets, _) | Kind::Map(offsets, _, _) => {
                offsets.push(offsets[offsets.len() - 1]);
            }
            Kind::Struct(children) => children.iter_mut().for_each(Column::append_null),
        }
    }

    /// Cuts back to `len` values, also where nested columns are uneven.
    pub fn truncate(&mut self, len: usize) {
        if let Some(nulls) = &mut self.nulls {
            nulls.truncate(len);
        }
        match &mut self.kind {
            Kind::Null(count) | Kind::Hollow(count) => *count = len.min(*count),
            Kind::Bool(values) => values.truncate(len),
            Kind::I32(values) => values.truncate(len),
            Kind::I64(values) => values.truncate(len),
            Kind::F32(values) => values.truncate(len),
            Kind::F64(values) => values.truncate(len),
            Kind::I128(values) => values.truncate(len),
            Kind::I256(values) => values.truncate(len),
            Kind::Interval(values) => values.truncate(len),
            Kind::Bytes(runs) | Kind::Str(runs) => runs.truncate(len),
            Kind::Fixed(width, data) => data.truncate(len * *width),
            Kind::List(offsets, item) => {
                offsets.truncate(len + 1);
                item.truncate(offsets[offsets.len() - 1] as usize);
            }
            Kind::Map(offsets, keys, values) => {
                offsets.truncate(len + 1);
                keys.truncate(offsets[offsets.len() - 1] as usize);
                values.truncate(offsets[offsets.len() - 1] as usize);
            }
            Kind::Struct(children) => children.iter_mut().for_each(|c| c.truncate(len)),
        }
    }

    /// Makes room for as many rows as there were the last time.
    pub fn reserve(&mut self, rows: usize) {
        let rows = rows.max(self.rows_expected.min(rows * 16));
        match &mut self.kind {
            Kind::Null(_) | Kind::Hollow(_) | Kind::Bool(_) => {}
            Kind::I32(values) => values.reserve(rows),
            Kind::I64(values) => values.reserve(rows),
            Kind::F32(values) => values.reserve(rows),
            Kind::F64(values) => values.reserve(rows),
            Kind::I128(values) => values.reserve(rows),
            Kind::I256(values) => values.reserve(rows),
            Kind::Interval(values) => values.reserve(rows),
            Kind::Bytes(runs) | Kind::Str(runs) => runs.offsets.reserve(rows),
            Kind::Fixed(width, data) => data.reserve(rows * *width),
            Kind::List(offsets, item) => {
                offsets.reserve(rows);
                item.reserve(0);
            }
            Kind::Map(offsets, _, values) => {
                offsets.reserve(rows);
                values.reserve(0);
            }
            Kind::Struct(children) => children.iter_mut().for_each(|c| c.reserve(rows)),
        }
    }

    /// The array of what was appended; the column is empty again after it. The only input that
    /// makes this fail is text that is not UTF-8.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let len = self.len();
        let nulls = self.nulls.as_mut().and_then(NullBufferBuilder::finish);
        self.finish_with(len, nulls)
    }

    fn finish_with(
        &mut self,
        len: usize,
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef, ArrowError> {
        self.rows_expected = len;
        let fixed = |buffer: Buffer| -> Result<ArrayRef, ArrowError> {
            let data = ArrayData::builder(self.data_type.clone())
                .len(len)
                .add_buffer(buffer)
                .nulls(nulls.clone())
                .build()?;
            Ok(make_array(data))
        };
        Ok(match &mut self.kind {
            Kind::Null(count) => {
                *count = 0;
                Arc::new(NullArray::new(len))
            }
            Kind::Hollow(count) => {
                *count = 0;
                let fields = Fields::empty();
                Arc::new(StructArray::try_new_with_length(fields, Vec::new(), nulls, len)?)
            }
            Kind::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Kind::I32(values) => fixed(take(values).into())?,
            Kind::I64(values) => fixed(take(values).into())?,
            Kind::F32(values) => fixed(take(values).into())?,
            Kind::F64(values) => fixed(take(values).into())?,
            Kind::I128(values) => fixed(take(values).into())?,
            Kind::I256(values) => fixed(take(values).into())?,
            Kind::Interval(values) => fixed(take(values).into())?,
            Kind::Bytes(runs) => {
                let (offsets, data) = runs.take();
                Arc::new(BinaryArray::try_new(offsets, data, nulls)?)
            }
            Kind::Str(runs) => {
                let (offsets, data) = runs.take();
                Arc::new(StringArray::try_new(offsets, data, nulls)?)
            }
            Kind::Fixed(width, data) => {
                let data = Buffer::from_vec(std::mem::take(data));
                Arc::new(FixedSizeBinaryArray::try_new(*width as i32, data, nulls)?)
            }
            Kind::List(offsets, item) => {
                let DataType::List(field) = &self.data_type else {
                    return Err(mismatch(&self.data_type));
                };
                let (items, offsets) = (item.finish(), restart(offsets));
                Arc::new(ListArray::try_new(field.clone(), offsets, items?, nulls)?)
            }
            Kind::Map(offsets, keys, values) => {
                let DataType::Map(entries, sorted) = &self.data_type else {
                    return Err(mismatch(&self.data_type));
                };
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(mismatch(&self.data_type));
                };
                let values = values.finish();
                let (key_offsets, key_data) = keys.take();
                let keys = StringArray::try_new(key_offsets, key_data, None);
                let offsets = restart(offsets);
                let pairs =
                    StructArray::try_new(fields.clone(), vec![Arc::new(keys?), values?], None)?;
                Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, nulls, *sorted)?)
            }
            Kind::Struct(children) => {
                let DataType::Struct(fields) = &self.data_type else {
                    return Err(mismatch(&self.data_type));
                };
                let arrays: Result<Vec<_>, _> = finish_all(children);
                Arc::new(StructArray::try_new(fields.clone(), arrays?, nulls)?)
            }
        })
    }
}

/// Finishes every column, so that a failure of one leaves none with old values in it.
pub(crate) fn finish_all(columns: &mut [Column]) -> Result<Vec<ArrayRef>, ArrowError> {
    let finished: Vec<_> = columns.iter_mut().map(Column::finish).collect();
    finished.into_iter().collect()
}

/// The key and value field of a map's entries.
pub(crate) fn entry_fields(entries: &FieldRef) -> Option<(&FieldRef, &FieldRef)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Some((&fields[0], &fields[1])),
        _ => None,
    }
}

/// How many of a timestamp's units make a second.
pub(crate) fn units_per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len());
    std::mem::replace(values, room)
}

fn restart(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let done = take(offsets);
    offsets.push(0);
    OffsetBuffer::new(ScalarBuffer::from(done))
}

fn mismatch(data_type: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("a column of {data_type} was built for another type"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::Field;

    #[test]
    fn an_uneven_row_is_taken_back() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let fields =
            Fields::from(vec![Field::new("a", DataType::Int32, true), Field::new("b", list, true)]);
        let mut column = Column::new(&DataType::Struct(fields), true).unwrap();
        column.append_null();
        let Kind::Struct(children) = &mut column.kind else { panic!() };
        let Kind::I32(values) = &mut children[0].kind else { panic!() };
        values.push(7);
        children[0].valid();
        let Kind::List(_, item) = &mut children[1].kind else { panic!() };
        item.append_null();
        column.truncate(1);
        column.append_null();
        let array = column.finish().unwrap();
        assert_eq!((array.len(), array.null_count()), (2, 2));
        assert_eq!(column.len(), 0);
    }
}
