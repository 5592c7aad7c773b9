//! Text lines taken apart by a regular expression: each named group is a column.

use crate::run::{Refusal, Rows};
use crate::values;
use arrow_schema::SchemaRef;
use millstream_core::{Decoded, Decoder, Error, Records, Result};
use regex::{CaptureLocations, Regex};

#[derive(Debug, Clone)]
pub struct TextOptions {
    pub record_bytes_max: usize,
}

/// Decodes one line a record. A group that takes no part in the match is null, as is an empty one
/// in a column that is not text.
pub struct TextDecoder {
    rows: Rows,
    options: TextOptions,
    pattern: Regex,
    /// For each column the group of its name.
    groups: Vec<usize>,
    locations: CaptureLocations,
    /// The beginnings of the pattern that are patterns too, the longest first: how far a line
    /// matched. Made when the first line does not.
    beginnings: Option<Vec<Regex>>,
}

impl TextDecoder {
    /// `columns` are named after the pattern's groups.
    pub fn new(pattern: &str, columns: SchemaRef, options: TextOptions) -> Result<TextDecoder> {
        let wrong = |why: String| Error::stop("pattern", why);
        let compiled = Regex::new(pattern).map_err(|error| wrong(format!("pattern: {error}")))?;
        let names: Vec<Option<&str>> = compiled.capture_names().collect();
        let mut groups = Vec::new();
        let mut missing = Vec::new();
        for field in columns.fields() {
            match names.iter().position(|name| *name == Some(field.name())) {
                Some(group) => groups.push(group),
                None => missing.push(format!("`{}`", field.name())),
            }
        }
        if !missing.is_empty() {
            let named: Vec<_> = names.iter().flatten().copied().collect();
            return Err(wrong(format!(
                "the pattern has no group named {}; its groups are {}",
                missing.join(", "),
                named.join(", ")
            )));
        }
        let locations = compiled.capture_locations();
        let rows = Rows::new(columns)?;
        Ok(TextDecoder { rows, options, pattern: compiled, groups, locations, beginnings: None })
    }
}

impl Decoder for TextDecoder {
    fn schema(&self) -> SchemaRef {
        self.rows.schema().clone()
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let schema = self.rows.schema().clone();
        let Self { rows, options, pattern, groups, locations, beginnings } = self;
        rows.decode(records, options.record_bytes_max, |value, columns, _| {
            let line = std::str::from_utf8(value).map_err(|error| {
                let at = error.valid_up_to();
                Refusal::malformed(format!("the line is not UTF-8 at its byte {at}"))
            })?;
            let line = line.strip_suffix('\n').unwrap_or(line);
            let line = line.strip_suffix('\r').unwrap_or(line);
            if pattern.captures_read(locations, line).is_none() {
                let known = beginnings.get_or_insert_with(|| find_beginnings(pattern.as_str()));
                return Err(Refusal::malformed(stopped(known, line)));
            }
            for (at, column) in columns.iter_mut().enumerate() {
                let text = locations.get(groups[at]).map(|(from, to)| &line[from..to]);
                let is_text = matches!(column.kind, crate::columns::Kind::Str(_));
                let name = schema.field(at).name();
                match text {
                    Some(text) if is_text || !text.is_empty() => {
                        values::append_text(column, text)
                            .map_err(|why| Refusal::malformed(format!("group `{name}`: {why}")))?;
                    }
                    _ if column.is_nullable() => column.append_null(),
                    _ => {
                        return Err(Refusal::malformed(format!("group `{name}` has no value")));
                    }
                }
            }
            Ok(())
        })
    }
}

/// Where a line stopped matching.
fn stopped(beginnings: &[Regex], line: &str) -> String {
    let end = beginnings.iter().find_map(|beginning| beginning.find(line)).map(|m| m.end());
    match end {
        Some(end @ 1..) if end == line.len() => format!(
            "line does not match the pattern: it ends at character {}, before the pattern does",
            line.chars().count()
        ),
        Some(end @ 1..) => format!(
            "line does not match the pattern: it does up to character {}, but not `{}`",
            line[..end].chars().count(),
            values::excerpt(&line[end..])
        ),
        _ => format!("line does not match the pattern: `{}`", values::excerpt(line)),
    }
}

/// How many beginnings of a pattern are kept to say how far a line matched.
const BEGINNINGS_MAX: usize = 16;

fn find_beginnings(pattern: &str) -> Vec<Regex> {
    // A cut behind each group: most within another are no pattern, and those that are tell where
    // a line went wrong. One before a repetition would insist on what is optional.
    let cuts = pattern.match_indices(')').map(|(at, _)| at + 1).take(200);
    let cuts: Vec<usize> =
        cuts.filter(|cut| !pattern[*cut..].starts_with(['*', '+', '?', '{'])).collect();
    let compiled = cuts.into_iter().rev().filter_map(|cut| Regex::new(&pattern[..cut]).ok());
    compiled.take(BEGINNINGS_MAX).collect()
}
