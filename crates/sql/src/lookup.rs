//! The stage of a lookup: the distinct keys of a batch before it is asked, and the rows of the batch
//! side by side with the rows found after.

use crate::evaluate::{Bad, broken, evaluate};
use crate::expr::Compiled;
use crate::harden::{nulls_as_false, widens};
use crate::keys::{NONE, distinct};
use crate::query::{LookupStage, Picked};
use crate::run::{Frame, Rejected, filter_all, is_true, keep_rows, record_batch, too_many};
use crate::unnest::ROWS_MAX;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType};
use arrow_select::filter::{FilterBuilder, filter};
use arrow_select::take::take;
use datafusion_common::arrow::compute::kernels::boolean::{and, not};
use datafusion_common::arrow::compute::kernels::cmp::not_distinct;
use datafusion_common::arrow::compute::nullif;
use millstream_core as core;
use millstream_core::{Found, Origin};
use std::sync::Arc;

/// A batch whose keys are known.
pub(crate) struct Asked {
    rows: RecordBatch,
    origin: Origin,
    /// The distinct keys.
    pub keys: RecordBatch,
    /// For each row its key, or [`NONE`].
    key_of: Vec<u32>,
}

impl Asked {
    /// How many rows have a key, and how many of these found something.
    pub fn served(&self, found: &Answer) -> (u64, u64) {
        let (mut rows, mut hits) = (0, 0);
        for key in self.key_of.iter().filter(|key| **key != NONE) {
            rows += 1;
            hits += u64::from(!found.of(*key).is_empty());
        }
        (rows, hits)
    }
}

