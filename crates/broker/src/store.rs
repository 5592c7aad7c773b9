//! What a broker keeps beside the log: the offsets that groups have committed, the ids of producers
//! that were given out, and the cluster's id.
//!
//! One line of JSON a write, with its CRC-32C, synced before the changes in it are answered; those
//! that arrive while a sync is under way share the next line. A crash can tear the last line: it was
//! never answered and is cut. Anything else that does not check is damage, and the broker does not
//! open over it. When most of the file is of the past, it is written anew beside it and renamed.
//!
//! The tables' database keeps the offsets of pipelines, which are bound to one source and only go
//! forward; those of groups span topics and go wherever a client says.

use crate::error::{Error, Result};
use millstream_core::{fault, lock};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use uuid::Uuid;

const FILE: &str = "groups.jsonl";
const VERSION: u32 = 1;
/// Ids of producers are set aside by so many, so that few of them cost a sync.
const IDS: i64 = 1_000;
/// A file is not worth writing anew below this.
const REWRITE_BYTES: u64 = 4 << 20;
/// So many of them a line, when the file is written anew.
const ENTRIES: usize = 1_000;

pub struct Store {
    path: PathBuf,
    cluster: String,
    shared: Arc<Shared>,
    ids: Mutex<Ids>,
    writer: Option<JoinHandle<()>>,
    _lock: File,
}

struct Shared {
    state: Mutex<State>,
    waiting: Mutex<Waiting>,
    news: Condvar,
}

/// Changes for the next write.
#[derive(Default)]
struct Waiting {
    entries: Vec<Entry>,
    replies: Vec<oneshot::Sender<bool>>,
    stop: bool,
}

/// Resolves when changes are durable.
#[must_use = "a change is not kept before this says so"]
pub struct Kept {
    path: PathBuf,
    reply: Option<oneshot::Receiver<bool>>,
}

/// A group's place in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// The name that the topic had.
    pub topic: String,
    pub offset: i64,
    pub epoch: i32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// When it was committed.
    pub at_ms: i64,
}

/// A partition by its topic's id: a topic that is made again has no offsets.
pub type Place = (Uuid, i32);
pub type Offsets = BTreeMap<Place, Offset>;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Entry {
    File {
        version: u32,
        cluster: String,
    },
    Offset {
        group: String,
        id: Uuid,
        partition: i32,
        #[serde(flatten)]
        offset: Offset,
    },
    /// Without a place, all of the group.
    Forget {
        group: String,
        place: Option<Place>,
    },
    /// No producer gets an id below this any more.
    Ids {
        upto: i64,
    },
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<String, Offsets>,
    count: u64,
    ids: i64,
}

struct Ids {
    next: i64,
    upto: i64,
}

struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    /// What the file had when it held nothing of the past, or a guess.
    whole: u64,
    /// After a failed sync nobody knows what the file holds until it is read again.
    failed: bool,
}

