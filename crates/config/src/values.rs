//! The values that a pipeline file writes as text: durations, sizes, ratios, times, column types,
//! secrets. Each reads from text by `FromStr`, whose error is a sentence, and writes the same text.

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use indexmap::IndexMap;
use millstream_core::types;
use schemars::{JsonSchema, Schema as JsonSchemaOf, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A length of time: `100ms`, `30s`, `5m`, `1h30m`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Period(pub Duration);

/// A number of bytes: `512KiB`, `8MiB`, `1GB`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

/// A part of a whole: `5%` or 0.05.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Ratio(pub f64);

/// A point in time, in milliseconds since 1970: `2026-01-31T12:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

/// One ASCII character: `,`, `;`, `tab`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiter(pub u8);

/// A column's type, by the names of `millstream_core::types`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType(pub DataType);

/// Columns with their types, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Columns(pub IndexMap<String, ColumnType>);

/// A value that is never shown: it prints and serializes as `***`.
///
/// A file gives it as text, usually `${VAR}`, or as `{ file: path }`, which the reader replaces by
/// the file's content without its last line break, and by where it is: it may change.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Given")]
pub struct Secret {
    text: String,
    file: Option<PathBuf>,
}

/// A secret as the reader of a file gives it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Text(String),
    Held { text: String, file: PathBuf },
}

impl Period {
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Columns {
    /// As an Arrow schema, every column nullable.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<Field> =
            self.0.iter().map(|(name, t)| Field::new(name, t.0.clone(), true)).collect();
        Arc::new(Schema::new(fields))
    }
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), file: None }
    }

    /// The secret itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The file that it was read from, for those who read it again.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl From<Given> for Secret {
    fn from(given: Given) -> Self {
        match given {
            Given::Text(text) => Self { text, file: None },
            Given::Held { text, file } => Self { text, file: Some(file) },
        }
    }
}

impl Default for Delimiter {
    fn default() -> Self {
        Self(b',')
    }
}

const PERIOD_UNITS: [(&str, u64); 6] = [
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration");
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let (_, millis) =
                PERIOD_UNITS.iter().find(|(known, _)| *known == unit).ok_or_else(wrong)?;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let part = number.checked_mul(*millis).ok_or_else(wrong)?;
            total = total.checked_add(part).ok_or_else(wrong)?;
            rest = tail.trim_start();
        }
        // A century is enough for every deadline, and it never overflows an `Instant`.
        if total > 100 * 366 * 86_400_000 {
            return Err(format!("`{text}` is more than a hundred years"));
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let exact = PERIOD_UNITS.iter().skip(1).find(|(_, unit)| {
            millis >= u128::from(*unit) && millis.is_multiple_of(u128::from(*unit))
        });
        match exact {
            Some((name, unit)) => write!(f, "{}{name}", millis / u128::from(*unit)),
            None => f.write_str("0s"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size");
        let trimmed = text.trim();
        let digits =
            trimmed.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = match unit.trim() {
            "" => 1,
            unit => {
                let known = SIZE_UNITS.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit));
                known.ok_or_else(wrong)?.1
            }
        };
        let number: u64 = number.replace('_', "").parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(unit).filter(|bytes| *bytes <= i64::MAX as u64);
        bytes.map(Self).ok_or_else(|| format!("`{text}` is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SIZE_UNITS[..4].iter();
        match binary.clone().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let (number, whole) = match trimmed.strip_suffix('%') {
            Some(number) => (number.trim(), 100.0),
            None => (trimmed, 1.0),
        };
        let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a ratio"))?;
        let ratio = number / whole;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(format!("`{text}` is not between 0% and 100%"));
        }
        Ok(Self(ratio))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded to a millionth of a percent: 0.07 * 100 is not 7 in binary.
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time: jiff::Timestamp =
            text.trim().parse().map_err(|_| format!("`{text}` is not a time"))?;
        Ok(Self(time.as_millisecond()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"tab" | b"\\t" => Ok(Self(b'\t')),
            [byte] if *byte != b'\n' && *byte != b'\r' && byte.is_ascii() => Ok(Self(*byte)),
            _ => Err(format!("`{text}` is not one ASCII character")),
        }
    }
}

impl fmt::Display for Delimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\t' => f.write_str("tab"),
            byte => write!(f, "{}", char::from(byte)),
        }
    }
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        types::parse(text).map(Self)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&types::name(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> JsonSchemaOf {
        json_schema!({
            "description": "A secret: `${VAR}`, or `{ file: path }` with a file that holds it.",
            "x-secret": true,
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "file": { "type": "string", "description": "The file that holds it." }
                    },
                    "required": ["file"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

impl JsonSchema for Columns {
    fn schema_name() -> Cow<'static, str> {
        "Columns".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> JsonSchemaOf {
        let column_type = generator.subschema_for::<ColumnType>();
        json_schema!({
            "description": "Columns by name, each with its type.",
            "type": "object",
            "minProperties": 1,
            "additionalProperties": column_type
        })
    }
}

/// Reads and writes a type by its text, with a plain number where its text may be one.
macro_rules! as_text {
    ($type:ident, $format:literal, $types:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = match serde_json::Value::deserialize(deserializer)? {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> JsonSchemaOf {
                json_schema!({ "type": $types, "format": $format })
            }
        }
    };
}

as_text!(Period, "duration_text", "string");
as_text!(Size, "size", ["integer", "string"]);
as_text!(Ratio, "ratio", ["number", "string"]);
as_text!(Moment, "moment", "string");
as_text!(Delimiter, "delimiter", "string");
as_text!(ColumnType, "column_type", "string");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back() {
        for text in ["100ms", "30s", "5m", "36h", "30d", "0s", "90s"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        assert_eq!("1h 30m".parse(), Ok(Period::seconds(5400)));
        for text in ["512KiB", "8MiB", "3GiB", "1000B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("2KB".parse(), Ok(Size(2000)));
        assert_eq!("1_000".parse(), Ok(Size(1000)));
        for text in ["5%", "7%", "0.5%", "100%", "0%"] {
            assert_eq!(text.parse::<Ratio>().unwrap().to_string(), text);
        }
        assert_eq!("0.05".parse(), Ok(Ratio(0.05)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Moment(1000)));
        assert_eq!("tab".parse(), Ok(Delimiter(b'\t')));
    }

    #[test]
    fn wrong_texts_are_refused() {
        for text in
            ["", "5", "m", "5 minutes", "-5m", "5m3", "1.5h", "99999999999999999999s", "200000d"]
        {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        for text in ["", "MiB", "5 apples", "-1", "1.5MiB", "99999999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "101%", "-1%", "2", "NaN", "five"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
        for text in ["", "ab", "é", "\n"] {
            assert!(text.parse::<Delimiter>().is_err(), "{text}");
        }
        assert!("yesterday".parse::<Moment>().is_err());
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2");
        let printed = format!(
            "{secret} {secret:?} {:#?} {}",
            Some(&secret),
            serde_json::to_string(&secret).unwrap()
        );
        assert!(!printed.contains("hunter2"), "{printed}");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
