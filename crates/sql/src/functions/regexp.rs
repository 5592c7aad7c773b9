//! `regexp_extract(text, pattern, group)`: the text of one group of the first match, or NULL.

use super::own::{Args, Own, Takes, fail};
use arrow_array::ArrayRef;
use arrow_array::builder::StringBuilder;
use arrow_schema::DataType;
use datafusion_common::Result;
use datafusion_expr::ScalarUDF;
use regex::Regex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// How many compiled patterns a thread keeps; patterns that come from rows must not pile up.
const KEPT_MAX: usize = 64;

pub(super) fn functions() -> Vec<ScalarUDF> {
    let extract = Own {
        name: "regexp_extract",
        takes: &[Takes::Text, Takes::Text, Takes::Integer],
        variadic: false,
        gives: DataType::Utf8,
        run: regexp_extract,
    };
    vec![extract.build()]
}

/// Says what is wrong with a pattern that the SQL writes out.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    Regex::new(pattern).map(drop).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("`{pattern}` is not a regular expression: {reason}")
    })
}

fn regexp_extract(args: &Args) -> Result<ArrayRef> {
    let texts = args.text(0)?;
    let patterns = args.text(1)?;
    let groups = args.integer(2)?;
    let mut out = StringBuilder::new();
    let mut last: Option<(&str, Regex)> = None;
    for row in 0..args.rows {
        let (Some(text), Some(pattern), Some(group)) =
            (texts.get(row), patterns.get(row), groups.get(row))
        else {
            out.append_null();
            continue;
        };
        if last.as_ref().is_none_or(|(compiled, _)| *compiled != pattern) {
            last = Some((pattern, compiled(pattern)?));
        }
        let Some((_, regex)) = &last else { continue };
        let Some(index) = usize::try_from(group).ok().filter(|group| *group < regex.captures_len())
        else {
            let message = format!("the pattern `{pattern}` has no group {group}");
            return fail(message);
        };
        // Finding the whole match is much cheaper than finding its groups.
        let found = match index {
            0 => regex.find(text),
            _ => regex.captures(text).and_then(|captures| captures.get(index)),
        };
        out.append_option(found.map(|found| found.as_str()));
    }
    Ok(Arc::new(out.finish()))
}

fn compiled(pattern: &str) -> Result<Regex> {
    thread_local! {
        static KEPT: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    KEPT.with_borrow_mut(|kept| {
        if let Some(regex) = kept.get(pattern) {
            return Ok(regex.clone());
        }
        match Regex::new(pattern) {
            Ok(regex) => {
                if kept.len() >= KEPT_MAX {
                    kept.clear();
                }
                kept.insert(pattern.to_owned(), regex.clone());
                Ok(regex)
            }
            Err(_) => fail(format!("`{pattern}` is not a regular expression")),
        }
    })
}
