//! The file of a store: lines that are synced before they count, and a new file when most of it is
//! of the past.

use super::{Entry, State};
use crate::error::{Error, Result};
use millstream_core::fault;
use millstream_log::files::{File, Files, How};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VERSION: u32 = 1;
/// So many of them a line, when the file is written anew.
const ENTRIES: usize = 1_000;

pub struct Journal {
    files: Arc<dyn Files>,
    path: PathBuf,
    cluster: String,
    /// None where nobody knows what the file holds: after a failed sync, and before the first write.
    file: Option<Arc<dyn File>>,
    pub len: u64,
    /// What the file had when it held nothing of the past.
    pub whole: u64,
}

impl Journal {
    pub fn new(files: Arc<dyn Files>, path: PathBuf, cluster: String) -> Journal {
        Journal { files, path, cluster, file: None, len: 0, whole: 0 }
    }

    /// Writes a line that is durable when this returns. `state` is what all before it came to.
    pub fn append(&mut self, bytes: &[u8], state: &Mutex<State>) -> Result<()> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.rewrite(state)?,
        };
        if let Err(error) = file.write_at(&[bytes], self.len) {
            // A full disk leaves part of a line behind; without it the file is as before.
            if file.set_len(self.len).and_then(|()| file.sync_all()).is_err() {
                self.file = None;
            }
            return Err(Error::io("cannot write", &self.path, error));
        }
        fault::point("broker.store.written");
        if !fault::bug("broker_skip_sync")
            && let Err(error) = file.sync_data()
        {
            self.file = None;
            return Err(Error::io("cannot sync", &self.path, error));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Puts a file of what is there now in the place of the one before.
    pub fn rewrite(&mut self, state: &Mutex<State>) -> Result<Arc<dyn File>> {
        let bytes: Vec<u8> = self.entries(&state.lock()).chunks(ENTRIES).flat_map(line).collect();
        let new = self.path.with_extension("new");
        let io = |doing, error| Error::io(doing, &new, error);
        let file = self.files.open(&new, How::Create).map_err(|e| io("cannot create", e))?;
        file.write_at(&[&bytes], 0).map_err(|error| io("cannot write", error))?;
        file.sync_all().map_err(|error| io("cannot sync", error))?;
        fault::point("broker.store.rewritten");
        // Until the new name is durable, neither file may be what a crash leaves.
        self.file = None;
        self.files.rename(&new, &self.path).map_err(|error| io("cannot rename", error))?;
        if let Some(dir) = self.path.parent() {
            let synced = self.files.sync_dir(dir);
            synced.map_err(|error| Error::io("cannot sync the directory", dir, error))?;
        }
        self.len = bytes.len() as u64;
        self.whole = self.len;
        self.file = Some(file.clone());
        Ok(file)
    }

    fn entries(&self, state: &State) -> Vec<Entry> {
        let cluster = self.cluster.clone();
        let mut entries = vec![Entry::File { version: VERSION, cluster }];
        entries.push(Entry::Ids { upto: state.ids });
        for (group, offsets) in &state.groups {
            entries.extend(offsets.iter().map(|(place, offset)| Entry::Offset {
                group: group.clone(),
                id: place.0,
                partition: place.1,
                offset: offset.clone(),
            }));
        }
        entries
    }
}

/// The bytes of a file; none where it is not there.
pub fn read(files: &dyn Files, path: &Path) -> Result<Vec<u8>> {
    let read = || {
        let file = files.open(path, How::Read)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX)];
        file.read_at(&mut bytes, 0)?;
        io::Result::Ok(bytes)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| Error::io("cannot read", path, error)),
    }
}

/// `CRC JSON`, a line for all of them.
pub fn line(entries: &[Entry]) -> Vec<u8> {
    let json = serde_json::to_vec(entries).expect("entries have a JSON form");
    let mut bytes = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    bytes
}

/// Applies the lines that are right. Gives their length and the cluster's id.
pub fn replay(path: &Path, bytes: &[u8], state: &mut State) -> Result<(usize, Option<String>)> {
    let mut good = 0;
    let mut cluster = None;
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let damage = |what: &str| Error::Damage {
            path: path.to_owned(),
            line: number + 1,
            what: what.to_owned(),
        };
        let Some(entries) = entries(line) else {
            if good + line.len() == bytes.len() {
                break;
            }
            return Err(damage("its checksum does not match"));
        };
        match (entries.first(), number) {
            (Some(Entry::File { version, .. }), 0) if *version > VERSION => {
                return Err(Error::Newer {
                    path: path.to_owned(),
                    found: *version,
                    known: VERSION,
                });
            }
            (Some(Entry::File { cluster: id, .. }), 0) => cluster = Some(id.clone()),
            (_, 0) => return Err(damage("the first line must name the file")),
            _ => {}
        }
        entries.into_iter().for_each(|entry| state.apply(entry));
        good += line.len();
    }
    Ok((good, cluster))
}

fn entries(line: &[u8]) -> Option<Vec<Entry>> {
    let (crc, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(&crc[..8]).ok()?, 16).ok()?;
    if crc32c::crc32c(json) != crc {
        return None;
    }
    serde_json::from_slice(json).ok()
}
