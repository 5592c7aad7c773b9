//! From text to the parts of the one SELECT that a step may have; everything else is refused here,
//! with what to do instead.

use crate::bounds::{lower_first, tokens};
use crate::error::{SqlError, start_of};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, ObjectName, Query,
    Select, SelectFlavor, SelectItem, SetExpr, Spanned, Statement, TableAlias, TableFactor,
};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token};

/// The parser's own bound counts several steps for each bracket; ours, on tokens, is the one that
/// users meet.
const RECURSION_MAX: usize = 1_000;
/// How many relations one FROM may join.
const RELATIONS_MAX: usize = 32;

/// A SELECT, taken apart.
pub(crate) struct Parts {
    pub input_alias: String,
    pub joins: Vec<JoinPart>,
    /// The AND-ed conditions of WHERE.
    pub conditions: Vec<Expr>,
    pub items: Vec<SelectItem>,
}

pub(crate) enum JoinPart {
    Lookup {
        name: Ident,
        alias: String,
        left: bool,
        /// The AND-ed conditions of ON.
        on: Vec<Expr>,
        location: Location,
    },
    Unnest {
        lists: Vec<Expr>,
        alias: Option<TableAlias>,
        ordinality: bool,
        left: bool,
    },
}

pub(crate) fn parse_select(sql: &str) -> Result<Parts, SqlError> {
    let tokens = tokens(sql)?;
    if tokens.iter().all(|t| matches!(t.token, Token::Whitespace(_) | Token::EOF)) {
        return Err(SqlError::new(
            Location::new(1, 1),
            "the SQL is empty; write SELECT … FROM input",
        ));
    }
    let mut statements = Parser::new(&GenericDialect {})
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|error| parse_error(error, sql))?;
    if statements.len() > 1 {
        let second = statements[1].span().start;
        return Err(SqlError::new(second, "a step takes one SELECT; more statements follow")
            .hint("put each into a step of its own".to_owned()));
    }
    match statements.pop() {
        Some(Statement::Query(query)) => parts(*query),
        Some(other) => {
            let text = other.to_string();
            let verb = text.split_whitespace().next().unwrap_or("this").to_uppercase();
            let message = format!("{verb} is not possible here; a step is one SELECT … FROM input");
            Err(SqlError::new(other.span().start, message))
        }
        None => {
            Err(SqlError::new(Location::new(1, 1), "the SQL is empty; write SELECT … FROM input"))
        }
    }
}

/// One expression, with nothing after it.
pub(crate) fn parse_expr(sql: &str) -> Result<Expr, SqlError> {
    let tokens = tokens(sql)?;
    let mut parser = Parser::new(&GenericDialect {})
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(tokens);
    let expr = parser.parse_expr().map_err(|error| parse_error(error, sql))?;
    let next = parser.peek_token();
    match next.token {
        Token::EOF => Ok(expr),
        other => {
            let message = format!("one expression is expected; `{other}` follows it");
            Err(SqlError::new(next.span.start, message))
        }
    }
}

/// The parser writes the place into its message; it is taken out again. Of the end it writes none.
fn parse_error(error: ParserError, sql: &str) -> SqlError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => "the SQL nests too deep".to_owned(),
    };
    let Some((message, place)) = text.split_once(" at Line: ") else {
        let lines = sql.trim_end().lines();
        let line = lines.clone().count().max(1);
        let column = lines.last().map_or(0, |line| line.chars().count()) + 1;
        let message = lower_first(&text).replace("found: EOF", "found: the end of the SQL");
        return SqlError::new(Location::new(line as u64, column as u64), message);
    };
    let mut numbers =
        place.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u64>().ok());
    let line = numbers.next().unwrap_or(1);
    let column = numbers.next().unwrap_or(1);
    SqlError::new(Location::new(line, column), lower_first(message))
}

