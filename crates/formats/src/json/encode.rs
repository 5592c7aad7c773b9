//! Columns into JSON objects.

use super::writer::{Writer, key};
use crate::columns::entry_fields;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, IntervalUnit, SchemaRef};
use bytes::Bytes;
use millstream_core::{Encoded, Encoder, Error, Result};

/// Encodes one JSON object a row: moments in RFC 3339, bytes in base64, addresses and decimals as
/// text. A row with a number that JSON does not have (NaN, infinity) is rejected.
pub struct JsonEncoder {
    input: SchemaRef,
    bytes_expected: usize,
}

impl JsonEncoder {
    /// Fails with all columns that have no JSON form.
    pub fn new(input: SchemaRef) -> Result<JsonEncoder> {
        let mut wrong = Vec::new();
        for field in input.fields() {
            if !encodable(field.data_type()) {
                wrong.push(format!("`{}` of type {}", field.name(), field.data_type()));
            }
        }
        match wrong.is_empty() {
            true => Ok(JsonEncoder { input, bytes_expected: 0 }),
            false => Err(Error::stop(
                "schema_mismatch",
                format!("columns that cannot be written as JSON: {}", wrong.join(", ")),
            )),
        }
    }
}

impl Encoder for JsonEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        if rows.num_columns() != self.input.fields().len() {
            return Err(Error::stop("schema_mismatch", "the columns are not those of the start"));
        }
        let mut columns = Vec::with_capacity(rows.num_columns());
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            let opening = if columns.is_empty() { "{" } else { "," };
            columns.push((key(opening, field.name()), Writer::new(column), field.name()));
        }
        let mut out = Vec::with_capacity(self.bytes_expected + self.bytes_expected / 8);
        let mut encoded =
            Encoded { ends: Vec::with_capacity(rows.num_rows()), ..Encoded::default() };
        for row in 0..rows.num_rows() {
            let start = out.len();
            if columns.is_empty() {
                out.push(b'{');
            }
            for (key, writer, name) in &columns {
                out.extend_from_slice(key);
                if let Err(why) = writer.write(row, &mut out) {
                    out.truncate(start);
                    encoded.rejected.push((row as u32, format!("column `{name}`: {why}")));
                    break;
                }
            }
            if out.len() > start {
                out.push(b'}');
            }
            let end = u32::try_from(out.len()).map_err(|_| {
                Error::stop("batch_too_large", "the encoded rows of a batch are over 4 GiB")
            })?;
            encoded.ends.push(end);
        }
        self.bytes_expected = out.len();
        encoded.buffer = Bytes::from(out);
        Ok(encoded)
    }
}

pub(crate) fn encodable(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => encodable(item.data_type()),
        DataType::Map(entries, _) => entry_fields(entries)
            .is_some_and(|(key, value)| is_text(key.data_type()) && encodable(value.data_type())),
        DataType::Struct(fields) => fields.iter().all(|field| encodable(field.data_type())),
        DataType::Dictionary(_, values) => encodable(values),
        other => {
            is_text(other)
                || other.is_integer()
                || matches!(
                    other,
                    DataType::Null
                        | DataType::Boolean
                        | DataType::Float32
                        | DataType::Float64
                        | DataType::Date32
                        | DataType::Time64(_)
                        | DataType::Timestamp(_, _)
                        | DataType::Decimal128(_, _)
                        | DataType::Decimal256(_, _)
                        | DataType::Binary
                        | DataType::LargeBinary
                        | DataType::BinaryView
                        | DataType::FixedSizeBinary(_)
                        | DataType::Interval(IntervalUnit::MonthDayNano)
                )
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}
