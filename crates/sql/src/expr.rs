//! One SQL expression, from the parser's tree to something that can be evaluated on a batch.
//!
//! ```text
//! names checked ─► DataFusion expression ─► types coerced ─► functions simplified ─► compiled
//! ```
//!
//! DataFusion's constant folding is not used: it wraps integers. The compiled expression is
//! folded instead, after it was hardened (see [`crate::harden`]).

use crate::bounds::lower_first;
use crate::error::{SqlError, start_of};
use crate::functions;
use crate::functions::volatile::Kind;
use crate::harden::harden;
use crate::rewrite::rewrite;
use crate::scope::{ColumnId, Scope};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, DataFusionError, ScalarValue, TableReference, plan_err};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, Operator, ScalarUDF, TableSource, WindowUDF,
};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{
    DataType as SqlType, Expr as SqlExpr, TimezoneInfo, Visit, Visitor,
};
use datafusion_sql::sqlparser::tokenizer::Location;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

/// Plans expressions over a growing scope.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    pub scope: Scope,
    /// The hidden columns that stand for `now()` and its like.
    pub volatile: BTreeMap<ColumnId, Kind>,
}

/// An expression whose names and types are settled, not yet tied to the layout of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub expr: Expr,
    pub data_type: DataType,
    /// False only where no row can give a null.
    pub nullable: bool,
    /// The columns it reads, hidden ones for `now()` included.
    pub columns: BTreeSet<ColumnId>,
    pub text: Arc<str>,
    pub location: Location,
}

/// An expression that can be evaluated on batches of one layout.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    physical: Arc<dyn PhysicalExpr>,
    pub data_type: DataType,
    pub text: Arc<str>,
}

impl Planner {
    pub fn plan(&mut self, sql: &SqlExpr) -> Result<Planned, Vec<SqlError>> {
        let errors = self.scope.check(sql);
        if !errors.is_empty() {
            return Err(errors);
        }
        self.logical(sql).map_err(|error| vec![self.explain(sql, &error)])
    }

    /// As [`Self::plan`], for a condition.
    pub fn plan_condition(&mut self, sql: &SqlExpr) -> Result<Planned, Vec<SqlError>> {
        let mut planned = self.plan(sql)?;
        match &planned.data_type {
            DataType::Boolean => {}
            DataType::Null => planned = planned.cast_to(DataType::Boolean),
            other => {
                let message = format!(
                    "the condition `{}` is {}, not boolean",
                    planned.text,
                    millstream_core::types::name(other)
                );
                return Err(vec![SqlError::new(planned.location, message)]);
            }
        }
        Ok(planned)
    }

    /// The expression that is just this column.
    pub fn column(&self, column: ColumnId, text: &str, location: Location) -> Planned {
        let (table, field) = self.scope.qualified(column);
        Planned {
            expr: Expr::Column(Column::new(Some(table), field.name())),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            columns: BTreeSet::from([column]),
            text: text.into(),
            location,
        }
    }

    pub fn compile(&self, planned: &Planned, layout: &[ColumnId]) -> Result<Compiled, SqlError> {
        let fail = |error: &DataFusionError| {
            SqlError::new(planned.location, format!("`{}`: {}", planned.text, clean(error)))
        };
        let schema = self.scope.schema(layout.iter().copied()).map_err(|e| fail(&e))?;
        let mut props = ExecutionProps::new();
        props.config_options = Some(functions::config().clone());
        let context = PhysicalPlanningContext::default();
        let physical = create_physical_expr(&planned.expr, &schema, &props, &context)
            .and_then(|physical| harden(physical, schema.as_arrow()))
            .map_err(|e| fail(&e))?;
        let compiled =
            Compiled { physical, data_type: planned.data_type.clone(), text: planned.text.clone() };
        compiled.try_out(&schema).map_err(|e| fail(&e))?;
        Ok(compiled)
    }

    fn logical(&mut self, sql: &SqlExpr) -> Result<Planned, DataFusionError> {
        let schema = self.scope.schema(self.scope.all())?;
        let options = ParserOptions::new()
            .with_enable_ident_normalization(false)
            .with_map_string_types_to_utf8view(false);
        let mut spoken = sql.clone();
        rewrite(&mut spoken);
        let expr = SqlToRel::new_with_options(&Provider, options).sql_to_expr(
            spoken,
            &schema,
            &mut PlannerContext::new(),
        )?;
        let expr = self.hide_volatile(expr)?;
        let schema = Arc::new(self.scope.schema(self.scope.all())?);
        let context = SimplifyContext::builder()
            .with_schema(schema.clone())
            .with_config_options(functions::config().clone())
            .build();
        let expr = ExprSimplifier::new(context.clone()).coerce(expr, &schema)?;
        let expr = expr.transform_up(|node| simplify_function(node, &context))?.data;
        let data_type = expr.get_type(&schema)?;
        let mut columns = BTreeSet::new();
        for column in expr.column_refs() {
            match self.scope.id_of(column) {
                Some(id) => {
                    columns.insert(id);
                }
                None => return plan_err!("there is no column `{}`", column.name),
            }
        }
        let nullable = !never_null(&expr, &schema);
        let text = sql.to_string().into();
        Ok(Planned { expr, data_type, nullable, columns, text, location: start_of(sql) })
    }

