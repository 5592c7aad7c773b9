//! A SELECT as stages: filters, lookups, UNNEST and the projection, each knowing which columns it
//! gets and which it passes on.

use crate::error::{SqlError, suggest};
use crate::expr::{Compiled, Planned, Planner, shorten};
use crate::functions::volatile::Kind;
use crate::join::{self, Join, LookupUse};
use crate::on_big_stack;
use crate::run::Step;
use crate::scope::{ColumnId, function_name, nullable};
use crate::select::{JoinPart, Parts, parse_select};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, ExcludeSelectItem, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    SelectItem, SelectItemQualifiedWildcardKind, Spanned, Subscript, Value,
    WildcardAdditionalOptions,
};
use datafusion_sql::sqlparser::tokenizer::Location;
use millstream_core as core;
use millstream_core::types;
use std::collections::{BTreeMap, BTreeSet};
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
    input_columns_all: usize,
    pub stages: Vec<Stage>,
    pub lookups: Vec<LookupUse>,
    pub schema: SchemaRef,
    explain: Vec<(String, String)>,
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

/// The SELECT with names and types settled, before it is known which columns go where.
struct Draft {
    planner: Planner,
    input: Vec<ColumnId>,
    input_columns_all: usize,
    nodes: Vec<Node>,
    fields: Vec<FieldRef>,
}

enum Node {
    Filter(Vec<Planned>),
    Lookup {
        name: String,
        alias: String,
        left: bool,
        join: Join,
        columns: Vec<ColumnId>,
    },
    Unnest {
        lists: Vec<Planned>,
        items: Vec<ColumnId>,
        ordinality: Option<ColumnId>,
        left: bool,
    },
    Project(Vec<(String, Planned)>),
}

impl Draft {
    fn of(
        parts: Parts,
        input: &Schema,
        lookups: &BTreeMap<String, SchemaRef>,
        errors: &mut Vec<SqlError>,
    ) -> Option<Draft> {
        let mut planner = Planner::default();
        let range = planner.scope.add(&parts.input_alias, input.fields().iter().cloned());
        let input_columns: Vec<ColumnId> = range.collect();
        // The number of columns that are there after the input and after each join.
        let mut ends = vec![input_columns.len()];
        let mut joined = Vec::new();
        let before = errors.len();
        for part in parts.joins {
            match join_node(&mut planner, part, lookups) {
                Ok(node) => joined.push(node),
                Err(more) => errors.extend(more),
            }
            ends.push(planner.scope.all().end);
        }
        if errors.len() > before && joined.len() + 1 < ends.len() {
            // Columns of a join that failed would be reported as unknown.
            return None;
        }

        let mut filters: Vec<Vec<Planned>> = ends.iter().map(|_| Vec::new()).collect();
        let volatile = planner.volatile.clone();
        // A condition runs as soon as its columns are there.
        let place = |condition: &Planned, volatile: &BTreeMap<ColumnId, Kind>| {
            let last = condition.columns.iter().filter(|c| !volatile.contains_key(c)).max();
            last.map_or(0, |last| ends.iter().position(|end| last < end).unwrap_or(0))
        };
        for node in &mut joined {
            // An inner join drops the rows that fail these, so they need not be looked up.
            if let Node::Lookup { left: false, join, .. } = node {
                for condition in join.before.drain(..) {
                    let place = place(&condition, &volatile);
                    filters[place].push(condition);
                }
            }
        }
        for condition in &parts.conditions {
            match planner.plan_condition(condition) {
                Ok(planned) => {
                    let place = place(&planned, &planner.volatile);
                    filters[place].push(planned);
                }
                Err(more) => errors.extend(more),
            }
        }

        let mut nodes = Vec::new();
        let mut filters = filters.into_iter();
        let mut filter = |nodes: &mut Vec<Node>| {
            let conditions = filters.next().unwrap_or_default();
            if !conditions.is_empty() {
                nodes.push(Node::Filter(conditions));
            }
        };
        filter(&mut nodes);
        for node in joined {
            nodes.push(node);
            filter(&mut nodes);
        }
        let fields = projection(&mut planner, parts.items, &mut nodes, errors);
        Some(Draft {
            planner,
            input_columns_all: input_columns.len(),
            input: input_columns,
            nodes,
            fields,
        })
    }

