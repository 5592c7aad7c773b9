//! The file that the registry lives in: one line of JSON a change, each with its CRC-32C, synced
//! before the change is answered.
//!
//! ```text
//! {"crc32c":"1a2b3c4d","entry":{"op":"register","subject":"navigation-value",…}}
//! ```
//!
//! A crash can tear the last line: it was never answered and is cut. Anything else that does not
//! check is damage, and the registry does not open over it.

use crate::error::{Error, Result, code};
use crate::state::Entry;
use millstream_core::{fault, lock};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "registry.jsonl";
/// The layout of entries; a larger number in a file is of a newer program.
const VERSION: u32 = 1;
const HEAD: &[u8] = b"{\"crc32c\":\"";
const MIDDLE: &[u8] = b"\",\"entry\":";

#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// All that is known to be good.
    len: u64,
    /// After a failed sync nobody knows what the file holds until it is read again.
    failed: bool,
}

impl Journal {
    /// Opens or creates the journal of a directory and gives every entry to `apply`.
    pub fn open(dir: &Path, apply: impl FnMut(Entry) -> Result<(), String>) -> Result<Journal> {
        let path = dir.join(FILE);
        let doing = |what: &str, path: &Path| format!("{what} {}", path.display());
        if !dir.is_dir() {
            std::fs::create_dir_all(dir)
                .map_err(|e| Error::io(doing("cannot create the directory", dir), e))?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_dir(parent)?;
            }
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io(doing("cannot open", &path), e))?;
        let locked = lock::lock(&file).map_err(|e| Error::io(doing("cannot lock", &path), e))?;
        if !locked {
            let message = format!("{} is in use by another process", path.display());
            return Err(Error::new(code::STORE, message));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| Error::io(doing("cannot read", &path), e))?;
        let end = replay(&path, &bytes, apply)?;
        let mut journal = Journal { file, path, len: end.good as u64, failed: false };
        if end.good < bytes.len() {
            let torn_bytes = bytes.len() - end.good;
            tracing::warn!(path = %journal.path.display(), torn_bytes, "cut the torn last line");
            journal.cut()?;
        }
        if end.newline_missing {
            journal.write(b"\n")?;
        }
        if journal.len == 0 {
            journal.write(&line(&Entry::Journal { version: VERSION })?)?;
            sync_dir(dir)?;
        }
        Ok(journal)
    }

    /// Reads the journal of a directory and leaves the file as it is. No file is no entries.
    pub fn read(dir: &Path, apply: impl FnMut(Entry) -> Result<(), String>) -> Result<()> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => replay(&path, &bytes, apply).map(drop),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io(format!("cannot read {}", path.display()), error)),
        }
    }

    /// Returns when the entry is on disk.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        self.write(&line(entry)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            let message = format!(
                "{} failed before and takes no more changes until it is reopened",
                self.path.display()
            );
            return Err(Error::new(code::STORE, message));
        }
        let at = self.len;
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        if let Err(error) = written {
            // A full disk leaves part of a line behind; without it the journal is as before.
            self.failed = self.cut().is_err();
            return Err(Error::io(format!("cannot write {}", self.path.display()), error));
        }
        fault::point("registry_written");
        if let Err(error) = self.file.sync_data() {
            self.failed = true;
            return Err(Error::io(format!("cannot sync {}", self.path.display()), error));
        }
        self.len += bytes.len() as u64;
        fault::point("registry_synced");
        Ok(())
    }

    fn cut(&mut self) -> Result<()> {
        let cut = self.file.set_len(self.len).and_then(|()| self.file.sync_all());
        cut.map_err(|e| Error::io(format!("cannot cut {}", self.path.display()), e))
    }
}

struct End {
    /// Bytes that are whole lines, or a whole last line without its newline.
    good: usize,
    newline_missing: bool,
}

