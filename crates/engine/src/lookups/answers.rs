//! The answers for one batch of keys, put together from wherever their rows are in memory.

use ahash::RandomState;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;
use millstream_core::{Error, Found, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The batches that the answers are in, and for each key where.
pub struct Answers {
    chunks: Vec<Arc<RecordBatch>>,
    /// By the chunk's address, which stays its own while it is in the list.
    place_of: HashMap<usize, u32, RandomState>,
    /// The address and place of the one before, which is the next one's more often than not.
    last: (usize, u32),
    places: Vec<Option<Place>>,
}

#[derive(Clone)]
struct Place {
    chunk: u32,
    rows: Range<u32>,
}

impl Answers {
    pub fn new(keys: usize) -> Self {
        Self {
            chunks: Vec::new(),
            place_of: HashMap::default(),
            last: (0, 0),
            places: vec![None; keys],
        }
    }

    /// Notes where a key's rows are. Chunks are few and shared by all threads: only the first
    /// answer from one counts its references up.
    pub fn set(&mut self, key: u32, chunk: &Arc<RecordBatch>, rows: Range<u32>) {
        let place = if rows.is_empty() {
            Place { chunk: 0, rows: 0..0 }
        } else {
            let address = Arc::as_ptr(chunk) as usize;
            if self.last.0 != address {
                let place = *self.place_of.entry(address).or_insert_with(|| {
                    self.chunks.push(chunk.clone());
                    self.chunks.len() as u32 - 1
                });
                self.last = (address, place);
            }
            Place { chunk: self.last.1, rows }
        };
        self.places[key as usize] = Some(place);
    }

    /// One batch of all the rows, in key order.
    pub fn assemble(&self, schema: SchemaRef) -> Result<Found> {
        let mut picked = Vec::with_capacity(self.places.len());
        let mut ends = Vec::with_capacity(self.places.len());
        for place in &self.places {
            if let Some(Place { chunk, rows }) = place {
                picked.extend(rows.clone().map(|row| (*chunk as usize, row as usize)));
            }
            ends.push(picked.len() as u32);
        }
        let chunks: Vec<&RecordBatch> = self.chunks.iter().map(|chunk| &**chunk).collect();
        let rows = match chunks.as_slice() {
            [] => Ok(RecordBatch::new_empty(schema)),
            [one] => {
                let rows: UInt32Array = picked.iter().map(|(_, row)| *row as u32).collect();
                take_record_batch(one, &rows)
            }
            many => interleave_record_batch(many, &picked),
        };
        let rows = rows.map_err(|e| Error::stop("lookup", "picking rows").because(e))?;
        Ok(Found { rows, ends })
    }
}
