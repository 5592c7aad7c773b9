//! The unit that everything works on: Arrow columns, and which source row each row came from.

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use std::sync::Arc;

/// Decoded rows of one run of source records.
#[derive(Debug, Clone)]
pub struct Batch {
    pub rows: RecordBatch,
    pub origin: Origin,
}

/// For every row of a batch, the index of the source record (within its `Records`) it came from.
/// Several rows may share one after UNNEST or a one-to-many join; never decreasing.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Row `i` came from source row `i`, for this many rows.
    Same(u32),
    Rows(Arc<[u32]>),
}

/// A source row that cannot be processed, and why. It becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The index of the source record within its `Records`.
    pub source_row: u32,
    /// A short stable word for metrics: `malformed`, `divide_by_zero`, …
    pub kind: &'static str,
    pub reason: String,
}

impl Origin {
    pub fn len(&self) -> usize {
        match self {
            Origin::Same(rows) => *rows as usize,
            Origin::Rows(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub fn of(&self, row: usize) -> u32 {
        match self {
            Origin::Same(rows) => {
                debug_assert!(row < *rows as usize);
                row as u32
            }
            Origin::Rows(rows) => rows[row],
        }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        (0..self.len()).map(|row| self.of(row))
    }

    /// The origin of rows picked from this batch, in the order picked.
    pub fn take(&self, rows: impl IntoIterator<Item = u32>) -> Origin {
        Origin::Rows(rows.into_iter().map(|row| self.of(row as usize)).collect())
    }

    pub fn slice(&self, from: usize, len: usize) -> Origin {
        if let (Origin::Same(rows), 0) = (self, from)
            && len == *rows as usize
        {
            return self.clone();
        }
        self.take(from as u32..(from + len) as u32)
    }
}

impl Batch {
    /// A batch whose row `i` is source row `i`.
    pub fn same(rows: RecordBatch) -> Self {
        let origin = Origin::Same(rows.num_rows() as u32);
        Self { rows, origin }
    }

    pub fn new(rows: RecordBatch, origin: Origin) -> Self {
        assert_eq!(rows.num_rows(), origin.len(), "every row has an origin");
        Self { rows, origin }
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn slice(&self, from: usize, len: usize) -> Batch {
        Batch { rows: self.rows.slice(from, len), origin: self.origin.slice(from, len) }
    }

    /// Without the rows that stem from the given source rows (sorted or not).
    pub fn without(&self, source_rows: &[u32]) -> Result<Batch, ArrowError> {
        if source_rows.is_empty() {
            return Ok(self.clone());
        }
        let gone: std::collections::HashSet<u32> = source_rows.iter().copied().collect();
        let keep: Vec<bool> = self.origin.iter().map(|row| !gone.contains(&row)).collect();
        let rows = arrow_select::filter::filter_record_batch(&self.rows, &keep.clone().into())?;
        let kept = keep.iter().enumerate().filter(|(_, keep)| **keep).map(|(row, _)| row as u32);
        Ok(Batch { rows, origin: self.origin.take(kept) })
    }
}
