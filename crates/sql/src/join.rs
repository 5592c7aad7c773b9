//! What a join's ON says: the key that the lookup is asked by, and what is left to check on the
//! rows it gives.

use crate::error::{SqlError, suggest};
use crate::expr::{Planned, Planner};
use crate::harden::widens;
use crate::scope::ColumnId;
use arrow_schema::{DataType, SchemaRef};
use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr};
use datafusion_sql::sqlparser::tokenizer::Location;
use millstream_core::LookupKey;
use millstream_core::types;
use std::ops::Range;

/// In the metadata of a lookup's schema: the only columns, separated by commas, that it can be
/// asked by, of which all together find one row at most. Equalities on others are checked on the
/// rows found. Without it, all equalities of ON make the key.
pub const KEY_COLUMNS: &str = "millstream.key_columns";

/// In the metadata of a lookup's schema: the two columns, separated by a comma, of the range that
/// it is asked by; equalities are then checked on the rows found.
pub const KEY_RANGE: &str = "millstream.key_range";

/// How a query uses one lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupUse {
    pub name: String,
    /// What the SQL calls it.
    pub alias: String,
    pub key: LookupKey,
    /// The types of the keys that it is asked by, in the key's order.
    pub key_types: Vec<DataType>,
    /// Whether a miss gives nulls (LEFT JOIN) or drops the row.
    pub left: bool,
    /// The lookup's columns that the query reads.
    pub columns: Vec<String>,
    /// The key as the SQL has it, for people.
    pub key_text: String,
}

/// A join, taken apart.
#[derive(Debug)]
pub(crate) struct Join {
    pub key: LookupKey,
    pub key_types: Vec<DataType>,
    pub key_text: String,
    /// Evaluated before the lookup; one for each type.
    pub keys: Vec<Planned>,
    /// Conditions that do not read the lookup.
    pub before: Vec<Planned>,
    /// Conditions on the row and a row found for it.
    pub after: Vec<Planned>,
    /// Whether a key has one row at most.
    pub finds_one_at_most: bool,
}

pub(crate) struct Lookup<'a> {
    pub name: &'a str,
    pub schema: &'a SchemaRef,
    pub columns: Range<ColumnId>,
    pub location: Location,
}

/// One bound of a range: `value >= column` or `value <= column`.
struct Half {
    value: Planned,
    column: String,
    strict: bool,
    condition: Expr,
}

