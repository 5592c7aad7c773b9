//! Keys as bytes that compare as the values do.
//!
//! | type | bytes |
//! |---|---|
//! | boolean | 0 or 1 |
//! | int, bigint, date, time, timestamp, decimal | big endian, the sign bit flipped |
//! | float, double | big endian; positive: sign bit flipped, negative: all bits flipped |
//! | ip | its 16 bytes |
//! | string, bytes | each 0 followed by 255; ends with 0, 1 |
//!
//! A composite key is its columns one after the other. No encoding is a prefix of another of the
//! same columns. `-0.0` is stored as `0.0` and every NaN as one, above infinity, so that values that
//! are equal in SQL are one key.

use crate::builder::ColumnBuilder;
use crate::columns::{Values, View};
use crate::{Error, Result};
use arrow_schema::DataType;

/// fjall takes keys of up to 65,535 bytes; the rest is for what versions append.
pub(crate) const KEY_BYTES_MAX: usize = 65_000;

pub(crate) fn can_be_key(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::List(_) | DataType::Map(_, _) | DataType::Struct(_))
}

impl View<'_> {
    /// Appends the key bytes of a row that is not null.
    #[inline]
    pub(crate) fn encode_key(&self, row: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::Bool(values) => out.push(u8::from(values.value(row))),
            Values::I32(values) => {
                out.extend_from_slice(&(values[row] as u32 ^ (1 << 31)).to_be_bytes());
            }
            Values::I64(values) => {
                out.extend_from_slice(&(values[row] as u64 ^ (1 << 63)).to_be_bytes());
            }
            Values::I128(values) => {
                out.extend_from_slice(&(values[row] as u128 ^ (1 << 127)).to_be_bytes());
            }
            Values::F32(values) => {
                let value = if values[row].is_nan() { f32::NAN.abs() } else { values[row] + 0.0 };
                let bits = value.to_bits();
                let flip = if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
                out.extend_from_slice(&(bits ^ flip).to_be_bytes());
            }
            Values::F64(values) => {
                let value = if values[row].is_nan() { f64::NAN.abs() } else { values[row] + 0.0 };
                let bits = value.to_bits();
                let flip = if bits >> 63 == 1 { u64::MAX } else { 1 << 63 };
                out.extend_from_slice(&(bits ^ flip).to_be_bytes());
            }
            Values::Ip(values) => out.extend_from_slice(values.value(row)),
            Values::Text(values) => escape(values.value(row).as_bytes(), out),
            Values::Bytes(values) => escape(values.value(row), out),
            Values::List(..) | Values::Struct(..) => {
                unreachable!("the catalog takes no nested column into a key")
            }
        }
    }
}

/// Reads one column's part of a key and appends it to the builder, if there is one.
pub(crate) fn decode(
    data_type: &DataType,
    key: &mut &[u8],
    column: Option<&mut ColumnBuilder>,
    scratch: &mut Vec<u8>,
) -> Result<()> {
    let rest = *key;
    let width = match data_type {
        DataType::Boolean => 1,
        DataType::Int32 | DataType::Date32 | DataType::Float32 => 4,
        DataType::Int64 | DataType::Float64 | DataType::Time64(_) | DataType::Timestamp(_, _) => 8,
        DataType::Decimal128(_, _) | DataType::FixedSizeBinary(_) => 16,
        _ => {
            *key = unescape(rest, scratch)?;
            return column.map_or(Ok(()), |column| column.push_bytes(scratch));
        }
    };
    let (bytes, tail) = rest.split_at_checked(width).ok_or_else(short)?;
    *key = tail;
    let Some(column) = column else { return Ok(()) };
    match data_type {
        DataType::Boolean => column.push_bool(bytes[0] != 0),
        DataType::Float32 => {
            let bits = u32::from_be_bytes(array(bytes)?);
            let flip = if bits >> 31 == 0 { u32::MAX } else { 1 << 31 };
            column.push_f32(f32::from_bits(bits ^ flip))
        }
        DataType::Float64 => {
            let bits = u64::from_be_bytes(array(bytes)?);
            let flip = if bits >> 63 == 0 { u64::MAX } else { 1 << 63 };
            column.push_f64(f64::from_bits(bits ^ flip))
        }
        DataType::FixedSizeBinary(_) => column.push_bytes(bytes),
        DataType::Decimal128(_, _) => {
            column.push_i128((u128::from_be_bytes(array(bytes)?) ^ (1 << 127)) as i128)
        }
        _ if width == 4 => column.push_i32((u32::from_be_bytes(array(bytes)?) ^ (1 << 31)) as i32),
        _ => column.push_i64((u64::from_be_bytes(array(bytes)?) ^ (1 << 63)) as i64),
    }
}

/// The smallest bytes that are above everything with this prefix; `None` when there are none.
pub(crate) fn after_prefix(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

/// Text with every 0 made 0, 255, and an end that is below any continuation.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&rest[..=at]);
        out.push(255);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 1]);
}

/// Reads what [`escape`] wrote into `out` and gives what follows it.
pub(crate) fn unescape<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8]> {
    out.clear();
    let mut rest = bytes;
    loop {
        let at = rest.iter().position(|byte| *byte == 0).ok_or_else(short)?;
        out.extend_from_slice(&rest[..at]);
        match rest.get(at + 1) {
            Some(1) => return Ok(&rest[at + 2..]),
            Some(255) => out.push(0),
            _ => return Err(short()),
        }
        rest = &rest[at + 2..];
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| short())
}

