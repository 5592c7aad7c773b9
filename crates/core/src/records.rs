//! Raw records of one partition, in offset order: what a source hands to a decoder, and what a
//! dead letter is made from.

use bytes::Bytes;
use std::time::Instant;

/// A length that means "absent", as distinct from empty.
const NULL: u32 = u32::MAX;

/// Records that share one buffer. `next` is the offset to commit once all of them are done; it may
/// lie beyond the last record where the source has gaps.
#[derive(Debug, Clone)]
pub struct Records {
    buffer: Bytes,
    slots: Vec<Slot>,
    next: i64,
    skipped: u64,
    arrived: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: i64,
    timestamp: i64,
    key: Span,
    value: Span,
    headers: Span,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

/// One record. Timestamps are milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// Headers in the encoding of a Kafka v2 record: a varint count, then key and value pairs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a>(pub &'a [u8]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

impl Records {
    #[inline]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The offset that a commit names once every record here is done.
    pub fn next_offset(&self) -> i64 {
        self.next
    }

    pub fn first_offset(&self) -> Option<i64> {
        self.slots.first().map(|s| s.offset)
    }

    /// Records that the source could no longer give (removed by `retention: hard`) before these.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// When the first of them came in.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// They came in earlier than they were put together.
    pub fn arrived_at(mut self, arrived: Instant) -> Records {
        self.arrived = arrived;
        self
    }

    /// Bytes that these records keep alive.
    pub fn bytes(&self) -> usize {
        self.buffer.len() + self.slots.len() * size_of::<Slot>()
    }

    pub fn offset(&self, row: usize) -> i64 {
        self.slots[row].offset
    }

    pub fn timestamp(&self, row: usize) -> i64 {
        self.slots[row].timestamp
    }

    #[inline]
    pub fn value(&self, row: usize) -> Option<&[u8]> {
        self.slice(self.slots[row].value)
    }

    #[inline]
    pub fn key(&self, row: usize) -> Option<&[u8]> {
        self.slice(self.slots[row].key)
    }

    /// Whether a record has headers; their number alone takes a byte.
    #[inline]
    pub fn has_headers(&self, row: usize) -> bool {
        self.slots[row].headers.len > 1
    }

    #[inline]
    pub fn get(&self, row: usize) -> Record<'_> {
        let slot = &self.slots[row];
        Record {
            offset: slot.offset,
            timestamp: slot.timestamp,
            key: self.slice(slot.key),
            value: self.slice(slot.value),
            headers: Headers(self.slice(slot.headers).unwrap_or_default()),
        }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// The rows `from..to` as records of their own, sharing the buffer.
    pub fn slice_rows(&self, from: usize, to: usize) -> Records {
        let next = if to == self.len() { self.next } else { self.slots[to].offset };
        Records {
            buffer: self.buffer.clone(),
            slots: self.slots[from..to].to_vec(),
            next,
            skipped: if from == 0 { self.skipped } else { 0 },
            arrived: self.arrived,
        }
    }

