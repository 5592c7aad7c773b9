//! What a broker keeps beside the log: the offsets that groups have committed, the ids of producers
//! that were given out, and the cluster's id.
//!
//! One line of JSON a write, with its CRC-32C, synced before the changes in it are answered; those
//! that arrive while a sync is under way share the next line. A crash can tear the last line: it was
//! never answered and is cut. Anything else that does not check is damage, and the broker does not
//! open over it. When it is opened, when a sync has failed and when most of the file is of the past,
//! it is written anew beside it and renamed.
//!
//! The tables' database keeps the offsets of pipelines, which are bound to one source and only go
//! forward; those of groups span topics and go wherever a client says.

mod journal;

use crate::error::{Error, Result};
use journal::{Journal, line, read, replay};
use millstream_log::files::Files;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use uuid::Uuid;

const FILE: &str = "groups.jsonl";
/// Ids of producers are set aside by so many, so that few of them cost a sync.
const IDS: i64 = 1_000;
/// A file is not worth writing anew below this.
const REWRITE_BYTES: u64 = 4 << 20;

/// Committed offsets of all groups together.
const OFFSETS_BYTES_MAX: usize = 64 << 20;
/// What one takes without its texts.
const OFFSET_BYTES: usize = 256;

pub struct Store {
    path: PathBuf,
    cluster: String,
    shared: Arc<Shared>,
    ids: Mutex<Ids>,
    writer: Option<JoinHandle<()>>,
    _lock: Box<dyn Send + Sync>,
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
    /// About what the offsets take.
    bytes: usize,
    ids: i64,
}

struct Ids {
    next: i64,
    upto: i64,
}

impl Store {
    pub fn open(dir: &Path, files: Arc<dyn Files>) -> Result<Store> {
        let path = dir.join(FILE);
        let made = files.create_dir(dir);
        made.map_err(|error| Error::io("cannot create the directory", dir, error))?;
        let held = files.lock(&dir.join("lock"));
        let held = held.map_err(|error| Error::io("cannot lock", dir, error))?;
        let Some(held) = held else { return Err(Error::Locked { path: dir.to_owned() }) };
        let bytes = read(&*files, &path)?;
        let mut state = State::default();
        let (good, cluster) = replay(&path, &bytes, &mut state)?;
        if good < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - good, "cut a torn end");
        }
        let cluster = cluster.unwrap_or_else(|| {
            // Should the file be lost, producers that the log still remembers keep their ids.
            state.ids = now_ms();
            Uuid::new_v4().simple().to_string()
        });
        let next = state.ids;
        let state = Mutex::new(state);
        let mut journal = Journal::new(files.clone(), path.clone(), cluster.clone());
        // What was read a process before this one may not have lived to sync.
        journal.rewrite(&state)?;
        if let Some(parent) = dir.parent() {
            let synced = files.sync_dir(parent);
            synced.map_err(|error| Error::io("cannot sync the directory", parent, error))?;
        }
        let ids = Mutex::new(Ids { next, upto: next });
        let shared = Arc::new(Shared { state, waiting: Mutex::default(), news: Condvar::new() });
        let writer = std::thread::Builder::new().name("broker-store".into()).spawn({
            let shared = shared.clone();
            move || shared.write(journal)
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

    /// Whether this offset may be kept. One whose place is kept already may, when it says no more
    /// than the one before.
    pub fn has_room(&self, group: &str, place: Place, offset: &Offset) -> bool {
        let state = self.shared.state.lock();
        let before = state.groups.get(group).and_then(|offsets| offsets.get(&place));
        let before = before.map_or(0, |before| before.bytes(group.len()));
        let more = offset.bytes(group.len()).saturating_sub(before);
        more == 0 || state.bytes + more <= OFFSETS_BYTES_MAX
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
        if kept { Ok(()) } else { Err(Error::NotKept { path: self.path }) }
    }

    fn wait(self) -> Result<()> {
        let kept = self.reply.is_none_or(|reply| reply.blocking_recv().unwrap_or(false));
        if kept { Ok(()) } else { Err(Error::NotKept { path: self.path }) }
    }
}

impl Shared {
    /// The one that writes, until the store is dropped and nothing waits.
    fn write(&self, mut journal: Journal) {
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
            let written = journal.append(&line(&entries), &self.state);
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
                && let Err(error) = journal.rewrite(&self.state)
            {
                // The next write tries again where the old file is not to be relied on.
                tracing::warn!(%error, "the offsets of groups could not be written anew");
            }
        }
    }
}

