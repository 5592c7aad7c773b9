//! The kinds of text that a field may hold (the `format` of its schema): what is right, and what to
//! write instead.

use crate::{ColumnType, Delimiter, Moment, Period, Ratio, Size};
use std::str::FromStr;

/// Names longer than this do not make file names everywhere.
const NAME_MAX: usize = 200;

/// Words that SQL keeps for itself, so that a look-up of that name could not be joined.
const SQL_WORDS: [&str; 46] = [
    "all",
    "and",
    "any",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "create",
    "cross",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "false",
    "from",
    "full",
    "group",
    "having",
    "in",
    "inner",
    "input",
    "intersect",
    "is",
    "join",
    "lateral",
    "left",
    "like",
    "limit",
    "natural",
    "not",
    "null",
    "on",
    "or",
    "order",
    "outer",
    "right",
    "select",
    "then",
    "true",
    "union",
    "using",
    "where",
];

/// What is wrong with a text, as the end of a sentence about it, and what to write.
pub(crate) struct Wrong {
    pub message: String,
    pub hint: Option<String>,
}

/// A format by its name in the schema.
pub(crate) struct Format {
    pub name: &'static str,
    pub check: fn(&str) -> Result<(), Wrong>,
    /// For editors; none where a pattern cannot say it.
    pub pattern: Option<&'static str>,
    /// What to write, when the text itself must not be shown.
    pub wanted: &'static str,
}

pub(crate) const FORMATS: [Format; 12] = [
    Format {
        name: "name",
        check: name,
        pattern: Some("[A-Za-z0-9_][A-Za-z0-9_.-]*"),
        wanted: "use letters, digits, `_`, `-` and `.`",
    },
    Format {
        name: "sql_name",
        check: sql_name,
        pattern: Some("[a-z_][a-z0-9_]*"),
        wanted: "use small letters, digits and `_`",
    },
    Format { name: "text", check: text, pattern: None, wanted: "write a text" },
    Format { name: "path", check: text, pattern: None, wanted: "write the path of a file" },
    Format { name: "regex", check: regex, pattern: None, wanted: "write a regular expression" },
    Format {
        name: "avro_name",
        check: avro_name,
        pattern: Some("[A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)*"),
        wanted: "write a name such as `com.example.Enriched`",
    },
    Format {
        name: "duration_text",
        check: period,
        pattern: Some("(\\d+(ms|s|m|h|d|w)\\s*)+"),
        wanted: "write a number with its unit: `100ms`, `30s`, `5m`, `1h`, `30d`",
    },
    Format {
        name: "size",
        check: |text| parsed::<Size>(text, SIZE_HINT),
        pattern: Some("[\\d_]+\\s*([KMGTkmgt][Ii]?)?[Bb]?"),
        wanted: SIZE_HINT,
    },
    Format {
        name: "ratio",
        check: |text| parsed::<Ratio>(text, RATIO_HINT),
        pattern: Some("[\\d.]+\\s*%?"),
        wanted: RATIO_HINT,
    },
    Format {
        name: "moment",
        check: |text| parsed::<Moment>(text, MOMENT_HINT),
        pattern: None,
        wanted: MOMENT_HINT,
    },
    Format {
        name: "delimiter",
        check: |text| parsed::<Delimiter>(text, DELIMITER_HINT),
        pattern: None,
        wanted: DELIMITER_HINT,
    },
    Format {
        name: "column_type",
        check: column_type,
        pattern: None,
        wanted: "write a type such as `string`, `bigint`, `timestamp`",
    },
];

const SIZE_HINT: &str = "write a number of bytes, or one with a unit: `512KiB`, `8MiB`, `1GiB`";
const RATIO_HINT: &str = "write a percentage such as `5%`, or a number such as 0.05";
const MOMENT_HINT: &str = "write a time such as `2026-01-31T12:00:00Z`";
const DELIMITER_HINT: &str = "write one character in quotes such as \";\", or `tab`";

impl Format {
    pub fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name == name)
    }
}

