//! One partition: what its writer, its readers and the background work share.
//!
//! ```text
//!  start_offset          end_offset (synced)   written
//!       ▼                      ▼                  ▼
//!  ─────┼──────────────────────┼──────────────────┼─►
//!       └ what readers see     └ waits for the sync under way, or the next one
//! ```
//!
//! The writer's side is in [`crate::tail`], the readers' in [`crate::seek`] and [`crate::reader`].

use crate::codec::{EncodedBatch, RawBatch};
use crate::error::{Error, Result};
use crate::index::IndexEntry;
use crate::options::{Options, TopicOptions};
use crate::point::{Point, PointFile};
use crate::producers::{self, Producers};
use crate::raw_read::{Buffers, Ends};
use crate::recover::{POINT_NAME, recover};
use crate::segment::Segment;
use crate::stats::{Counters, add};
use crate::syncer::Syncer;
use crate::tail::{Appended, Part, Tail};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio::sync::watch;

/// A partition of a topic. Cheap to clone.
#[derive(Clone)]
pub struct PartitionLog(pub(crate) Arc<Partition>);

/// What partitions of one log share.
pub struct Shared {
    pub options: Options,
    pub counters: Counters,
    pub syncer: Arc<Syncer>,
    pub buffers: Arc<Buffers>,
    pub read_only: bool,
}

pub struct Partition {
    pub shared: Arc<Shared>,
    pub topic: Arc<str>,
    pub index: u32,
    pub dir: std::path::PathBuf,
    config: RwLock<Arc<TopicOptions>>,
    /// In offset order; the last one is active. Empty when the partition is refused.
    pub segments: RwLock<Vec<Arc<Segment>>>,
    pub start: AtomicI64,
    pub bytes: AtomicU64,
    pub synced: watch::Sender<Synced>,
    pub ends: Ends,
    /// The end when the partition was opened: from here on all was checked when it was appended.
    pub appended_from: i64,
    pub low_commits: Mutex<HashMap<String, i64>>,
    pub point: Mutex<Option<PointFile>>,
    /// Why this partition can be neither read nor written: damage found when it was opened.
    pub refused: Option<Error>,
    pub tail: Mutex<Tail>,
}

/// How far the log is synced: what readers may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    pub end: i64,
    /// The segment and the place in it that the end has.
    pub segment: i64,
    pub position: u64,
    pub gone: Option<Gone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Closed,
    Deleted,
}

impl PartitionLog {
    /// The first offset that is kept.
    pub fn start_offset(&self) -> i64 {
        self.0.start.load(Ordering::Acquire)
    }

