//! The sparse index beside a segment: by offset, and by the running maximum of time.
//!
//! A cache. Each entry carries its own checksum, an entry is believed only when the log has a batch
//! of that offset at that place, and whatever is missing or wrong is made again from the log.
//! Nothing here is ever synced.

use crate::files::{File, Files, How};
use std::path::Path;

/// One entry for about this many bytes of log.
pub const INTERVAL_BYTES: u64 = 128 << 10;
const ENTRY_BYTES: usize = 40;

/// A batch with base offset `offset` begins at `position`, or, for the last entry of a sealed
/// segment, the segment ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    pub offset: i64,
    pub position: u64,
    /// The largest timestamp of the segment before `position`; `i64::MIN` for none.
    pub max_time: i64,
    /// When the batch before `position` was appended, or the one at it where there is none.
    pub appended_ms: i64,
}

impl IndexEntry {
    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.position.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.max_time.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.appended_ms.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<IndexEntry> {
        let word = |at: usize| bytes[at..].first_chunk::<8>().copied().map(i64::from_be_bytes);
        let crc = u32::from_be_bytes(*bytes[32..].first_chunk()?);
        if crc32c::crc32c(&bytes[..32]) != crc {
            return None;
        }
        Some(IndexEntry {
            offset: word(0)?,
            position: u64::try_from(word(8)?).ok()?,
            max_time: word(16)?,
            appended_ms: word(24)?,
        })
    }
}

/// The entries that can be believed so far: each whole and right and beyond the one before it.
pub fn load(files: &dyn Files, path: &Path) -> Vec<IndexEntry> {
    let Ok(file) = files.open(path, How::Read) else { return Vec::new() };
    let Ok(len) = file.size() else { return Vec::new() };
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    if file.read_at(&mut bytes, 0).is_err() {
        return Vec::new();
    }
    let mut entries: Vec<IndexEntry> = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    for bytes in bytes.as_chunks::<ENTRY_BYTES>().0 {
        let Some(entry) = IndexEntry::decode(bytes) else { break };
        let follows = entries.last().is_none_or(|last| {
            entry.position > last.position
                && entry.offset > last.offset
                && entry.max_time >= last.max_time
        });
        if !follows {
            break;
        }
        entries.push(entry);
    }
    entries
}

/// The last entry alone, which tells of the whole segment when its position is the segment's end.
pub fn load_last(files: &dyn Files, path: &Path) -> Option<IndexEntry> {
    let file = files.open(path, How::Read).ok()?;
    let len = file.size().ok()?;
    let at = (len / ENTRY_BYTES as u64).checked_sub(1)? * ENTRY_BYTES as u64;
    let mut bytes = [0; ENTRY_BYTES];
    file.read_at(&mut bytes, at).ok()?;
    IndexEntry::decode(&bytes)
}

/// Writes `entries[from..]` to their places in the file.
pub fn save(file: &dyn File, entries: &[IndexEntry], from: usize) -> std::io::Result<()> {
    let bytes: Vec<u8> = entries[from..].iter().flat_map(IndexEntry::encode).collect();
    file.write_at(&[&bytes], (from * ENTRY_BYTES) as u64)
}