    /// Backwards for the columns that are needed, then forwards for the stages.
    fn compile(self) -> Result<Plan, SqlError> {
        let mut needed: BTreeSet<ColumnId> = BTreeSet::new();
        let mut after: Vec<BTreeSet<ColumnId>> = Vec::new();
        for node in self.nodes.iter().rev() {
            after.push(needed.clone());
            for added in node.adds() {
                needed.remove(&added);
            }
            needed.extend(node.reads().filter(|column| !self.planner.volatile.contains_key(column)));
            for added in node.adds() {
                needed.remove(&added);
            }
        }
        after.reverse();
        let input: Vec<ColumnId> =
            self.input.iter().copied().filter(|column| needed.contains(column)).collect();

        let mut layout = input.clone();
        let mut stages = Vec::new();
        let mut lookups = Vec::new();
        let mut explain = Vec::new();
        let count = self.nodes.len();
        for (index, (node, needed)) in self.nodes.iter().zip(&after).enumerate() {
            let hidden: Vec<ColumnId> = node
                .reads()
                .filter(|column| self.planner.volatile.contains_key(column))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let given: Vec<ColumnId> = layout.iter().chain(&hidden).copied().collect();
            let (work, out) =
                self.stage(node, &given, needed, &mut lookups, &mut explain)?;
            let out_layout = match index + 1 == count {
                true => Layout { schema: Arc::new(Schema::new(self.fields.clone())) },
                false => self.layout(&out),
            };
            stages.push(Stage {
                layout: self.layout(&given),
                hidden: hidden.iter().map(|column| self.planner.volatile[column]).collect(),
                work,
                out: out_layout,
            });
            layout = out;
        }
        Ok(Plan {
            input: input.iter().map(|column| self.planner.scope.field(*column).clone()).collect(),
            input_columns_all: self.input_columns_all,
            stages,
            lookups,
            schema: Arc::new(Schema::new(self.fields)),
            explain,
        })
    }

    fn layout(&self, columns: &[ColumnId]) -> Layout {
        let fields: Vec<FieldRef> =
            columns.iter().map(|column| self.planner.scope.field(*column).clone()).collect();
        Layout { schema: Arc::new(Schema::new(fields)) }
    }

