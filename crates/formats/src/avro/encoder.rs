//! Columns into Avro records.

use super::bind::Binder;
use super::schema::Schema;
use super::write::Put;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use millstream_core::{Encoded, Encoder, Error, Result};

/// Encodes rows as records of one schema; columns are matched with fields by name.
pub struct AvroEncoder {
    schema: Schema,
    id: Option<u32>,
    /// Bytes of the batch before: room for the next.
    bytes_expected: usize,
}

impl AvroEncoder {
    /// `id` is put before each record, as Confluent's serializers do. Fails with all that the
    /// columns of `input` and the schema disagree in.
    pub fn new(schema_json: &str, id: Option<u32>, input: SchemaRef) -> Result<AvroEncoder> {
        let schema = Schema::parse(schema_json, [])
            .map_err(|why| Error::stop("schema", format!("avro schema: {why}")))?;
        bind(&schema, &RecordBatch::new_empty(input))?;
        Ok(AvroEncoder { schema, id, bytes_expected: 0 })
    }
}

impl Encoder for AvroEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let record = bind(&self.schema, rows)?;
        let mut out = Vec::with_capacity(self.bytes_expected + self.bytes_expected / 8);
        let mut encoded =
            Encoded { ends: Vec::with_capacity(rows.num_rows()), ..Encoded::default() };
        let frame = self.id.map(u32::to_be_bytes);
        for row in 0..rows.num_rows() {
            let start = out.len();
            if let Some(id) = frame {
                out.push(0);
                out.extend_from_slice(&id);
            }
            if let Err(fault) = record.put(row, &mut out) {
                out.truncate(start);
                encoded.rejected.push((row as u32, fault.sentence()));
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

fn bind<'a>(schema: &'a Schema, rows: &'a RecordBatch) -> Result<Put<'a>> {
    let wrong = |why: String| Error::stop("schema", why);
    let fields = schema.root_fields().map_err(wrong)?;
    let mut binder = Binder { schema, errors: Vec::new() };
    let names = rows.schema_ref().fields().iter().map(|field| field.name().as_str());
    let put = binder.record(fields, names, rows.columns(), "");
    match binder.errors.is_empty() {
        true => Ok(put),
        false => Err(Error::stop(
            "schema_mismatch",
            format!("the columns do not fit the avro schema: {}", binder.errors.join("; ")),
        )),
    }
}
