//! Columns into JSON records of one schema.

use super::References;
use super::shape::{self, Model, Property};
use super::write::{Binder, Put};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use millstream_core::{Encoded, Encoder, Error, Result};

/// Encodes rows as JSON objects of one schema; columns are matched with properties by name.
pub struct JsonSchemaEncoder {
    properties: Vec<Property>,
    model: Model,
    id: Option<u32>,
    /// Bytes of the batch before: room for the next.
    bytes_expected: usize,
}

impl JsonSchemaEncoder {
    /// `id` is put before each record, as Confluent's serializers do. Fails with all that the
    /// columns of `input` and the schema disagree in.
    pub fn new(
        schema: &str,
        references: &References,
        id: Option<u32>,
        input: SchemaRef,
    ) -> Result<JsonSchemaEncoder> {
        let (properties, model) = shape::object(schema, references)
            .map_err(|why| Error::stop("schema", format!("JSON schema: {why}")))?;
        let encoder = JsonSchemaEncoder { properties, model, id, bytes_expected: 0 };
        encoder.bind(&RecordBatch::new_empty(input))?;
        Ok(encoder)
    }

    fn bind<'a>(&'a self, rows: &'a RecordBatch) -> Result<Put<'a>> {
        let mut binder = Binder::default();
        let schema = rows.schema_ref();
        let put = binder.object(&self.properties, self.model, schema.fields(), rows.columns(), "");
        match binder.errors.is_empty() {
            true => Ok(put),
            false => Err(Error::stop(
                "schema_mismatch",
                format!("the columns do not fit the JSON schema: {}", binder.errors.join("; ")),
            )),
        }
    }
}

impl Encoder for JsonSchemaEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let object = self.bind(rows)?;
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
            if let Err(why) = object.put(row, &mut out) {
                out.truncate(start);
                encoded.rejected.push((row as u32, why));
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