pub(crate) fn analyse(
    planner: &mut Planner,
    lookup: &Lookup,
    on: &[Expr],
) -> Result<Join, Vec<SqlError>> {
    let mut errors = Vec::new();
    let mut equal: Vec<(String, Planned, &Expr)> = Vec::new();
    let mut starts: Vec<Half> = Vec::new();
    let mut ends: Vec<Half> = Vec::new();
    let mut rest: Vec<Expr> = Vec::new();
    for condition in on {
        let checked = planner.scope.check(condition);
        if !checked.is_empty() {
            errors.extend(checked);
            continue;
        }
        let halves = (starts.len(), ends.len());
        match unbracketed(condition) {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                match key_side(planner, lookup, left, right)? {
                    Some((column, value)) if !equal.iter().any(|(c, ..)| *c == column) => {
                        equal.push((column, value, condition));
                    }
                    _ => rest.push(condition.clone()),
                }
                continue;
            }
            Expr::BinaryOp { left, op, right } => {
                use BinaryOperator::{Gt, GtEq, Lt, LtEq};
                // `flipped` where the lookup's column is on the left.
                let sides = [(left, right, false), (right, left, true)];
                for (value, column, flipped) in sides {
                    let is_start = match (op, flipped) {
                        (Gt | GtEq, false) | (Lt | LtEq, true) => true,
                        (Lt | LtEq, false) | (Gt | GtEq, true) => false,
                        _ => continue,
                    };
                    let Some((column, value)) = one_side(planner, lookup, column, value)? else {
                        continue;
                    };
                    let strict = matches!(op, Gt | Lt);
                    let half = Half { value, column, strict, condition: condition.clone() };
                    if is_start {
                        starts.push(half)
                    } else {
                        ends.push(half)
                    }
                    break;
                }
            }
            Expr::Between { expr, negated: false, low, high } => {
                let start = one_side(planner, lookup, low, expr)?;
                let end = one_side(planner, lookup, high, expr)?;
                if let (Some((start, value)), Some((end, _))) = (start, end) {
                    let half = |column| Half {
                        value: value.clone(),
                        column,
                        strict: false,
                        condition: condition.clone(),
                    };
                    starts.push(half(start));
                    ends.push(half(end));
                }
            }
            _ => {}
        }
        if (starts.len(), ends.len()) == halves {
            rest.push(condition.clone());
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }

    let declared = |key: &str| -> Option<Vec<String>> {
        let names = lookup.schema.metadata().get(key)?;
        Some(names.split(',').map(|name| name.trim().to_owned()).collect())
    };
    let range = declared(KEY_RANGE);
    let whole_key = declared(KEY_COLUMNS);
    if let Some(only) = &whole_key {
        equal.retain(|(column, _, condition)| {
            let is_key = only.contains(column);
            if !is_key {
                rest.push((*condition).clone());
            }
            is_key
        });
        // The store knows its key by its own order.
        equal.sort_by_key(|(column, ..)| only.iter().position(|name| name == column));
    }
    if range.is_some() {
        rest.extend(equal.drain(..).map(|(_, _, condition)| condition.clone()));
    }

    let (key, keys, key_text) = if equal.is_empty() {
        let Some((start, end)) = paired(&starts, &ends, range.as_deref()) else {
            return Err(vec![no_key(planner, lookup, range.as_deref())]);
        };
        let (start, end) = (starts.swap_remove(start), ends.swap_remove(end));
        let text = format!("{} BETWEEN {} AND {}", start.value.text, start.column, end.column);
        let exact = |column: &str| {
            let data_type = column_type(lookup, column);
            !start.value.data_type.is_numeric() || widens(&start.value.data_type, data_type)
        };
        // What the lookup's closed range takes too widely is checked again on what it found.
        if start.strict || end.strict || !exact(&start.column) || !exact(&end.column) {
            rest.push(start.condition);
            rest.push(end.condition);
        }
        (LookupKey::Range { start: start.column, end: end.column }, vec![start.value], text)
    } else {
        let text: Vec<String> =
            equal.iter().map(|(column, value, _)| format!("{column} = {}", value.text)).collect();
        let (columns, keys) = equal.into_iter().map(|(column, value, _)| (column, value)).unzip();
        (LookupKey::Equal(columns), keys, text.join(" AND "))
    };
    rest.extend(starts.into_iter().chain(ends).map(|half| half.condition));

    let key_columns = match &key {
        LookupKey::Equal(columns) => columns.clone(),
        LookupKey::Range { start, .. } => vec![start.clone()],
    };
    let mut key_types = Vec::new();
    for (column, value) in key_columns.iter().zip(&keys) {
        let to = column_type(lookup, column);
        match comparable(&value.data_type, to) {
            true => key_types.push(to.clone()),
            false => errors.push(mismatch(lookup, column, to, value)),
        }
    }
    if let LookupKey::Range { start, end } = &key
        && column_type(lookup, start) != column_type(lookup, end)
    {
        let message = format!("`{start}` and `{end}` of `{}` differ in type", lookup.name);
        errors.push(SqlError::new(lookup.location, message));
    }

    let finds_one_at_most = match (&key, &whole_key) {
        (LookupKey::Equal(columns), Some(whole)) => whole.iter().all(|name| columns.contains(name)),
        _ => false,
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for condition in rest {
        match planner.plan_condition(&condition) {
            Ok(planned) => {
                let reads = planned.columns.iter().any(|column| lookup.columns.contains(column));
                if reads { after.push(planned) } else { before.push(planned) }
            }
            Err(more) => errors.extend(more),
        }
    }
    match errors.is_empty() {
        true => Ok(Join { key, key_types, key_text, keys, before, after, finds_one_at_most }),
        false => Err(errors),
    }
}

fn unbracketed(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => unbracketed(inner),
        other => other,
    }
}

