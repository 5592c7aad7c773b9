//! The columns that expressions can see, and the check that every name in them is known.
//!
//! A column is known by its index here from planning to running: first those of the input, then
//! those of each join in the order of FROM, then what a SELECT unnests.

use crate::SqlError;
use crate::error::suggest;
use crate::functions;
use crate::select::subquery;
use arrow_schema::{DataType, Field, FieldRef};
use datafusion_common::{DFSchema, DataFusionError, TableReference};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, Expr, Ident, ObjectName, Query, Spanned, Value, Visit, Visitor,
};
use datafusion_sql::sqlparser::tokenizer::Location;
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

/// Names a column of a [`Scope`].
pub(crate) type ColumnId = usize;

#[derive(Debug, Default)]
pub(crate) struct Scope {
    relations: Vec<Relation>,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Relation {
    alias: String,
    columns: Range<ColumnId>,
}

#[derive(Debug, Clone)]
struct Column {
    alias: String,
    field: FieldRef,
}

impl Scope {
    /// Adds a relation and gives the ids of its columns.
    pub fn add(
        &mut self,
        alias: &str,
        fields: impl IntoIterator<Item = FieldRef>,
    ) -> Range<ColumnId> {
        let from = self.columns.len();
        let alias = alias.to_owned();
        self.columns.extend(fields.into_iter().map(|field| Column { alias: alias.clone(), field }));
        let columns = from..self.columns.len();
        self.relations.push(Relation { alias, columns: columns.clone() });
        columns
    }

    /// Adds a column that no name in the SQL can mean.
    pub fn add_hidden(&mut self, field: FieldRef) -> ColumnId {
        // A space is in no alias that is not quoted, and a quoted one is not hidden by it: names
        // are checked against relations, which this is not.
        self.columns.push(Column { alias: " hidden".to_owned(), field });
        self.columns.len() - 1
    }

    pub fn has_relation(&self, alias: &str) -> bool {
        self.relations.iter().any(|relation| relation.alias == alias)
    }

    pub fn relation(&self, alias: &str) -> Option<Range<ColumnId>> {
        self.relations.iter().find(|r| r.alias == alias).map(|r| r.columns.clone())
    }

    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.relations.iter().map(|relation| relation.alias.as_str())
    }

    /// The columns that `SELECT *` means.
    pub fn named_columns(&self) -> impl Iterator<Item = ColumnId> + '_ {
        self.relations.iter().flat_map(|relation| relation.columns.clone())
    }

    pub fn field(&self, column: ColumnId) -> &FieldRef {
        &self.columns[column].field
    }

    pub fn qualified(&self, column: ColumnId) -> (TableReference, &FieldRef) {
        let column = &self.columns[column];
        (TableReference::bare(column.alias.as_str()), &column.field)
    }

    /// The id of a column that a planned expression names.
    pub fn id_of(&self, column: &datafusion_common::Column) -> Option<ColumnId> {
        let table = column.relation.as_ref()?.table();
        self.columns.iter().position(|c| c.alias == table && *c.field.name() == column.name)
    }

    /// The given columns as DataFusion sees them.
    pub fn schema(
        &self,
        columns: impl IntoIterator<Item = ColumnId>,
    ) -> Result<DFSchema, DataFusionError> {
        let fields = columns
            .into_iter()
            .map(|column| {
                let (table, field) = self.qualified(column);
                (Some(table), field.clone())
            })
            .collect();
        DFSchema::new_with_metadata(fields, HashMap::new())
    }

    pub fn all(&self) -> Range<ColumnId> {
        0..self.columns.len()
    }

    /// Every name of `expr` that is not known, every function too, and every construct that a step
    /// cannot have.
    pub fn check(&self, expr: &Expr) -> Vec<SqlError> {
        let mut names = Names { scope: self, errors: Vec::new(), skip: Vec::new(), depth: 0 };
        let _ = expr.visit(&mut names);
        names.errors
    }

    fn named(&self, name: &str) -> impl Iterator<Item = ColumnId> {
        self.named_columns().filter(move |column| self.field(*column).name() == name)
    }

    fn column_of(&self, relation: &Range<ColumnId>, name: &str) -> Option<ColumnId> {
        relation.clone().find(|column| self.field(*column).name() == name)
    }

    fn unknown_column(&self, ident: &Ident) -> SqlError {
        let mut error =
            SqlError::new(ident.span.start, format!("there is no column `{}`", ident.value));
        if ident.quote_style == Some('"') {
            return error.hint(format!("a text is written in single quotes: '{}'", ident.value));
        }
        if self.has_relation(&ident.value) {
            return error.hint(format!("it is a relation; write {}.column", ident.value));
        }
        let names = self.named_columns().map(|column| self.field(column).name().as_str());
        error.hint = suggest(&ident.value, names);
        error
    }
}