fn parts(query: Query) -> Result<Parts, SqlError> {
    let whole = query.span().start;
    let refuse = |location: Location, what: &str, instead: &str| {
        let location = if location.line == 0 { whole } else { location };
        let message = format!("{what} is not possible in a step");
        Err(SqlError::new(location, message).hint(instead.to_owned()))
    };
    const LATER: &str = "a step works on each row by itself; aggregates and windows come later";
    const ORDER: &str = "rows keep the order of their partition";
    if let Some(with) = &query.with {
        return refuse(with.span().start, "WITH", "write it as an sql step before this one");
    }
    if let Some(order) = &query.order_by {
        return refuse(order.span().start, "ORDER BY", ORDER);
    }
    if let Some(limit) = &query.limit_clause {
        return refuse(limit.span().start, "LIMIT", "a stream has no end; use WHERE");
    }
    if query.fetch.is_some() {
        return refuse(whole, "FETCH", "a stream has no end; use WHERE");
    }
    if !query.locks.is_empty() || query.for_clause.is_some() {
        return refuse(whole, "FOR", "leave it out");
    }
    if query.settings.is_some() || query.format_clause.is_some() || !query.pipe_operators.is_empty()
    {
        return refuse(whole, "SETTINGS, FORMAT or |>", "leave it out");
    }
    let select = match *query.body {
        SetExpr::Select(select) => *select,
        SetExpr::SetOperation { op, right, .. } => {
            let what = op.to_string();
            return refuse(right.span().start, &what, "write two pipelines, or steps with `from:`");
        }
        SetExpr::Query(_) => return refuse(whole, "a query in brackets", "leave the brackets out"),
        _ => return refuse(whole, "this statement", "a step is one SELECT … FROM input"),
    };
    if let Some(distinct) = &select.distinct {
        let _ = distinct;
        return refuse(select.select_token.0.span.start, "DISTINCT", LATER);
    }
    match &select.group_by {
        GroupByExpr::Expressions(exprs, modifiers) if exprs.is_empty() && modifiers.is_empty() => {}
        GroupByExpr::Expressions(exprs, _) => {
            let location = exprs.first().map_or(whole, start_of);
            return refuse(location, "GROUP BY", LATER);
        }
        GroupByExpr::All(_) => return refuse(whole, "GROUP BY", LATER),
    }
    if let Some(having) = &select.having {
        return refuse(start_of(having), "HAVING", LATER);
    }
    if let Some(qualify) = &select.qualify {
        return refuse(start_of(qualify), "QUALIFY", LATER);
    }
    if let Some(window) = select.named_window.first() {
        return refuse(window.span().start, "WINDOW", LATER);
    }
    if let Some(odd) = odd_clause(&select) {
        return refuse(whole, odd, "write SELECT … FROM input … WHERE …");
    }
    let mut items = select.projection;
    if items.is_empty() {
        return Err(SqlError::new(whole, "SELECT names no columns; write SELECT * or the columns"));
    }
    items.shrink_to_fit();
    let (input_alias, joins) = relations(select.from, whole)?;
    let mut conditions = Vec::new();
    if let Some(selection) = select.selection {
        conjuncts(selection, &mut conditions);
    }
    Ok(Parts { input_alias, joins, conditions, items })
}

fn odd_clause(select: &Select) -> Option<&'static str> {
    let odd = [
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "INTO"),
        (select.exclude.is_some(), "EXCLUDE after the columns"),
        (select.select_modifiers.is_some(), "a modifier of SELECT"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.connect_by.is_empty(), "CONNECT BY"),
        (!select.cluster_by.is_empty(), "CLUSTER BY"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
        (!select.sort_by.is_empty(), "SORT BY"),
        (select.value_table_mode.is_some(), "SELECT AS"),
        (select.flavor != SelectFlavor::Standard, "FROM without SELECT before it"),
    ];
    odd.into_iter().find_map(|(present, name)| present.then_some(name))
}

type Relations = (String, Vec<JoinPart>);

fn relations(
    from: Vec<datafusion_sql::sqlparser::ast::TableWithJoins>,
    whole: Location,
) -> Result<Relations, SqlError> {
    let mut input_alias = None;
    let mut joins = Vec::new();
    for table in from {
        if input_alias.is_none() {
            input_alias = Some(input(table.relation)?);
        } else {
            // A comma in FROM: only an UNNEST may follow it.
            joins.push(unnest(table.relation, false)?);
        }
        for join in table.joins {
            joins.push(joined(join.relation, join.join_operator)?);
        }
    }
    if joins.len() > RELATIONS_MAX {
        let message = format!("a SELECT joins at most {RELATIONS_MAX} relations");
        return Err(SqlError::new(whole, message).hint("use two sql steps".to_owned()));
    }
    match input_alias {
        Some(alias) => Ok((alias, joins)),
        None => Err(SqlError::new(whole, "FROM is missing").hint("write FROM input".to_owned())),
    }
}