/// `column = value` or `value = column`, with a column of the lookup and a value that does not
/// read it.
fn key_side(
    planner: &mut Planner,
    lookup: &Lookup,
    left: &Expr,
    right: &Expr,
) -> Result<Option<(String, Planned)>, Vec<SqlError>> {
    match one_side(planner, lookup, left, right)? {
        Some(found) => Ok(Some(found)),
        None => one_side(planner, lookup, right, left),
    }
}

fn one_side(
    planner: &mut Planner,
    lookup: &Lookup,
    column: &Expr,
    value: &Expr,
) -> Result<Option<(String, Planned)>, Vec<SqlError>> {
    let column = planner.plan(column)?;
    let Some(id) = column.as_column().and_then(|column| planner.scope.id_of(column)) else {
        return Ok(None);
    };
    if !lookup.columns.contains(&id) {
        return Ok(None);
    }
    let value = planner.plan(value)?;
    if value.columns.iter().any(|column| lookup.columns.contains(column)) {
        return Ok(None);
    }
    Ok(Some((planner.scope.field(id).name().clone(), value)))
}

/// A start and an end that bound the same value.
fn paired(starts: &[Half], ends: &[Half], range: Option<&[String]>) -> Option<(usize, usize)> {
    for (s, start) in starts.iter().enumerate() {
        for (e, end) in ends.iter().enumerate() {
            let declared = match range {
                Some([first, last]) => start.column == *first && end.column == *last,
                _ => true,
            };
            if declared && start.value.expr == end.value.expr {
                return Some((s, e));
            }
        }
    }
    None
}

fn column_type<'a>(lookup: &'a Lookup, column: &str) -> &'a DataType {
    lookup
        .schema
        .field_with_name(column)
        .map(|field| field.data_type())
        .expect("the column was found in this schema")
}

fn no_key(planner: &Planner, lookup: &Lookup, range: Option<&[String]>) -> SqlError {
    let name = lookup.name;
    if let Some([start, end]) = range {
        let message = format!("the ON gives `{name}` no value to look up by its range");
        return SqlError::new(lookup.location, message)
            .hint(format!("write ON value BETWEEN {name}.{start} AND {name}.{end}"));
    }
    let message = format!("the ON gives `{name}` no key to look up");
    let columns = lookup.columns.clone().map(|column| planner.scope.field(column).name().as_str());
    let declared = lookup.schema.metadata().get(KEY_COLUMNS);
    let hint = match (declared, suggest("", columns)) {
        (Some(key), _) => format!("it is asked by {key}"),
        (None, _) => format!("write ON {name}.column = value, with AND between several"),
    };
    SqlError::new(lookup.location, message).hint(hint)
}

fn mismatch(lookup: &Lookup, column: &str, to: &DataType, value: &Planned) -> SqlError {
    let message = format!(
        "`{}` is {}, but `{}.{column}` is {}",
        value.text,
        types::name(&value.data_type),
        lookup.name,
        types::name(to)
    );
    let hint = if *to == types::IP && is_text(&value.data_type) {
        format!("write ip({})", value.text)
    } else {
        format!("write CAST({} AS {})", value.text, types::name(to))
    };
    SqlError::new(value.location, message).hint(hint)
}

/// Whether keys of one type can be asked for as another without guessing.
fn comparable(from: &DataType, to: &DataType) -> bool {
    from == to
        || from.is_null()
        || (from.is_numeric() && to.is_numeric())
        || (is_text(from) && is_text(to))
        || (is_time(from) && is_time(to))
        || (is_bytes(from) && is_bytes(to))
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}
