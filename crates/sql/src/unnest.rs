//! One row for each item of a list; several lists side by side, the shorter ones filled with nulls.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int64Array, UInt32Array, new_null_array};
use arrow_schema::{ArrowError, DataType};
use arrow_select::take::take;

/// The most rows that one source row may become. Two lists crossed multiply, so that a small record
/// could otherwise take all memory.
pub(crate) const ROWS_MAX: usize = 65_536;

pub(crate) struct Unnested {
    /// For each row that comes out, the row it came from; never decreasing.
    pub rows: UInt32Array,
    pub items: Vec<ArrayRef>,
    /// Counted from 1 within each row; null where the row has no items.
    pub ordinality: Int64Array,
}

/// How many rows each row becomes.
pub(crate) fn counts(lists: &[ArrayRef], rows: usize) -> Result<Vec<usize>, ArrowError> {
    let lists: Vec<List> = lists.iter().map(List::of).collect::<Result<_, _>>()?;
    let longest = |row| lists.iter().map(|list| list.len(row)).max().unwrap_or(0);
    Ok((0..rows).map(longest).collect())
}

/// A row whose lists are all empty or null gives no row, or one of nulls when `left`.
pub(crate) fn unnest(lists: &[ArrayRef], rows: usize, left: bool) -> Result<Unnested, ArrowError> {
    let lists: Vec<List> = lists.iter().map(List::of).collect::<Result<_, _>>()?;
    let mut origin: Vec<u32> = Vec::new();
    let mut ordinality: Vec<Option<i64>> = Vec::new();
    let mut picks: Vec<Vec<Option<u32>>> = lists.iter().map(|_| Vec::new()).collect();
    for row in 0..rows {
        let longest = lists.iter().map(|list| list.len(row)).max().unwrap_or(0);
        let count = if left { longest.max(1) } else { longest };
        for index in 0..count {
            origin.push(row as u32);
            ordinality.push((index < longest).then_some(index as i64 + 1));
            for (list, picks) in lists.iter().zip(&mut picks) {
                let pick = (index < list.len(row)).then(|| (list.start(row) + index) as u32);
                picks.push(pick);
            }
        }
    }
    let items = lists
        .iter()
        .zip(picks)
        .map(|(list, picks)| take(&list.items, &UInt32Array::from(picks), None))
        .collect::<Result<_, _>>()?;
    Ok(Unnested { rows: origin.into(), items, ordinality: ordinality.into() })
}

/// A list array of either offset width.
struct List {
    lists: ArrayRef,
    items: ArrayRef,
    offsets: Vec<usize>,
}

impl List {
    fn of(lists: &ArrayRef) -> Result<Self, ArrowError> {
        let (items, offsets) = match lists.data_type() {
            DataType::List(_) => {
                let list = lists.as_list::<i32>();
                let offsets = list.value_offsets().iter().map(|offset| *offset as usize).collect();
                (list.values().clone(), offsets)
            }
            DataType::LargeList(_) => {
                let list = lists.as_list::<i64>();
                let offsets = list.value_offsets().iter().map(|offset| *offset as usize).collect();
                (list.values().clone(), offsets)
            }
            DataType::FixedSizeList(_, size) => {
                let list = lists.as_fixed_size_list();
                let size = *size as usize;
                (list.values().clone(), (0..=lists.len()).map(|row| row * size).collect())
            }
            DataType::Null => (new_null_array(&DataType::Null, 0), vec![0; lists.len() + 1]),
            other => {
                return Err(ArrowError::InvalidArgumentError(format!("{other} is not a list")));
            }
        };
        Ok(Self { lists: lists.clone(), items, offsets })
    }

    fn len(&self, row: usize) -> usize {
        match self.lists.is_null(row) {
            true => 0,
            false => self.offsets[row + 1] - self.offsets[row],
        }
    }

    fn start(&self, row: usize) -> usize {
        self.offsets[row]
    }
}
