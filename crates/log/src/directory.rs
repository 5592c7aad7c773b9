//! The files of a log that are not batches, and the names in its directory.
//!
//! ```text
//! DIR/format                                   "millstream-log 1"
//! DIR/lock                                     held by the process that writes
//! DIR/topics/NAME/topic.json                   its id and options
//! DIR/topics/NAME/0/recovery-point
//! DIR/topics/NAME/0/producers                   only where a producer numbers its batches
//! DIR/topics/NAME/0/00000000000000000000.log   batches; the name is the base offset
//! DIR/topics/NAME/0/00000000000000000000.index a cache
//! ```
//!
//! A topic is made under another name and renamed, so that it is there whole or not at all; it is
//! deleted the same way.

use crate::error::{Error, Result};
use crate::files::{Files, How};
use crate::options::TopicOptions;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use uuid::Uuid;

const FORMAT: u32 = 1;
const FORMAT_WORD: &str = "millstream-log";
/// Topics that are not whole, or not any more; no topic's name begins so.
pub const UNFINISHED: char = '~';
/// Partitions are opened and made by this many threads at most.
const OPEN_THREADS: usize = 16;

/// What `topic.json` says.
#[derive(Serialize, Deserialize)]
struct TopicFile {
    id: String,
    options: TopicOptions,
}

pub fn check_name(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let what = match name {
        "" => "it is empty",
        "." | ".." => "it names a directory",
        _ if name.len() > 249 => "it is longer than 249 characters",
        _ if !name.chars().all(legal) => "only letters, digits, `.`, `_` and `-` may be in it",
        _ => return Ok(()),
    };
    Err(Error::TopicName { name: name.to_owned(), what })
}

/// The version of the log in a directory; `None` when there is none yet.
pub fn check_format(files: &dyn Files, dir: &Path) -> Result<Option<u32>> {
    let not_a_log = |what: &str| Error::NotALog { dir: dir.to_owned(), what: what.to_owned() };
    let path = dir.join("format");
    let bytes = match read_all(files, &path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let listed = files.list(dir).map_err(|error| Error::io("cannot list", dir, error))?;
            let ours = |name: &str| matches!(name, "lock" | "format.new");
            if listed.iter().all(|entry| ours(&entry.name)) {
                return Ok(None);
            }
            return Err(not_a_log("it holds other files and no `format`"));
        }
        Err(error) => return Err(Error::io("cannot read", &path, error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let version = text.trim_end().strip_prefix(FORMAT_WORD).map(str::trim);
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(found) if found > FORMAT => {
            Err(Error::NewerFormat { dir: dir.to_owned(), found, known: FORMAT })
        }
        Some(found @ 1..) => Ok(Some(found)),
        _ => Err(not_a_log("its `format` file is not one of ours")),
    }
}

pub fn write_format(files: &dyn Files, dir: &Path) -> Result<()> {
    let (new, path) = (dir.join("format.new"), dir.join("format"));
    write_synced(files, &new, format!("{FORMAT_WORD} {FORMAT}\n").as_bytes())?;
    files.rename(&new, &path).map_err(|error| Error::io("cannot create", &path, error))?;
    files.sync_dir(dir).map_err(|error| Error::sync(dir, error))
}

pub fn read_topic(files: &dyn Files, path: &Path) -> Result<(Uuid, TopicOptions)> {
    let bytes = match read_all(files, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::damaged(path, 0, 0, "the file is missing"));
        }
        read => read.map_err(|error| Error::io("cannot read", path, error))?,
    };
    let meta: TopicFile = serde_json::from_slice(&bytes)
        .map_err(|error| Error::damaged(path, 0, 0, error.to_string()))?;
    let id = Uuid::parse_str(&meta.id);
    let id = id.map_err(|error| Error::damaged(path, 0, 0, error.to_string()))?;
    meta.options.check()?;
    Ok((id, meta.options))
}

pub fn read_all(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open(path, How::Read)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0).min(16 << 20)];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

pub fn write_topic(files: &dyn Files, path: &Path, id: Uuid, options: &TopicOptions) -> Result<()> {
    let meta = TopicFile { id: id.to_string(), options: options.clone() };
    let text = serde_json::to_vec_pretty(&meta).expect("plain options have a JSON form");
    write_synced(files, path, &text)
}

pub fn write_synced(files: &dyn Files, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = files.open(path, How::Create);
    let file = file.map_err(|error| Error::io("cannot create", path, error))?;
    file.write_at(&[bytes], 0).map_err(|error| Error::io("cannot write", path, error))?;
    file.sync_all().map_err(|error| Error::sync(path, error))
}

/// Calls `work` for `0..count`, several at a time since each waits for the disk, and gives the
/// answers in order.
pub fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if count <= 2 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let mut answers: Vec<(usize, T)> = std::thread::scope(|scope| {
        let take = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return done;
                }
                done.push((at, work(at)));
            }
        };
        let threads: Vec<_> = (0..count.min(OPEN_THREADS)).map(|_| scope.spawn(take)).collect();
        let joined = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
