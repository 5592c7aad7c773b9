//! Where each value of a file stands, down to the character of a text.
//!
//! A text in a file is not the text that SQL sees: block scalars are indented, folded or quoted,
//! and variables are replaced. [`Places::inside`] goes back from a line and column of the final
//! text to the file's.

use crate::env::Expanded;
use crate::source::{Extent, Source};
use saphyr_parser::ScalarStyle;
use std::collections::HashMap;

/// Where something stands. Lines and columns count from one, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

/// The places of a file's values by JSON pointer (`/steps/0/sql`).
#[derive(Debug, Clone, Default)]
pub struct Places(HashMap<String, Spot>);

#[derive(Debug, Clone)]
pub(crate) struct Spot {
    /// The field's name; a list's item has none.
    pub key: Option<Extent>,
    pub value: Extent,
    pub text: Option<Text>,
}

/// A scalar as the file has it.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub raw: String,
    pub style: ScalarStyle,
    pub expanded: Option<Expanded>,
}

impl Places {
    /// The place of a value; of the nearest one around it when the file does not have it.
    pub fn of(&self, path: &str) -> Place {
        let extent = self.value(path);
        Place { line: extent.line, column: extent.column }
    }

    /// The place of a field's name, or of its value where it has no name.
    pub fn of_key(&self, path: &str) -> Place {
        let extent = self.key(path);
        Place { line: extent.line, column: extent.column }
    }

    /// Whether the file itself has this value.
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// A text value as the file writes it, with its variables.
    pub(crate) fn written<'a>(&'a self, path: &str, value: &'a str) -> &'a str {
        let text = self.0.get(path).and_then(|spot| spot.text.as_ref());
        text.map_or(value, |text| text.raw.as_str())
    }

    pub(crate) fn insert(&mut self, path: &str, spot: Spot) {
        self.0.insert(path.to_owned(), spot);
    }

    pub(crate) fn value(&self, path: &str) -> Extent {
        self.nearest(path).map_or(Extent::point(1, 1), |spot| spot.value)
    }

    pub(crate) fn key(&self, path: &str) -> Extent {
        self.nearest(path).map_or(Extent::point(1, 1), |spot| spot.key.unwrap_or(spot.value))
    }

    /// The place of a line and column (both from one) of a text value, marked to the word's end.
    pub(crate) fn inside(&self, source: &Source, path: &str, line: u32, column: u32) -> Extent {
        let Some((spot, text)) = self.0.get(path).and_then(|s| Some((s, s.text.as_ref()?))) else {
            return self.key(path);
        };
        if line == 0 {
            return spot.key.unwrap_or(spot.value);
        }
        let shown = text.expanded.as_ref().map_or(text.raw.as_str(), |e| e.text.as_str());
        let out = index_of(shown, line, column);
        let raw = text.expanded.as_ref().map_or(out, |e| e.raw_of(out));
        let map = characters(source, spot.value, text);
        let Some((line, column)) = map.get(raw).or(map.last()).copied() else {
            return spot.value;
        };
        let rest = source.line(line).chars().skip(column as usize - 1);
        let word = rest.take_while(|c| c.is_alphanumeric() || *c == '_').count().max(1) as u32;
        Extent { line, column, end_line: line, end_column: column + word }
    }

    fn nearest(&self, path: &str) -> Option<&Spot> {
        let mut path = path;
        loop {
            if let Some(spot) = self.0.get(path) {
                return Some(spot);
            }
            path = &path[..path.rfind('/')?];
        }
    }
}

/// The place of a character of a scalar as the parser gave it.
pub(crate) fn character(source: &Source, value: Extent, text: &Text, raw: usize) -> Place {
    let map = characters(source, value, text);
    let (line, column) = map.get(raw).or(map.last()).copied().unwrap_or((value.line, value.column));
    Place { line, column }
}

/// The index of the character at a line and column of a text, both from one.
fn index_of(text: &str, line: u32, column: u32) -> usize {
    let mut index = 0;
    let mut lines = text.split('\n').peekable();
    for _ in 1..line {
        let Some(skipped) = lines.next() else { break };
        index += skipped.chars().count() + usize::from(lines.peek().is_some());
    }
    let len = lines.next().map_or(0, |line| line.chars().count());
    index + (column.saturating_sub(1) as usize).min(len)
}

