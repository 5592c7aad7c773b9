//! A planned SELECT: its stages, each knowing which columns it gets and which it passes on, and what
//! a pipeline must know of it.

use crate::draft::Draft;
use crate::error::SqlError;
use crate::expr::Compiled;
use crate::functions::volatile::Kind;
use crate::join::LookupUse;
use crate::on_big_stack;
use crate::run::Step;
use crate::select::parse_select;
use arrow_schema::{FieldRef, Schema, SchemaRef};
use millstream_core as core;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// A planned SELECT. Not yet tied to the stores that it looks up.
#[derive(Debug, Clone)]
pub struct Query {
    pub(crate) plan: Arc<Plan>,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub input: Vec<FieldRef>,
    /// Which fields of an input column are read, by their paths; all, where there are none.
    pub input_paths: Vec<Vec<String>>,
    pub input_columns_all: usize,
    pub stages: Vec<Stage>,
    pub lookups: Vec<LookupUse>,
    pub schema: SchemaRef,
    /// A word and a line for each thing done.
    pub explain: Vec<(String, String)>,
}

/// The columns of a batch between two stages.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub schema: SchemaRef,
}

/// A stage and the shape of the batch that it evaluates on: the columns it was given, then its
/// hidden ones.
#[derive(Debug)]
pub(crate) struct Stage {
    pub layout: Layout,
    pub hidden: Vec<Kind>,
    pub work: Work,
    /// The batch that it passes on.
    pub out: Layout,
}

#[derive(Debug)]
pub(crate) enum Work {
    Filter {
        conditions: Vec<Compiled>,
        /// For each column passed on, its place in the stage's batch.
        keep: Vec<usize>,
    },
    Lookup(LookupStage),
    Unnest {
        lists: Vec<Compiled>,
        ordinality: bool,
        left: bool,
        keep: Vec<Picked>,
    },
    Project {
        items: Vec<Compiled>,
    },
}

#[derive(Debug)]
pub(crate) struct LookupStage {
    /// Which of the query's lookups.
    pub lookup: usize,
    pub keys: Vec<Compiled>,
    pub key_schema: SchemaRef,
    /// Rows that fail one of these are not looked up: they miss.
    pub before: Vec<Compiled>,
    pub after: Vec<Compiled>,
    /// The columns that `after` is evaluated on.
    pub pairs: Vec<Picked>,
    pub pairs_layout: Layout,
    pub left: bool,
    pub keep: Vec<Picked>,
    /// The lookup's columns that `Picked::New` counts.
    pub columns: Vec<FieldRef>,
}

/// Where a column comes from when rows multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Picked {
    /// From the stage's batch.
    Old(usize),
    /// From what the stage adds.
    New(usize),
}

/// Plans a SELECT over the relation `input` and the lookups, by their names. All mistakes that can
/// be told apart are reported at once.
pub fn plan(
    sql: &str,
    input: &Schema,
    lookups: &BTreeMap<String, SchemaRef>,
) -> Result<Query, Vec<SqlError>> {
    on_big_stack(|| {
        let parts = parse_select(sql).map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        let planned = Draft::of(parts, input, lookups, &mut errors);
        errors.sort_by_key(|error| (error.line, error.column));
        errors.dedup();
        match planned {
            Some(draft) if errors.is_empty() => {
                draft.compile().map(|plan| Query { plan: Arc::new(plan) }).map_err(|e| vec![e])
            }
            _ => Err(errors),
        }
    })
}

/// Whether a text is a SELECT that a step may have, as far as that shows without its columns.
pub fn check_syntax(sql: &str) -> Result<(), Vec<SqlError>> {
    on_big_stack(|| parse_select(sql).map(drop).map_err(|error| vec![error]))
}

impl Query {
    /// The columns of the rows that come out.
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema.clone()
    }

    /// The columns of the input that the query reads, in the input's order; the others need not be
    /// decoded. A batch to run on has these columns, by name, and may have more.
    pub fn input_columns(&self) -> Vec<String> {
        self.plan.input.iter().map(|field| field.name().clone()).collect()
    }

    /// As [`Self::input_columns`], with the fields that are read of a column that is not read whole:
    /// `site.name`, `site.geo.lat`. A path may go on into a map, by a key.
    pub fn input_paths(&self) -> Vec<String> {
        let columns = self.plan.input.iter().zip(&self.plan.input_paths);
        columns
            .flat_map(|(field, paths)| match paths.as_slice() {
                [] => vec![field.name().clone()],
                paths => paths.iter().map(|path| format!("{}.{path}", field.name())).collect(),
            })
            .collect()
    }

    pub fn lookups(&self) -> &[LookupUse] {
        &self.plan.lookups
    }

    /// The stages in the order they run, a line each.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        let names = self.input_columns();
        let count = format!("{} of {} columns", names.len(), self.plan.input_columns_all);
        let width = self.plan.explain.iter().map(|(word, _)| word.len()).max().unwrap_or(5).max(5);
        let _ = writeln!(text, "{:width$}  {count}: {}", "input", names.join(", "));
        for (word, line) in &self.plan.explain {
            let _ = writeln!(text, "{word:width$}  {line}");
        }
        text
    }

    /// Ties the query to its stores, in the order of [`Self::lookups`].
    pub fn bind(&self, lookups: Vec<Arc<dyn core::Lookup>>) -> core::Result<Step> {
        Step::new(self.plan.clone(), lookups)
    }
}