impl Store {
    pub fn open(dir: &Path) -> Result<Store> {
        let path = dir.join(FILE);
        let made = std::fs::create_dir_all(dir);
        made.map_err(|error| Error::io("cannot create the directory", dir, error))?;
        let held = File::create(dir.join("lock"));
        let held = held.map_err(|error| Error::io("cannot open the lock in", dir, error))?;
        match lock::lock(&held) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Locked { path: dir.to_owned() }),
            Err(error) => return Err(Error::io("cannot lock", dir, error)),
        }
        let mut file = open(&path)?;
        let mut bytes = Vec::new();
        let read = file.read_to_end(&mut bytes);
        read.map_err(|error| Error::io("cannot read", &path, error))?;
        let mut state = State::default();
        let (good, cluster) = replay(&path, &bytes, &mut state)?;
        let len = good as u64;
        if good < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - good, "cut a torn end");
            let cut = file.set_len(len).and_then(|()| file.sync_all());
            cut.map_err(|error| Error::io("cannot cut", &path, error))?;
        }
        let whole = len / 4;
        let mut journal = Journal { path: path.clone(), file, len, whole, failed: false };
        let cluster = match cluster {
            Some(cluster) => cluster,
            None => begin(dir, &mut journal, &mut state)?,
        };
        let ids = Mutex::new(Ids { next: state.ids, upto: state.ids });
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            waiting: Mutex::default(),
            news: Condvar::new(),
        });
        let writer = std::thread::Builder::new().name("broker-store".into()).spawn({
            let (shared, cluster) = (shared.clone(), cluster.clone());
            move || shared.write(journal, &cluster)
        });
        let writer = writer.map_err(|error| Error::io("cannot start a thread for", dir, error))?;
        Ok(Store { path, cluster, shared, ids, writer: Some(writer), _lock: held })
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn groups(&self) -> Vec<String> {
        self.shared.state.lock().groups.keys().cloned().collect()
    }

    pub fn has(&self, group: &str) -> bool {
        self.shared.state.lock().groups.contains_key(group)
    }

    /// How many offsets are kept, of all groups.
    pub fn count(&self) -> u64 {
        self.shared.state.lock().count
    }

    pub fn offset(&self, group: &str, place: Place) -> Option<Offset> {
        self.shared.state.lock().groups.get(group)?.get(&place).cloned()
    }

    pub fn offsets(&self, group: &str) -> Offsets {
        self.shared.state.lock().groups.get(group).cloned().unwrap_or_default()
    }

    /// Groups whose last commit lies before a time.
    pub fn older_than(&self, ms: i64) -> Vec<String> {
        let state = self.shared.state.lock();
        let old = |offsets: &Offsets| offsets.values().all(|offset| offset.at_ms < ms);
        state.groups.iter().filter(|(_, o)| old(o)).map(|(group, _)| group.clone()).collect()
    }

    /// An id that no producer had. Blocks for a sync now and then.
    pub fn next_producer(&self) -> Result<i64> {
        let mut ids = self.ids.lock();
        if ids.next >= ids.upto {
            let upto = ids.upto + IDS;
            self.apply(vec![Entry::Ids { upto }]).wait()?;
            ids.upto = upto;
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }

    /// Makes changes, all or none, in the order of the calls. Those that arrive while others are
    /// written share the next sync.
    pub fn apply(&self, entries: Vec<Entry>) -> Kept {
        let path = self.path.clone();
        if entries.is_empty() {
            return Kept { path, reply: None };
        }
        let (sender, reply) = oneshot::channel();
        let mut waiting = self.shared.waiting.lock();
        waiting.entries.extend(entries);
        waiting.replies.push(sender);
        drop(waiting);
        self.shared.news.notify_one();
        Kept { path, reply: Some(reply) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.waiting.lock().stop = true;
        self.shared.news.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Kept {
    /// Cancel safe: dropping it takes nothing back.
    pub async fn done(self) -> Result<()> {
        let kept = match self.reply {
            None => true,
            Some(reply) => reply.await.unwrap_or(false),
        };
        if kept { Ok(()) } else { Err(Error::Failed { path: self.path }) }
    }

    fn wait(self) -> Result<()> {
        let kept = self.reply.is_none_or(|reply| reply.blocking_recv().unwrap_or(false));
        if kept { Ok(()) } else { Err(Error::Failed { path: self.path }) }
    }
}

impl Shared {
    /// The one that writes, until the store is dropped and nothing waits.
    fn write(&self, mut journal: Journal, cluster: &str) {
        loop {
            let (entries, replies) = {
                let mut waiting = self.waiting.lock();
                while waiting.entries.is_empty() {
                    if waiting.stop {
                        return;
                    }
                    self.news.wait(&mut waiting);
                }
                (std::mem::take(&mut waiting.entries), std::mem::take(&mut waiting.replies))
            };
            let written = journal.append(&line(&entries));
            if let Err(error) = &written {
                tracing::error!(%error, "changes of groups could not be kept");
            } else {
                let mut state = self.state.lock();
                entries.into_iter().for_each(|entry| state.apply(entry));
            }
            for reply in replies {
                let _ = reply.send(written.is_ok());
            }
            if journal.len > REWRITE_BYTES
                && journal.len > 4 * journal.whole
                && let Err(error) = journal.rewrite(cluster, &self.state)
            {
                // The old file still has everything.
                tracing::warn!(%error, "the offsets of groups could not be written anew");
            }
        }
    }
}

/// The first line of a new file. Gives the cluster's id.
fn begin(dir: &Path, journal: &mut Journal, state: &mut State) -> Result<String> {
    let cluster = Uuid::new_v4().simple().to_string();
    // Should the file be lost, producers that the log still remembers keep their ids.
    let upto = now_ms();
    let entries = [Entry::File { version: VERSION, cluster: cluster.clone() }, Entry::Ids { upto }];
    journal.append(&line(&entries))?;
    entries.into_iter().for_each(|entry| state.apply(entry));
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        sync_dir(dir)?;
    }
    Ok(cluster)
}

impl State {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::File { .. } => {}
            Entry::Offset { group, id, partition, offset } => {
                let before = self.groups.entry(group).or_default().insert((id, partition), offset);
                self.count += u64::from(before.is_none());
            }
            Entry::Forget { group, place: None } => {
                let gone = self.groups.remove(&group).map_or(0, |offsets| offsets.len());
                self.count -= gone as u64;
            }
            Entry::Forget { group, place: Some(place) } => {
                if let Some(offsets) = self.groups.get_mut(&group) {
                    self.count -= u64::from(offsets.remove(&place).is_some());
                    if offsets.is_empty() {
                        self.groups.remove(&group);
                    }
                }
            }
            Entry::Ids { upto } => self.ids = self.ids.max(upto),
        }
    }
}