fn short() -> Error {
    Error::Damaged("a key does not have the columns of its table".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array,
        Float64Array, Int32Array, Int64Array, StringArray,
    };
    use proptest::prelude::*;
    use std::cmp::Ordering;
    use std::sync::Arc;

    /// The keys of a column's rows.
    fn keys(column: &ArrayRef) -> Vec<Vec<u8>> {
        let view = View::of(column.as_ref()).unwrap();
        (0..column.len())
            .map(|row| {
                let mut key = Vec::new();
                view.encode_key(row, &mut key);
                key
            })
            .collect()
    }

    /// Keys order as `order` says the rows do, end where they end, and read back as the column.
    fn check(column: ArrayRef, order: impl Fn(usize, usize) -> Ordering) {
        let keys = keys(&column);
        let mut builder = ColumnBuilder::new(column.data_type());
        let mut scratch = Vec::new();
        for (a, key) in keys.iter().enumerate() {
            for (b, other) in keys.iter().enumerate() {
                assert_eq!(key.cmp(other), order(a, b), "rows {a} and {b} of {column:?}");
                assert!(key == other || !other.starts_with(key), "rows {a} and {b}");
            }
            let mut bytes = [key.as_slice(), b"rest"].concat();
            let mut rest = bytes.as_mut_slice() as &[u8];
            decode(column.data_type(), &mut rest, Some(&mut builder), &mut scratch).unwrap();
            assert_eq!(rest, b"rest");
        }
        assert_eq!(&builder.finish().unwrap(), &column);
    }

    fn text() -> impl Strategy<Value = Vec<String>> {
        let char = prop_oneof![Just('\0'), Just('\u{1}'), Just('a'), Just('b'), any::<char>()];
        let text = prop::collection::vec(char, 0..4).prop_map(|c| c.into_iter().collect());
        prop::collection::vec(text, 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn keys_compare_as_integers_do(values: Vec<i64>) {
            let small: Vec<i32> = values.iter().map(|v| *v as i32).collect();
            let large: Vec<i128> = values.iter().map(|v| i128::from(*v) << 40).collect();
            let even: Vec<bool> = values.iter().map(|v| v % 2 == 0).collect();
            check(Arc::new(Int64Array::from(values.clone())), |a, b| values[a].cmp(&values[b]));
            check(Arc::new(Int32Array::from(small.clone())), |a, b| small[a].cmp(&small[b]));
            check(Arc::new(BooleanArray::from(even.clone())), |a, b| even[a].cmp(&even[b]));
            let decimals = Decimal128Array::from(large.clone());
            check(Arc::new(decimals), |a, b| large[a].cmp(&large[b]));
        }

        #[test]
        fn keys_compare_as_floats_do(values: Vec<f64>) {
            let values: Vec<f64> = values.into_iter().map(|v| v + 0.0).filter(|v| !v.is_nan())
                .chain([f64::INFINITY, f64::NEG_INFINITY, 0.0, f64::MIN_POSITIVE / 2.0]).collect();
            let small: Vec<f32> = values.iter().map(|v| *v as f32 + 0.0).collect();
            check(Arc::new(Float64Array::from(values.clone())), |a, b| values[a].total_cmp(&values[b]));
            check(Arc::new(Float32Array::from(small.clone())), |a, b| small[a].total_cmp(&small[b]));
        }

        #[test]
        fn keys_compare_as_strings_do(values in text()) {
            let array: StringArray = values.iter().map(Some).collect();
            check(Arc::new(array), |a, b| values[a].cmp(&values[b]));
        }

        #[test]
        fn keys_compare_as_bytes_do(values: Vec<Vec<u8>>, addresses: Vec<[u8; 16]>) {
            let array: BinaryArray = values.iter().map(|v| Some(v.as_slice())).collect();
            check(Arc::new(array), |a, b| values[a].cmp(&values[b]));
            if !addresses.is_empty() {
                let array = FixedSizeBinaryArray::try_from_iter(addresses.iter()).unwrap();
                check(Arc::new(array), |a, b| addresses[a].cmp(&addresses[b]));
            }
        }

        #[test]
        fn composite_keys_compare_column_by_column(rows: Vec<(String, i32, String)>) {
            let columns: [ArrayRef; 3] = [
                Arc::new(rows.iter().map(|r| Some(r.0.as_str())).collect::<StringArray>()),
                Arc::new(rows.iter().map(|r| Some(r.1)).collect::<Int32Array>()),
                Arc::new(rows.iter().map(|r| Some(r.2.as_str())).collect::<StringArray>()),
            ];
            let parts = columns.each_ref().map(keys);
            let key = |row: usize| [&*parts[0][row], &*parts[1][row], &*parts[2][row]].concat();
            for a in 0..rows.len() {
                for b in 0..rows.len() {
                    prop_assert_eq!(key(a).cmp(&key(b)), rows[a].cmp(&rows[b]));
                }
            }
        }

        #[test]
        fn damage_is_an_error(bytes: Vec<u8>) {
            for data_type in [DataType::Utf8, DataType::Int64, DataType::Boolean] {
                let mut builder = ColumnBuilder::new(&data_type);
                let _ = decode(&data_type, &mut &*bytes, Some(&mut builder), &mut Vec::new());
                let _ = builder.finish();
            }
        }
    }

    #[test]
    fn equal_floats_are_one_key() {
        let nan = f64::from_bits(0xfff8_0000_0000_0001);
        let column: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, nan, 1e308]));
        let keys = keys(&column);
        assert_eq!(keys[0], keys[1]);
        assert_eq!(keys[2], keys[3]);
        assert!(keys[2] > keys[4]);
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(after_prefix(vec![1, 255, 255]), Some(vec![2]));
        assert_eq!(after_prefix(vec![255]), None);
    }
}
