//! From the parts of a SELECT to its stages: conditions run as soon as their columns are there, and
//! a stage passes on only the columns that a later one reads.

use crate::error::{SqlError, suggest};
use crate::expr::{Compiled, Planned, Planner, shorten};
use crate::functions::volatile::Kind;
use crate::join::{self, Join, LookupUse};
use crate::projection::{item_type, projection};
use crate::query::{Layout, LookupStage, Picked, Plan, Stage, Work};
use crate::scope::{ColumnId, nullable};
use crate::select::{JoinPart, Parts};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_sql::sqlparser::tokenizer::Location;
use millstream_core::types;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The SELECT with names and types settled, before it is known which columns go where.
pub(crate) struct Draft {
    planner: Planner,
    input: Vec<ColumnId>,
    input_columns_all: usize,
    nodes: Vec<Node>,
    fields: Vec<FieldRef>,
}

pub(crate) enum Node {
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
    /// A lookup that would change no row, for people.
    Dropped(String),
}

impl Draft {
    pub fn of(
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
    pub fn compile(mut self) -> Result<Plan, SqlError> {
        let mut needed: BTreeSet<ColumnId> = BTreeSet::new();
        let mut after: Vec<BTreeSet<ColumnId>> = Vec::new();
        for node in self.nodes.iter_mut().rev() {
            if node.changes_nothing(&needed) {
                *node = Node::Dropped(node.lookup_text());
            }
            after.push(needed.clone());
            for added in node.adds() {
                needed.remove(&added);
            }
            needed
                .extend(node.reads().filter(|column| !self.planner.volatile.contains_key(column)));
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
            if let Node::Dropped(text) = node {
                let line = format!("{text}: left out, as none of its columns is used");
                explain.push(("left join".into(), line));
                continue;
            }
            let given: Vec<ColumnId> = layout.iter().chain(&hidden).copied().collect();
            let (work, out) = self.stage(node, &given, needed, &mut lookups, &mut explain)?;
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
            input_paths: self.paths(&input),
            input_columns_all: self.input_columns_all,
            stages,
            lookups,
            schema: Arc::new(Schema::new(self.fields)),
            explain,
        })
    }

    /// For each column the paths of the fields that are read within it; none where all of it is.
    fn paths(&self, columns: &[ColumnId]) -> Vec<Vec<String>> {
        let mut read: BTreeMap<ColumnId, Option<BTreeSet<String>>> = BTreeMap::new();
        for planned in self.nodes.iter().flat_map(Node::expressions) {
            planned.accesses(|column, path| {
                let Some(id) = self.planner.scope.id_of(column) else { return };
                let paths = read.entry(id).or_insert_with(|| Some(BTreeSet::new()));
                match (path.as_slice(), paths) {
                    ([], paths) => *paths = None,
                    (path, Some(paths)) => {
                        paths.insert(path.join("."));
                    }
                    (_, None) => {}
                }
            });
        }
        let paths = |column| read.get(column).cloned().flatten().unwrap_or_default();
        columns.iter().map(|column| paths(column).into_iter().collect()).collect()
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
            Node::Dropped(_) => unreachable!("a dropped node makes no stage"),
        }
    }
}

impl Node {
    fn expressions(&self) -> Box<dyn Iterator<Item = &Planned> + '_> {
        match self {
            Node::Filter(conditions) => Box::new(conditions.iter()),
            Node::Lookup { join, .. } => {
                Box::new(join.keys.iter().chain(&join.before).chain(&join.after))
            }
            Node::Unnest { lists, .. } => Box::new(lists.iter()),
            Node::Project(items) => Box::new(items.iter().map(|(_, item)| item)),
            Node::Dropped(_) => Box::new(std::iter::empty()),
        }
    }

    fn reads(&self) -> impl Iterator<Item = ColumnId> + '_ {
        self.expressions().flat_map(|planned| planned.columns.clone())
    }

    /// Whether it is a lookup that gives each row once, and nothing that is needed: then the store
    /// need not be asked. One that may find several rows for a key multiplies, and stays.
    fn changes_nothing(&self, needed: &BTreeSet<ColumnId>) -> bool {
        let Node::Lookup { left: true, join, columns, .. } = self else { return false };
        join.finds_one_at_most && !columns.iter().any(|column| needed.contains(column))
    }

    fn lookup_text(&self) -> String {
        match self {
            Node::Lookup { name, join, .. } => format!("{name} by {}", shorten(&join.key_text)),
            _ => String::new(),
        }
    }

    fn adds(&self) -> Vec<ColumnId> {
        match self {
            Node::Lookup { columns, .. } => columns.clone(),
            Node::Unnest { items, ordinality, .. } => {
                items.iter().chain(ordinality).copied().collect()
            }
            Node::Filter(_) | Node::Project(_) | Node::Dropped(_) => Vec::new(),
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
                let message = format!(
                    "the names after UNNEST do not fit its columns, of which there are {wanted}"
                );
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
