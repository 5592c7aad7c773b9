//! A mistake in the user's SQL: a sentence, where it is, and the nearest right word.

use datafusion_sql::sqlparser::ast::{Expr, Spanned, Visit, Visitor};
use datafusion_sql::sqlparser::tokenizer::{Location, Span};
use std::fmt;
use std::ops::ControlFlow;

/// One mistake in the text of a step's SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    pub message: String,
    /// Counted from 1, within the SQL's own text.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What to write instead, where something is near.
    pub hint: Option<String>,
}

impl SqlError {
    pub(crate) fn new(location: Location, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            line: (location.line as usize).max(1),
            column: (location.column as usize).max(1),
            hint: None,
        }
    }

    pub(crate) fn at(expr: &Expr, message: impl Into<String>) -> Self {
        Self::new(start_of(expr), message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SqlError {}

/// Where an expression begins. Not every node of the parser knows its place; then the first of its
/// parts that does stands for it.
pub(crate) fn start_of(expr: &Expr) -> Location {
    struct First(Option<Location>);
    impl Visitor for First {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let Some(start) = known(expr.span())
                && self.0.is_none_or(|first| start < first)
            {
                self.0 = Some(start);
            }
            ControlFlow::Continue(())
        }
    }
    let mut first = First(None);
    let _ = expr.visit(&mut first);
    first.0.unwrap_or(Location::new(1, 1))
}

fn known(span: Span) -> Option<Location> {
    (span.start.line > 0).then_some(span.start)
}

/// The known word that is nearest to what was written, if one is near at all.
pub(crate) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = written.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::normalized_damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

/// `did you mean …`, or which words there are when they are few.
pub(crate) fn suggest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(word) = nearest(written, known.iter().copied()) {
        return Some(format!("did you mean `{word}`?"));
    }
    (1..=16).contains(&known.len()).then(|| format!("there are: {}", known.join(", ")))
}
