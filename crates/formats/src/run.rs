//! One run of records through a decoder of single records: what all formats share.

use crate::columns::{Column, finish_all};
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_core::{Batch, Decoded, Decoder, Error, Origin, Records, Rejection, Result};

/// The kind of a record without a value.
const TOMBSTONE: &str = "null_value";

/// Makes a decoder pass over tombstones (records without a value, which in a compacted topic say
/// that their key is gone) instead of rejecting them. Such a record has no row, so that it counts
/// as filtered.
pub fn skipping_tombstones(inner: Box<dyn Decoder>) -> Box<dyn Decoder> {
    Box::new(SkippingTombstones(inner))
}

struct SkippingTombstones(Box<dyn Decoder>);

#[async_trait]
impl Decoder for SkippingTombstones {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    async fn prepare(&mut self, records: &Records) -> Result<()> {
        self.0.prepare(records).await
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let mut decoded = self.0.decode(records)?;
        decoded.rejected.retain(|rejection| rejection.kind != TOMBSTONE);
        Ok(decoded)
    }
}

/// A reason with its short word for metrics.
pub(crate) struct Refusal {
    pub kind: &'static str,
    pub reason: String,
}

impl Refusal {
    #[cold]
    pub fn new(kind: &'static str, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    #[cold]
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::new("malformed", reason)
    }
}

/// The columns of a decoder's batches, while they are filled.
#[derive(Debug)]
pub(crate) struct Rows {
    schema: SchemaRef,
    pub columns: Vec<Column>,
}

impl Rows {
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            columns.push(Column::of(field).ok_or_else(|| {
                Error::stop(
                    "unsupported_type",
                    format!("column `{}` cannot be of type {}", field.name(), field.data_type()),
                )
            })?);
        }
        Ok(Self { schema, columns })
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes each record's value with `one`, which leaves the columns in any state when it
    /// refuses. With `strict` it must check text itself; without, text that is not UTF-8 is found
    /// at the end and the run done once more, strictly.
    pub fn decode(
        &mut self,
        records: &Records,
        bytes_max: usize,
        mut one: impl FnMut(&[u8], &mut [Column], bool) -> Result<(), Refusal>,
    ) -> Result<Decoded> {
        let one = |_: usize, value: &[u8], columns: &mut [Column], strict: bool| {
            one(value, columns, strict)
        };
        self.decode_rows(records, bytes_max, one)
    }

    /// [`Rows::decode`] for formats that look at more of a record than its value: `one` is told its
    /// row too.
    pub fn decode_rows(
        &mut self,
        records: &Records,
        bytes_max: usize,
        mut one: impl FnMut(usize, &[u8], &mut [Column], bool) -> Result<(), Refusal>,
    ) -> Result<Decoded> {
        if records.bytes() > i32::MAX as usize {
            // Offsets of a column count to 2 GiB; a source hands out far less at once.
            return Err(Error::stop("run_too_large", "a run of records is over 2 GiB"));
        }
        match self.pass(records, bytes_max, false, &mut one) {
            Ok(decoded) => Ok(decoded),
            Err(_) => self.pass(records, bytes_max, true, &mut one).map_err(|error| {
                Error::stop("decode", "the decoded columns do not fit together").because(error)
            }),
        }
    }

    fn pass(
        &mut self,
        records: &Records,
        bytes_max: usize,
        strict: bool,
        one: &mut impl FnMut(usize, &[u8], &mut [Column], bool) -> Result<(), Refusal>,
    ) -> Result<Decoded, arrow_schema::ArrowError> {
        let mut rejected: Vec<Rejection> = Vec::new();
        let mut origin: Vec<u32> = Vec::new();
        self.columns.iter_mut().for_each(|column| column.reserve(records.len()));
        for row in 0..records.len() {
            let refusal = match records.value(row) {
                Some(value) if value.len() <= bytes_max => {
                    match one(row, value, &mut self.columns, strict) {
                        Ok(()) => {
                            // Only once a row is missing do the others need to say who they are.
                            if !rejected.is_empty() {
                                origin.push(row as u32);
                            }
                            continue;
                        }
                        Err(refusal) => refusal,
                    }
                }
                Some(value) => Refusal::new(
                    "oversized",
                    format!(
                        "the record has {} bytes, more than the {bytes_max} allowed",
                        value.len()
                    ),
                ),
                None => Refusal::new(TOMBSTONE, "the record has no value (a tombstone)"),
            };
            if rejected.is_empty() {
                origin.extend(0..row as u32);
            }
            self.columns.iter_mut().for_each(|column| column.truncate(origin.len()));
            let Refusal { kind, reason } = refusal;
            rejected.push(Rejection { source_row: row as u32, kind, reason });
        }
        let rows = records.len() - rejected.len();
        let arrays = finish_all(&mut self.columns)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?;
        let origin = match rejected.is_empty() {
            true => Origin::Same(rows as u32),
            false => Origin::Rows(origin.into()),
        };
        Ok(Decoded { batch: Batch::new(batch, origin), rejected })
    }
}