    fn compile_all<'a>(
        &self,
        planned: impl IntoIterator<Item = &'a Planned>,
        layout: &[ColumnId],
    ) -> Result<Vec<Compiled>, SqlError> {
        planned.into_iter().map(|planned| self.planner.compile(planned, layout)).collect()
    }

    /// A stage and the columns it passes on.
    fn stage(
        &self,
        node: &Node,
        given: &[ColumnId],
        needed: &BTreeSet<ColumnId>,
        lookups: &mut Vec<LookupUse>,
        explain: &mut Vec<(String, String)>,
    ) -> Result<(Work, Vec<ColumnId>), SqlError> {
        let passed: Vec<ColumnId> =
            given.iter().copied().filter(|column| needed.contains(column)).collect();
        let place = |column: &ColumnId| given.iter().position(|given| given == column);
        match node {
            Node::Filter(conditions) => {
                for condition in conditions {
                    explain.push(("where".into(), shorten(&condition.text)));
                }
                let conditions = self.compile_all(conditions, given)?;
                let keep = passed.iter().filter_map(place).collect();
                Ok((Work::Filter { conditions, keep }, passed))
            }
            Node::Lookup { name, alias, left, join, columns } => {
                let read: BTreeSet<ColumnId> =
                    join.after.iter().flat_map(|planned| planned.columns.clone()).collect();
                let used: Vec<ColumnId> = columns
                    .iter()
                    .copied()
                    .filter(|column| needed.contains(column) || read.contains(column))
                    .collect();
                let pick = |column: &ColumnId| match used.iter().position(|used| used == column) {
                    Some(new) => Some(Picked::New(new)),
                    None => place(column).map(Picked::Old),
                };
                let pairs: Vec<ColumnId> = read.into_iter().collect();
                let out: Vec<ColumnId> = passed
                    .iter()
                    .chain(used.iter().filter(|column| needed.contains(column)))
                    .copied()
                    .collect();
                let key_names = join.key.columns();
                let key_fields: Vec<Field> = join
                    .key_types
                    .iter()
                    .zip(key_names)
                    .map(|(data_type, name)| Field::new(name, data_type.clone(), false))
                    .collect();
                let stage = LookupStage {
                    lookup: lookups.len(),
                    keys: self.compile_all(&join.keys, given)?,
                    key_schema: Arc::new(Schema::new(key_fields)),
                    before: self.compile_all(&join.before, given)?,
                    after: self.compile_all(&join.after, &pairs)?,
                    pairs: pairs.iter().filter_map(pick).collect(),
                    pairs_layout: self.layout(&pairs),
                    left: *left,
                    keep: out.iter().filter_map(pick).collect(),
                    columns: used
                        .iter()
                        .map(|column| self.planner.scope.field(*column).clone())
                        .collect(),
                };
                let usage = LookupUse {
                    name: name.clone(),
                    alias: alias.clone(),
                    key: join.key.clone(),
                    key_types: join.key_types.clone(),
                    left: *left,
                    columns: stage.columns.iter().map(|field| field.name().clone()).collect(),
                    key_text: join.key_text.clone(),
                };
                explain_lookup(&usage, join, explain);
                lookups.push(usage);
                Ok((Work::Lookup(stage), out))
            }
            Node::Unnest { lists, items, ordinality, left } => {
                let added: Vec<ColumnId> = items.iter().chain(ordinality).copied().collect();
                let out: Vec<ColumnId> = passed
                    .iter()
                    .chain(added.iter().filter(|column| needed.contains(column)))
                    .copied()
                    .collect();
                let pick = |column: &ColumnId| match added.iter().position(|new| new == column) {
                    Some(new) => Some(Picked::New(new)),
                    None => place(column).map(Picked::Old),
                };
                let texts: Vec<&str> = lists.iter().map(|list| &*list.text).collect();
                let word = if *left { "left unnest" } else { "unnest" };
                explain.push((word.into(), shorten(&texts.join(", "))));
                let work = Work::Unnest {
                    lists: self.compile_all(lists, given)?,
                    ordinality: ordinality.is_some(),
                    left: *left,
                    keep: out.iter().filter_map(pick).collect(),
                };
                Ok((work, out))
            }
            Node::Project(items) => {
                for ((name, planned), field) in items.iter().zip(&self.fields) {
                    let null = if field.is_nullable() { "" } else { " not null" };
                    let from = match *planned.text == **name {
                        true => String::new(),
                        false => format!("  = {}", shorten(&planned.text)),
                    };
                    let line = format!("{name} {}{null}{from}", types::name(field.data_type()));
                    explain.push(("select".into(), line));
                }
                let items = self.compile_all(items.iter().map(|(_, planned)| planned), given)?;
                Ok((Work::Project { items }, Vec::new()))
            }
        }
    }
}

impl Node {
    fn reads(&self) -> Box<dyn Iterator<Item = ColumnId> + '_> {
        let of = |planned: &Planned| planned.columns.clone();
        match self {
            Node::Filter(conditions) => Box::new(conditions.iter().flat_map(of)),
            Node::Lookup { join, .. } => {
                Box::new(join.keys.iter().chain(&join.before).chain(&join.after).flat_map(of))
            }
            Node::Unnest { lists, .. } => Box::new(lists.iter().flat_map(of)),
            Node::Project(items) => Box::new(items.iter().flat_map(move |(_, item)| of(item))),
        }
    }

    fn adds(&self) -> Vec<ColumnId> {
        match self {
            Node::Lookup { columns, .. } => columns.clone(),
            Node::Unnest { items, ordinality, .. } => {
                items.iter().chain(ordinality).copied().collect()
            }
            Node::Filter(_) | Node::Project(_) => Vec::new(),
        }
    }
}

fn explain_lookup(usage: &LookupUse, join: &Join, explain: &mut Vec<(String, String)>) {
    let word = if usage.left { "left join" } else { "join" };
    let alias = match usage.alias == usage.name {
        true => String::new(),
        false => format!(" AS {}", usage.alias),
    };
    let columns = match usage.columns.is_empty() {
        true => "no columns".to_owned(),
        false => usage.columns.join(", "),
    };
    let line = format!("{}{alias} by {}: {columns}", usage.name, shorten(&usage.key_text));
    explain.push((word.into(), line));
    for condition in join.before.iter().chain(&join.after) {
        explain.push((String::new(), format!("if {}", shorten(&condition.text))));
    }
}

