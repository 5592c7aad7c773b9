//! The memory of the cache: rows in segments, in the order they came, bounded in bytes.
//!
//! ```text
//!  oldest ─► [ keys, rows ] [ keys, rows ] … [ keys, rows ] ◄─ newest
//!              given up when there is no room;   small neighbours are put together
//!              what was used moves to the newest
//! ```
//!
//! A segment's rows are a copy of its own: nothing of the answer that they came in stays alive, and
//! a segment that is given up frees all it had. A row whose key got another answer since counts
//! until its segment is written anew.

use super::keys::Key;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, cast::AsArray};
use arrow_schema::{ArrowError, DataType};
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;
use std::collections::VecDeque;
use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

/// A segment is at most this part of what the cache may hold.
const PARTS: usize = 16;
/// And has at most this many keys, so that giving it up takes no time to speak of.
const KEYS_MAX: usize = 2048;
/// What a key costs beside its rows: it stands here and in a hash table, which is two thirds full
/// on the average and keeps the place and age of the answer with it.
const KEY_BYTES: usize = size_of::<Key>() + (size_of::<Key>() + 48) * 3 / 2;

/// Keys that were answered together, and a batch with their rows and no others.
pub struct Segment {
    pub keys: Vec<Key>,
    pub rows: Arc<RecordBatch>,
    bytes: usize,
}

/// The segments from the oldest to the newest.
pub struct Segments {
    list: VecDeque<Segment>,
    bytes: usize,
    bytes_max: usize,
    segment_bytes: usize,
    segment_keys: usize,
}

impl Segment {
    pub fn new(keys: Vec<Key>, rows: RecordBatch) -> Self {
        let apart: usize = keys.iter().map(Key::apart).sum();
        let bytes = keys.len() * KEY_BYTES + 2 * apart + rows.get_array_memory_size();
        Self { keys, rows: Arc::new(rows), bytes }
    }
}

impl Segments {
    pub fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            list: VecDeque::new(),
            bytes: 0,
            bytes_max,
            segment_bytes: bytes_max / PARTS,
            segment_keys: (entries_max / PARTS).clamp(1, KEYS_MAX),
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_too_large(&self) -> bool {
        self.bytes > self.bytes_max
    }

    pub fn push(&mut self, segment: Segment) {
        self.bytes += segment.bytes;
        self.list.push_back(segment);
    }

    pub fn pop_oldest(&mut self) -> Option<Segment> {
        let oldest = self.list.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest)
    }

    /// The two newest, when they are small enough to be one and alike enough in size that a key is
    /// moved a few times only.
    pub fn pop_small_neighbours(&mut self) -> Option<[Segment; 2]> {
        let [.., a, b] = self.list.make_contiguous() else { return None };
        let fits = a.keys.len() + b.keys.len() <= self.segment_keys
            && a.bytes + b.bytes <= self.segment_bytes
            && b.keys.len() * 2 >= a.keys.len();
        if !fits {
            return None;
        }
        let (b, a) = (self.list.pop_back()?, self.list.pop_back()?);
        self.bytes -= a.bytes + b.bytes;
        Some([a, b])
    }

    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes = 0;
    }

    /// How many of the keys of an answer go into one segment.
    pub fn keys_at_once(&self, keys: usize, answer: &RecordBatch) -> usize {
        let each = KEY_BYTES + answer.get_array_memory_size() / keys.max(1);
        (self.segment_bytes / each).clamp(1, self.segment_keys)
    }
}

/// A copy of these rows of these batches that shares no memory with them.
pub fn copy(
    batches: &[&RecordBatch],
    rows: impl Iterator<Item = (usize, Range<u32>)>,
) -> Result<RecordBatch, ArrowError> {
    let picked: Vec<(usize, usize)> =
        rows.flat_map(|(batch, rows)| rows.map(move |row| (batch, row as usize))).collect();
    let copied = match batches {
        [one] => {
            let rows: UInt32Array = picked.iter().map(|(_, row)| *row as u32).collect();
            take_record_batch(one, &rows)?
        }
        many => interleave_record_batch(many, &picked)?,
    };
    let columns = copied.columns().iter().map(own).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(copied.num_rows()));
    RecordBatch::try_new_with_options(copied.schema(), columns, &options)
}

/// Views share the bytes that they look at: these get bytes of their own.
fn own(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => column.clone(),
    }
}
