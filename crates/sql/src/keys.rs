//! The distinct keys of a batch.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, UInt32Array};
use arrow_schema::{ArrowError, DataType};
use datafusion_common::arrow::row::{RowConverter, SortField};
use std::collections::HashMap;
use std::hash::Hash;

/// A row without a key: one with a null in it, or one that is not to be looked up.
pub(crate) const NONE: u32 = u32::MAX;

/// The distinct keys of some rows.
pub(crate) struct Distinct {
    /// For each key, the first row that has it.
    pub rows: UInt32Array,
    /// For each row, its key, or [`NONE`].
    pub keys: Vec<u32>,
}

/// `skip` says which rows have no key for a reason of their own.
pub(crate) fn distinct(
    columns: &[ArrayRef],
    rows: usize,
    skip: impl Fn(usize) -> bool,
) -> Result<Distinct, ArrowError> {
    let none = |row: usize| skip(row) || columns.iter().any(|column| column.is_null(row));
    if let [column] = columns {
        match column.data_type() {
            DataType::Utf8 => {
                let column = column.as_string::<i32>();
                return Ok(number(rows, none, |row| column.value(row)));
            }
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>().values();
                return Ok(number(rows, none, |row| values[row]));
            }
            DataType::Int32 => {
                let values = column.as_primitive::<Int32Type>().values();
                return Ok(number(rows, none, |row| values[row]));
            }
            DataType::FixedSizeBinary(_) => {
                let column = column.as_fixed_size_binary();
                return Ok(number(rows, none, |row| column.value(row)));
            }
            _ => {}
        }
    }
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let encoded = RowConverter::new(fields)?.convert_columns(columns)?;
    Ok(number(rows, none, |row| encoded.row(row).data()))
}

fn number<K: Eq + Hash>(
    rows: usize,
    none: impl Fn(usize) -> bool,
    key: impl Fn(usize) -> K,
) -> Distinct {
    let mut seen: HashMap<K, u32, ahash::RandomState> =
        HashMap::with_capacity_and_hasher(rows, ahash::RandomState::default());
    let mut first = Vec::new();
    let mut keys = Vec::with_capacity(rows);
    for row in 0..rows {
        if none(row) {
            keys.push(NONE);
            continue;
        }
        let next = first.len() as u32;
        let key = *seen.entry(key(row)).or_insert_with(|| {
            first.push(row as u32);
            next
        });
        keys.push(key);
    }
    Distinct { rows: first.into(), keys }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn one_key_and_several_number_alike() {
        let text: ArrayRef =
            Arc::new(StringArray::from(vec![Some("b"), None, Some("a"), Some("b"), Some("a")]));
        let other: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1, 1, 2]));
        let one = distinct(std::slice::from_ref(&text), 5, |row| row == 4).unwrap();
        assert_eq!(one.rows.values(), &[0, 2]);
        assert_eq!(one.keys, [0, NONE, 1, 0, NONE]);
        let two = distinct(&[text, other], 5, |_| false).unwrap();
        assert_eq!(two.rows.values(), &[0, 2, 4]);
        assert_eq!(two.keys, [0, NONE, 1, 0, 2]);
    }

    #[test]
    fn a_type_without_a_path_of_its_own() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2.5, 1.5]));
        assert_eq!(distinct(&[column], 3, |_| false).unwrap().keys, [0, 1, 0]);
    }
}