impl Offset {
    /// About what it takes in a group with a name of this length.
    fn bytes(&self, group: usize) -> usize {
        OFFSET_BYTES + group + self.topic.len() + self.metadata.len()
    }
}

impl State {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::File { .. } => {}
            Entry::Offset { group, id, partition, offset } => {
                let named = group.len();
                self.bytes += offset.bytes(named);
                match self.groups.entry(group).or_default().insert((id, partition), offset) {
                    Some(before) => self.bytes -= before.bytes(named),
                    None => self.count += 1,
                }
            }
            Entry::Forget { group, place: None } => {
                let gone = self.groups.remove(&group).unwrap_or_default();
                self.count -= gone.len() as u64;
                self.bytes -= gone.values().map(|offset| offset.bytes(group.len())).sum::<usize>();
            }
            Entry::Forget { group, place: Some(place) } => {
                if let Some(offsets) = self.groups.get_mut(&group) {
                    if let Some(gone) = offsets.remove(&place) {
                        self.count -= 1;
                        self.bytes -= gone.bytes(group.len());
                    }
                    if offsets.is_empty() {
                        self.groups.remove(&group);
                    }
                }
            }
            Entry::Ids { upto } => self.ids = self.ids.max(upto),
        }
    }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_log::files::RealFiles;

    fn open(dir: &Path) -> Result<Store> {
        Store::open(dir, Arc::new(RealFiles))
    }

    fn offset(group: &str, partition: i32, offset: i64) -> Entry {
        let offset =
            Offset { topic: "t".to_owned(), offset, epoch: 0, metadata: String::new(), at_ms: 1 };
        Entry::Offset { group: group.to_owned(), id: Uuid::nil(), partition, offset }
    }

    #[test]
    fn what_was_applied_is_there_again_and_a_torn_end_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let store = open(dir.path()).unwrap();
        let cluster = store.cluster().to_owned();
        store.apply(vec![offset("a", 0, 5), offset("a", 1, 7), offset("b", 0, 9)]).wait().unwrap();
        store.apply(vec![offset("a", 0, 3)]).wait().unwrap();
        let forget = |place| Entry::Forget { group: "a".to_owned(), place };
        store.apply(vec![forget(Some((Uuid::nil(), 1)))]).wait().unwrap();
        assert!(matches!(open(dir.path()), Err(Error::Locked { .. })));
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"0000"].concat()).unwrap();
        let store = open(dir.path()).unwrap();
        assert_eq!(store.cluster(), cluster);
        assert_eq!(store.offset("a", (Uuid::nil(), 0)).unwrap().offset, 3);
        assert_eq!(store.offset("a", (Uuid::nil(), 1)), None);
        assert_eq!((store.count(), store.groups().len()), (2, 2));
        drop(store);
        let again = std::fs::read(&path).unwrap();
        assert!(again.len() < whole.len() && again.ends_with(b"\n"), "it was written anew");

        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let error = open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("damaged in line 1"), "{error}");
    }

    #[test]
    fn ids_are_never_given_out_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let store = open(dir.path()).unwrap();
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
        let store = open(dir.path()).unwrap();
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
        let store = open(dir.path()).unwrap();
        assert_eq!(store.offset("g", (Uuid::nil(), 499)).unwrap().offset, 99);
        assert!(store.next_producer().unwrap() > id);
    }
}
