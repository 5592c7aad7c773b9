//! What lies beside the fjall database: the format of the directory, and the generation, a count of
//! commits by which a journal that was cut short is noticed.
//!
//! Every commit writes its generation into the journal, in the same batch as the offsets, and into
//! a file of its own once the journal is synced. fjall drops a damaged tail of its journal without
//! a word; then the generation in the database is behind the one in the file. The file itself is
//! not synced: it may be behind, which means nothing, but never ahead of what was durable.

use crate::error::io;
use crate::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";
const GENERATION_FILE: &str = "generation";
const SLOT_BYTES: usize = 12;

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    pub created: bool,
    /// Commits that were durable are gone, and with them the rows before them: the journal was
    /// damaged or cut. Pipelines go on from the offsets that are left.
    pub journal_cut: Option<JournalCut>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalCut {
    pub expected_generation: u64,
    pub found_generation: u64,
}

impl std::fmt::Display for JournalCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the journal of the tables was cut short: {} commits are gone, from {} back to {}; \
             rows and offsets went back together",
            self.expected_generation - self.found_generation,
            self.expected_generation,
            self.found_generation
        )
    }
}

/// The generation outside the database, in two slots of which a torn write spoils one.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    file: Option<File>,
}

impl Outside {
    /// Opens the file and reads what it holds.
    pub fn open(dir: &Path, read_only: bool) -> Result<(Self, Option<u64>)> {
        let path = dir.join(GENERATION_FILE);
        let file = if read_only {
            match File::open(&path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(io("cannot open", &path)(error)),
            }
        } else {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            Some(options.open(&path).map_err(io("cannot open", &path))?)
        };
        let mut newest = None;
        if let Some(file) = &file {
            for slot in 0..2 {
                let mut bytes = [0; SLOT_BYTES];
                if file.read_exact_at(&mut bytes, (slot * SLOT_BYTES) as u64).is_ok() {
                    newest = newest.max(decode(&bytes));
                }
            }
        }
        Ok((Self { file: file.filter(|_| !read_only) }, newest))
    }

    pub fn set(&self, generation: u64) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&generation.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..8]);
        bytes[8..].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&bytes, generation % 2 * SLOT_BYTES as u64)
    }
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<u64> {
    let (generation, crc) = bytes.split_first_chunk::<8>()?;
    let right = crc32c::crc32c(generation).to_le_bytes() == crc;
    right.then(|| u64::from_le_bytes(*generation))
}

/// Refuses a directory of a format that this version does not know; `None` when there is none yet.
pub(crate) fn check_format(dir: &Path) -> Result<Option<u32>> {
    let path = dir.join(FORMAT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("cannot read", &path)(error)),
    };
    let found = text.trim().strip_prefix("millstream-tables ").and_then(|n| n.parse::<u32>().ok());
    let Some(found) = found else {
        return Err(Error::Damaged(format!("{} does not name a format", path.display())));
    };
    if found > FORMAT {
        return Err(Error::NewerFormat { dir: dir.to_owned(), found, known: FORMAT });
    }
    Ok(Some(found))
}

pub(crate) fn write_format(dir: &Path) -> Result<()> {
    let path = dir.join(FORMAT_FILE);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&path)?;
        writeln!(file, "millstream-tables {FORMAT}")?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    };
    write().map_err(io("cannot write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, found) = Outside::open(dir.path(), false).unwrap();
        assert_eq!(found, None);
        outside.set(7).unwrap();
        outside.set(8).unwrap();
        assert_eq!(Outside::open(dir.path(), true).unwrap().1, Some(8));
        outside.file.as_ref().unwrap().write_all_at(&[1, 2, 3], 0).unwrap();
        assert_eq!(Outside::open(dir.path(), true).unwrap().1, Some(7));
    }
}
