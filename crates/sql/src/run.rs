//! A query bound to its stores, run on batches.

use crate::evaluate::{Bad, broken, evaluate};
use crate::expr::Compiled;
use crate::functions::volatile::{Dice, Kind};
use crate::harden::widens;
use crate::keys::{NONE, distinct};
use crate::query::{Layout, LookupStage, Picked, Plan, Stage, Work};
use crate::unnest::unnest;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, FieldRef, SchemaRef};
use arrow_select::filter::{FilterBuilder, filter};
use arrow_select::take::take;
use datafusion_common::arrow::compute::kernels::cmp::not_distinct;
use datafusion_common::arrow::compute::nullif;
use datafusion_common::arrow::compute::kernels::boolean::not;
use millstream_core as core;
use millstream_core::{Batch, Found, Lookup, Origin, Rejection};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// What a step made of a batch.
#[derive(Debug)]
pub struct Ran {
    pub batch: Batch,
    /// One for each source row that some expression failed on; none of its rows is in `batch`.
    pub rejected: Vec<Rejection>,
}

/// A query that can run. Shared by all that run it.
pub struct Step {
    plan: Arc<Plan>,
    lookups: Vec<Bound>,
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
    dice: Dice,
}

struct Bound {
    lookup: Arc<dyn Lookup>,
    /// The places of the columns that the query reads, in the lookup's rows.
    columns: Vec<usize>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Step {
    pub(crate) fn new(plan: Arc<Plan>, lookups: Vec<Arc<dyn Lookup>>) -> core::Result<Self> {
        if plan.lookups.len() != lookups.len() {
            let message =
                format!("the query has {} lookups, not {}", plan.lookups.len(), lookups.len());
            return Err(core::Error::stop("sql", message));
        }
        let mut bound = Vec::new();
        for stage in &plan.stages {
            let Work::Lookup(stage) = &stage.work else { continue };
            let lookup = lookups[stage.lookup].clone();
            let name = &plan.lookups[stage.lookup].name;
            let schema = lookup.schema();
            let columns = stage
                .columns
                .iter()
                .map(|field| match schema.index_of(field.name()) {
                    Ok(index) if schema.field(index).data_type() == field.data_type() => Ok(index),
                    _ => Err(core::Error::stop(
                        "sql",
                        format!("the lookup `{name}` has no column `{}` any more", field.name()),
                    )),
                })
                .collect::<core::Result<_>>()?;
            bound.push(Bound { lookup, columns });
        }
        Ok(Self { plan, lookups: bound, clock: Box::new(now_ms), dice: Dice::new() })
    }

    /// Takes the time from elsewhere: milliseconds since 1970.
    pub fn with_clock(mut self, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// As [`Self::with_clock`], for a step that is in place.
    pub fn set_clock(&mut self, clock: impl Fn() -> i64 + Send + Sync + 'static) {
        self.clock = Box::new(clock);
    }

    /// Makes `random()` and `uuid()` repeat.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.dice = Dice::seeded(seed);
        self
    }

    /// The columns of the rows that come out.
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema.clone()
    }

