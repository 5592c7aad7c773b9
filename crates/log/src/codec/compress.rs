//! The codecs of a batch's records.

use super::body::Body;
use super::{BATCH_BYTES_MAX, Invalid, lz4};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read, Write};

/// How the records of a batch are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// What Java's clients put before snappy blocks: magic, version 1, compatible with 1.
const XERIAL: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
const ZSTD_LEVEL: i32 = 3;

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The number in a batch's attributes.
    pub fn id(self) -> i16 {
        self as i16
    }

    pub fn of_id(id: i16) -> Option<Codec> {
        Codec::ALL.get(usize::try_from(id).ok()?).copied()
    }

    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// Appends the packed form of `bytes` to `out`.
    pub(super) fn pack(self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Codec::None => out.extend_from_slice(bytes),
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()?;
            }
            Codec::Snappy => {
                out.extend_from_slice(&XERIAL);
                let mut encoder = snap::raw::Encoder::new();
                for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
                    let packed = encoder.compress_vec(block)?;
                    out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                    out.extend_from_slice(&packed);
                }
            }
            Codec::Lz4 => lz4::pack(bytes, out),
            Codec::Zstd => zstd::stream::copy_encode(bytes, out, ZSTD_LEVEL)?,
        }
        Ok(())
    }

    /// Appends the unpacked form of `bytes` to `out`, at most [`BATCH_BYTES_MAX`].
    pub fn unpack(self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
        match self {
            Codec::None => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            Codec::Gzip => self.drain(flate2::read::MultiGzDecoder::new(bytes), out),
            Codec::Snappy => unpack_snappy(bytes, out),
            Codec::Lz4 => {
                let mut body = Body::with_room(bytes.len().saturating_mul(3));
                lz4::unpack(bytes, &mut body)?;
                out.extend_from_slice(&body.into_bytes());
                Ok(())
            }
            Codec::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
                self.drain(decoder.map_err(|error| self.failed(error))?, out)
            }
        }
    }

    pub(super) fn drain(self, from: impl Read, out: &mut Vec<u8>) -> Result<(), Invalid> {
        let limit = BATCH_BYTES_MAX as u64 + 1;
        let read = from.take(limit).read_to_end(out).map_err(|error| self.failed(error))?;
        if read as u64 == limit { Err(Invalid::TooLarge) } else { Ok(()) }
    }

    pub(super) fn failed(self, error: impl fmt::Display) -> Invalid {
        Invalid::Unpack { codec: self, what: error.to_string() }
    }
}

/// Reads Java's framing, and the bare block that other clients write.
fn unpack_snappy(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let start = out.len();
    let Some(mut rest) = bytes.strip_prefix(&XERIAL[..8]).and_then(|rest| rest.get(8..)) else {
        return unpack_snappy_block(bytes, start, out);
    };
    while !rest.is_empty() {
        let cut = || Codec::Snappy.failed("a block is cut short");
        let (len, tail) = rest.split_first_chunk().ok_or_else(cut)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (block, tail) = tail.split_at_checked(len).ok_or_else(cut)?;
        unpack_snappy_block(block, start, out)?;
        rest = tail;
    }
    Ok(())
}

fn unpack_snappy_block(block: &[u8], start: usize, out: &mut Vec<u8>) -> Result<(), Invalid> {
    let len = snap::raw::decompress_len(block).map_err(|error| Codec::Snappy.failed(error))?;
    let at = out.len();
    if at - start + len > BATCH_BYTES_MAX {
        return Err(Invalid::TooLarge);
    }
    // A block cannot unpack to more than about 22 times its size, so that a length that lies is
    // found before it is allocated.
    if len > block.len().saturating_mul(64).saturating_add(64) {
        return Err(Codec::Snappy.failed("a block claims more bytes than it can hold"));
    }
    out.resize(at + len, 0);
    let unpacked = snap::raw::Decoder::new().decompress(block, &mut out[at..]);
    match unpacked.map_err(|error| Codec::Snappy.failed(error))? {
        unpacked if unpacked == len => Ok(()),
        _ => Err(Codec::Snappy.failed("a block unpacks to less than it claims")),
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Codec::ALL.into_iter().find(|codec| codec.name() == text);
        found.ok_or_else(|| {
            format!("`{text}` is not a codec; known are none, gzip, snappy, lz4 and zstd")
        })
    }
}