/// The known word that is nearest to a misspelled one, if one is near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&word, &known.to_lowercase());
    let (near, known) = known.into_iter().map(|k| (distance(k), k)).min_by_key(|(d, _)| *d)?;
    let longest = word.chars().count().max(known.chars().count());
    (near <= ((longest + 1) / 3).max(1) && near < longest).then_some(known)
}

fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Wrong {
    Wrong { message: message.into(), hint: Some(hint.into()) }
}

fn parsed<T: FromStr<Err = String>>(text: &str, hint: &str) -> Result<(), Wrong> {
    text.parse::<T>().map(drop).map_err(|message| wrong(message, hint))
}

fn period(text: &str) -> Result<(), Wrong> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        return Err(wrong(
            format!("the duration `{text}` has no unit"),
            format!("write `{text}s` for seconds; units are ms, s, m, h, d, w"),
        ));
    }
    parsed::<Period>(text, "write a number with its unit: `100ms`, `30s`, `5m`, `1h`, `30d`")
}

fn name(text: &str) -> Result<(), Wrong> {
    if text.len() > NAME_MAX {
        return Err(Wrong {
            message: format!("a name has at most {NAME_MAX} characters"),
            hint: None,
        });
    }
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && text.chars().all(usable)
    {
        return Ok(());
    }
    Err(wrong(
        format!("`{}` cannot be a name", shown(text)),
        "use letters, digits, `_`, `-` and `.`, beginning with a letter, a digit or `_`",
    ))
}

fn sql_name(text: &str) -> Result<(), Wrong> {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(wrong(
            format!("`{}` cannot be joined by SQL", shown(text)),
            "use small letters, digits and `_`, beginning with a letter or `_`",
        ));
    }
    let lower = text.to_ascii_lowercase();
    if SQL_WORDS.contains(&lower.as_str()) {
        return Err(wrong(
            format!("`{text}` is a word of SQL and cannot name a look-up"),
            format!("choose another name, such as `{lower}_rows`"),
        ));
    }
    if lower != text {
        return Err(wrong(
            format!("`{text}` has capital letters, which SQL does not tell apart"),
            format!("write `{lower}`"),
        ));
    }
    Ok(())
}

fn text(text: &str) -> Result<(), Wrong> {
    if text.trim().is_empty() {
        return Err(Wrong { message: "this text is empty".into(), hint: None });
    }
    Ok(())
}

fn regex(text: &str) -> Result<(), Wrong> {
    let Err(error) = regex::Regex::new(text) else {
        return Ok(());
    };
    // The last line of its report says what is wrong; the others draw where.
    let report = error.to_string();
    let last = report.lines().last().unwrap_or_default();
    let reason = last.trim().trim_start_matches("error: ");
    Err(Wrong { message: format!("not a regular expression: {reason}"), hint: None })
}

fn avro_name(text: &str) -> Result<(), Wrong> {
    let valid = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if text.split('.').all(valid) {
        return Ok(());
    }
    Err(wrong(
        format!("`{}` cannot name an Avro record", shown(text)),
        "write a name such as `com.example.Enriched`",
    ))
}

fn column_type(text: &str) -> Result<(), Wrong> {
    let Err(message) = text.parse::<ColumnType>() else {
        return Ok(());
    };
    let count = |wanted: char| text.chars().filter(|c| *c == wanted).count();
    if count('(') != count(')') || count('<') != count('>') {
        let message = format!("the type `{}` is cut off", shown(text));
        return Err(wrong(message, "put a type with a comma in quotes: \"decimal(10, 2)\""));
    }
    const KNOWN: [&str; 12] = [
        "boolean",
        "int",
        "bigint",
        "float",
        "double",
        "string",
        "bytes",
        "date",
        "time",
        "timestamp",
        "timestamp_us",
        "ip",
    ];
    let hint = nearest(text, KNOWN).map(|near| format!("did you mean `{near}`?"));
    Err(Wrong { message, hint })
}

/// A text short enough for a sentence.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().count() > 40 {
        shown.push('…');
    }
    shown
}