    #[inline]
    fn slice(&self, span: Span) -> Option<&[u8]> {
        (span.len != NULL).then(|| &self.buffer[span.at as usize..(span.at + span.len) as usize])
    }
}

/// Builds [`Records`] over a buffer, either by pointing into one that is there ([`Self::over`] and
/// [`Self::push_at`]) or by copying ([`Self::new`] and [`Self::push`]).
#[derive(Debug, Default)]
pub struct RecordsBuilder {
    fixed: Option<Bytes>,
    buffer: Vec<u8>,
    slots: Vec<Slot>,
    skipped: u64,
}

impl RecordsBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that point into `buffer`, which must be under 4 GiB.
    pub fn over(buffer: Bytes) -> Self {
        assert!(buffer.len() < NULL as usize, "a records buffer is under 4 GiB");
        Self { fixed: Some(buffer), ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Makes room for so many more records.
    pub fn reserve(&mut self, records: usize) {
        self.slots.reserve(records);
    }

    /// Bytes copied in so far.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    pub fn skip(&mut self, records: u64) {
        self.skipped += records;
    }

    /// A record whose parts are `(start, length)` in the buffer given to [`Self::over`].
    #[inline]
    pub fn push_at(
        &mut self,
        offset: i64,
        timestamp: i64,
        key: Option<(usize, usize)>,
        value: Option<(usize, usize)>,
        headers: (usize, usize),
    ) {
        let span = |part: Option<(usize, usize)>| match part {
            Some((at, len)) => Span { at: at as u32, len: len as u32 },
            None => Span { at: 0, len: NULL },
        };
        self.slots.push(Slot {
            offset,
            timestamp,
            key: span(key),
            value: span(value),
            headers: span(Some(headers)),
        });
    }

    /// A record whose parts are copied in.
    pub fn push(&mut self, record: Record<'_>) {
        debug_assert!(self.fixed.is_none(), "push copies; push_at points");
        let mut copy = |part: Option<&[u8]>| match part {
            Some(bytes) => {
                let at = self.buffer.len() as u32;
                self.buffer.extend_from_slice(bytes);
                Span { at, len: bytes.len() as u32 }
            }
            None => Span { at: 0, len: NULL },
        };
        let key = copy(record.key);
        let value = copy(record.value);
        let headers = copy(Some(record.headers.0));
        self.slots.push(Slot {
            offset: record.offset,
            timestamp: record.timestamp,
            key,
            value,
            headers,
        });
    }

    /// `next` is the offset after the last one covered, gaps included.
    pub fn finish(self, next: i64) -> Records {
        debug_assert!(self.slots.last().is_none_or(|s| s.offset < next));
        Records {
            buffer: self.fixed.unwrap_or_else(|| Bytes::from(self.buffer)),
            slots: self.slots,
            next,
            skipped: self.skipped,
            arrived: Instant::now(),
        }
    }
}

impl<'a> Headers<'a> {
    /// The headers, as far as they can be read; damage ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let mut rest = self.0;
        let mut left = varint(&mut rest).unwrap_or(0);
        std::iter::from_fn(move || {
            if left <= 0 {
                return None;
            }
            left -= 1;
            let key = take(&mut rest)??;
            let value = take(&mut rest)?;
            Some(Header { key, value })
        })
    }

    /// Encodes headers as a v2 record holds them.
    pub fn encode<'h>(headers: impl ExactSizeIterator<Item = Header<'h>>, out: &mut Vec<u8>) {
        put_varint(headers.len() as i64, out);
        for header in headers {
            put_varint(header.key.len() as i64, out);
            out.extend_from_slice(header.key);
            match header.value {
                Some(value) => {
                    put_varint(value.len() as i64, out);
                    out.extend_from_slice(value);
                }
                None => put_varint(-1, out),
            }
        }
    }
}

/// `Some(None)` is a null part, `None` is damage.
fn take<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = varint(rest)?;
    if len < 0 {
        return Some(None);
    }
    let (part, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = tail;
    Some(Some(part))
}

fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn put_varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip() {
        let headers =
            [Header { key: b"trace", value: Some(b"abc") }, Header { key: b"none", value: None }];
        let mut bytes = Vec::new();
        Headers::encode(headers.into_iter(), &mut bytes);
        assert_eq!(Headers(&bytes).iter().collect::<Vec<_>>(), headers);
        for cut in 0..bytes.len() {
            Headers(&bytes[..cut]).iter().for_each(drop);
        }
    }

    #[test]
    fn a_slice_of_rows_commits_up_to_its_successor() {
        let mut builder = RecordsBuilder::new();
        for offset in [3, 4, 9] {
            builder.push(Record {
                offset,
                timestamp: 0,
                key: None,
                value: Some(b"v"),
                headers: Headers::default(),
            });
        }
        let records = builder.finish(12);
        assert_eq!(records.slice_rows(0, 2).next_offset(), 9);
        assert_eq!(records.slice_rows(2, 3).next_offset(), 12);
        assert_eq!(records.key(0), None);
    }
}