fn join_node(
    planner: &mut Planner,
    part: JoinPart,
    lookups: &BTreeMap<String, SchemaRef>,
) -> Result<Node, Vec<SqlError>> {
    match part {
        JoinPart::Lookup { name, alias, left, on, location } => {
            let at = name.span.start;
            let Some(schema) = lookups.get(&name.value) else {
                let message = format!("there is no lookup `{}`", name.value);
                let names = lookups.keys().map(String::as_str);
                let hint = suggest(&name.value, names)
                    .or_else(|| Some("declare it under `lookups:`".to_owned()));
                return Err(vec![SqlError::new(at, message).hint(hint)]);
            };
            unique(planner, &alias, location)?;
            let fields = schema.fields().iter();
            let fields: Vec<FieldRef> = match left {
                true => fields.map(nullable).collect(),
                false => fields.cloned().collect(),
            };
            let columns = planner.scope.add(&alias, fields);
            let lookup = join::Lookup { name: &alias, schema, columns: columns.clone(), location };
            let join = join::analyse(planner, &lookup, &on)?;
            Ok(Node::Lookup { name: name.value, alias, left, join, columns: columns.collect() })
        }
        JoinPart::Unnest { lists, alias, ordinality, left } => {
            let location = lists.first().map_or(Location::new(1, 1), crate::error::start_of);
            let mut planned = Vec::new();
            for list in &lists {
                planned.push(planner.plan(list)?);
            }
            let names: Vec<String> = match &alias {
                Some(alias) if !alias.columns.is_empty() => {
                    alias.columns.iter().map(|column| column.name.value.clone()).collect()
                }
                Some(alias) if planned.len() == 1 && !ordinality => vec![alias.name.value.clone()],
                None if planned.len() == 1 && !ordinality => vec!["unnest".to_owned()],
                _ => Vec::new(),
            };
            let wanted = planned.len() + usize::from(ordinality);
            if names.len() != wanted {
                let message = format!("UNNEST gives {wanted} columns; name each");
                return Err(vec![
                    SqlError::new(location, message).hint("write AS t(a, b)".to_owned()),
                ]);
            }
            let alias = alias.map_or_else(|| "unnest".to_owned(), |alias| alias.name.value);
            unique(planner, &alias, location)?;
            let mut fields: Vec<FieldRef> = Vec::new();
            for (list, name) in planned.iter().zip(&names) {
                fields.push(Arc::new(Field::new(name, item_type(list)?, true)));
            }
            if ordinality {
                let name = names.last().expect("there is a name for each column");
                fields.push(Arc::new(Field::new(name, DataType::Int64, left)));
            }
            let mut columns: Vec<ColumnId> = planner.scope.add(&alias, fields).collect();
            let ordinality = if ordinality { columns.pop() } else { None };
            Ok(Node::Unnest { lists: planned, items: columns, ordinality, left })
        }
    }
}

fn unique(planner: &Planner, alias: &str, location: Location) -> Result<(), Vec<SqlError>> {
    match planner.scope.has_relation(alias) {
        false => Ok(()),
        true => Err(vec![
            SqlError::new(location, format!("two relations are called `{alias}`"))
                .hint("give one another name with AS".to_owned()),
        ]),
    }
}

fn item_type(list: &Planned) -> Result<DataType, Vec<SqlError>> {
    match &list.data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Ok(item.data_type().clone())
        }
        other => {
            let message = format!("UNNEST takes a list; `{}` is {}", list.text, types::name(other));
            let hint = matches!(other, DataType::Map(..))
                .then(|| format!("write UNNEST(map_entries({}))", list.text));
            Err(vec![SqlError::new(list.location, message).hint(hint)])
        }
    }
}

