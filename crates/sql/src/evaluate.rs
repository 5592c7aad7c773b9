//! Evaluation that costs a bad row only itself.

use crate::expr::{Compiled, clean, kind, shorten};
use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_select::concat::concat;
use datafusion_common::DataFusionError;
use millstream_core as core;

/// A row that an expression fails on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    pub row: usize,
    pub kind: &'static str,
    pub reason: String,
}

/// One array for each expression, with a null in the place of each bad row.
pub(crate) struct Evaluated {
    pub arrays: Vec<ArrayRef>,
    /// In the order of their rows.
    pub bad: Vec<Bad>,
}

/// Evaluates on the whole batch; where that fails, on its halves, down to the rows that fail. When
/// more than one row in twenty fails the rest goes row by row, as halving would cost more.
pub(crate) fn evaluate(exprs: &[Compiled], batch: &RecordBatch) -> core::Result<Evaluated> {
    if let Ok(arrays) = all(exprs, batch) {
        return Ok(Evaluated { arrays, bad: Vec::new() });
    }
    let rows = batch.num_rows();
    let mut pieces: Vec<Vec<ArrayRef>> = exprs.iter().map(|_| Vec::new()).collect();
    let mut bad: Vec<Bad> = Vec::new();
    // The ranges that are still to do, the first on top.
    let mut ranges = match rows {
        0 | 1 => vec![(0, rows)],
        _ => vec![(rows / 2, rows - rows / 2), (0, rows / 2)],
    };
    while let Some((from, len)) = ranges.pop() {
        if len > 1 && bad.len() * 20 > rows {
            ranges.extend((from..from + len).rev().map(|row| (row, 1)));
            continue;
        }
        match all(exprs, &batch.slice(from, len)) {
            Ok(arrays) => {
                for (pieces, array) in pieces.iter_mut().zip(arrays) {
                    pieces.push(array);
                }
            }
            Err((culprit, error)) if len == 1 => {
                for (pieces, expr) in pieces.iter_mut().zip(exprs) {
                    pieces.push(new_null_array(&expr.data_type, 1));
                }
                let text = shorten(&exprs[culprit].text);
                let reason = format!("{} in `{text}`", clean(&error));
                bad.push(Bad { row: from, kind: kind(&error), reason });
            }
            Err(_) => {
                let half = len / 2;
                ranges.push((from + half, len - half));
                ranges.push((from, half));
            }
        }
    }
    let arrays = exprs
        .iter()
        .zip(pieces)
        .map(|(expr, pieces)| match pieces.len() {
            0 => Ok(new_null_array(&expr.data_type, 0)),
            _ => {
                let pieces: Vec<_> = pieces.iter().map(|piece| piece.as_ref()).collect();
                concat(&pieces)
            }
        })
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    Ok(Evaluated { arrays, bad })
}

/// Each expression in turn; an error comes with the place of the expression.
fn all(exprs: &[Compiled], batch: &RecordBatch) -> Result<Vec<ArrayRef>, (usize, DataFusionError)> {
    exprs
        .iter()
        .enumerate()
        .map(|(index, expr)| expr.evaluate(batch).map_err(|error| (index, error)))
        .collect()
}

/// An error that no row is to blame for.
pub(crate) fn broken(error: arrow_schema::ArrowError) -> core::Error {
    core::Error::stop("sql", "the columns of a batch do not fit the query").because(error)
}
