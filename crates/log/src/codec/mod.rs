//! Kafka's RecordBatch, version 2: the format of a segment, usable on its own.
//!
//! ```text
//!   0 base offset i64      21 attributes i16 ─┐          43 producer id i64
//!   8 length i32           23 last offset     │ CRC-32C  51 producer epoch i16
//!  12 leader epoch i32        delta i32       │ from     53 base sequence i32
//!  16 magic i8 (2)         27 base time i64   │ here     57 record count i32
//!  17 crc u32              35 max time i64    ▼ on       61 records, perhaps compressed
//!
//!  record: length, attributes i8, time delta, offset delta, key, value, headers   (zigzag varints)
//! ```
//!
//! Everything here is total: any bytes give an answer or an [`Invalid`], never a panic, and a batch
//! never unpacks to more than [`BATCH_BYTES_MAX`].
//! Source: <https://kafka.apache.org/documentation/#recordbatch>.

mod body;
mod compress;
mod decode;
mod encode;
mod lz4;
mod raw;
mod spare;
mod varint;

pub use body::Body;
pub use compress::Codec;
pub(crate) use decode::check_records;
pub use decode::{Decoded, Failed, batches, decode, records_of};
pub use encode::{BatchBuilder, EncodedBatch, split};
pub use raw::{Producing, RawBatch};

/// The bytes before the records.
pub const HEADER_BYTES: usize = 61;
/// The most that a batch may have, packed or unpacked.
pub const BATCH_BYTES_MAX: usize = 128 << 20;

const LENGTH_AT: usize = 8;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
/// The length counts from here.
const BODY_AT: usize = 12;
const MAGIC: u8 = 2;
const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("the batch is cut short: {have} of {need} bytes are there")]
    Short { have: usize, need: usize },
    #[error("its length field says {0}")]
    Length(i32),
    #[error("its magic byte is {0}, not 2")]
    Magic(u8),
    #[error("its checksum is {found:08x}, its bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("its base offset is {found}, expected was {expected}")]
    BaseOffset { found: i64, expected: i64 },
    #[error("from its base offset {0} on there are fewer offsets than it has records")]
    Offsets(i64),
    #[error("its leader epoch is {0}, not 0")]
    Epoch(i32),
    #[error("it says {records} records and a last offset delta of {delta}")]
    Count { records: i32, delta: i32 },
    #[error("it is packed with codec {0}, which is not known")]
    Codec(i16),
    #[error("it cannot be unpacked ({codec}): {what}")]
    Unpack { codec: Codec, what: String },
    #[error("it unpacks to more than {BATCH_BYTES_MAX} bytes")]
    TooLarge,
    #[error("its record {0} is malformed")]
    Record(u32),
    #[error("{0} bytes are left over after its last record")]
    Trailing(usize),
}

/// The fixed part of a batch, with what must hold of it checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub base_offset: i64,
    /// All bytes of the batch, these included.
    pub bytes: usize,
    pub crc: u32,
    pub attributes: i16,
    pub base_time: i64,
    pub max_time: i64,
    pub records: u32,
    /// -1 where the producer does not number its batches.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
}

impl Header {
    /// Reads the header at the start of `bytes`; the rest of the batch need not be there.
    pub fn read(bytes: &[u8]) -> Result<Header, Invalid> {
        let Some(fixed) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Invalid::Short { have: bytes.len(), need: HEADER_BYTES });
        };
        let length = i32::from_be_bytes(array(fixed, LENGTH_AT));
        let total = usize::try_from(length).ok().and_then(|len| len.checked_add(BODY_AT));
        let total = match total {
            Some(total) if (HEADER_BYTES..=BATCH_BYTES_MAX).contains(&total) => total,
            _ => return Err(Invalid::Length(length)),
        };
        if fixed[MAGIC_AT] != MAGIC {
            return Err(Invalid::Magic(fixed[MAGIC_AT]));
        }
        let attributes = i16::from_be_bytes(array(fixed, ATTRIBUTES_AT));
        let delta = i32::from_be_bytes(array(fixed, 23));
        let records = i32::from_be_bytes(array(fixed, 57));
        if records < 1 || delta != records - 1 {
            return Err(Invalid::Count { records, delta });
        }
        Ok(Header {
            base_offset: i64::from_be_bytes(array(fixed, 0)),
            bytes: total,
            crc: u32::from_be_bytes(array(fixed, CRC_AT)),
            attributes,
            base_time: i64::from_be_bytes(array(fixed, 27)),
            max_time: i64::from_be_bytes(array(fixed, 35)),
            records: records as u32,
            producer_id: i64::from_be_bytes(array(fixed, 43)),
            producer_epoch: i16::from_be_bytes(array(fixed, 51)),
            base_sequence: i32::from_be_bytes(array(fixed, 53)),
        })
    }

    /// Reads the header of a batch in the log: also its place must be right.
    pub fn read_at(bytes: &[u8], expected: i64) -> Result<Header, Invalid> {
        let header = Header::read(bytes)?;
        if header.base_offset != expected {
            return Err(Invalid::BaseOffset { found: header.base_offset, expected });
        }
        if expected.checked_add(i64::from(header.records)).is_none() {
            return Err(Invalid::Offsets(expected));
        }
        // The checksum does not cover the epoch; the log always writes 0.
        match i32::from_be_bytes(array(bytes, EPOCH_AT)) {
            0 => Ok(header),
            epoch => Err(Invalid::Epoch(epoch)),
        }
    }

    /// Checks the whole batch, which begins `bytes`, against its checksum.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Invalid> {
        let Some(batch) = bytes.get(..self.bytes) else {
            return Err(Invalid::Short { have: bytes.len(), need: self.bytes });
        };
        match crc32c::crc32c(&batch[ATTRIBUTES_AT..]) {
            computed if computed == self.crc => Ok(()),
            computed => Err(Invalid::Checksum { found: self.crc, computed }),
        }
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.records))
    }

    pub fn codec(&self) -> Result<Codec, Invalid> {
        let id = self.attributes & CODEC_BITS;
        Codec::of_id(id).ok_or(Invalid::Codec(id))
    }

    /// Whether it holds markers of transactions and no records of users.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    fn is_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }
}

/// `N` bytes at a place that is known to be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the caller checked the length of the header")
}