/// Adds the projection, and before it the UNNEST of what SELECT unnests.
fn projection(
    planner: &mut Planner,
    items: Vec<SelectItem>,
    nodes: &mut Vec<Node>,
    errors: &mut Vec<SqlError>,
) -> Vec<FieldRef> {
    let mut named: Vec<(String, Location, Planned)> = Vec::new();
    let mut unnested: Vec<(Planned, ColumnId)> = Vec::new();
    for item in items {
        let (expr, alias) = match item {
            SelectItem::Wildcard(options) => {
                let columns: Vec<ColumnId> = planner.scope.named_columns().collect();
                let at = options.wildcard_token.0.span.start;
                match wildcard(planner, columns, &options, at) {
                    Ok(more) => named.extend(more),
                    Err(more) => errors.extend(more),
                }
                continue;
            }
            SelectItem::QualifiedWildcard(kind, options) => {
                let at = kind.span().start;
                match qualified(planner, &kind, at)
                    .and_then(|columns| wildcard(planner, columns, &options, at))
                {
                    Ok(more) => named.extend(more),
                    Err(more) => errors.extend(more),
                }
                continue;
            }
            SelectItem::UnnamedExpr(expr) => (expr, None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias)),
            SelectItem::ExprWithAliases { expr, .. } => {
                errors.push(SqlError::at(&expr, "a column has one name"));
                continue;
            }
        };
        let planned = match unnest_argument(&expr) {
            Some(list) => unnest_item(planner, &list, &mut unnested),
            None => planner.plan(&expr),
        };
        let planned = match planned {
            Ok(planned) => planned,
            Err(more) => {
                errors.extend(more);
                continue;
            }
        };
        let location = alias.as_ref().map_or(planned.location, |alias| alias.span.start);
        match alias.map(|alias| alias.value).or_else(|| derived_name(&expr)) {
            Some(name) => named.push((name, location, planned)),
            None => {
                let message = format!("`{}` has no name", shorten(&planned.text));
                let hint = format!("write {} AS name", shorten(&planned.text));
                errors.push(SqlError::new(location, message).hint(hint));
            }
        }
    }
    if !unnested.is_empty() {
        let (lists, columns) = unnested.into_iter().unzip();
        nodes.push(Node::Unnest { lists, items: columns, ordinality: None, left: false });
    }
    let mut fields: Vec<FieldRef> = Vec::new();
    let mut output = Vec::new();
    for (name, location, planned) in named {
        if fields.iter().any(|field| *field.name() == name) {
            let message = format!("two columns are called `{name}`");
            let hint = "give one another name with AS, or leave it out with * EXCLUDE (…)";
            errors.push(SqlError::new(location, message).hint(hint.to_owned()));
            continue;
        }
        match output_field(planner, &name, planned) {
            Ok((field, planned)) => {
                fields.push(field);
                output.push((name, planned));
            }
            Err(error) => errors.push(error),
        }
    }
    nodes.push(Node::Project(output));
    fields
}

/// The argument of `unnest(…)` when that is all there is.
fn unnest_argument(expr: &Expr) -> Option<Expr> {
    let Expr::Function(function) = expr else { return None };
    if function_name(&function.name) != "unnest" {
        return None;
    }
    match &function.args {
        FunctionArguments::List(list) => match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(list))] => Some(list.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn unnest_item(
    planner: &mut Planner,
    list: &Expr,
    unnested: &mut Vec<(Planned, ColumnId)>,
) -> Result<Planned, Vec<SqlError>> {
    let planned = planner.plan(list)?;
    let name = format!("unnest {}", unnested.len());
    let field = Field::new(name, item_type(&planned)?, true);
    let column = planner.scope.add_hidden(Arc::new(field));
    let text = format!("unnest({})", planned.text);
    let item = planner.column(column, &text, planned.location);
    unnested.push((planned, column));
    Ok(item)
}

/// The name that a column has when none is given: its own, or that of the function.
fn derived_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(ident.value.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| ident.value.clone()),
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(Expr::Identifier(ident))) => Some(ident.value.clone()),
            Some(AccessExpr::Subscript(Subscript::Index {
                index: Expr::Value(value),
            })) => match &value.value {
                Value::SingleQuotedString(key) if is_name(key) => Some(key.clone()),
                _ => derived_name(root),
            },
            _ => derived_name(root),
        },
        Expr::Function(function) => Some(function_name(&function.name)).filter(|n| is_name(n)),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => derived_name(expr),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn qualified(
    planner: &Planner,
    kind: &SelectItemQualifiedWildcardKind,
    at: Location,
) -> Result<Vec<ColumnId>, Vec<SqlError>> {
    let alias = match kind {
        SelectItemQualifiedWildcardKind::ObjectName(name) => name.to_string(),
        SelectItemQualifiedWildcardKind::Expr(expr) => expr.to_string(),
    };
    match planner.scope.relation(alias.trim_matches('"')) {
        Some(columns) => Ok(columns.collect()),
        None => {
            let message = format!("there is no relation `{alias}`");
            let hint = suggest(&alias, planner.scope.aliases());
            Err(vec![SqlError::new(at, message).hint(hint)])
        }
    }
}

