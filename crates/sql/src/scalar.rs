//! One expression over a batch, outside a SELECT: `tap --where`, the key or topic of a sink.

use crate::error::SqlError;
use crate::evaluate::evaluate;
use crate::expr::{Compiled, Planner};
use crate::functions::volatile::{Dice, Kind};
use crate::on_big_stack;
use crate::query::Layout;
use crate::run::{hidden_batch, intake, now_ms};
use crate::select::parse_expr;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, FieldRef, Schema};
use millstream_core as core;
use std::sync::Arc;

/// An expression that is planned over a schema.
#[derive(Debug)]
pub struct Scalar {
    expr: Compiled,
    nullable: bool,
    input: Vec<FieldRef>,
    layout: Layout,
    hidden: Vec<Kind>,
    dice: Dice,
}

/// A row that the expression fails on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its index in the batch.
    pub row: u32,
    /// A short stable word for metrics.
    pub kind: &'static str,
    pub reason: String,
}

/// Plans one expression whose columns are those of `schema`, which may also be written as
/// `input.column`.
pub fn plan_expr(sql: &str, schema: &Schema) -> Result<Scalar, Vec<SqlError>> {
    on_big_stack(|| {
        let parsed = parse_expr(sql).map_err(|error| vec![error])?;
        let mut planner = Planner::default();
        planner.scope.add("input", schema.fields().iter().cloned());
        let planned = planner.plan(&parsed)?;
        let (hidden, used): (Vec<_>, Vec<_>) =
            planned.columns.iter().copied().partition(|c| planner.volatile.contains_key(c));
        let layout: Vec<_> = used.iter().chain(&hidden).copied().collect();
        let field = |column: &usize| planner.scope.field(*column).clone();
        let expr = planner.compile(&planned, &layout).map_err(|error| vec![error])?;
        Ok(Scalar {
            expr,
            nullable: planned.nullable,
            input: used.iter().map(field).collect(),
            layout: Layout {
                schema: Arc::new(Schema::new(layout.iter().map(field).collect::<Vec<_>>())),
            },
            hidden: hidden.iter().map(|column| planner.volatile[column]).collect(),
            dice: Dice::new(),
        })
    })
}

impl Scalar {
    pub fn data_type(&self) -> &DataType {
        &self.expr.data_type
    }

    pub fn nullable(&self) -> bool {
        self.nullable
    }

    /// The columns that it reads.
    pub fn columns(&self) -> Vec<String> {
        self.input.iter().map(|field| field.name().clone()).collect()
    }

    /// One value a row; null for the rows that it fails on, which are listed.
    pub fn evaluate(&self, rows: &RecordBatch) -> core::Result<(ArrayRef, Vec<Failed>)> {
        let columns = intake(rows, &self.input)?;
        let batch = hidden_batch(
            &self.layout,
            columns,
            &self.hidden,
            rows.num_rows(),
            now_ms(),
            &self.dice,
        )?;
        let evaluated = evaluate(std::slice::from_ref(&self.expr), &batch)?;
        let failed = evaluated
            .bad
            .into_iter()
            .map(|bad| Failed { row: bad.row as u32, kind: bad.kind, reason: bad.reason })
            .collect();
        let array = evaluated.arrays.into_iter().next().expect("one array for one expression");
        Ok((array, failed))
    }

    /// Which rows the condition is true for; those that it fails on are not among them. An error
    /// when it is no condition.
    pub fn matches(&self, rows: &RecordBatch) -> core::Result<BooleanArray> {
        let (array, _) = self.evaluate(rows)?;
        match array.as_boolean_opt() {
            Some(matches) => Ok((0..matches.len())
                .map(|row| Some(matches.is_valid(row) && matches.value(row)))
                .collect()),
            None => Err(core::Error::stop(
                "sql",
                format!("`{}` is {}, not boolean", self.expr.text, self.expr.data_type),
            )),
        }
    }
}