impl Journal {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let path = &self.path;
        if self.failed {
            return Err(Error::Failed { path: path.clone() });
        }
        let at = SeekFrom::Start(self.len);
        if let Err(error) = self.file.seek(at).and_then(|_| self.file.write_all(bytes)) {
            // A full disk leaves part of a line behind; without it the file is as before.
            let cut = self.file.set_len(self.len).and_then(|()| self.file.sync_all());
            self.failed = cut.is_err();
            return Err(Error::io("cannot write", path, error));
        }
        fault::point("broker.store.written");
        if !fault::bug("broker_skip_sync")
            && let Err(error) = self.file.sync_data()
        {
            self.failed = true;
            return Err(Error::io("cannot sync", path, error));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self, cluster: &str, state: &Mutex<State>) -> Result<()> {
        let cluster = cluster.to_owned();
        let mut entries = vec![Entry::File { version: VERSION, cluster }];
        {
            let state = state.lock();
            entries.push(Entry::Ids { upto: state.ids });
            for (group, offsets) in &state.groups {
                entries.extend(offsets.iter().map(|(place, offset)| Entry::Offset {
                    group: group.clone(),
                    id: place.0,
                    partition: place.1,
                    offset: offset.clone(),
                }));
            }
        }
        let bytes: Vec<u8> = entries.chunks(ENTRIES).flat_map(line).collect();
        let new = self.path.with_extension("new");
        let io = |doing, error| Error::io(doing, &new, error);
        let mut how = OpenOptions::new();
        let file = how.read(true).write(true).create(true).truncate(true).open(&new);
        let mut file = file.map_err(|error| io("cannot create", error))?;
        file.write_all(&bytes).map_err(|error| io("cannot write", error))?;
        file.sync_all().map_err(|error| io("cannot sync", error))?;
        fault::point("broker.store.rewritten");
        std::fs::rename(&new, &self.path).map_err(|error| io("cannot rename", error))?;
        // From here on the old file is gone: what is appended goes to the new one.
        self.file = file;
        self.len = bytes.len() as u64;
        self.whole = self.len;
        self.path.parent().map_or(Ok(()), sync_dir)
    }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|error| Error::io("cannot open", path, error))
}

fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::io("cannot sync the directory", dir, error))
}

/// `CRC JSON`, a line for all of them.
fn line(entries: &[Entry]) -> Vec<u8> {
    let json = serde_json::to_vec(entries).expect("entries have a JSON form");
    let mut bytes = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    bytes
}

/// Applies the lines that are right. Gives their length and the cluster's id.
fn replay(path: &Path, bytes: &[u8], state: &mut State) -> Result<(usize, Option<String>)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(group: &str, partition: i32, offset: i64) -> Entry {
        let offset =
            Offset { topic: "t".to_owned(), offset, epoch: 0, metadata: String::new(), at_ms: 1 };
        Entry::Offset { group: group.to_owned(), id: Uuid::nil(), partition, offset }
    }

    #[test]
    fn what_was_applied_is_there_again_and_a_torn_end_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let store = Store::open(dir.path()).unwrap();
        let cluster = store.cluster().to_owned();
        store.apply(vec![offset("a", 0, 5), offset("a", 1, 7), offset("b", 0, 9)]).wait().unwrap();
        store.apply(vec![offset("a", 0, 3)]).wait().unwrap();
        let forget = |place| Entry::Forget { group: "a".to_owned(), place };
        store.apply(vec![forget(Some((Uuid::nil(), 1)))]).wait().unwrap();
        assert!(matches!(Store::open(dir.path()), Err(Error::Locked { .. })));
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"0000"].concat()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.cluster(), cluster);
        assert_eq!(store.offset("a", (Uuid::nil(), 0)).unwrap().offset, 3);
        assert_eq!(store.offset("a", (Uuid::nil(), 1)), None);
        assert_eq!((store.count(), store.groups().len()), (2, 2));
        drop(store);
        assert_eq!(std::fs::read(&path).unwrap(), whole);

        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let error = Store::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("damaged in line 1"), "{error}");
    }

    #[test]
    fn ids_are_never_given_out_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let store = Store::open(dir.path()).unwrap();
            for _ in 0..IDS + 3 {
                let id = store.next_producer().unwrap();
                assert!(id > last);
                last = id;
            }
        }
    }

    #[test]
    fn a_file_of_the_past_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let store = Store::open(dir.path()).unwrap();
        let id = store.next_producer().unwrap();
        let entries = |at: i64| (0..500).map(|partition| offset("g", partition, at)).collect();
        let mut largest = 0;
        for at in 0..100 {
            store.apply(entries(at)).wait().unwrap();
            largest = largest.max(std::fs::metadata(&path).unwrap().len());
        }
        drop(store);
        let len = std::fs::metadata(&path).unwrap().len();
        assert!(len < largest && largest > REWRITE_BYTES / 2, "{len} {largest}");
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.offset("g", (Uuid::nil(), 499)).unwrap().offset, 99);
        assert!(store.next_producer().unwrap() > id);
    }
}