    /// Runs the batch through the stages. An error is a lookup's own, or says that the batch has not
    /// the columns that were planned for; bad rows are no error.
    ///
    /// Cancel safe: nothing is kept between batches.
    pub async fn run(&self, batch: Batch) -> core::Result<Ran> {
        let now = (self.clock)();
        let mut frame = Frame {
            columns: intake(&batch.rows, &self.plan.input)?,
            rows: batch.rows.num_rows(),
            origin: batch.origin,
        };
        let mut rejected = Rejected::default();
        for stage in &self.plan.stages {
            if frame.rows == 0 {
                break;
            }
            let given = std::mem::take(&mut frame.columns);
            let rows =
                hidden_batch(&stage.layout, given, &stage.hidden, frame.rows, now, &self.dice)?;
            let origin = frame.origin;
            frame = match &stage.work {
                Work::Filter { conditions, keep } => {
                    filtered(rows, origin, conditions, keep, &mut rejected)?
                }
                Work::Lookup(lookup) => {
                    let bound = &self.lookups[lookup.lookup];
                    let asked = ask(rows, origin, lookup, &mut rejected)?;
                    let found = match asked.keys.num_rows() {
                        0 => None,
                        _ => {
                            let found = bound.lookup.get_many(&asked.keys).await?;
                            let name = &self.plan.lookups[lookup.lookup].name;
                            Some(trusted(found, asked.keys.num_rows(), bound, lookup, name)?)
                        }
                    };
                    joined(asked, found, lookup, &mut rejected)?
                }
                Work::Unnest { lists, ordinality, left, keep } => {
                    let options = (*ordinality, *left);
                    unnested(rows, origin, lists, options, keep, &mut rejected)?
                }
                Work::Project { items } => projected(rows, origin, items, &mut rejected)?,
            };
        }
        let batch = match frame.rows {
            0 => Batch {
                rows: RecordBatch::new_empty(self.plan.schema.clone()),
                origin: Origin::Rows(Arc::from([])),
            },
            rows => {
                let layout = self.plan.stages.last().map(|stage: &Stage| &stage.out);
                let layout = layout.ok_or_else(|| core::Error::stop("sql", "no stages"))?;
                Batch::new(record_batch(layout, frame.columns, rows)?, frame.origin)
            }
        };
        Ok(Ran { batch, rejected: rejected.0.into_values().collect() })
    }
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// Rows between two stages.
struct Frame {
    columns: Vec<ArrayRef>,
    rows: usize,
    origin: Origin,
}

/// One rejection for each source row, the first; in the order of the source rows.
#[derive(Default)]
struct Rejected(BTreeMap<u32, Rejection>);

impl Rejected {
    /// Notes the bad rows, and gives the rows that stay: those whose source row has no bad one.
    /// `None` when all stay.
    fn note(&mut self, bad: Vec<Bad>, origin: &Origin) -> Option<BooleanArray> {
        if bad.is_empty() {
            return None;
        }
        let mut dead = HashSet::new();
        for Bad { row, kind, reason } in bad {
            let source_row = origin.of(row);
            dead.insert(source_row);
            self.0.entry(source_row).or_insert(Rejection { source_row, kind, reason });
        }
        Some(origin.iter().map(|row| Some(!dead.contains(&row))).collect())
    }
}

/// The columns that the query reads, by their names.
pub(crate) fn intake(rows: &RecordBatch, fields: &[FieldRef]) -> core::Result<Vec<ArrayRef>> {
    let schema = rows.schema_ref();
    let mut columns = Vec::with_capacity(fields.len());
    for (place, field) in fields.iter().enumerate() {
        // Most often the batch has just these columns.
        let here = schema.fields().get(place).filter(|f| f.name() == field.name());
        let index = match here {
            Some(_) => place,
            None => schema.index_of(field.name()).map_err(|_| {
                let message = format!("the batch has no column `{}`", field.name());
                core::Error::stop("sql", message)
            })?,
        };
        let column = rows.column(index);
        if column.data_type() != field.data_type() {
            let message = format!(
                "the column `{}` is {}, but the SQL was planned for {}",
                field.name(),
                column.data_type(),
                field.data_type()
            );
            return Err(core::Error::stop("sql", message));
        }
        columns.push(column.clone());
    }
    Ok(columns)
}

/// The batch that a stage evaluates on: what it was given, and its hidden columns.
pub(crate) fn hidden_batch(
    layout: &Layout,
    mut columns: Vec<ArrayRef>,
    hidden: &[Kind],
    rows: usize,
    now: i64,
    dice: &Dice,
) -> core::Result<RecordBatch> {
    columns.extend(hidden.iter().map(|kind| kind.fill(rows, now, dice)));
    record_batch(layout, columns, rows)
}

fn record_batch(layout: &Layout, columns: Vec<ArrayRef>, rows: usize) -> core::Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(layout.schema.clone(), columns, &options).map_err(broken)
}