pub(crate) fn ask(
    mut rows: RecordBatch,
    mut origin: Origin,
    stage: &LookupStage,
    rejected: &mut Rejected,
) -> core::Result<Asked> {
    // Conditions come first, each for the rows that the ones before let through, and the keys for
    // those that all let through: what a row alone would evaluate.
    let mut open: Option<BooleanArray> = None;
    for condition in &stage.before {
        let truth;
        (truth, rows, origin, open) =
            evaluate_open(std::slice::from_ref(condition), rows, origin, open, rejected)?;
        let truth = nulls_as_false(truth[0].as_boolean());
        open = Some(match open {
            None => truth,
            Some(open) => and(&open, &truth).map_err(broken)?,
        });
    }
    let keys;
    (keys, rows, origin, open) = evaluate_open(&stage.keys, rows, origin, open, rejected)?;
    let keys = keys
        .iter()
        .zip(stage.key_schema.fields())
        .map(|(key, field)| key_as(key, field.data_type()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(broken)?;
    let skip = |row: usize| open.as_ref().is_some_and(|open| !is_true(open, row));
    let distinct = distinct(&keys, rows.num_rows(), skip).map_err(broken)?;
    let keys = keys
        .iter()
        .map(|key| take(key, &distinct.rows, None))
        .collect::<Result<Vec<_>, _>>()
        .map_err(broken)?;
    let options = RecordBatchOptions::new().with_row_count(Some(distinct.rows.len()));
    let keys = RecordBatch::try_new_with_options(stage.key_schema.clone(), keys, &options)
        .map_err(broken)?;
    Ok(Asked { rows, origin, keys, key_of: distinct.keys })
}

type Opened = (Vec<ArrayRef>, RecordBatch, Origin, Option<BooleanArray>);

/// Evaluates for the rows that are open; the others get nulls. Rows that fail are taken out of
/// everything.
fn evaluate_open(
    exprs: &[Compiled],
    rows: RecordBatch,
    origin: Origin,
    open: Option<BooleanArray>,
    rejected: &mut Rejected,
) -> core::Result<Opened> {
    let (arrays, bad) = match &open {
        Some(open) if open.has_false() => {
            let inside = FilterBuilder::new(open).build().filter_record_batch(&rows);
            let evaluated = evaluate(exprs, &inside.map_err(broken)?)?;
            // Back to the places of the whole batch.
            let mut places = Vec::with_capacity(open.len());
            let mut next = 0u32;
            for row in 0..open.len() {
                let is_open = is_true(open, row);
                places.push(is_open.then_some(next));
                next += u32::from(is_open);
            }
            let places = UInt32Array::from(places);
            let arrays = evaluated
                .arrays
                .iter()
                .map(|array| take(array, &places, None))
                .collect::<Result<_, _>>()
                .map_err(broken)?;
            let outside: Vec<usize> = open.values().set_indices().collect();
            let bad = evaluated.bad.into_iter().map(|bad| Bad { row: outside[bad.row], ..bad });
            (arrays, bad.collect())
        }
        _ => {
            let evaluated = evaluate(exprs, &rows)?;
            (evaluated.arrays, evaluated.bad)
        }
    };
    match rejected.note(bad, &origin) {
        None => Ok((arrays, rows, origin, open)),
        Some(alive) => {
            let arrays = filter_all(&arrays, &alive)?;
            let open = match open {
                None => None,
                Some(open) => Some(filter(&open, &alive).map_err(broken)?.as_boolean().clone()),
            };
            let (rows, origin) = keep_rows(&rows, &origin, &alive).map_err(broken)?;
            Ok((arrays, rows, origin, open))
        }
    }
}

/// A key as the lookup's type. A value that this type does not hold equals none of its keys.
fn key_as(key: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = key.data_type();
    if from == to {
        return Ok(key.clone());
    }
    let options = CastOptions { safe: true, ..Default::default() };
    let cast = cast_with_options(key, to, &options)?;
    if widens(from, to) || !from.is_numeric() && !matches!(from, DataType::Timestamp(..)) {
        return Ok(cast);
    }
    let back = cast_with_options(&cast, from, &options)?;
    let same = not_distinct(&back, key)?;
    nullif(&cast, &not(&same)?)
}

/// A lookup's answer whose shape is as agreed.
pub(crate) fn trusted(
    found: Found,
    keys: usize,
    places: &[usize],
    stage: &LookupStage,
    name: &str,
) -> core::Result<Answer> {
    let rows = found.rows.num_rows() as u32;
    let ordered = found.ends.windows(2).all(|pair| pair[0] <= pair[1]);
    let fits =
        found.ends.len() == keys && ordered && found.ends.last().is_none_or(|end| *end <= rows);
    let columns: Option<Vec<ArrayRef>> = places
        .iter()
        .zip(&stage.columns)
        .map(|(place, field)| {
            let column = found.rows.columns().get(*place)?;
            (column.data_type() == field.data_type()).then(|| column.clone())
        })
        .collect();
    match columns {
        Some(columns) if fits => Ok(Answer { columns, ends: found.ends }),
        _ => {
            let message = format!("the lookup `{name}` answered with rows of another shape");
            Err(core::Error::stop("lookup_shape", message))
        }
    }
}

pub(crate) struct Answer {
    columns: Vec<ArrayRef>,
    ends: Vec<u32>,
}

impl Answer {
    fn of(&self, key: u32) -> std::ops::Range<u32> {
        let key = key as usize;
        let from = if key == 0 { 0 } else { self.ends[key - 1] };
        from..self.ends[key]
    }
}

/// Rows and the rows found for them, side by side.
struct Pairs {
    /// Rows of the batch, never decreasing.
    old: Vec<u32>,
    /// Rows of the answer; none for a miss.
    new: Vec<Option<u32>>,
}

pub(crate) fn joined(
    asked: Asked,
    answer: Option<Answer>,
    stage: &LookupStage,
    rejected: &mut Rejected,
) -> core::Result<Frame> {
    let Asked { mut rows, mut origin, mut key_of, .. } = asked;
    if let Some(answer) = &answer {
        (rows, origin, key_of) = bounded(rows, origin, key_of, answer, rejected)?;
    }
    let mut pairs = pair(&key_of, answer.as_ref());
    if let Some(answer) = &answer
        && !stage.after.is_empty()
        && !pairs.old.is_empty()
    {
        let kept;
        (kept, rows, origin, key_of) =
            checked(pairs, rows, origin, key_of, answer, stage, rejected)?;
        pairs = kept;
    }
    if stage.left {
        pairs = with_misses(pairs, key_of.len());
    }
    let count = pairs.old.len();
    let unmoved = count == rows.num_rows()
        && pairs.old.iter().enumerate().all(|(place, row)| place as u32 == *row);
    let old = UInt32Array::from(pairs.old);
    let new = UInt32Array::from(pairs.new);
    let columns = stage
        .keep
        .iter()
        .map(|picked| match picked {
            Picked::Old(column) if unmoved => Ok(rows.column(*column).clone()),
            Picked::Old(column) => take(rows.column(*column), &old, None),
            Picked::New(column) => match &answer {
                Some(answer) => take(&answer.columns[*column], &new, None),
                None => {
                    let data_type = stage.columns[*column].data_type();
                    Ok(arrow_array::new_null_array(data_type, count))
                }
            },
        })
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    let origin = if unmoved { origin } else { origin.take(old.values().iter().copied()) };
    Ok(Frame { columns, rows: count, origin })
}

/// Without the rows that find too much: what a row becomes is in memory at once.
fn bounded(
    rows: RecordBatch,
    origin: Origin,
    key_of: Vec<u32>,
    answer: &Answer,
    rejected: &mut Rejected,
) -> core::Result<(RecordBatch, Origin, Vec<u32>)> {
    let found = key_of.iter().map(|key| match *key {
        NONE => 0,
        key => answer.of(key).len(),
    });
    let reason = || format!("JOIN finds more than {ROWS_MAX} rows for one record");
    let Some(alive) = rejected.note(too_many(found, &origin, reason), &origin) else {
        return Ok((rows, origin, key_of));
    };
    let kept = key_of.into_iter().enumerate().filter(|(row, _)| alive.value(*row));
    let key_of = kept.map(|(_, key)| key).collect();
    let (rows, origin) = keep_rows(&rows, &origin, &alive).map_err(broken)?;
    Ok((rows, origin, key_of))
}

/// Each row with each row found for its key.
fn pair(key_of: &[u32], answer: Option<&Answer>) -> Pairs {
    let mut pairs =
        Pairs { old: Vec::with_capacity(key_of.len()), new: Vec::with_capacity(key_of.len()) };
    let Some(answer) = answer else { return pairs };
    for (row, key) in key_of.iter().enumerate() {
        if *key == NONE {
            continue;
        }
        for found in answer.of(*key) {
            pairs.old.push(row as u32);
            pairs.new.push(Some(found));
        }
    }
    pairs
}

type Checked = (Pairs, RecordBatch, Origin, Vec<u32>);

/// The pairs that the rest of ON is true for.
fn checked(
    pairs: Pairs,
    rows: RecordBatch,
    origin: Origin,
    key_of: Vec<u32>,
    answer: &Answer,
    stage: &LookupStage,
    rejected: &mut Rejected,
) -> core::Result<Checked> {
    let old = UInt32Array::from(pairs.old);
    let new = UInt32Array::from(pairs.new);
    let columns: Vec<ArrayRef> = stage
        .pairs
        .iter()
        .map(|picked| match picked {
            Picked::Old(column) => take(rows.column(*column), &old, None),
            Picked::New(column) => take(&answer.columns[*column], &new, None),
        })
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    let both = record_batch(&stage.pairs_layout, columns, old.len())?;
    // The pairs stand for rows here: a pair's "source row" is the row of the batch it belongs to.
    let mut failed = Rejected::default();
    let places: Vec<u32> = (0..old.len() as u32).collect();
    let place = ArrayRef::from(Arc::new(UInt32Array::from(places)) as ArrayRef);
    let mut live = both;
    let mut owner = Origin::Rows(old.values().iter().copied().collect());
    let mut place = place;
    for condition in &stage.after {
        let evaluated = evaluate(std::slice::from_ref(condition), &live)?;
        let mut truth = evaluated.arrays[0].clone();
        if let Some(alive) = failed.note(evaluated.bad, &owner) {
            truth = filter(&truth, &alive).map_err(broken)?;
            place = filter(&place, &alive).map_err(broken)?;
            (live, owner) = keep_rows(&live, &owner, &alive).map_err(broken)?;
        }
        let truth = nulls_as_false(truth.as_boolean());
        place = filter(&place, &truth).map_err(broken)?;
        (live, owner) = keep_rows(&live, &owner, &truth).map_err(broken)?;
    }
    let place = place.as_primitive::<arrow_array::types::UInt32Type>();
    let mut kept = Pairs { old: Vec::new(), new: Vec::new() };
    for place in place.values() {
        kept.old.push(old.value(*place as usize));
        kept.new.push(Some(new.value(*place as usize)));
    }
    if failed.0.is_empty() {
        return Ok((kept, rows, origin, key_of));
    }
    let bad = failed
        .0
        .into_values()
        .map(|rejection| Bad {
            row: rejection.source_row as usize,
            kind: rejection.kind,
            reason: rejection.reason,
        })
        .collect();
    let Some(alive) = rejected.note(bad, &origin) else { return Ok((kept, rows, origin, key_of)) };
    // The rows of the batch move up, and the pairs with them.
    let mut moved = Vec::with_capacity(alive.len());
    let mut next = 0u32;
    for row in 0..alive.len() {
        moved.push(alive.value(row).then_some(next));
        next += u32::from(alive.value(row));
    }
    let (old, new) = kept
        .old
        .iter()
        .zip(kept.new)
        .filter_map(|(old, new)| moved[*old as usize].map(|old| (old, new)))
        .unzip();
    let key_of =
        key_of.into_iter().zip(&moved).filter_map(|(key, moved)| moved.map(|_| key)).collect();
    let (rows, origin) = keep_rows(&rows, &origin, &alive).map_err(broken)?;
    Ok((Pairs { old, new }, rows, origin, key_of))
}

/// Adds the rows that have no pair, each in its place.
fn with_misses(pairs: Pairs, rows: usize) -> Pairs {
    let mut all = Pairs { old: Vec::with_capacity(rows), new: Vec::with_capacity(rows) };
    let mut pairs = pairs.old.into_iter().zip(pairs.new).peekable();
    for row in 0..rows as u32 {
        let mut missed = true;
        while let Some((old, new)) = pairs.next_if(|(old, _)| *old == row) {
            all.old.push(old);
            all.new.push(new);
            missed = false;
        }
        if missed {
            all.old.push(row);
            all.new.push(None);
        }
    }
    all
}
