//! Batches out of a partition as they are on disk, for those who pass them on.
//!
//! Who reads from front to back begins each read where the one before ended: a partition remembers
//! a few such ends, so that the index is not asked again. Buffers are used again too: fresh memory
//! of this size costs as much as reading into it.

use crate::codec::{self, HEADER_BYTES, Header, Invalid};
use crate::error::{Error, Result};
use crate::partition::{Partition, PartitionLog};
use crate::placed::Placed;
use crate::seek::Cursor;
use crate::segment::Scan;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// What [`PartitionLog::read_raw`] and [`PartitionLog::find_raw`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// Nothing that is synced.
    End,
    /// Whole batches, and the offset after the last of them.
    Batches { bytes: Bytes, next: i64 },
    /// Whole batches in their file, and the offset after the last of them.
    Placed { placed: Placed, next: i64 },
    /// The first batch alone has this many bytes, which are more than were asked for.
    Larger(usize),
}

/// Where reads ended lately: an offset, its segment's base and its place there.
#[derive(Debug, Default)]
pub struct Ends(Mutex<VecDeque<(i64, i64, u64)>>);

const ENDS_MAX: usize = 8;

impl Ends {
    fn find(&self, offset: i64) -> Option<(i64, u64)> {
        let ends = self.0.lock();
        let found = ends.iter().find(|end| end.0 == offset)?;
        Some((found.1, found.2))
    }

    fn replace(&self, begun: i64, end: (i64, i64, u64)) {
        let mut ends = self.0.lock();
        ends.retain(|known| known.0 != begun && known.0 != end.0);
        if ends.len() == ENDS_MAX {
            ends.pop_front();
        }
        ends.push_back(end);
    }
}

impl PartitionLog {
    /// The batches from the one that holds `offset` on, as they are on disk, no more than
    /// `max_bytes` of them. The first batch may begin before `offset`.
    pub fn read_raw(&self, offset: i64, max_bytes: usize) -> Result<Raw> {
        self.raw(offset, max_bytes, |_, _| None)
    }

    /// As [`Self::read_raw`], but what this process has appended stays where it lies, where the
    /// files can be sent from; no more than `held_bytes` are read into memory.
    pub fn find_raw(&self, offset: i64, max_bytes: usize, held_bytes: usize) -> Result<Raw> {
        self.raw(offset, held_bytes, |cursor, limit| self.0.placed_at(cursor, limit, max_bytes))
    }

    fn raw(
        &self,
        offset: i64,
        max_bytes: usize,
        placed: impl Fn(&Cursor, u64) -> Option<Raw>,
    ) -> Result<Raw> {
        let partition = &self.0;
        partition.check_refused()?;
        partition.check_gone()?;
        partition.check_offset(offset)?;
        let synced = *partition.synced.borrow();
        let offset = offset.max(self.start_offset());
        if offset == synced.end {
            return Ok(Raw::End);
        }
        let mut cursor = match partition.known_end(offset) {
            Some(cursor) => cursor,
            None => partition.seek(offset)?,
        };
        loop {
            let limit = synced.limit(&cursor.segment);
            match cursor.find(limit, offset) {
                Ok(()) => {}
                Err(_) if cursor.guessed => {
                    cursor.restart();
                    continue;
                }
                Err(error) => return Err(error),
            }
            let found = match placed(&cursor, limit) {
                Some(placed) => placed,
                None => match partition.raw_at(&cursor, limit, max_bytes) {
                    Err(Error::Damage(_)) if cursor.guessed => {
                        cursor.restart();
                        continue;
                    }
                    found => found?,
                },
            };
            let taken = match &found {
                Raw::Batches { bytes, next } => Some((*next, bytes.len())),
                Raw::Placed { placed, next } => Some((*next, placed.len())),
                Raw::End | Raw::Larger(_) => None,
            };
            if let Some((next, len)) = taken {
                let end = (next, cursor.segment.base, cursor.position + len as u64);
                partition.ends.replace(offset, end);
            }
            return Ok(found);
        }
    }
}

impl Partition {
    /// The place of an offset at which another read ended.
    fn known_end(&self, offset: i64) -> Option<Cursor> {
        let (base, position) = self.ends.find(offset)?;
        let segments = self.segments.read();
        let at = segments.binary_search_by_key(&base, |segment| segment.base).ok()?;
        // Of a segment that has ended since, the next one goes on.
        if segments.get(at + 1).is_some_and(|next| next.base <= offset) {
            return None;
        }
        let segment = segments[at].clone();
        drop(segments);
        let file = self.open_segment(&segment).ok()?;
        Some(Cursor { segment, file, position, expected: offset, guessed: true })
    }