    /// The offset after the last synced record.
    pub fn end_offset(&self) -> i64 {
        self.0.synced.borrow().end
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub fn topic(&self) -> &Arc<str> {
        &self.0.topic
    }

    pub fn index(&self) -> u32 {
        self.0.index
    }

    /// Why the partition was refused when the log was opened.
    pub fn refused(&self) -> Option<&Error> {
        self.0.refused.as_ref()
    }

    /// The topic was deleted, or the log closed.
    pub fn is_gone(&self) -> bool {
        self.0.synced.borrow().gone.is_some()
    }

    /// An error when this log never gave out `offset`: a commit beyond the end is damage.
    pub fn check_offset(&self, offset: i64) -> Result<()> {
        self.0.check_refused()?;
        self.0.check_offset(offset)
    }

    /// Appends a batch. Offsets are given out in the order of the calls. Does not block on the
    /// disk but for the write to the page cache.
    pub fn append(&self, batch: &EncodedBatch) -> Result<Appended> {
        self.append_parts(&[batch.into()])
    }

    /// Appends batches, all or none of them, one after the other.
    pub fn append_all(&self, batches: &[EncodedBatch]) -> Result<Appended> {
        self.append_parts(&batches.iter().map(Part::from).collect::<Vec<_>>())
    }

    /// Appends batches from outside, all or none of them. Where a producer numbers its batches, one
    /// that is there already is not written again: the answer says where it is. Such a batch
    /// is appended alone.
    pub fn append_raw(&self, batches: &[RawBatch]) -> Result<Appended> {
        let numbered = batches.iter().find_map(|batch| batch.header().producing());
        if let (Some(producing), [_, _, ..]) = (numbered, batches) {
            let (producer, found) = (producing.id, producing.first);
            return Err(Error::Sequence { producer, found, expected: found });
        }
        self.append_parts(&batches.iter().map(Part::from).collect::<Vec<_>>())
    }

    fn append_parts(&self, batches: &[Part<'_>]) -> Result<Appended> {
        let appended = self.0.append(batches);
        let counters = &self.0.shared.counters;
        match &appended {
            Ok(_) => add(&counters.appends, 1),
            Err(_) => add(&counters.append_errors, 1),
        }
        appended
    }

    /// Gives up all records below `upto`, durably, whoever has not read them. Answers with the
    /// first offset that is kept.
    pub fn delete_before(&self, upto: i64) -> Result<i64> {
        self.0.delete_before(upto)
    }

    /// Resolves when there is a synced record at or after `offset`, or none will come. Cancel safe.
    pub fn beyond(&self, offset: i64) -> impl Future<Output = ()> + Send + use<> {
        let mut synced = self.0.synced.subscribe();
        async move {
            let news = |synced: &Synced| synced.end > offset || synced.gone.is_some();
            let _ = synced.wait_for(news).await;
        }
    }

    /// Repairs the partition after a failed sync; the next append would do the same.
    pub fn reopen(&self) -> Result<()> {
        let mut tail = self.0.tail.lock();
        self.0.check_writable()?;
        self.0.repair(&mut tail)
    }

    /// Records that are written and not synced yet.
    pub fn unsynced_records(&self) -> u64 {
        let written = self.0.tail.lock().end.offset;
        u64::try_from(written - self.end_offset()).unwrap_or(0)
    }
}

impl Partition {
    /// Opens a partition. One that cannot be opened is refused by itself; its neighbours go on.
    pub fn open(
        shared: Arc<Shared>,
        topic: Arc<str>,
        index: u32,
        dir: std::path::PathBuf,
        config: Arc<TopicOptions>,
    ) -> Partition {
        let options = &shared.options;
        let mut point = PointFile::load(&*options.files, dir.join(POINT_NAME));
        let recovered = match &mut point {
            Ok(point) => recover(options, &dir, point, shared.read_only),
            Err(error) => Err(error.clone()),
        };
        let saved = point.as_ref().ok().map(|point| point.saved);
        let refused = recovered.as_ref().err().cloned();
        if let Some(error) = &refused {
            tracing::error!(%topic, partition = index, %error, "partition refused");
        }
        let none = IndexEntry {
            offset: saved.map_or(0, |point| point.offset),
            position: 0,
            max_time: i64::MIN,
            appended_ms: 0,
        };
        let (segments, entries, end, truncated) = match recovered {
            Ok(found) => (found.segments, found.entries, found.end, found.bytes_truncated),
            Err(_) => (Vec::new(), Vec::new(), none, 0),
        };
        add(&shared.counters.bytes_truncated, truncated);
        let active = segments.last().cloned();
        let indexed = entries.last().map_or(0, |last| last.position);
        let now = (options.clock)();
        let producers = match shared.read_only || refused.is_some() {
            true => Ok(Producers::default()),
            false => Producers::load(&*options.files, &dir, &segments, end, now),
        };
        let refused = refused.or(producers.as_ref().err().cloned());
        if let Some(active) = &active {
            active.activate(entries);
        }
        let synced = Synced {
            end: end.offset,
            segment: active.as_ref().map_or(0, |active| active.base),
            position: end.position,
            gone: None,
        };
        let bytes = segments.iter().map(|segment| segment.len()).sum();
        let tail = Tail::new(active, end, indexed, producers.unwrap_or_default());
        Partition {
            topic,
            index,
            dir,
            config: RwLock::new(config),
            segments: RwLock::new(segments),
            start: AtomicI64::new(saved.map_or(0, |point| point.start)),
            bytes: AtomicU64::new(bytes),
            synced: watch::Sender::new(synced),
            ends: Ends::default(),
            appended_from: end.offset,
            low_commits: Mutex::default(),
            point: Mutex::new(point.ok()),
            refused,
            tail: Mutex::new(tail),
            shared,
        }
    }

    pub fn config(&self) -> Arc<TopicOptions> {
        self.config.read().clone()
    }

    pub fn set_config(&self, config: Arc<TopicOptions>) {
        *self.config.write() = config;
    }

    pub fn check_refused(&self) -> Result<()> {
        self.refused.clone().map_or(Ok(()), Err)
    }

    pub fn check_gone(&self) -> Result<()> {
        match self.synced.borrow().gone {
            None => Ok(()),
            Some(Gone::Closed) => Err(Error::Closed),
            Some(Gone::Deleted) => Err(Error::Deleted(self.topic.clone())),
        }
    }

    pub fn check_offset(&self, offset: i64) -> Result<()> {
        let end = self.synced.borrow().end;
        if offset <= end {
            return Ok(());
        }
        let (topic, partition) = (self.topic.clone(), self.index);
        Err(Error::Beyond { topic, partition, offset, end })
    }

    pub fn check_writable(&self) -> Result<()> {
        self.check_refused()?;
        if self.shared.read_only {
            return Err(Error::ReadOnly);
        }
        self.check_gone()
    }

    /// Brings the index file and the recovery point up to date.
    pub fn save_point(&self) -> Result<()> {
        if self.refused.is_some() || self.shared.read_only {
            return Ok(());
        }
        let files = &*self.shared.options.files;
        let active = self.segments.read().last().cloned();
        if let Some(active) = active {
            active.flush_index(files);
        }
        let mut held = self.point.lock();
        let Some(file) = held.as_mut() else { return Ok(()) };
        let synced = *self.synced.borrow();
        if synced.gone == Some(Gone::Deleted) {
            return Ok(());
        }
        let now = (self.shared.options.clock)();
        let producers = self.tail.lock().producers.snapshot(synced.end, now);
        if let Some(bytes) = producers
            && let Err(error) = producers::save(files, &self.dir, &bytes)
        {
            // The one before still stands, and the log says the rest.
            tracing::debug!(%error, "the producers of a partition could not be written");
        }
        let point = Point {
            start: self.start.load(Ordering::Acquire),
            offset: synced.end,
            segment: synced.segment,
            position: synced.position,
        };
        if point == file.saved {
            return Ok(());
        }
        file.save(files, point)
    }

    /// No append is taken from now on. Readers and waiters are told by [`Self::end`].
    pub fn refuse_appends(&self, gone: Gone) {
        let _tail = self.tail.lock();
        self.synced.send_modify(|synced| synced.gone = Some(gone));
    }

    /// Tells those who still wait that nothing will come.
    pub fn end(&self, why: Error) {
        self.tail.lock().end(why);
    }
}