/// The columns that `*` stands for, with EXCLUDE, EXCEPT and REPLACE.
fn wildcard(
    planner: &mut Planner,
    columns: Vec<ColumnId>,
    options: &WildcardAdditionalOptions,
    at: Location,
) -> Result<Vec<(String, Location, Planned)>, Vec<SqlError>> {
    if options.opt_ilike.is_some() || options.opt_rename.is_some() || options.opt_alias.is_some() {
        let message = "after * only EXCLUDE (…), EXCEPT (…) and REPLACE (…) may follow";
        return Err(vec![SqlError::new(at, message)]);
    }
    let mut left_out: Vec<Ident> = Vec::new();
    match &options.opt_exclude {
        Some(ExcludeSelectItem::Single(name)) => {
            left_out.extend(name.0.last().and_then(|part| part.as_ident()).cloned());
        }
        Some(ExcludeSelectItem::Multiple(names)) => left_out
            .extend(names.iter().filter_map(|n| n.0.last().and_then(|p| p.as_ident()).cloned())),
        None => {}
    }
    if let Some(except) = &options.opt_except {
        left_out.push(except.first_element.clone());
        left_out.extend(except.additional_elements.iter().cloned());
    }
    let mut errors = Vec::new();
    let names: Vec<String> =
        columns.iter().map(|column| planner.scope.field(*column).name().clone()).collect();
    let mut known = |ident: &Ident| {
        if !names.contains(&ident.value) {
            let message = format!("there is no column `{}` in *", ident.value);
            let hint = suggest(&ident.value, names.iter().map(String::as_str));
            errors.push(SqlError::new(ident.span.start, message).hint(hint));
        }
    };
    left_out.iter().for_each(&mut known);
    let replaced: Vec<_> = options.opt_replace.iter().flat_map(|replace| &replace.items).collect();
    replaced.iter().for_each(|item| known(&item.column_name));
    let mut items = Vec::new();
    for (column, name) in columns.into_iter().zip(&names) {
        if left_out.iter().any(|ident| ident.value == *name) {
            continue;
        }
        let planned = match replaced.iter().find(|item| item.column_name.value == *name) {
            Some(item) => match planner.plan(&item.expr) {
                Ok(planned) => planned,
                Err(more) => {
                    errors.extend(more);
                    continue;
                }
            },
            None => planner.column(column, name, at),
        };
        items.push((name.clone(), at, planned));
    }
    if errors.is_empty() { Ok(items) } else { Err(errors) }
}

/// A column that passes through keeps its field. What is computed gets one of the types that
/// pipeline files can name.
fn output_field(
    planner: &Planner,
    name: &str,
    planned: Planned,
) -> Result<(FieldRef, Planned), SqlError> {
    if let Some(id) = planned.as_column().and_then(|column| planner.scope.id_of(column)) {
        let field = planner.scope.field(id);
        let field = match planner.volatile.contains_key(&id) || *field.name() == name {
            true if *field.name() == name => field.clone(),
            _ => Arc::new(Field::clone(field).with_name(name)),
        };
        return Ok((field, planned));
    }
    let to = match &planned.data_type {
        DataType::Null => {
            let message = format!("`{}` has no type", planned.text);
            let hint = format!("write CAST({} AS string)", planned.text);
            return Err(SqlError::new(planned.location, message).hint(hint));
        }
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Timestamp(TimeUnit::Nanosecond | TimeUnit::Second, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        DataType::Time32(_) | DataType::Time64(TimeUnit::Nanosecond) => {
            DataType::Time64(TimeUnit::Microsecond)
        }
        DataType::Date64 => DataType::Date32,
        DataType::Dictionary(_, values) => (**values).clone(),
        other => other.clone(),
    };
    let planned = if to == planned.data_type { planned } else { planned.cast_to(to) };
    let field = Field::new(name, planned.data_type.clone(), planned.nullable);
    Ok((Arc::new(field), planned))
}
