//! The text of a file by lines, and the excerpts that mistakes show of it.

use std::path::{Path, PathBuf};
use unicode_width::UnicodeWidthChar;

/// The widest excerpt, in characters of the line.
const EXCERPT_MAX: usize = 120;

/// A run of characters. Lines and columns count from one; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub line: u32,
    pub column: u32,
    pub end_line: u32,
    pub end_column: u32,
}

/// A file's text.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub file: PathBuf,
    lines: Vec<String>,
    /// Values that excerpts must not show.
    secrets: Vec<Extent>,
}

pub(crate) struct Excerpt {
    pub text: String,
    /// Cells before the mark, and its width.
    pub mark: (usize, usize),
}

impl Source {
    pub fn new(file: PathBuf, text: &str) -> Self {
        let lines = split_lines(text);
        let secrets = lines.iter().zip(1..).flat_map(|(line, number)| {
            in_addresses(line).into_iter().map(move |(column, end_column)| Extent {
                line: number,
                column,
                end_line: number,
                end_column,
            })
        });
        Self { secrets: secrets.collect(), file, lines }
    }

    /// A line without its break; empty beyond the end.
    pub fn line(&self, line: u32) -> &str {
        let index = (line as usize).wrapping_sub(1);
        self.lines.get(index).map_or("", String::as_str)
    }

    /// A path that the file names, relative to itself.
    pub fn beside(&self, path: &Path) -> PathBuf {
        self.file.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// From here on no excerpt shows this run.
    pub fn hide(&mut self, extent: Extent) {
        self.secrets.push(extent);
    }

    /// Hides what stands after the names of secrets in a text that is not YAML, where only the
    /// names tell.
    pub fn hide_named(&mut self, names: &[String]) {
        for (index, line) in self.lines.iter().enumerate() {
            let named = names.iter().filter_map(|name| {
                let after = line.find(name.as_str())? + name.len();
                let colon = line[after..].find(':')? + after;
                Some(line[..=colon].chars().count() as u32 + 2)
            });
            if let Some(column) = named.min() {
                let line = index as u32 + 1;
                self.secrets.push(Extent { line, column, end_line: line, end_column: u32::MAX });
            }
        }
    }

    /// The first tab in the indentation of a line or of those right below it.
    pub fn tab_indent(&self, line: u32) -> Option<Extent> {
        (line..line + 3).find_map(|line| {
            let text = self.line(line);
            let indent = &text[..text.len() - text.trim_start().len()];
            let tab = indent.chars().position(|c| c == '\t')?;
            Some(Extent::point(line, tab as u32 + 1))
        })
    }

    /// A place past the end of the file becomes the end of its last line that says something.
    pub fn clamp(&self, line: u32, column: u32) -> Extent {
        if (line as usize) <= self.lines.len() && !self.line(line).trim().is_empty() {
            return Extent::point(line, column);
        }
        let above = (1..=line.min(self.lines.len() as u32)).rev();
        let last = above.into_iter().find(|line| !self.line(*line).trim().is_empty()).unwrap_or(1);
        Extent::point(last, self.line(last).trim_end().chars().count() as u32 + 1)
    }

    pub fn excerpt(&self, extent: &Extent) -> Excerpt {
        let line: Vec<char> = self.line(extent.line).chars().collect();
        let start = (extent.column.saturating_sub(1) as usize).min(line.len());
        let end = if extent.end_line > extent.line {
            line.len()
        } else {
            (extent.end_column.saturating_sub(1) as usize).clamp(start, line.len())
        };
        let (from, to) = window(line.len(), start, end);

        let mut text = String::new();
        let (mut before, mut width, mut cells) = (0, 0, 0);
        let mut show = |text: &mut String, index: Option<usize>, shown: &str| {
            text.push_str(shown);
            let wide: usize = shown.chars().map(|c| c.width().unwrap_or(0)).sum();
            cells += wide;
            match index {
                Some(index) if index >= start && index < end => width += wide,
                Some(index) if index >= end => {}
                _ => before = cells,
            }
        };
        if from > 0 {
            show(&mut text, None, "…");
        }
        for (index, c) in line.iter().enumerate().take(to).skip(from) {
            match self.secret_at(extent.line, index as u32 + 1) {
                Some(true) => show(&mut text, Some(index), "***"),
                Some(false) => {}
                None => match *c {
                    '\t' => show(&mut text, Some(index), "    "),
                    c if hidden(c) => show(&mut text, Some(index), "\u{fffd}"),
                    c => show(&mut text, Some(index), c.encode_utf8(&mut [0; 4])),
                },
            }
        }
        if to < line.len() {
            text.push('…');
        }
        Excerpt { text, mark: (before, width.max(1)) }
    }

    /// Whether a character is part of a secret, and if so whether it is the first of its line.
    fn secret_at(&self, line: u32, column: u32) -> Option<bool> {
        // One may be inside another.
        let hidden = |column| self.secrets.iter().any(|secret| secret.contains(line, column));
        hidden(column).then(|| column == 1 || !hidden(column - 1))
    }
}

impl Extent {
    pub fn point(line: u32, column: u32) -> Self {
        Self { line, column, end_line: line, end_column: column + 1 }
    }

    fn contains(&self, line: u32, column: u32) -> bool {
        (self.line, self.column) <= (line, column)
            && (line, column) < (self.end_line, self.end_column)
    }
}

/// Lines end as in YAML: by `\n`, `\r\n` or `\r`.
fn split_lines(text: &str) -> Vec<String> {
    let unix = text.replace("\r\n", "\n").replace('\r', "\n");
    unix.split('\n').map(str::to_owned).collect()
}

/// What may be a secret in the addresses of a line: the user before an `@`, and a query. In columns.
fn in_addresses(line: &str) -> Vec<(u32, u32)> {
    let column = |byte: usize| line[..byte].chars().count() as u32 + 1;
    let mut found = Vec::new();
    for (at, scheme) in line.match_indices("://") {
        let from = at + scheme.len();
        let over = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ']' | '}');
        // Braces with a variable or a column in them are part of it.
        let mut end = from;
        let mut depth = 0_u32;
        for (index, c) in line[from..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                c if over(c) => break,
                _ => {}
            }
            end = from + index + c.len_utf8();
        }
        let address = &line[from..end];
        let authority = address.find(['/', '?', '#']).unwrap_or(address.len());
        if let Some(user) = address[..authority].rfind('@').filter(|user| *user > 0) {
            found.push((column(from), column(from + user)));
        }
        if let Some(query) = address.find('?').filter(|query| query + 1 < address.len()) {
            found.push((column(from + query + 1), column(end)));
        }
    }
    found
}

/// The characters of a line to show so that the mark is seen.
fn window(len: usize, start: usize, end: usize) -> (usize, usize) {
    if len <= EXCERPT_MAX {
        return (0, len);
    }
    let shown_end = end.min(start + EXCERPT_MAX / 2);
    let from = if shown_end < EXCERPT_MAX { 0 } else { start.saturating_sub(EXCERPT_MAX / 3) };
    (from, (from + EXCERPT_MAX).min(len))
}

/// Characters that would move the cursor or turn the line around.
fn hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
