//! What SELECT lists: `*`, columns, expressions and what they unnest, with the name and the type that
//! each has in the output.

use crate::draft::Node;
use crate::error::{SqlError, suggest};
use crate::expr::{Planned, Planner, shorten};
use crate::scope::{ColumnId, function_name};
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, ExcludeSelectItem, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    SelectItem, SelectItemQualifiedWildcardKind, Spanned, Subscript, Value,
    WildcardAdditionalOptions,
};
use datafusion_sql::sqlparser::tokenizer::Location;
use millstream_core::types;
use std::sync::Arc;

/// Adds the projection, and before it the UNNEST of what SELECT unnests.
pub(crate) fn projection(
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
            Some(AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) })) => {
                match &value.value {
                    Value::SingleQuotedString(key) if is_name(key) => Some(key.clone()),
                    _ => derived_name(root),
                }
            }
            _ => derived_name(root),
        },
        Expr::Substring { .. } => Some("substr".to_owned()),
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

pub(crate) fn item_type(list: &Planned) -> Result<DataType, Vec<SqlError>> {
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
