//! The recovery point of a partition: how far the log is known to be synced.
//!
//! Two slots in one small file, written in turn, so that a torn write leaves the one before. What
//! lies below the point must be there and right; what lies above may be the torn end of a crash.
//!
//! ```text
//!  start              point                 end
//!    ▼                  ▼                    ▼
//!  ──┼──────────────────┼───────┬────────────┼─ ─ ─
//!    └ damage refused   └ read at the next open; the first batch that is not whole and right
//!                         ends the log
//! ```

use crate::error::{Error, Result};
use crate::files::{Files, How};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"mspoint1";
const SLOT_BYTES: usize = 64;
/// Slots lie in sectors of their own.
const SLOT_STRIDE: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The first offset that is kept; in the first segment, most often its base.
    pub start: i64,
    /// Everything below this offset is synced.
    pub offset: i64,
    /// The segment and the place in it that this offset has.
    pub segment: i64,
    pub position: u64,
}

/// The file; one writer.
#[derive(Debug)]
pub struct PointFile {
    path: PathBuf,
    sequence: u64,
    /// What the file says.
    pub saved: Point,
}

impl PointFile {
    /// Makes the file of a new partition.
    pub fn create(files: &dyn Files, path: &Path, point: Point) -> Result<()> {
        let file = files.open(path, How::Create);
        let file = file.map_err(|error| Error::io("cannot create", path, error))?;
        let written = file.write_at(&[&encode(1, point)], SLOT_STRIDE);
        written.map_err(|error| Error::io("cannot write", path, error))?;
        file.sync_data().map_err(|error| Error::sync(path, error))
    }

    pub fn load(files: &dyn Files, path: PathBuf) -> Result<PointFile> {
        let opened = files.open(&path, How::Read);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::damaged(&path, 0, 0, "the recovery point is missing"));
            }
            Err(error) => return Err(Error::io("cannot open", &path, error)),
        };
        let mut newest: Option<(u64, Point)> = None;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_at(&mut bytes, slot * SLOT_STRIDE) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(Error::io("cannot read", &path, error)),
            }
            if let Some(found) = decode(&bytes)
                && newest.is_none_or(|(sequence, _)| found.0 > sequence)
            {
                newest = Some(found);
            }
        }
        match newest {
            Some((sequence, saved)) => Ok(PointFile { path, sequence, saved }),
            None => Err(Error::damaged(&path, 0, 0, "neither recovery point in it is right")),
        }
    }

    /// Makes a point durable. After an error the one before still stands, and the next attempt
    /// writes to the same slot.
    pub fn save(&mut self, files: &dyn Files, point: Point) -> Result<()> {
        let sequence = self.sequence + 1;
        let path = &self.path;
        let file = files.open(path, How::Write);
        let file = file.map_err(|error| Error::io("cannot open", path, error))?;
        let written = file.write_at(&[&encode(sequence, point)], sequence % 2 * SLOT_STRIDE);
        written.map_err(|error| Error::io("cannot write", path, error))?;
        file.sync_data().map_err(|error| Error::sync(path, error))?;
        self.sequence = sequence;
        self.saved = point;
        Ok(())
    }
}

fn encode(sequence: u64, point: Point) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&sequence.to_be_bytes());
    bytes[16..24].copy_from_slice(&point.start.to_be_bytes());
    bytes[24..32].copy_from_slice(&point.offset.to_be_bytes());
    bytes[32..40].copy_from_slice(&point.segment.to_be_bytes());
    bytes[40..48].copy_from_slice(&point.position.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(u64, Point)> {
    let word = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().expect("in the slot"));
    let crc = u32::from_be_bytes(*bytes[60..].first_chunk().expect("in the slot"));
    if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..60]) != crc {
        return None;
    }
    let point = Point {
        start: word(16) as i64,
        offset: word(24) as i64,
        segment: word(32) as i64,
        position: word(40),
    };
    let (start, segment) = (point.start, point.segment);
    let sane = start >= 0 && segment >= 0 && start <= point.offset && segment <= point.offset;
    sane.then_some((word(8), point))
}