    /// Puts a hidden column in the place of each call of `now()` and its like.
    fn hide_volatile(&mut self, expr: Expr) -> Result<Expr, DataFusionError> {
        expr.transform_up(|node| {
            let kind = match &node {
                Expr::ScalarFunction(call) => Kind::by_name(call.func.name()),
                _ => None,
            };
            let Some(kind) = kind else { return Ok(Transformed::no(node)) };
            let column = self.hidden(kind);
            let (table, field) = self.scope.qualified(column);
            Ok(Transformed::yes(Expr::Column(Column::new(Some(table), field.name()))))
        })
        .map(|transformed| transformed.data)
    }

    /// All calls of `now()` share a column; each `random()` has its own.
    fn hidden(&mut self, kind: Kind) -> ColumnId {
        let shared = matches!(kind, Kind::Now | Kind::Today);
        if shared && let Some((column, _)) = self.volatile.iter().find(|(_, k)| **k == kind) {
            return *column;
        }
        let name = format!("{}() {}", kind.name(), self.volatile.len());
        let column = self.scope.add_hidden(Arc::new(Field::new(name, kind.data_type(), false)));
        self.volatile.insert(column, kind);
        column
    }

    /// Finds the smallest part of an expression that cannot be planned: that is where the mistake
    /// is.
    fn explain(&mut self, sql: &SqlExpr, error: &DataFusionError) -> SqlError {
        struct Parts(Vec<SqlExpr>);
        impl Visitor for Parts {
            type Break = ();
            fn post_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<()> {
                // Names were checked before, and those of fields cannot be planned alone.
                if !matches!(expr, SqlExpr::Identifier(_) | SqlExpr::Value(_)) {
                    self.0.push(expr.clone());
                }
                ControlFlow::Continue(())
            }
        }
        let mut parts = Parts(Vec::new());
        let _ = sql.visit(&mut parts);
        for part in &parts.0 {
            if let Err(error) = self.logical(part) {
                return SqlError::at(part, format!("`{}`: {}", brief(part), clean(&error)));
            }
        }
        SqlError::at(sql, format!("`{}`: {}", brief(sql), clean(error)))
    }
}

impl Planned {
    /// Casts; a value that cannot be, fails its row.
    pub fn cast_to(mut self, to: DataType) -> Self {
        let cast = datafusion_expr::Cast::new(Box::new(self.expr), to.clone());
        self.expr = Expr::Cast(cast);
        self.data_type = to;
        self
    }

    /// Gives each column that is read with the names of the fields within it that are, none where it
    /// is read whole: `site` and `geo`, `lat` of `site.geo.lat`.
    pub fn accesses(&self, mut each: impl FnMut(&Column, Vec<&str>)) {
        let walked = self.expr.apply(|node| match access(node) {
            Some((column, path)) => {
                each(column, path);
                Ok(TreeNodeRecursion::Jump)
            }
            None => Ok(TreeNodeRecursion::Continue),
        });
        walked.expect("the walk itself fails nowhere");
    }

    pub fn as_column(&self) -> Option<&Column> {
        match &self.expr {
            Expr::Column(column) => Some(column),
            _ => None,
        }
    }
}

impl Compiled {
    /// One value for each row, of the declared type. An error concerns at least one row.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        let array = self.physical.evaluate(batch)?.into_array(batch.num_rows())?;
        if *array.data_type() == self.data_type {
            return Ok(array);
        }
        let options = CastOptions { safe: false, ..Default::default() };
        Ok(cast_with_options(&array, &self.data_type, &options)?)
    }

    /// A row of nulls shows what no row could ever be evaluated by.
    fn try_out(&self, schema: &DFSchema) -> Result<(), DataFusionError> {
        let fields: Vec<FieldRef> = schema.fields().iter().map(crate::scope::nullable).collect();
        let schema = Arc::new(arrow_schema::Schema::new(fields));
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| arrow_array::new_null_array(field.data_type(), 1))
            .collect();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(1));
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        match self.evaluate(&batch) {
            Err(error) if is_unsupported(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_unsupported(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::NotImplemented(_) | DataFusionError::Internal(_) => true,
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::NotYetImplemented(_) | ArrowError::SchemaError(_) => true,
            ArrowError::CastError(text) => text.contains("not supported"),
            _ => false,
        },
        _ => false,
    }
}

/// Some functions only exist to be rewritten, `coalesce` for one.
fn simplify_function(
    node: Expr,
    context: &SimplifyContext,
) -> Result<Transformed<Expr>, DataFusionError> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = node else {
        return Ok(Transformed::no(node));
    };
    Ok(match func.simplify(args, context)? {
        ExprSimplifyResult::Simplified(expr) => Transformed::yes(expr),
        ExprSimplifyResult::Original(args) => {
            Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))
        }
    })
}