/// The rows that a mask is true for. All of them are given back uncopied.
fn keep_rows(
    rows: &RecordBatch,
    origin: &Origin,
    mask: &BooleanArray,
) -> Result<(RecordBatch, Origin), ArrowError> {
    if mask.null_count() == 0 && !mask.has_false() {
        return Ok((rows.clone(), origin.clone()));
    }
    let predicate = FilterBuilder::new(mask).optimize().build();
    let kept = predicate.filter_record_batch(rows)?;
    Ok((kept, keep_origin(origin, mask)))
}

fn keep_origin(origin: &Origin, mask: &BooleanArray) -> Origin {
    match mask.nulls() {
        None => origin.take(mask.values().set_indices().map(|row| row as u32)),
        Some(_) => origin.take(
            (0..mask.len() as u32).filter(|row| is_true(mask, *row as usize)),
        ),
    }
}

fn is_true(mask: &BooleanArray, row: usize) -> bool {
    mask.is_valid(row) && mask.value(row)
}

fn filtered(
    mut rows: RecordBatch,
    mut origin: Origin,
    conditions: &[Compiled],
    keep: &[usize],
    rejected: &mut Rejected,
) -> core::Result<Frame> {
    // Rows that are out already are still in the columns until it pays to copy the others.
    let mut mask: Option<BooleanArray> = None;
    for (index, condition) in conditions.iter().enumerate() {
        let fine = condition.evaluate(&rows).ok();
        let mut truth = match fine {
            Some(truth) => truth,
            None => {
                // The failing rows may be out already.
                if let Some(mask) = mask.take() {
                    (rows, origin) = keep_rows(&rows, &origin, &mask).map_err(broken)?;
                }
                let evaluated = evaluate(std::slice::from_ref(condition), &rows)?;
                let truth = evaluated.arrays.into_iter().next().expect("one array");
                if let Some(alive) = rejected.note(evaluated.bad, &origin) {
                    let truth = filter(&truth, &alive).map_err(broken)?;
                    (rows, origin) = keep_rows(&rows, &origin, &alive).map_err(broken)?;
                    truth
                } else {
                    truth
                }
            }
        };
        if truth.null_count() > 0 {
            let prepared: BooleanArray =
                datafusion_common::arrow::compute::prep_null_mask_filter(truth.as_boolean());
            truth = Arc::new(prepared);
        }
        let truth = truth.as_boolean();
        let both = match &mask {
            None => truth.clone(),
            Some(mask) => datafusion_common::arrow::compute::and(mask, truth).map_err(broken)?,
        };
        let kept = both.true_count();
        if kept == 0 {
            return Ok(Frame { columns: Vec::new(), rows: 0, origin: Origin::Rows(Arc::from([])) });
        }
        let more = index + 1 < conditions.len();
        if more && kept * 2 < rows.num_rows() {
            (rows, origin) = keep_rows(&rows, &origin, &both).map_err(broken)?;
            mask = None;
        } else if kept < rows.num_rows() {
            mask = Some(both);
        } else {
            mask = None;
        }
    }
    let columns = keep.iter().map(|column| rows.column(*column));
    match mask {
        None => {
            let count = rows.num_rows();
            Ok(Frame { columns: columns.cloned().collect(), rows: count, origin })
        }
        Some(mask) => {
            let mut builder = FilterBuilder::new(&mask);
            if keep.len() > 1 {
                builder = builder.optimize();
            }
            let predicate = builder.build();
            let columns = columns
                .map(|column| predicate.filter(column))
                .collect::<Result<_, _>>()
                .map_err(broken)?;
            let count = mask.true_count();
            Ok(Frame { columns, rows: count, origin: keep_origin(&origin, &mask) })
        }
    }
}

