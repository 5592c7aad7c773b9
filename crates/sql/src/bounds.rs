//! Bounds on the shape of SQL, counted on its tokens before anything recurses over it.
//!
//! A parser, a planner and an evaluator that recurse can be made to overflow their stack, which
//! kills the process and cannot be caught. So depth (brackets, CASE) and the length of chains
//! (`a + a + …` makes a tree as deep as it is long) are bounded here.

use crate::SqlError;
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// How deep brackets and CASE may nest.
pub const DEPTH_MAX: usize = 64;
/// How many operators may stand in one chain without a bracket or comma.
pub const CHAIN_MAX: usize = 256;
/// How long a statement may be.
pub const BYTES_MAX: usize = 1 << 20;

/// The tokens of a text that is safe to parse.
pub(crate) fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>, SqlError> {
    if sql.len() > BYTES_MAX {
        let message = format!("the SQL is {} bytes long; at most {BYTES_MAX} are read", sql.len());
        return Err(SqlError::new(Location::new(1, 1), message));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| SqlError::new(error.location, lower_first(&error.message)))?;
    check(&tokens)?;
    Ok(tokens)
}

fn check(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    // One count of operators for every bracket that is open.
    let mut chains = vec![0usize];
    for token in tokens {
        let here = token.span.start;
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => open(&mut chains),
            Token::RParen | Token::RBracket | Token::RBrace => close(&mut chains),
            Token::Comma | Token::SemiColon => reset(&mut chains),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::CASE => open(&mut chains),
                Keyword::END => close(&mut chains),
                Keyword::SELECT
                | Keyword::FROM
                | Keyword::WHERE
                | Keyword::JOIN
                | Keyword::ON
                | Keyword::WHEN
                | Keyword::THEN
                | Keyword::ELSE => reset(&mut chains),
                Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::BETWEEN
                | Keyword::DIV
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::INTERVAL
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT => link(&mut chains),
                _ => {}
            },
            Token::Word(_)
            | Token::Whitespace(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::EOF => {}
            // Whatever else there is, is an operator or may act as one.
            _ => link(&mut chains),
        }
        if chains.len() > DEPTH_MAX + 1 {
            let message = format!("the SQL nests deeper than {DEPTH_MAX} brackets or CASEs");
            let hint = "split it over two sql steps".to_owned();
            return Err(SqlError::new(here, message).hint(hint));
        }
        if chains.last().is_some_and(|chain| *chain > CHAIN_MAX) {
            let message = format!("more than {CHAIN_MAX} operators stand in one chain");
            let hint = "use brackets, IN (…) or two sql steps".to_owned();
            return Err(SqlError::new(here, message).hint(hint));
        }
    }
    Ok(())
}

/// An opening bracket is also a link of the chain it stands in: `a[1][1]…`.
fn open(chains: &mut Vec<usize>) {
    link(chains);
    chains.push(0);
}

/// A closing bracket too many is left for the parser to report.
fn close(chains: &mut Vec<usize>) {
    if chains.len() > 1 {
        chains.pop();
    }
}

fn link(chains: &mut [usize]) {
    if let Some(chain) = chains.last_mut() {
        *chain += 1;
    }
}

fn reset(chains: &mut [usize]) {
    if let Some(chain) = chains.last_mut() {
        *chain = 0;
    }
}

/// Messages of libraries begin with a capital; ours are fragments.
pub(crate) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if chars.as_str().starts_with(|c: char| c.is_lowercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_each_bound() {
        let nest = |n: usize| format!("SELECT {}1{} AS x", "(".repeat(n), ")".repeat(n));
        assert!(tokens(&nest(DEPTH_MAX)).is_ok());
        assert!(tokens(&nest(DEPTH_MAX + 1)).unwrap_err().message.contains("nests deeper"));
        let chain = |n: usize| format!("SELECT a{} AS x FROM input", " + a".repeat(n));
        assert!(tokens(&chain(CHAIN_MAX)).is_ok());
        let error = tokens(&chain(CHAIN_MAX + 1)).unwrap_err();
        assert!(error.message.contains("in one chain"));
        assert_eq!(error.column, 9 + CHAIN_MAX * 4 + 1);
    }

    #[test]
    fn what_is_flat_is_not_a_chain() {
        let list = format!("SELECT x IN ({}) FROM input", vec!["-1"; 5_000].join(", "));
        assert!(tokens(&list).is_ok());
        let case = format!("SELECT CASE {} END FROM input", "WHEN a = 1 THEN 2 ".repeat(1_000));
        assert!(tokens(&case).is_ok());
    }

    #[test]
    fn nothing_deep_gets_through() {
        for deep in [
            "NOT ".repeat(10_000),
            "- ".repeat(10_000),
            "CASE WHEN ".repeat(10_000),
            "[".repeat(10_000),
            "{'a': ".repeat(10_000),
            format!("a{}", "[1]".repeat(10_000)),
            format!("a{}", "::int".repeat(10_000)),
            format!("a{}", " IS NULL".repeat(10_000)),
            format!("a{}", ".b".repeat(10_000)),
            "f(".repeat(10_000),
        ] {
            assert!(tokens(&format!("SELECT {deep}")).is_err(), "{}", &deep[..20]);
        }
    }
}
