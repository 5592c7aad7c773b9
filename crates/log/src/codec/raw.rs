//! Batches from outside that go through as they came: checked, shared, never unpacked for keeps.

use super::{HEADER_BYTES, Header, Invalid, decode};
use bytes::Bytes;

/// A batch that was checked to its last record. Cheap to clone.
///
/// The log puts its base offset and leader epoch in when it writes; the bytes here stay as they are.
#[derive(Debug, Clone)]
pub struct RawBatch {
    bytes: Bytes,
    header: Header,
}

/// How a producer numbers a batch, so that one sent twice is kept once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producing {
    pub id: i64,
    pub epoch: i16,
    /// The number of the first record.
    pub first: i32,
    /// The number of the last one; they wrap to 0.
    pub last: i32,
}

impl RawBatch {
    /// Takes batches that stand one after the other, without copying them.
    pub fn split(mut bytes: Bytes) -> Result<Vec<RawBatch>, Invalid> {
        let mut batches = Vec::new();
        while !bytes.is_empty() {
            let header = Header::read(&bytes)?;
            if header.bytes > bytes.len() {
                return Err(Invalid::Short { have: bytes.len(), need: header.bytes });
            }
            let batch = bytes.split_to(header.bytes);
            header.check(&batch)?;
            decode::check_records(&header, &batch)?;
            batches.push(RawBatch { bytes: batch, header });
        }
        Ok(batches)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Also the bytes that the log writes in place of some of these.
    pub fn as_bytes(&self) -> &[u8] {
        debug_assert!(self.bytes.len() >= HEADER_BYTES);
        &self.bytes
    }
}

impl Header {
    /// `None` where the producer does not number its batches.
    pub fn producing(&self) -> Option<Producing> {
        (self.producer_id >= 0).then(|| Producing {
            id: self.producer_id,
            epoch: self.producer_epoch,
            first: self.base_sequence,
            last: advance(self.base_sequence, self.records - 1),
        })
    }
}

impl Producing {
    /// The number that the next batch begins with.
    pub fn next(&self) -> i32 {
        advance(self.last, 1)
    }
}

/// Sequences count from 0 to `i32::MAX` and wrap.
fn advance(sequence: i32, by: u32) -> i32 {
    ((i64::from(sequence) + i64::from(by)) & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(advance(0, 9), 9);
        assert_eq!(advance(i32::MAX, 1), 0);
        assert_eq!(advance(i32::MAX - 1, 3), 1);
    }
}