fn projected(
    rows: RecordBatch,
    origin: Origin,
    items: &[Compiled],
    rejected: &mut Rejected,
) -> core::Result<Frame> {
    let evaluated = evaluate(items, &rows)?;
    match rejected.note(evaluated.bad, &origin) {
        None => Ok(Frame { columns: evaluated.arrays, rows: rows.num_rows(), origin }),
        Some(alive) => {
            let columns = filter_all(&evaluated.arrays, &alive)?;
            Ok(Frame { columns, rows: alive.true_count(), origin: keep_origin(&origin, &alive) })
        }
    }
}

fn filter_all(columns: &[ArrayRef], mask: &BooleanArray) -> core::Result<Vec<ArrayRef>> {
    columns.iter().map(|column| filter(column, mask)).collect::<Result<_, _>>().map_err(broken)
}

fn unnested(
    mut rows: RecordBatch,
    mut origin: Origin,
    lists: &[Compiled],
    (ordinality, left): (bool, bool),
    keep: &[Picked],
    rejected: &mut Rejected,
) -> core::Result<Frame> {
    let evaluated = evaluate(lists, &rows)?;
    let mut lists = evaluated.arrays;
    if let Some(alive) = rejected.note(evaluated.bad, &origin) {
        lists = filter_all(&lists, &alive)?;
        (rows, origin) = keep_rows(&rows, &origin, &alive).map_err(broken)?;
    }
    let unnested = unnest(&lists, rows.num_rows(), left).map_err(broken)?;
    let mut new = unnested.items;
    if ordinality {
        new.push(Arc::new(unnested.ordinality));
    }
    let columns = keep
        .iter()
        .map(|picked| match picked {
            Picked::Old(column) => take(rows.column(*column), &unnested.rows, None),
            Picked::New(column) => Ok(new[*column].clone()),
        })
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    let origin = origin.take(unnested.rows.values().iter().copied());
    Ok(Frame { columns, rows: unnested.rows.len(), origin })
}

/// A batch whose keys are known.
struct Asked {
    rows: RecordBatch,
    origin: Origin,
    /// The distinct keys.
    keys: RecordBatch,
    /// For each row its key, or [`NONE`].
    key_of: Vec<u32>,
}

fn ask(
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
        let truth: BooleanArray = {
            let truth = truth[0].as_boolean();
            (0..truth.len()).map(|row| Some(is_true(truth, row))).collect()
        };
        open = Some(match open {
            None => truth,
            Some(open) => {
                datafusion_common::arrow::compute::and(&open, &truth).map_err(broken)?
            }
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
                Some(open) => {
                    Some(filter(&open, &alive).map_err(broken)?.as_boolean().clone())
                }
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
fn trusted(
    found: Found,
    keys: usize,
    bound: &Bound,
    stage: &LookupStage,
    name: &str,
) -> core::Result<Answer> {
    let rows = found.rows.num_rows() as u32;
    let ordered = found.ends.windows(2).all(|pair| pair[0] <= pair[1]);
    let fits = found.ends.len() == keys
        && ordered
        && found.ends.last().is_none_or(|end| *end <= rows);
    let columns: Option<Vec<ArrayRef>> = bound
        .columns
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

struct Answer {
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

fn joined(
    asked: Asked,
    answer: Option<Answer>,
    stage: &LookupStage,
    rejected: &mut Rejected,
) -> core::Result<Frame> {
    let Asked { mut rows, mut origin, mut key_of, .. } = asked;
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

/// Each row with each row found for its key.
fn pair(key_of: &[u32], answer: Option<&Answer>) -> Pairs {
    let mut pairs = Pairs {
        old: Vec::with_capacity(key_of.len()),
        new: Vec::with_capacity(key_of.len()),
    };
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
        let truth = datafusion_common::arrow::compute::prep_null_mask_filter(truth.as_boolean());
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
