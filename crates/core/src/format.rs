//! Bytes to columns, and back.

use crate::{Batch, Records, Rejection, Result};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;

/// Turns records into columns. One of these belongs to one partition task.
#[async_trait]
pub trait Decoder: Send {
    /// The columns that every decoded batch has.
    fn schema(&self) -> SchemaRef;

    /// Fetches what decoding these records needs (writer schemas by id). Does no CPU work of note.
    async fn prepare(&mut self, records: &Records) -> Result<()> {
        let _ = records;
        Ok(())
    }

    /// Decodes each record that can be decoded and rejects the others, one by one: a bad record
    /// costs itself only. An error here concerns the whole run (an unknown schema, say).
    fn decode(&mut self, records: &Records) -> Result<Decoded>;
}

#[derive(Debug)]
pub struct Decoded {
    pub batch: Batch,
    pub rejected: Vec<Rejection>,
}

/// Turns columns into one value a row.
#[async_trait]
pub trait Encoder: Send {
    /// Encodes every row that can be encoded; the others are listed in `rejected`.
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded>;
}

/// Row `i` is `buffer[ends[i - 1]..ends[i]]` (from 0 for the first). A rejected row is empty.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    pub buffer: Bytes,
    pub ends: Vec<u32>,
    /// Row index in the encoded batch (not a source row), and why.
    pub rejected: Vec<(u32, String)>,
}

impl Encoded {
    #[inline]
    pub fn row(&self, row: usize) -> &[u8] {
        let from = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.buffer[from..self.ends[row] as usize]
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}