/// A column, or fields of one by their names.
fn access(expr: &Expr) -> Option<(&Column, Vec<&str>)> {
    match expr {
        Expr::Column(column) => Some((column, Vec::new())),
        Expr::ScalarFunction(call) if call.func.name() == "get_field" => {
            let (root, names) = call.args.split_first()?;
            let (column, mut path) = access(root)?;
            for name in names {
                match name {
                    Expr::Literal(ScalarValue::Utf8(Some(name)), _) => path.push(name),
                    _ => return None,
                }
            }
            Some((column, path))
        }
        _ => None,
    }
}

/// Whether no row can give a null. What DataFusion says of functions is not relied on.
fn never_null(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(..) => !expr.nullable(schema).unwrap_or(true),
        Expr::Alias(alias) => never_null(&alias.expr, schema),
        Expr::Cast(cast) => never_null(&cast.expr, schema),
        Expr::Not(inner) | Expr::Negative(inner) => never_null(inner, schema),
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => true,
            _ => never_null(&binary.left, schema) && never_null(&binary.right, schema),
        },
        Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_) => true,
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter().all(|(when, then)| {
                // `coalesce(x, …)` becomes CASE WHEN x IS NOT NULL THEN x ….
                let guarded = matches!(&**when, Expr::IsNotNull(inner) if inner == then);
                (guarded && case.expr.is_none()) || never_null(then, schema)
            });
            branches && case.else_expr.as_ref().is_some_and(|expr| never_null(expr, schema))
        }
        _ => false,
    }
}

/// A short text of an expression for messages.
fn brief(sql: &SqlExpr) -> String {
    shorten(&sql.to_string())
}

pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The words of an error, without the library's own headings.
pub(crate) fn clean(error: &DataFusionError) -> String {
    let mut error = error;
    while let DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) = error {
        error = inner;
    }
    let message = error.message();
    let message = message.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    let mut message = message.trim();
    const HEADINGS: [&str; 9] = [
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
        "Arithmetic overflow: ",
        "Compute error: ",
        "Invalid argument error: ",
        "Not yet implemented: ",
        "Error during planning: ",
        "Execution error: ",
    ];
    while let Some(rest) = HEADINGS.iter().find_map(|heading| message.strip_prefix(heading)) {
        message = rest;
    }
    // What follows are the candidate signatures, a screen full of them.
    let message = message.split(" Candidate functions:").next().unwrap_or(message);
    let message = message.split("\n\t").next().unwrap_or(message);
    let message = message.split("\nThis issue was likely").next().unwrap_or(message);
    lower_first(message.trim().trim_end_matches('.'))
}

/// A short stable word for metrics.
pub(crate) fn kind(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => "divide_by_zero",
            ArrowError::ArithmeticOverflow(_) => "overflow",
            ArrowError::CastError(_) | ArrowError::ParseError(_) => "cast",
            _ => "expression",
        },
        _ => "expression",
    }
}

/// What DataFusion's planner asks its surroundings.
struct Provider;

impl ContextProvider for Provider {
    fn get_table_source(
        &self,
        name: TableReference,
    ) -> Result<Arc<dyn TableSource>, DataFusionError> {
        plan_err!("there is no relation `{name}`")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        static PLANNERS: LazyLock<Vec<Arc<dyn ExprPlanner>>> = LazyLock::new(|| {
            vec![
                Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
                Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
                Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
                Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
                Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            ]
        });
        &PLANNERS
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions::by_name(name).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        functions::config()
    }

    fn udf_names(&self) -> Vec<String> {
        functions::names().map(str::to_owned).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Type names mean in SQL what they mean in a pipeline file.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql: &SqlType) -> Result<Option<FieldRef>, DataFusionError> {
        let data_type = match sql {
            SqlType::Timestamp(precision, zone) => {
                let unit = match precision {
                    Some(9) => TimeUnit::Nanosecond,
                    Some(4..=6) => TimeUnit::Microsecond,
                    _ => TimeUnit::Millisecond,
                };
                let zone = match zone {
                    TimezoneInfo::WithoutTimeZone => None,
                    _ => Some("UTC".into()),
                };
                DataType::Timestamp(unit, zone)
            }
            SqlType::Datetime(_) => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            SqlType::Time(..) => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Bytes(_) | SqlType::Blob(_) | SqlType::Bytea => DataType::Binary,
            SqlType::Custom(name, _) => match millstream_core::types::parse(&name.to_string()) {
                Ok(data_type) if data_type == millstream_core::types::IP => {
                    return plan_err!("an address is made by ip(text) or try_ip(text)");
                }
                Ok(data_type) => data_type,
                Err(message) => return plan_err!("{message}"),
            },
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}

/// Whether an expression holds a node that the predicate picks.
pub(crate) fn any_node(
    physical: &Arc<dyn PhysicalExpr>,
    mut picks: impl FnMut(&Arc<dyn PhysicalExpr>) -> Result<bool, DataFusionError>,
) -> Result<bool, DataFusionError> {
    let mut found = false;
    physical.apply(|node| {
        found = picks(node)?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
