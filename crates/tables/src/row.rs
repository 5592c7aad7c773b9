//! The columns of a row that are not its key, as bytes.
//!
//! ```text
//! varint: number of columns │ a bit for each: has a value │ the values that there are
//! ```
//!
//! Columns are in the order they came to the table, and none ever goes; a row written before a
//! column was added has fewer, and the rest read as null. Integers, dates, times and decimals are
//! zigzag varints; floats their little-endian bits; strings and bytes have their length before
//! them; lists and maps a count, then a bit for each item, then the items; structs a bit for each
//! field, then the fields.

use crate::builder::{Build, ColumnBuilder};
use crate::columns::{Values, View};
use crate::{Error, Result};
use arrow_schema::DataType;
use millstream_core::types;

/// Larger rows are rejected: the journal, the memtable and a reader each hold a row whole.
pub(crate) const ROW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Appends one row of these columns; `None` is a column that the batch does not have.
#[inline]
pub(crate) fn encode(columns: &[Option<View<'_>>], row: usize, out: &mut Vec<u8>) {
    put_varint(columns.len() as u64, out);
    let bits = Bits::reserve(columns.len(), out);
    for (index, column) in columns.iter().enumerate() {
        if let Some(column) = column
            && !column.is_null(row)
        {
            bits.set(index, out);
            column.encode_value(row, out);
        }
    }
}

impl View<'_> {
    #[inline]
    fn encode_value(&self, row: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::Bool(values) => out.push(u8::from(values.value(row))),
            Values::I32(values) => put_varint(zigzag(i64::from(values[row])), out),
            Values::I64(values) => put_varint(zigzag(values[row]), out),
            Values::I128(values) => {
                let value = values[row];
                let mut rest = ((value << 1) ^ (value >> 127)) as u128;
                while rest >= 0x80 {
                    out.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                out.push(rest as u8);
            }
            Values::F32(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Values::F64(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Values::Ip(values) => out.extend_from_slice(values.value(row)),
            Values::Text(values) => put_bytes(values.value(row).as_bytes(), out),
            Values::Bytes(values) => put_bytes(values.value(row), out),
            Values::List(offsets, items) => {
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                put_varint((to - from) as u64, out);
                let bits = Bits::reserve(to - from, out);
                for item in from..to {
                    if !items.is_null(item) {
                        bits.set(item - from, out);
                        items.encode_value(item, out);
                    }
                }
            }
            Values::Struct(fields) => {
                let bits = Bits::reserve(fields.len(), out);
                for (index, field) in fields.iter().enumerate() {
                    if !field.is_null(row) {
                        bits.set(index, out);
                        field.encode_value(row, out);
                    }
                }
            }
        }
    }
}

/// Reads a row, giving column `i` to `columns[i]` where the reader wants it.
pub(crate) fn decode(
    mut row: &[u8],
    types: &[DataType],
    builders: &mut [ColumnBuilder],
    wanted: &[Option<usize>],
) -> Result<()> {
    let rest = &mut row;
    let written = length(rest)?;
    let bits = take(rest, written.div_ceil(8))?;
    // Past the last wanted column nothing needs to be read.
    let last = wanted.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    for index in 0..last {
        let present = index < written && bits[index / 8] & (1 << (index % 8)) != 0;
        match (wanted[index], present) {
            (Some(at), true) => read_value(rest, &mut builders[at])?,
            (Some(at), false) => builders[at].push_null(),
            (None, true) => skip_value(rest, &types[index])?,
            (None, false) => {}
        }
    }
    Ok(())
}

fn read_value(rest: &mut &[u8], column: &mut ColumnBuilder) -> Result<()> {
    match column.build() {
        Build::Bool => column.push_bool(take(rest, 1)?[0] != 0),
        Build::I32 => {
            let value = i32::try_from(unzigzag(varint(rest)?)).map_err(|_| damaged())?;
            column.push_i32(value)
        }
        Build::I64 => column.push_i64(unzigzag(varint(rest)?)),
        Build::I128 => {
            let value = varint128(rest)?;
            column.push_i128((value >> 1) as i128 ^ -((value & 1) as i128))
        }
        Build::F32 => column.push_f32(f32::from_le_bytes(fixed(rest)?)),
        Build::F64 => column.push_f64(f64::from_le_bytes(fixed(rest)?)),
        Build::Ip => column.push_bytes(take(rest, 16)?),
        Build::Bytes => {
            let len = length(rest)?;
            column.push_bytes(take(rest, len)?)
        }
        Build::List => {
            let len = length(rest)?;
            let bits = take(rest, len.div_ceil(8))?;
            let items = column.children();
            for item in 0..len {
                if bits[item / 8] & (1 << (item % 8)) != 0 {
                    read_value(rest, &mut items[0])?;
                } else {
                    items[0].push_null();
                }
            }
            column.close_list()
        }
        Build::Struct => {
            let fields = column.children();
            let bits = take(rest, fields.len().div_ceil(8))?;
            for (index, field) in fields.iter_mut().enumerate() {
                if bits[index / 8] & (1 << (index % 8)) != 0 {
                    read_value(rest, field)?;
                } else {
                    field.push_null();
                }
            }
            column.close_struct()
        }
    }
}

fn skip_value(rest: &mut &[u8], data_type: &DataType) -> Result<()> {
    match data_type {
        DataType::Boolean => take(rest, 1).map(drop),
        DataType::Float32 => take(rest, 4).map(drop),
        DataType::Float64 => take(rest, 8).map(drop),
        t if *t == types::IP => take(rest, 16).map(drop),
        DataType::Decimal128(_, _) => varint128(rest).map(drop),
        DataType::Utf8 | DataType::Binary => {
            let len = length(rest)?;
            take(rest, len).map(drop)
        }
        DataType::List(item) | DataType::Map(item, _) => {
            let len = length(rest)?;
            let bits = take(rest, len.div_ceil(8))?;
            for index in 0..len {
                if bits[index / 8] & (1 << (index % 8)) != 0 {
                    skip_value(rest, item.data_type())?;
                }
            }
            Ok(())
        }
        DataType::Struct(fields) => {
            let bits = take(rest, fields.len().div_ceil(8))?;
            for (index, field) in fields.iter().enumerate() {
                if bits[index / 8] & (1 << (index % 8)) != 0 {
                    skip_value(rest, field.data_type())?;
                }
            }
            Ok(())
        }
        _ => varint(rest).map(drop),
    }
}

/// A run of bits whose place is set aside before the values that follow it are known.
struct Bits(usize);

impl Bits {
    #[inline]
    fn reserve(count: usize, out: &mut Vec<u8>) -> Self {
        let at = out.len();
        out.resize(at + count.div_ceil(8), 0);
        Self(at)
    }

    #[inline]
    fn set(&self, index: usize, out: &mut [u8]) {
        out[self.0 + index / 8] |= 1 << (index % 8);
    }
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[inline]
fn put_varint(value: u64, out: &mut Vec<u8>) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[inline]
fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    u64::try_from(varint128(rest)?).map_err(|_| damaged())
}

fn varint128(rest: &mut &[u8]) -> Result<u128> {
    let mut value = 0u128;
    for shift in (0..128).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or_else(damaged)?;
        *rest = tail;
        value |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

/// A count or length: what it counts takes at least an eighth of a byte each, so a damaged one is
/// found before anything is reserved for it.
fn length(rest: &mut &[u8]) -> Result<usize> {
    let value = usize::try_from(varint(rest)?).map_err(|_| damaged())?;
    if value / 8 > rest.len() { Err(damaged()) } else { Ok(value) }
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    take(rest, N)?.try_into().map_err(|_| damaged())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (part, tail) = rest.split_at_checked(len).ok_or_else(damaged)?;
    *rest = tail;
    Ok(part)
}

fn damaged() -> Error {
    Error::Damaged("a row does not have the columns of its table".into())
}