struct Names<'a> {
    scope: &'a Scope,
    errors: Vec<SqlError>,
    /// Places of identifiers that name fields, not columns.
    skip: Vec<Location>,
    depth: usize,
}

impl Visitor for Names<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.errors.push(subquery(query.span().start));
        // Names inside belong to another scope.
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.depth += 1;
        match expr {
            Expr::Identifier(ident) if self.skip.contains(&ident.span.start) => {}
            Expr::Identifier(ident) => self.identifier(ident),
            Expr::CompoundIdentifier(parts) => self.compound(parts),
            Expr::CompoundFieldAccess { root, access_chain } => {
                // `n.params['utm']` is the name `n.params`, and then an access.
                let path = crate::rewrite::leading_names(root, access_chain);
                if path.len() > 1 {
                    self.compound(&path);
                    self.skip.push(path[0].span.start);
                }
                self.skip.extend(access_chain.iter().filter_map(|access| match access {
                    AccessExpr::Dot(Expr::Identifier(ident)) => Some(ident.span.start),
                    _ => None,
                }));
            }
            Expr::Function(function) => self.function(function),
            Expr::Value(value) => {
                if let Value::Placeholder(name) = &value.value {
                    let message = format!("`{name}` is a placeholder, which nothing fills");
                    self.errors.push(SqlError::new(value.span.start, message));
                }
            }
            Expr::Wildcard(token) => self
                .errors
                .push(SqlError::new(token.0.span.start, "`*` stands for columns in SELECT only")),
            Expr::Lambda(_) => {
                self.errors.push(SqlError::at(expr, "lambdas are not possible here"));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

impl Names<'_> {
    fn identifier(&mut self, ident: &Ident) {
        let mut found = self.scope.named(&ident.value);
        match (found.next(), found.next()) {
            (Some(_), None) => {}
            (None, _) => self.errors.push(self.scope.unknown_column(ident)),
            (Some(_), Some(_)) => {
                let owners: Vec<String> = self
                    .scope
                    .named(&ident.value)
                    .map(|column| format!("{}.{}", self.scope.columns[column].alias, ident.value))
                    .collect();
                let message = format!("`{}` is ambiguous", ident.value);
                let hint = format!("write {}", owners.join(" or "));
                self.errors.push(SqlError::new(ident.span.start, message).hint(hint));
            }
        }
    }

    /// `relation.column.field…` or `column.field…`, tried in this order.
    fn compound(&mut self, parts: &[Ident]) {
        let (first, rest) = parts.split_first().expect("a compound identifier has parts");
        if let Some(relation) = self.scope.relation(&first.value)
            && let Some(second) = rest.first()
        {
            if let Some(column) = self.scope.column_of(&relation, &second.value) {
                let field = self.scope.field(column).clone();
                return self.nested(field.data_type(), &second.value, &rest[1..]);
            }
            if self.scope.named(&first.value).next().is_none() {
                let message = format!("`{}` has no column `{}`", first.value, second.value);
                let names = relation.map(|column| self.scope.field(column).name().as_str());
                let hint = suggest(&second.value, names);
                self.errors.push(SqlError::new(second.span.start, message).hint(hint));
                return;
            }
        }
        let mut found = self.scope.named(&first.value);
        match (found.next(), found.next()) {
            (Some(column), None) => {
                let field = self.scope.field(column).clone();
                self.nested(field.data_type(), &first.value, rest);
            }
            (Some(_), Some(_)) => self.identifier(first),
            (None, _) => {
                let message = format!("there is no relation or column `{}`", first.value);
                let aliases = self.scope.aliases();
                let columns =
                    self.scope.named_columns().map(|c| self.scope.field(c).name().as_str());
                let hint = match (first.value.as_str(), self.scope.relations.first()) {
                    ("input", Some(input)) => Some(format!("FROM calls it `{}`", input.alias)),
                    _ => suggest(&first.value, aliases.chain(columns)),
                };
                self.errors.push(SqlError::new(first.span.start, message).hint(hint));
            }
        }
    }

    fn nested(&mut self, data_type: &DataType, owner: &str, path: &[Ident]) {
        let Some((name, rest)) = path.split_first() else { return };
        match data_type {
            DataType::Struct(fields) => match fields.iter().find(|f| *f.name() == name.value) {
                Some(field) => self.nested(field.data_type(), &name.value, rest),
                None => {
                    let message = format!("`{owner}` has no field `{}`", name.value);
                    let hint = suggest(&name.value, fields.iter().map(|f| f.name().as_str()));
                    self.errors.push(SqlError::new(name.span.start, message).hint(hint));
                }
            },
            DataType::Map(entries, _) => {
                if let DataType::Struct(fields) = entries.data_type()
                    && let Some(value) = fields.get(1)
                {
                    self.nested(value.data_type(), &name.value, rest);
                }
            }
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                let message = format!("`{owner}` is a list; it has no field `{}`", name.value);
                self.errors.push(
                    SqlError::new(name.span.start, message)
                        .hint(format!("write {owner}[1].{} or UNNEST it", name.value)),
                );
            }
            other => {
                let message = format!(
                    "`{owner}` is {}; it has no field `{}`",
                    millstream_core::types::name(other),
                    name.value
                );
                self.errors.push(SqlError::new(name.span.start, message));
            }
        }
    }

    fn function(&mut self, function: &datafusion_sql::sqlparser::ast::Function) {
        let location = function.name.span().start;
        let name = function_name(&function.name);
        if function.over.is_some() {
            let message = format!("`{name}` … OVER is not possible in a step");
            let hint = "a step works on each row by itself; windows come later".to_owned();
            self.errors.push(SqlError::new(location, message).hint(hint));
            return;
        }
        if functions::AGGREGATES.contains(&name.as_str()) {
            let message = format!("the aggregate `{name}` is not possible in a step");
            let hint = "a step works on each row by itself; aggregates and windows come later";
            self.errors.push(SqlError::new(location, message).hint(hint.to_owned()));
            return;
        }
        if name == "unnest" {
            if self.depth > 1 {
                let message = "unnest(…) stands alone in a SELECT's column or in FROM";
                self.errors
                    .push(SqlError::new(location, message).hint(
                        "write FROM input n CROSS JOIN UNNEST(n.list) AS t(item)".to_owned(),
                    ));
            }
            return;
        }
        if functions::by_name(&name).is_none() && !functions::SPELLED.contains(&name.as_str()) {
            let message = format!("there is no function `{name}`");
            let hint = crate::error::nearest(&name, functions::names())
                .map(|near| format!("did you mean `{near}`?"));
            self.errors.push(SqlError::new(location, message).hint(hint));
            return;
        }
        self.errors.extend(functions::check_literals(&name, function));
    }
}

pub(crate) fn function_name(name: &ObjectName) -> String {
    match name.0.as_slice() {
        [part] => part.as_ident().map_or_else(
            || name.to_string(),
            |ident| match ident.quote_style {
                None => ident.value.to_lowercase(),
                Some(_) => ident.value.clone(),
            },
        ),
        _ => name.to_string(),
    }
}

/// A field as it is after a LEFT JOIN.
pub(crate) fn nullable(field: &FieldRef) -> FieldRef {
    if field.is_nullable() { field.clone() } else { Field::clone(field).with_nullable(true).into() }
}
