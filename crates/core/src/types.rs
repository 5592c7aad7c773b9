//! The names that pipeline files, tables and tests use for column types.
//!
//! ```text
//! boolean  int  bigint  float  double  decimal(p, s)  string  bytes
//! date  timestamp (ms, UTC)  timestamp_us  time  ip
//! T[]      map<T>      struct<name T, other T>
//! ```
//!
//! `ip` is an address as 16 bytes, IPv4 mapped into IPv6, so that both compare in one order.

use arrow_schema::{DataType, Field, Fields, TimeUnit};
use std::sync::Arc;

/// How deep a type may nest.
const DEPTH_MAX: usize = 32;

/// An IP address as `ip` columns hold it.
pub const IP: DataType = DataType::FixedSizeBinary(16);

/// Parses a type name; the error is a sentence that says what is wrong and what is known.
pub fn parse(text: &str) -> Result<DataType, String> {
    let mut parser = Parser { text, rest: text };
    let data_type = parser.data_type(0)?;
    match parser.rest.trim_start() {
        "" => Ok(data_type),
        rest => Err(format!("unexpected `{rest}` after the type in `{text}`")),
    }
}

/// The name that [`parse`] reads back; other types by Arrow's own name.
pub fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int32 => "int".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "string".into(),
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => "bytes".into(),
        DataType::Date32 => "date".into(),
        DataType::Time64(TimeUnit::Microsecond) => "time".into(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => "timestamp".into(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "timestamp_us".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        t if *t == IP => "ip".into(),
        DataType::List(field) | DataType::LargeList(field) => {
            format!("{}[]", name(field.data_type()))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("map<{}>", name(fields[1].data_type()))
            }
            _ => "map".into(),
        },
        DataType::Struct(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|f| format!("{} {}", f.name(), name(f.data_type()))).collect();
            format!("struct<{}>", fields.join(", "))
        }
        DataType::Dictionary(_, values) => name(values),
        other => other.to_string(),
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Parser<'_> {
    fn data_type(&mut self, depth: usize) -> Result<DataType, String> {
        if depth > DEPTH_MAX {
            return Err(format!("types nest at most {DEPTH_MAX} deep"));
        }
        let word = self.word()?;
        let mut data_type = match word.to_ascii_lowercase().as_str() {
            "boolean" | "bool" => DataType::Boolean,
            "int" | "integer" => DataType::Int32,
            "bigint" | "long" => DataType::Int64,
            "float" | "real" => DataType::Float32,
            "double" => DataType::Float64,
            "string" | "text" | "varchar" => DataType::Utf8,
            "bytes" | "blob" | "binary" => DataType::Binary,
            "date" => DataType::Date32,
            "time" => DataType::Time64(TimeUnit::Microsecond),
            "timestamp" => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            "timestamp_us" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            "ip" | "inet" => IP,
            "decimal" => self.decimal()?,
            "map" => {
                self.expect('<')?;
                let value = self.data_type(depth + 1)?;
                self.expect('>')?;
                map_of(value)
            }
            "struct" => self.fields(depth)?,
            _ => {
                return Err(format!(
                    "`{word}` is not a type; known are boolean, int, bigint, float, double, \
                     decimal(p, s), string, bytes, date, time, timestamp, timestamp_us, ip, T[], \
                     map<T> and struct<name T, …>"
                ));
            }
        };
        while self.take('[') {
            self.expect(']')?;
            if depth + height(&data_type) >= DEPTH_MAX {
                return Err(format!("types nest at most {DEPTH_MAX} deep"));
            }
            data_type = DataType::List(Arc::new(Field::new("item", data_type, true)));
        }
        Ok(data_type)
    }

    fn decimal(&mut self) -> Result<DataType, String> {
        self.expect('(')?;
        let precision = self.number()?;
        self.expect(',')?;
        let scale = self.number()?;
        self.expect(')')?;
        if !(1..=38).contains(&precision) || scale > precision {
            return Err(format!(
                "decimal({precision}, {scale}) is out of range: at most 38 digits, of which the \
                 scale is a part"
            ));
        }
        Ok(DataType::Decimal128(precision, scale as i8))
    }

    fn fields(&mut self, depth: usize) -> Result<DataType, String> {
        self.expect('<')?;
        let mut fields = Vec::new();
        loop {
            let name = self.word()?.to_owned();
            let _ = self.take(':');
            fields.push(Field::new(name, self.data_type(depth + 1)?, true));
            if !self.take(',') {
                break;
            }
        }
        self.expect('>')?;
        Ok(DataType::Struct(Fields::from(fields)))
    }

    fn word(&mut self) -> Result<&str, String> {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            return Err(format!("a name is missing at `{rest}` in the type `{}`", self.text));
        }
        let (word, tail) = rest.split_at(end);
        self.rest = tail;
        Ok(word)
    }

    fn number(&mut self) -> Result<u8, String> {
        let word = self.word()?.to_owned();
        word.parse().map_err(|_| format!("`{word}` is not a number of digits"))
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.rest.trim_start().strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.take(wanted) {
            return Ok(());
        }
        Err(format!("`{wanted}` is missing at `{}` in the type `{}`", self.rest, self.text))
    }
}

/// How many types are inside each other below this one.
fn height(data_type: &DataType) -> usize {
    match data_type {
        DataType::List(item) => 1 + height(item.data_type()),
        // The entries are a struct that nobody wrote.
        DataType::Map(entries, _) => height(entries.data_type()),
        DataType::Struct(fields) => {
            1 + fields.iter().map(|field| height(field.data_type())).max().unwrap_or(0)
        }
        _ => 0,
    }
}

fn map_of(value: DataType) -> DataType {
    let entries = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", value, true),
    ]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for text in [
            "boolean",
            "int",
            "bigint",
            "float",
            "double",
            "decimal(10, 2)",
            "string",
            "bytes",
            "date",
            "time",
            "timestamp",
            "timestamp_us",
            "ip",
            "string[]",
            "int[][]",
            "map<double>",
            "struct<id int, tags string[], more struct<a ip>>",
        ] {
            assert_eq!(name(&parse(text).unwrap()), text);
        }
    }

    #[test]
    fn a_wrong_type_is_a_sentence() {
        for text in ["strng", "int]", "decimal(50, 2)", "struct<>", "map<int", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn types_nest_to_a_bound_however_they_are_written() {
        let lists = |n: usize| format!("int{}", "[]".repeat(n));
        let maps = |n: usize| format!("{}int{}", "map<".repeat(n), ">".repeat(n));
        let structs = |n: usize| format!("{}int{}", "struct<a ".repeat(n), ">".repeat(n));
        for text in [lists(DEPTH_MAX), maps(DEPTH_MAX), structs(DEPTH_MAX)] {
            assert!(parse(&text).is_ok(), "{text}");
        }
        let both = |n: usize| format!("{}int{}", "map<".repeat(n), ">[]".repeat(n));
        assert!(parse(&both(DEPTH_MAX / 2)).is_ok());
        for n in [DEPTH_MAX + 1, 100_000] {
            for text in [lists(n), maps(n), structs(n), both(n / 2 + 1)] {
                assert!(parse(&text).unwrap_err().contains("at most"), "{n}");
            }
        }
    }
}
