//! Records into batches.

use super::{
    ATTRIBUTES_AT, BODY_AT, CRC_AT, Codec, EPOCH_AT, HEADER_BYTES, Header, Invalid, LENGTH_AT,
    MAGIC, MAGIC_AT, array, decode, lz4, spare, varint,
};

/// A batch ready to be appended; the log puts its base offset in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBatch {
    bytes: Vec<u8>,
    records: u32,
    max_time: i64,
}

/// Builds batches, one after the other, in one growing buffer, which the thread keeps for the next
/// builder when this one goes.
///
/// ```
/// use millstream_log::codec::{BatchBuilder, Codec};
/// let mut builder = BatchBuilder::new(Codec::None);
/// builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), &[]);
/// let batch = builder.finish();
/// assert_eq!(batch.len(), 1);
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    codec: Codec,
    bytes: Vec<u8>,
    records: u32,
    base_time: i64,
    max_time: i64,
}

impl BatchBuilder {
    pub fn new(codec: Codec) -> Self {
        let mut bytes = spare::take();
        bytes.resize(HEADER_BYTES, 0);
        Self { codec, bytes, records: 0, base_time: 0, max_time: i64::MIN }
    }

    /// Adds a record. `headers` is empty or in the encoding of [`millstream_core::Headers`].
    #[inline]
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[u8],
    ) {
        if self.records == 0 {
            self.base_time = timestamp;
        }
        self.max_time = self.max_time.max(timestamp);
        let headers = if headers.is_empty() { &[0] } else { headers };
        let time_delta = timestamp.wrapping_sub(self.base_time);
        let offset_delta = i64::from(self.records);
        let key_len = key.map_or(-1, |key| key.len() as i64);
        let value_len = value.map_or(-1, |value| value.len() as i64);
        let len = 1
            + varint::size(time_delta)
            + varint::size(offset_delta)
            + varint::size(key_len)
            + key.map_or(0, <[u8]>::len)
            + varint::size(value_len)
            + value.map_or(0, <[u8]>::len)
            + headers.len();
        let mut start = Start::new();
        start.varint(len as i64);
        start.byte(0);
        start.varint(time_delta);
        start.varint(offset_delta);
        start.varint(key_len);
        let out = &mut self.bytes;
        out.reserve(len + Start::ROOM);
        out.extend_from_slice(start.as_bytes());
        out.extend_from_slice(key.unwrap_or_default());
        let mut start = Start::new();
        start.varint(value_len);
        out.extend_from_slice(start.as_bytes());
        out.extend_from_slice(value.unwrap_or_default());
        out.extend_from_slice(headers);
        self.records += 1;
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.records as usize
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes so far, before they are packed.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch of everything pushed; the builder is empty again.
    ///
    /// Records that packing does not make smaller stay as they are.
    pub fn finish(&mut self) -> EncodedBatch {
        let batch = match self.packed() {
            Some(packed) => self.seal(self.codec, packed),
            None => {
                let mut bytes = spare::take();
                // The next batch is most likely of the same size.
                bytes.reserve(self.bytes.len());
                std::mem::swap(&mut bytes, &mut self.bytes);
                self.seal(Codec::None, bytes)
            }
        };
        self.clear();
        batch
    }

    /// The batch packed, in no more memory than it needs. `None` when that does not make it smaller.
    fn packed(&self) -> Option<Vec<u8>> {
        match self.codec {
            Codec::None => return None,
            Codec::Lz4 => return lz4::packed_after(HEADER_BYTES, &self.bytes[HEADER_BYTES..]),
            _ => {}
        }
        let mut packed = spare::take();
        packed.resize(HEADER_BYTES, 0);
        let done = self.codec.pack(&self.bytes[HEADER_BYTES..], &mut packed);
        let smaller = done.is_ok() && packed.len() < self.bytes.len();
        let exact = smaller.then(|| packed.as_slice().to_vec());
        spare::give(packed);
        exact
    }

    /// Drops what was pushed.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
        self.records = 0;
        self.max_time = i64::MIN;
    }

    /// Takes the memory of a batch that was appended, so that the next one needs none of its own.
    pub fn reuse(&mut self, batch: EncodedBatch) {
        if self.records == 0 && batch.bytes.capacity() > self.bytes.capacity() {
            self.bytes = batch.bytes;
            self.clear();
        }
    }

    fn seal(&self, codec: Codec, mut bytes: Vec<u8>) -> EncodedBatch {
        // A batch too large for its length field is refused by the append.
        let length = i32::try_from(bytes.len() - BODY_AT).unwrap_or(i32::MAX);
        let records = self.records;
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &0i64.to_be_bytes());
        put(LENGTH_AT, &length.to_be_bytes());
        put(EPOCH_AT, &0i32.to_be_bytes());
        put(MAGIC_AT, &[MAGIC]);
        put(ATTRIBUTES_AT, &codec.id().to_be_bytes());
        put(23, &(records as i32 - 1).to_be_bytes());
        put(27, &self.base_time.to_be_bytes());
        put(35, &self.max_time.to_be_bytes());
        // No producer id, no epoch, no sequence: a pipeline does not number its batches.
        put(43, &(-1i64).to_be_bytes());
        put(51, &(-1i16).to_be_bytes());
        put(53, &(-1i32).to_be_bytes());
        put(57, &(records as i32).to_be_bytes());
        let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        EncodedBatch { bytes, records, max_time: self.max_time }
    }
}

impl Drop for BatchBuilder {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.bytes));
    }
}

/// The numbers before a record's bytes, put together before they are appended at once.
struct Start {
    bytes: [u8; Self::ROOM],
    len: usize,
}

impl Start {
    /// Four varints of at most ten bytes each, and one byte.
    const ROOM: usize = 41;

    #[inline(always)]
    fn new() -> Self {
        Self { bytes: [0; Self::ROOM], len: 0 }
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline(always)]
    fn varint(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    #[inline(always)]
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl EncodedBatch {
    /// Takes one batch from outside, whole and checked to its last record.
    pub fn parse(mut bytes: Vec<u8>) -> Result<EncodedBatch, Invalid> {
        let header = Header::read(&bytes)?;
        header.check(&bytes)?;
        if bytes.len() > header.bytes {
            return Err(Invalid::Trailing(bytes.len() - header.bytes));
        }
        decode::check_records(&header, &bytes)?;
        bytes[EPOCH_AT..EPOCH_AT + 4].fill(0);
        Ok(EncodedBatch { bytes, records: header.records, max_time: header.max_time })
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.records as usize
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The batch with base offset 0.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The batch as it stands in a log from `offset` on.
    pub fn into_bytes_at(mut self, offset: i64) -> Vec<u8> {
        self.bytes[..8].copy_from_slice(&offset.to_be_bytes());
        self.bytes
    }

    /// The largest timestamp of its records.
    pub fn max_time(&self) -> i64 {
        self.max_time
    }
}

/// Takes batches from outside that stand one after the other.
pub fn split(bytes: &[u8]) -> Result<Vec<EncodedBatch>, Invalid> {
    let mut batches = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let header = Header::read(rest)?;
        let Some((batch, tail)) = rest.split_at_checked(header.bytes) else {
            return Err(Invalid::Short { have: rest.len(), need: header.bytes });
        };
        debug_assert_eq!(array::<1>(batch, MAGIC_AT), [MAGIC]);
        batches.push(EncodedBatch::parse(batch.to_vec())?);
        rest = tail;
    }
    Ok(batches)
}
