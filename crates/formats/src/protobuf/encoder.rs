//! Columns into Protobuf records.

use super::schema::Schema;
use super::write::{self, Message, places};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use millstream_core::{Encoded, Encoder, Error, Result};
use std::sync::Arc;

/// Encodes rows as records of one message; columns are matched with fields by name.
///
/// A field without presence that is null rejects its row: a reader would take it for zero. A null
/// list or map is an empty one.
pub struct ProtobufEncoder {
    schema: Schema,
    message: usize,
    /// What stands before each record.
    frame: Vec<u8>,
    /// Bytes of the batch before: room for the next.
    bytes_expected: usize,
}

impl ProtobufEncoder {
    /// `id` is put before each record with the place of the message, as Confluent's serializers
    /// do. Fails with all that the columns of `input` and the schema disagree in.
    pub fn new(
        proto: &str,
        references: &[(String, Arc<str>)],
        message: Option<&str>,
        id: Option<u32>,
        input: SchemaRef,
    ) -> Result<ProtobufEncoder> {
        let wrong = |why: String| Error::stop("schema", format!("protobuf schema: {why}"));
        let schema = Schema::parse(proto, references).map_err(wrong)?;
        let message = schema.named(message).map_err(wrong)?;
        let mut frame = Vec::new();
        if let Some(id) = id {
            let path = schema.path(message);
            let path = path.ok_or_else(|| {
                let name = &schema.messages[message].name;
                wrong(format!("message `{name}` is of an imported file, not of the schema's own"))
            })?;
            frame.push(0);
            frame.extend_from_slice(&id.to_be_bytes());
            match path.as_slice() {
                [0] => frame.push(0),
                path => places(path, &mut frame),
            }
        }
        bind(&schema, message, &RecordBatch::new_empty(input))?;
        Ok(ProtobufEncoder { schema, message, frame, bytes_expected: 0 })
    }
}

impl Encoder for ProtobufEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let message = bind(&self.schema, self.message, rows)?;
        let mut out = Vec::with_capacity(self.bytes_expected + self.bytes_expected / 8);
        let mut encoded =
            Encoded { ends: Vec::with_capacity(rows.num_rows()), ..Encoded::default() };
        for row in 0..rows.num_rows() {
            let start = out.len();
            out.extend_from_slice(&self.frame);
            if let Err(fault) = message.put(&self.schema, row, &mut out) {
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

fn bind<'a>(schema: &'a Schema, message: usize, rows: &'a RecordBatch) -> Result<Message<'a>> {
    let mut errors = Vec::new();
    let names = rows.schema_ref().fields().iter().map(|field| field.name().as_str());
    let names: Vec<&str> = names.collect();
    let bound = write::bind(schema, message, rows.columns(), &names, "", &mut errors);
    match errors.is_empty() {
        true => Ok(bound),
        false => Err(Error::stop(
            "schema_mismatch",
            format!("the columns do not fit the protobuf schema: {}", errors.join("; ")),
        )),
    }
}
