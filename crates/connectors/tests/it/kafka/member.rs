//! A member as an engine would be one, small: reads what is its own, commits what it has read, gives
//! up what it is told to.

use super::*;
use millstream_core::{Change, Source, Start};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What one record was, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: i64,
}

#[derive(Default)]
pub struct Notes {
    pub seen: Vec<Seen>,
    /// Where each partition was started, in order.
    pub starts: Vec<(Arc<str>, u32, i64)>,
    /// The offset after what was read and committed.
    pub committed: BTreeMap<(Arc<str>, u32), i64>,
    pub owned: BTreeMap<(Arc<str>, u32), u32>,
    pub errors: Vec<String>,
    pub revoked: usize,
    pub lost: usize,
    pub skipped: u64,
    /// The headers of all records.
    pub headers: Vec<(String, String)>,
}

/// Shared by members whose results are counted together.
pub type Book = Arc<Mutex<Notes>>;

pub struct Member {
    pub source: Arc<KafkaSource>,
    /// What this member saw; also in the shared book.
    pub notes: Book,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Member {
    pub fn join(source: Arc<KafkaSource>) -> Self {
        Self::join_with(source, Book::default())
    }

    /// Everything seen also goes into `all`, in the order in which it was committed or read.
    pub fn join_with(source: Arc<KafkaSource>, all: Book) -> Self {
        let (notes, stop) = (Book::default(), CancellationToken::new());
        let task = tokio::spawn(run(source.clone(), notes.clone(), all, stop.clone()));
        Self { source, notes, stop, task }
    }

    /// Finishes, commits, leaves.
    pub async fn leave(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Ends as a killed process would: nothing is committed, nobody is told.
    pub async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub fn seen(&self) -> usize {
        self.notes.lock().seen.len()
    }

    pub fn owned(&self) -> usize {
        self.notes.lock().owned.len()
    }
}

async fn run(source: Arc<KafkaSource>, notes: Book, all: Book, stop: CancellationToken) {
    let group = source.group().unwrap();
    let mut tasks: BTreeMap<u32, (CancellationToken, AbortOnDrop)> = BTreeMap::new();
    loop {
        let change = tokio::select! {
            change = group.next() => change,
            () = stop.cancelled() => break,
        };
        match change {
            Ok(Change::Assigned(partitions)) => {
                for partition in partitions {
                    let place = source.place_of(partition);
                    notes.lock().owned.insert((place.source, place.index), partition);
                    let end = CancellationToken::new();
                    let read =
                        read(source.clone(), partition, notes.clone(), all.clone(), end.clone());
                    let before = tasks.insert(partition, (end, AbortOnDrop(tokio::spawn(read))));
                    assert!(before.is_none(), "partition {partition} was ours already");
                }
            }
            Ok(Change::Revoked(partitions, release)) => {
                for partition in partitions {
                    let (end, mut task) = tasks.remove(&partition).unwrap();
                    end.cancel();
                    (&mut task.0).await.unwrap();
                    let place = source.place_of(partition);
                    let mut notes = notes.lock();
                    notes.owned.remove(&(place.source, place.index));
                    notes.revoked += 1;
                }
                release.done();
            }
            Ok(Change::Lost(partitions)) => {
                for partition in partitions {
                    tasks.remove(&partition).unwrap();
                    let place = source.place_of(partition);
                    let mut notes = notes.lock();
                    notes.owned.remove(&(place.source, place.index));
                    notes.lost += 1;
                }
            }
            Err(error) => notes.lock().errors.push(error.chain()),
        }
    }
    for (end, mut task) in std::mem::take(&mut tasks).into_values() {
        end.cancel();
        (&mut task.0).await.unwrap();
    }
    group.leave().await;
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads a partition from its commit, committing batch by batch; begins anew after an error.
async fn read(
    source: Arc<KafkaSource>,
    partition: u32,
    notes: Book,
    all: Book,
    end: CancellationToken,
) {
    let group = source.group().unwrap();
    let place = source.place_of(partition);
    while !end.is_cancelled() {
        let Some(start) = group.start_of(partition) else { return };
        notes.lock().starts.push((place.source.clone(), place.index, start));
        let mut reader = match source.reader(partition, Start::Offset(start)).await {
            Ok(reader) => reader,
            Err(error) => {
                notes.lock().errors.push(error.chain());
                return end.cancelled().await;
            }
        };
        loop {
            let records = tokio::select! {
                records = reader.next() => records,
                () = end.cancelled() => return,
            };
            let records = match records {
                Ok(records) => records.unwrap(),
                Err(error) => {
                    notes.lock().errors.push(error.chain());
                    if error.disposition() == millstream_core::Disposition::Stop {
                        return end.cancelled().await;
                    }
                    break;
                }
            };
            let seen: Vec<Seen> = records
                .iter()
                .map(|record| Seen {
                    topic: place.source.clone(),
                    partition: place.index,
                    offset: record.offset,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    timestamp: record.timestamp,
                })
                .collect();
            all.lock().seen.extend(seen.iter().cloned());
            let next = records.next_offset();
            {
                let mut notes = notes.lock();
                notes.seen.extend(seen);
                notes.skipped += records.skipped();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = records.iter().flat_map(|record| record.headers.iter());
                notes
                    .headers
                    .extend(headers.map(|h| (text(h.key), text(h.value.unwrap_or_default()))));
            }
            while !end.is_cancelled() || group.start_of(partition).is_some() {
                match group.commit(&[(partition, next)]).await {
                    Ok(done) => {
                        if done.contains(&(partition, next)) {
                            let mut notes = notes.lock();
                            notes.committed.insert((place.source.clone(), place.index), next);
                        }
                        break;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    }
}