fn input(relation: TableFactor) -> Result<String, SqlError> {
    let location = relation.span().start;
    match relation {
        TableFactor::Table { name, alias, args: None, .. } => {
            let ident = single(&name)?;
            if ident.value != "input" {
                let message = format!("FROM begins with `input`, not with `{}`", ident.value);
                return Err(SqlError::new(ident.span.start, message)
                    .hint("write FROM input … LEFT JOIN the lookup".to_owned()));
            }
            Ok(alias.map_or_else(|| ident.value.clone(), |alias| alias.name.value))
        }
        TableFactor::Derived { .. } => Err(subquery(location)),
        _ => Err(SqlError::new(location, "FROM begins with `input`")),
    }
}

fn joined(relation: TableFactor, operator: JoinOperator) -> Result<JoinPart, SqlError> {
    let location = relation.span().start;
    let is_unnest = matches!(relation, TableFactor::UNNEST { .. });
    let (left, constraint) = match operator {
        JoinOperator::Join(on) | JoinOperator::Inner(on) => (false, on),
        JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => (true, on),
        JoinOperator::CrossJoin(_) if is_unnest => (false, JoinConstraint::None),
        JoinOperator::CrossJoin(_) => {
            return Err(SqlError::new(location, "CROSS JOIN takes UNNEST(…) only")
                .hint("join a lookup with LEFT JOIN … ON".to_owned()));
        }
        _ => {
            return Err(SqlError::new(location, "a lookup is joined by JOIN or LEFT JOIN only")
                .hint("RIGHT, FULL, SEMI and other joins need the whole lookup".to_owned()));
        }
    };
    if is_unnest {
        return match constraint {
            JoinConstraint::None => unnest(relation, left),
            JoinConstraint::On(on) if on.to_string().eq_ignore_ascii_case("true") => {
                unnest(relation, left)
            }
            _ => Err(SqlError::new(location, "UNNEST is joined ON true; put conditions in WHERE")),
        };
    }
    let TableFactor::Table { name, alias, args: None, .. } = relation else {
        return Err(match relation {
            TableFactor::Derived { .. } => subquery(location),
            _ => SqlError::new(location, "only a lookup or UNNEST(…) can be joined"),
        });
    };
    let name = single(&name)?.clone();
    let on = match constraint {
        JoinConstraint::On(on) => on,
        JoinConstraint::Using(_) | JoinConstraint::Natural => {
            return Err(SqlError::new(location, "a lookup is joined with ON")
                .hint(format!("write ON {}.… = the key", name.value)));
        }
        JoinConstraint::None => {
            return Err(SqlError::new(
                location,
                format!("the join with `{}` has no ON", name.value),
            )
            .hint("write ON lookup.column = the key".to_owned()));
        }
    };
    let mut conditions = Vec::new();
    conjuncts(on, &mut conditions);
    let alias = alias.map_or_else(|| name.value.clone(), |alias| alias.name.value);
    Ok(JoinPart::Lookup { name, alias, left, on: conditions, location })
}

fn unnest(relation: TableFactor, left: bool) -> Result<JoinPart, SqlError> {
    let location = relation.span().start;
    match relation {
        TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_ordinality, .. } => {
            Ok(JoinPart::Unnest { lists: array_exprs, alias, ordinality: with_ordinality, left })
        }
        TableFactor::UNNEST { .. } => Err(SqlError::new(location, "WITH OFFSET is not possible")
            .hint("write WITH ORDINALITY, which counts from 1".to_owned())),
        TableFactor::Derived { .. } => Err(subquery(location)),
        _ => Err(SqlError::new(location, "after a comma in FROM only UNNEST(…) may follow")
            .hint("join a lookup with LEFT JOIN … ON".to_owned())),
    }
}

pub(crate) fn subquery(location: Location) -> SqlError {
    SqlError::new(location, "a query inside the query is not possible in a step")
        .hint("join a lookup, or use an sql step before this one".to_owned())
}

fn single(name: &ObjectName) -> Result<&Ident, SqlError> {
    match name.0.as_slice() {
        [part] if part.as_ident().is_some() => {
            Ok(part.as_ident().expect("the guard saw an identifier"))
        }
        _ => Err(SqlError::new(name.span().start, format!("`{name}` is not the name of a lookup"))),
    }
}

/// Splits at AND, through brackets.
pub(crate) fn conjuncts(expr: Expr, into: &mut Vec<Expr>) {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(*left, into);
            conjuncts(*right, into);
        }
        Expr::Nested(inner) if matches!(*inner, Expr::BinaryOp { op: BinaryOperator::And, .. }) => {
            conjuncts(*inner, into);
        }
        other => into.push(other),
    }
}
