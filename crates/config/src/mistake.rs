//! A mistake in a file, and how it is shown: the sentence, the place, the line with a mark under
//! it, and what to write instead.

use crate::source::{Extent, Source};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::path::Path;

/// The most mistakes of one file that are shown.
const SHOWN_MAX: usize = 100;

/// One mistake. Lines and columns count from one, columns in characters; line 0 is the whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// The line, shortened around the place, without tabs, secrets and control characters.
    pub excerpt: String,
    /// Nothing is wrong in the file: what it names could not be asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failure: bool,
    /// Where the mark stands under the excerpt and how wide it is, in terminal cells.
    #[serde(default)]
    mark: (u32, u32),
}

/// All mistakes of one or many files, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mistakes(pub Vec<Mistake>);

/// A mistake in a text such as SQL, by its line and column there (both from one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextMistake {
    pub line: u32,
    pub column: u32,
    pub message: String,
    pub hint: Option<String>,
}

/// A mistake before it has its file and excerpt.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub extent: Extent,
    pub message: String,
    pub hint: Option<String>,
}

impl Mistake {
    /// A mistake of a whole file.
    pub fn of_file(file: &Path, message: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            file: file.display().to_string(),
            line: 0,
            column: 0,
            message: message.into(),
            hint,
            excerpt: String::new(),
            failure: false,
            mark: (0, 0),
        }
    }

    pub(crate) fn new(source: &Source, found: Found) -> Self {
        let excerpt = source.excerpt(&found.extent);
        Self {
            file: source.file.display().to_string(),
            line: found.extent.line,
            column: found.extent.column,
            message: found.message,
            hint: found.hint,
            excerpt: excerpt.text,
            failure: false,
            mark: (excerpt.mark.0 as u32, excerpt.mark.1 as u32),
        }
    }

    /// The mistake as a terminal shows it, ending without a line break.
    pub fn render(&self, colour: bool) -> String {
        let paint = |code: &str| if colour { format!("\x1b[{code}m") } else { String::new() };
        let (red, blue, bold, plain) = (paint("1;31"), paint("1;34"), paint("1"), paint("0"));
        let mut out = format!("{red}error{plain}{bold}: {}{plain}\n", self.message);
        let number = self.line.to_string();
        let gutter = " ".repeat(if self.line == 0 { 0 } else { number.len() });
        let _ = write!(out, "{gutter}{blue} -->{plain} {}", self.file);
        if self.line > 0 {
            let _ = writeln!(out, ":{}:{}", self.line, self.column);
            let _ = writeln!(out, "{gutter}{blue} |{plain}");
            let _ = writeln!(out, "{blue}{number} |{plain} {}", self.excerpt);
            let (before, width) = (self.mark.0 as usize, self.mark.1 as usize);
            let (space, carets) = (" ".repeat(before), "^".repeat(width.max(1)));
            let _ = write!(out, "{gutter}{blue} |{plain} {space}{red}{carets}{plain}");
        }
        if let Some(hint) = &self.hint {
            if self.line > 0 {
                let _ = write!(out, "\n{gutter}{blue} |{plain}");
            }
            let _ = write!(out, "\n{gutter}{blue} ={plain} {bold}help{plain}: {hint}");
        }
        out
    }
}

impl Mistakes {
    /// Whether the files may be right: all that is said of them is that something could not be asked.
    pub fn are_failures(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|mistake| mistake.failure)
    }

    /// All mistakes as a terminal shows them, an empty line between two.
    pub fn render(&self, colour: bool) -> String {
        let mistakes: Vec<String> = self.0.iter().map(|mistake| mistake.render(colour)).collect();
        mistakes.join("\n\n")
    }

    pub(crate) fn collect(source: &Source, mut found: Vec<Found>) -> Self {
        found.sort_by_key(|found| (found.extent.line, found.extent.column));
        found.dedup_by(|a, b| a.extent == b.extent && a.message == b.message);
        let more = found.len().saturating_sub(SHOWN_MAX);
        found.truncate(SHOWN_MAX);
        let mut mistakes: Vec<Mistake> =
            found.into_iter().map(|found| Mistake::new(source, found)).collect();
        if more > 0 {
            let message = format!("{more} more mistakes are not shown");
            mistakes.push(Mistake::of_file(&source.file, message, None));
        }
        Self(mistakes)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Mistake {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Mistakes {}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}