/// For each character of a scalar's value its line and column in the file, and one for its end.
fn characters(source: &Source, value: Extent, text: &Text) -> Vec<(u32, u32)> {
    match text.style {
        ScalarStyle::Literal => literal(value, &text.raw),
        ScalarStyle::Folded | ScalarStyle::Plain => folded(source, value, &text.raw),
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => quoted(source, value, text.style),
    }
}

/// `value` begins at the first character of the first line that is not blank, so its column is the
/// indentation of all.
fn literal(value: Extent, raw: &str) -> Vec<(u32, u32)> {
    let blank = raw.chars().take_while(|c| *c == '\n').count() as u32;
    let mut map = Vec::new();
    for (number, line) in raw.split('\n').enumerate() {
        let file_line = (value.line + number as u32).saturating_sub(blank).max(1);
        // The break at the line's end has a place too.
        for column in 0..=line.chars().count() as u32 {
            map.push((file_line, value.column + column));
        }
    }
    map
}

/// Aligns what the lines of the file hold, without the white space around it, with the value:
/// between two lines the value has only the spaces and breaks that they were folded into.
fn folded(source: &Source, value: Extent, raw: &str) -> Vec<(u32, u32)> {
    let raw: Vec<char> = raw.chars().collect();
    let mut map = Vec::with_capacity(raw.len() + 1);
    let mut line = value.line;
    let mut skip = value.column as usize - 1;
    while map.len() < raw.len() && line <= value.end_line.max(value.line) {
        let chars: Vec<char> = source.line(line).chars().collect();
        let end = chars.iter().rposition(|c| !c.is_whitespace()).map_or(0, |last| last + 1);
        let start = (skip..end).find(|at| !chars[*at].is_whitespace()).unwrap_or(end);
        let (mut at, here) = (start, line);
        while map.len() < raw.len() && at < end {
            let wanted = raw[map.len()];
            if wanted == chars[at] {
                map.push((here, at as u32 + 1));
                at += 1;
            } else if wanted.is_whitespace() {
                map.push((here, at as u32 + 1));
            } else {
                // A comment after a plain value, or the next field.
                break;
            }
        }
        (line, skip) = (line + 1, 0);
    }
    let end = map.last().map_or((value.line, value.column), |(line, column)| (*line, column + 1));
    map.resize(raw.len() + 1, end);
    map
}

/// Walks over the quoted text as the parser does: escapes, doubled quotes, folded lines.
fn quoted(source: &Source, value: Extent, style: ScalarStyle) -> Vec<(u32, u32)> {
    let double = style == ScalarStyle::DoubleQuoted;
    let mut map = Vec::new();
    let mut line = value.line;
    let mut at = value.column as usize;
    loop {
        let chars: Vec<char> = source.line(line).chars().collect();
        let mut joined = false;
        while at < chars.len() {
            let place = (line, at as u32 + 1);
            match chars[at] {
                '\'' if !double && chars.get(at + 1) == Some(&'\'') => at += 2,
                '\'' if !double => {
                    map.push(place);
                    return map;
                }
                '"' if double => {
                    map.push(place);
                    return map;
                }
                '\\' if double => {
                    at += match chars.get(at + 1) {
                        Some('x') => 4,
                        Some('u') => 6,
                        Some('U') => 10,
                        Some(_) => 2,
                        None => {
                            joined = true;
                            break;
                        }
                    };
                }
                _ => at += 1,
            }
            map.push(place);
        }
        if line >= value.end_line {
            map.push((line, chars.len() as u32 + 1));
            return map;
        }
        if !joined {
            // White space before a break is not part of the value.
            let kept = chars.iter().rposition(|c| !c.is_whitespace()).map_or(0, |last| last + 1);
            while map.last().is_some_and(|(l, column)| *l == line && *column as usize > kept) {
                map.pop();
            }
        }
        let mut breaks = 1;
        let broken = (line, chars.len() as u32 + 1);
        line += 1;
        while line < value.end_line && source.line(line).trim().is_empty() {
            (breaks, line) = (breaks + 1, line + 1);
        }
        // One break is a space, more are one break less; an escaped one is nothing.
        let folded = if joined { breaks - 1 } else { (breaks - 1).max(1) };
        map.extend(std::iter::repeat_n(broken, folded));
        at = source.line(line).chars().take_while(|c| c.is_whitespace()).count();
    }
}
