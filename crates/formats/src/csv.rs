//! CSV: each record's value is one row, without a header.

use crate::run::{Refusal, Rows};
use crate::values;
use arrow_schema::SchemaRef;
use millstream_core::{Decoded, Decoder, Error, Records, Result};

#[derive(Debug, Clone)]
pub struct CsvOptions {
    pub delimiter: u8,
    /// `None`: quotes mean nothing.
    pub quote: Option<u8>,
    pub record_bytes_max: usize,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { delimiter: b',', quote: Some(b'"'), record_bytes_max: 8 << 20 }
    }
}

/// Decodes one CSV row a record. An empty field is null, unless it is quoted text.
pub struct CsvDecoder {
    rows: Rows,
    options: CsvOptions,
    /// A field with its quotes taken off.
    scratch: Vec<u8>,
}

impl CsvDecoder {
    pub fn new(columns: SchemaRef, options: CsvOptions) -> Result<CsvDecoder> {
        if options.quote == Some(options.delimiter) || matches!(options.delimiter, b'\n' | b'\r') {
            return Err(Error::stop(
                "options",
                "the delimiter must differ from quote and line end",
            ));
        }
        Ok(CsvDecoder { rows: Rows::new(columns)?, options, scratch: Vec::new() })
    }
}

impl Decoder for CsvDecoder {
    fn schema(&self) -> SchemaRef {
        self.rows.schema().clone()
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let schema = self.rows.schema().clone();
        let Self { rows, options, scratch } = self;
        rows.decode(records, options.record_bytes_max, |value, columns, _| {
            let line = value.strip_suffix(b"\n").unwrap_or(value);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let mut fields = Fields { rest: Some(line), options };
            for (at, column) in columns.iter_mut().enumerate() {
                let name = schema.field(at).name();
                let wrong = |why: String| Refusal::malformed(format!("field `{name}`: {why}"));
                let Some(quoted) = fields.next(scratch).map_err(wrong)? else {
                    let wanted = schema.fields().len();
                    return Err(Refusal::malformed(format!(
                        "the row has {at} fields, where {wanted} are due"
                    )));
                };
                if scratch.is_empty() && !quoted {
                    if !column.is_nullable() {
                        return Err(wrong("the field is empty".into()));
                    }
                    column.append_null();
                    continue;
                }
                let text = std::str::from_utf8(scratch).map_err(|error| {
                    wrong(format!("the text is not UTF-8 at its byte {}", error.valid_up_to()))
                })?;
                values::append_text(column, text).map_err(wrong)?;
            }
            match fields.rest {
                None => Ok(()),
                Some(_) => Err(Refusal::malformed(format!(
                    "the row has more than the {} fields that are due",
                    columns.len()
                ))),
            }
        })
    }
}

struct Fields<'a> {
    /// `None` after the last field.
    rest: Option<&'a [u8]>,
    options: &'a CsvOptions,
}

impl Fields<'_> {
    /// Copies the next field out and tells whether it was quoted; `None` when there is none.
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<bool>, String> {
        out.clear();
        let Some(mut rest) = self.rest else { return Ok(None) };
        let quote = self.options.quote.filter(|quote| rest.first() == Some(quote));
        if let Some(quote) = quote {
            rest = &rest[1..];
            loop {
                let end = rest
                    .iter()
                    .position(|byte| *byte == quote)
                    .ok_or("the closing quote is missing")?;
                out.extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
                if rest.first() != Some(&quote) {
                    break;
                }
                out.push(quote);
                rest = &rest[1..];
            }
            if rest.first().is_some_and(|byte| *byte != self.options.delimiter) {
                return Err("text follows the closing quote".into());
            }
        } else {
            let delimiter = self.options.delimiter;
            let end = rest.iter().position(|byte| *byte == delimiter).unwrap_or(rest.len());
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
        self.rest = rest.split_first().map(|(_, rest)| rest);
        Ok(Some(quote.is_some()))
    }
}