    fn raw_at(&self, cursor: &Cursor, limit: u64, max_bytes: usize) -> Result<Raw> {
        let left = usize::try_from(limit - cursor.position).unwrap_or(usize::MAX);
        let len = left.min(max_bytes.max(HEADER_BYTES));
        let mut buffer = self.shared.buffers.take(len);
        cursor.fill(buffer.bytes(), 0)?;
        let header = Header::read_at(buffer.bytes(), cursor.expected);
        let header = header.map_err(|why| cursor.wrong(why))?;
        if header.bytes > left {
            return Err(cursor.wrong(Invalid::Short { have: left, need: header.bytes }));
        }
        if header.bytes > max_bytes {
            return Ok(Raw::Larger(header.bytes));
        }
        let found = codec::batches(buffer.bytes(), cursor.expected);
        let found = found.map_err(|failed| cursor.damage(failed))?;
        let Some((at, last)) = found.last() else {
            return Err(cursor.wrong(Invalid::Short { have: len, need: header.bytes }));
        };
        let (end, next) = (at + last.bytes, last.next_offset());
        Ok(Raw::Batches { bytes: buffer.freeze().slice(..end), next })
    }
}

impl Cursor {
    /// Moves to the batch that holds `offset`, which lies here or after.
    fn find(&mut self, limit: u64, offset: i64) -> Result<()> {
        if self.expected == offset && self.position < limit {
            return Ok(());
        }
        let path = &self.segment.path;
        let mut scan = Scan::new(&*self.file, self.position, limit, self.expected);
        loop {
            match scan.next_header() {
                Ok(Some((position, header))) if header.next_offset() > offset => {
                    (self.position, self.expected) = (position, header.base_offset);
                    return Ok(());
                }
                Ok(Some(_)) => {}
                Err(stopped) => return Err(stopped.into_error(path)),
                Ok(None) => {
                    let what = format!("the segment ends before offset {offset}");
                    return Err(Error::damaged(path, limit, offset, what));
                }
            }
        }
    }

    fn wrong(&self, why: Invalid) -> Error {
        self.damage(codec::Failed { at: 0, offset: self.expected, why })
    }
}

/// Buffers that come back when what was read into them has been passed on.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Box<[u8]>>,
    bytes: usize,
}

/// Smaller ones cost next to nothing, larger ones are rare.
const REUSED: std::ops::RangeInclusive<usize> = 32 << 10..=2 << 20;
/// All that wait to be used again.
const KEPT_BYTES: usize = 16 << 20;

/// A buffer that goes back when it is dropped.
#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    home: Option<Arc<Buffers>>,
}

impl Buffers {
    fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if !REUSED.contains(&len) {
            return Buffer { bytes: vec![0; len].into(), len, home: None };
        }
        let room = len.next_power_of_two();
        let kept = {
            let mut kept = self.0.lock();
            let at = kept.buffers.iter().position(|buffer| buffer.len() == room);
            at.map(|at| {
                kept.bytes -= room;
                kept.buffers.swap_remove(at)
            })
        };
        let bytes = kept.unwrap_or_else(|| vec![0; room].into());
        Buffer { bytes, len, home: Some(self.clone()) }
    }
}

impl Buffer {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let bytes = std::mem::take(&mut self.bytes);
        let mut kept = home.0.lock();
        if kept.bytes + bytes.len() <= KEPT_BYTES {
            kept.bytes += bytes.len();
            kept.buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_few_are_kept() {
        let buffers = Arc::new(Buffers::default());
        let first = buffers.take(100_000).freeze();
        let at = first.as_ptr();
        drop(first.slice(5..50));
        assert_eq!(buffers.0.lock().buffers.len(), 0, "it is still in use");
        drop(first);
        assert_eq!(buffers.take(70_000).bytes().as_ptr(), at);
        let many: Vec<Bytes> = (0..40).map(|_| buffers.take(1 << 20).freeze()).collect();
        drop(many);
        let kept = buffers.0.lock();
        assert!(kept.bytes <= KEPT_BYTES && !kept.buffers.is_empty());
        assert_eq!(kept.bytes, kept.buffers.iter().map(|buffer| buffer.len()).sum::<usize>());
    }
}