fn replay(
    path: &Path,
    bytes: &[u8],
    mut apply: impl FnMut(Entry) -> Result<(), String>,
) -> Result<End> {
    let mut good = 0;
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let whole = line.ends_with(b"\n");
        let last = good + line.len() == bytes.len();
        let entry = match entry(line.strip_suffix(b"\n").unwrap_or(line)) {
            Ok(entry) => entry,
            // Zeros are pages that never reached the disk; JSON has none.
            Err(_) if last && (!whole || line.contains(&0)) => break,
            Err(why) => return Err(damage(path, number, &why)),
        };
        let applied = match (&entry, number) {
            (Entry::Journal { version }, 0) if *version > VERSION => {
                let message = format!(
                    "{} is of version {version} and this program reads up to {VERSION}: use a \
                     newer one",
                    path.display()
                );
                return Err(Error::new(code::STORE, message));
            }
            (Entry::Journal { .. }, 0) => Ok(()),
            (Entry::Journal { .. }, _) | (_, 0) => Err("the first line must name the file".into()),
            _ => apply(entry),
        };
        applied.map_err(|why| damage(path, number, &why))?;
        good += line.len();
        if !whole {
            return Ok(End { good, newline_missing: true });
        }
    }
    Ok(End { good, newline_missing: false })
}

fn damage(path: &Path, number: usize, why: &str) -> Error {
    let message = format!(
        "{} is damaged in line {}: {why}; put back a copy of the file, nothing was changed",
        path.display(),
        number + 1
    );
    Error::new(code::STORE, message)
}

fn entry(line: &[u8]) -> Result<Entry, String> {
    let parts = || {
        let rest = line.strip_prefix(HEAD)?;
        let (crc, rest) = rest.split_at_checked(8)?;
        let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
        Some((crc, rest.strip_prefix(MIDDLE)?.strip_suffix(b"}")?))
    };
    let (crc, entry) = parts().ok_or("it is not an entry of a journal")?;
    if crc32c::crc32c(entry) != crc {
        return Err("its checksum does not match".into());
    }
    serde_json::from_slice(entry).map_err(|error| format!("its entry does not read: {error}"))
}

fn line(entry: &Entry) -> Result<Vec<u8>> {
    let entry = serde_json::to_vec(entry)
        .map_err(|error| Error::new(code::STORE, format!("cannot write an entry: {error}")))?;
    let mut line = Vec::with_capacity(entry.len() + 32);
    line.extend_from_slice(HEAD);
    line.extend_from_slice(format!("{:08x}", crc32c::crc32c(&entry)).as_bytes());
    line.extend_from_slice(MIDDLE);
    line.extend_from_slice(&entry);
    line.extend_from_slice(b"}\n");
    Ok(line)
}

fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| Error::io(format!("cannot sync the directory {}", dir.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Mode;

    fn entry() -> Entry {
        Entry::Mode { subject: None, mode: Some(Mode::Readonly) }
    }

    #[test]
    fn after_a_failure_that_cannot_be_undone_nothing_more_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), |_| Ok(())).unwrap();
        journal.append(&entry()).unwrap();
        let before = std::fs::read(&journal.path).unwrap();
        let writable = std::mem::replace(&mut journal.file, File::open(&journal.path).unwrap());
        assert_eq!(journal.append(&entry()).unwrap_err().code(), code::STORE);
        journal.file = writable;
        let error = journal.append(&entry()).unwrap_err().to_string();
        assert!(error.contains("until it is reopened"), "{error}");
        assert_eq!(std::fs::read(&journal.path).unwrap(), before);
        drop(journal);
        let mut entries = 0;
        let mut journal = Journal::open(dir.path(), |_| {
            entries += 1;
            Ok(())
        })
        .unwrap();
        journal.append(&entry()).unwrap();
        assert_eq!(entries, 1);
    }

    #[test]
    fn what_a_failed_write_left_behind_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), |_| Ok(())).unwrap();
        journal.file.seek(SeekFrom::End(0)).unwrap();
        journal.file.write_all(b"{\"crc32c\":\"half a line").unwrap();
        journal.cut().unwrap();
        journal.append(&entry()).unwrap();
        drop(journal);
        let mut entries = 0;
        let count = |_| {
            entries += 1;
            Ok(())
        };
        Journal::open(dir.path(), count).unwrap();
        assert_eq!(entries, 1);
    }
}
