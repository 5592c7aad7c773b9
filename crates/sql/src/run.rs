//! A query bound to its stores, run on batches.

use crate::evaluate::{Bad, broken, evaluate};
use crate::expr::Compiled;
use crate::functions::volatile::{Dice, Kind};
use crate::harden::nulls_as_false;
use crate::lookup::{ask, joined, trusted};
use crate::query::{Layout, Picked, Plan, Stage, Work};
use crate::unnest::{ROWS_MAX, counts, unnest};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, FieldRef, SchemaRef};
use arrow_select::filter::{FilterBuilder, filter};
use arrow_select::take::take;
use datafusion_common::arrow::compute::kernels::boolean::and;
use millstream_core as core;
use millstream_core::{Batch, Lookup, Origin, Rejection};
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
                            let keys = asked.keys.num_rows();
                            let found = trusted(found, keys, &bound.columns, lookup, name)?;
                            let (rows, hits) = asked.served(&found);
                            bound.lookup.served(rows, hits);
                            Some(found)
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
pub(crate) struct Frame {
    pub columns: Vec<ArrayRef>,
    pub rows: usize,
    pub origin: Origin,
}

/// One rejection for each source row, the first; in the order of the source rows.
#[derive(Default)]
pub(crate) struct Rejected(pub BTreeMap<u32, Rejection>);

impl Rejected {
    /// Notes the bad rows, and gives the rows that stay: those whose source row has no bad one.
    /// `None` when all stay.
    pub fn note(&mut self, bad: Vec<Bad>, origin: &Origin) -> Option<BooleanArray> {
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

pub(crate) fn record_batch(
    layout: &Layout,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> core::Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(layout.schema.clone(), columns, &options).map_err(broken)
}

/// The rows that a mask is true for. All of them are given back uncopied.
pub(crate) fn keep_rows(
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
        Some(_) => origin.take((0..mask.len() as u32).filter(|row| is_true(mask, *row as usize))),
    }
}

pub(crate) fn is_true(mask: &BooleanArray, row: usize) -> bool {
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
        let truth = match condition.evaluate(&rows) {
            Ok(truth) => truth,
            Err(_) => {
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
        let truth = nulls_as_false(truth.as_boolean());
        let both = match &mask {
            None => truth,
            Some(mask) => and(mask, &truth).map_err(broken)?,
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

pub(crate) fn filter_all(columns: &[ArrayRef], mask: &BooleanArray) -> core::Result<Vec<ArrayRef>> {
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
    let bad = overflowing(&lists, &origin, rows.num_rows())?;
    if let Some(alive) = rejected.note(bad, &origin) {
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

/// The rows whose source row would become too many. They stand next to each other.
fn overflowing(lists: &[ArrayRef], origin: &Origin, rows: usize) -> core::Result<Vec<Bad>> {
    let counts = counts(lists, rows).map_err(broken)?;
    Ok(too_many(counts, origin, || format!("UNNEST makes more than {ROWS_MAX} rows of one record")))
}

/// The same, of rows that become so many each.
pub(crate) fn too_many(
    counts: impl IntoIterator<Item = usize>,
    origin: &Origin,
    reason: impl Fn() -> String,
) -> Vec<Bad> {
    let mut bad = Vec::new();
    let mut total = 0;
    for (row, count) in counts.into_iter().enumerate() {
        let same = row > 0 && origin.of(row) == origin.of(row - 1);
        total = if same { total + count } else { count };
        if total > ROWS_MAX {
            bad.push(Bad { row, kind: "too_many_rows", reason: reason() });
        }
    }
    bad
}
