//! One partition: its one writer, its group commit, and the state that readers follow.
//!
//! ```text
//!  start_offset          end_offset (synced)   written
//!       ▼                      ▼                  ▼
//!  ─────┼──────────────────────┼──────────────────┼─►
//!       └ what readers see     └ waits for the sync under way, or the next one
//! ```
//!
//! An append writes to the page cache under the tail's lock and puts the partition on the queue of
//! the [`Syncer`]; the lock is never held while a sync is under way, so that appends that arrive
//! meanwhile share the next. After a failed sync the partition takes nothing before its tail has
//! been cut back to what is synced, written again and synced.

use crate::codec::{BATCH_BYTES_MAX, EncodedBatch};
use crate::error::{Error, Result};
use crate::files::{File, How};
use crate::index::{INTERVAL_BYTES, IndexEntry};
use crate::options::{Options, SyncMode, TopicOptions};
use crate::point::{Point, PointFile};
use crate::recover::{self, POINT_NAME, recover};
use crate::segment::{Scan, Segment, extend};
use crate::stats::{Counters, add};
use crate::syncer::Syncer;
use millstream_core::fault;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::watch;

/// A partition of a topic. Cheap to clone.
#[derive(Clone)]
pub struct PartitionLog(pub(crate) Arc<Partition>);

/// Where an append went, and when it is durable.
pub struct Appended {
    pub base_offset: i64,
    pub last_offset: i64,
    /// Resolves after the sync that covers the append; an error means that it is not acknowledged
    /// (it may still be there after a crash). Cancel safe: dropping it takes nothing back.
    pub durable: Durable,
}

/// See [`Appended::durable`].
#[must_use = "an append is not acknowledged before this resolves"]
pub struct Durable(Pin<Box<dyn Future<Output = Result<()>> + Send>>);

/// What partitions of one log share.
pub struct Shared {
    pub options: Options,
    pub counters: Counters,
    pub syncer: Arc<Syncer>,
    pub read_only: bool,
}

pub struct Partition {
    pub shared: Arc<Shared>,
    pub topic: Arc<str>,
    pub index: u32,
    pub dir: std::path::PathBuf,
    pub config: Arc<TopicOptions>,
    /// In offset order; the last one is active. Empty when the partition is refused.
    pub segments: RwLock<Vec<Arc<Segment>>>,
    pub start: AtomicI64,
    pub bytes: AtomicU64,
    pub synced: watch::Sender<Synced>,
    pub low_commits: Mutex<HashMap<String, i64>>,
    pub point: Mutex<Option<PointFile>>,
    /// Why this partition can be neither read nor written: damage found when it was opened.
    pub refused: Option<Error>,
    tail: Mutex<Tail>,
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

/// What waits for a sync. A new round begins when a failed partition was repaired, since offsets
/// above the synced end are given out again then.
#[derive(Debug, Clone)]
struct Round {
    synced: i64,
    failed: Option<Error>,
}

struct Tail {
    /// None where nothing can be written.
    file: Option<Arc<dyn File>>,
    active: Option<Arc<Segment>>,
    /// The end of what is written, in the active segment.
    end: IndexEntry,
    /// Where the last index entry points.
    indexed: u64,
    /// When the active segment got its first record.
    begun_ms: Option<i64>,
    /// Sealed segments that a sync must cover first.
    unsynced: Vec<Arc<dyn File>>,
    dir_dirty: bool,
    /// Something was written since the last sync began.
    dirty: bool,
    /// On the syncer's queue or being synced.
    queued: bool,
    /// Bytes of a failed write may lie after the end.
    untrimmed: bool,
    /// The file shrank since the last sync.
    shrunk: bool,
    round: watch::Sender<Round>,
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

    /// An error when this log never gave out `offset`: a commit beyond the end is damage.
    pub fn check_offset(&self, offset: i64) -> Result<()> {
        self.0.check_refused()?;
        self.0.check_offset(offset)
    }

    /// Appends a batch. Offsets are given out in the order of the calls. Does not block on the
    /// disk but for the write to the page cache.
    pub fn append(&self, batch: &EncodedBatch) -> Result<Appended> {
        self.append_all(std::slice::from_ref(batch))
    }

    /// Appends batches, all or none of them, one after the other.
    pub fn append_all(&self, batches: &[EncodedBatch]) -> Result<Appended> {
        let appended = self.0.append(batches);
        let counters = &self.0.shared.counters;
        match &appended {
            Ok(_) => add(&counters.appends, 1),
            Err(_) => add(&counters.append_errors, 1),
        }
        appended
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
        let tail = Tail {
            file: None,
            begun_ms: (end.position > 0).then_some(end.appended_ms),
            active,
            end,
            indexed,
            unsynced: Vec::new(),
            dir_dirty: false,
            dirty: false,
            queued: false,
            untrimmed: false,
            shrunk: false,
            round: watch::Sender::new(Round { synced: end.offset, failed: None }),
        };
        Partition {
            topic,
            index,
            dir,
            config,
            segments: RwLock::new(segments),
            start: AtomicI64::new(saved.map_or(0, |point| point.start)),
            bytes: AtomicU64::new(bytes),
            synced: watch::Sender::new(synced),
            low_commits: Mutex::default(),
            point: Mutex::new(point.ok()),
            refused,
            tail: Mutex::new(tail),
            shared,
        }
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

    fn check_writable(&self) -> Result<()> {
        self.check_refused()?;
        if self.shared.read_only {
            return Err(Error::ReadOnly);
        }
        self.check_gone()
    }

    fn append(self: &Arc<Self>, batches: &[EncodedBatch]) -> Result<Appended> {
        for batch in batches {
            if !batch.fits() {
                let bytes = batch.as_bytes().len();
                return Err(Error::TooLarge { bytes, max: BATCH_BYTES_MAX });
            }
        }
        let batches = batches.iter().filter(|batch| !batch.is_empty());
        let bytes: u64 = batches.clone().map(|batch| batch.as_bytes().len() as u64).sum();
        let mut tail = self.tail.lock();
        self.check_writable()?;
        self.repair(&mut tail)?;
        self.trim(&mut tail)?;
        let (file, active) = self.room_for(&mut tail, bytes)?;

        // The log's own part of a batch, its base offset, is not covered by the checksum, so that
        // the batch is written as it came.
        let first = tail.end.offset;
        let mut end = tail.end;
        let mut heads = Vec::with_capacity(batches.clone().count());
        for batch in batches.clone() {
            heads.push(end.offset.to_be_bytes());
            end.offset += batch.len() as i64;
        }
        let parts: Vec<&[u8]> = heads
            .iter()
            .zip(batches.clone())
            .flat_map(|(head, batch)| [head.as_slice(), &batch.as_bytes()[8..]])
            .collect();
        if let Err(error) = file.write_at(&parts, tail.end.position) {
            tail.untrimmed = true;
            // What was written lies beyond the end; if it cannot be cut off now, the next append
            // does so before it writes.
            let _ = self.trim(&mut tail);
            return Err(Error::io("cannot write", &active.path, error));
        }
        fault::point("log.append.written");

        let now = (self.shared.options.clock)();
        end.offset = first;
        for batch in batches.clone() {
            if end.position - tail.indexed >= INTERVAL_BYTES {
                active.add_entry(end);
                tail.indexed = end.position;
            }
            end.offset += batch.len() as i64;
            end.position += batch.as_bytes().len() as u64;
            end.max_time = end.max_time.max(batch.max_time());
            end.appended_ms = now;
        }
        tail.end = end;
        tail.begun_ms.get_or_insert(now);
        active.set_len(end.position);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let counters = &self.shared.counters;
        add(&counters.bytes_appended, bytes);
        add(&counters.batches_appended, heads.len() as u64);
        add(&counters.records_appended, (end.offset - first) as u64);

        if end.offset > first {
            tail.dirty = true;
        }
        let group = self.shared.options.sync == SyncMode::GroupCommit;
        let durable = if !group || self.shared.options.bug("ack_on_enqueue") {
            Durable::ready()
        } else {
            Durable::at(tail.round.subscribe(), end.offset)
        };
        let enqueue = group && tail.dirty && !tail.queued;
        tail.queued |= enqueue;
        drop(tail);
        if enqueue {
            self.enqueue();
        }
        Ok(Appended { base_offset: first, last_offset: end.offset - 1, durable })
    }

    /// The file to write `bytes` to: the active one, or a new one where that is full.
    fn room_for(&self, tail: &mut Tail, bytes: u64) -> Result<(Arc<dyn File>, Arc<Segment>)> {
        let active = tail.active.clone().expect("a partition that is not refused has a segment");
        let full = tail.end.position > 0
            && (tail.end.position + bytes > self.config.segment_bytes
                || tail.end.offset - active.base > i64::from(i32::MAX));
        if full {
            self.roll(tail)?;
        }
        let active = tail.active.clone().expect("a partition that is not refused has a segment");
        if let Some(file) = &tail.file {
            return Ok((file.clone(), active));
        }
        let file = self.shared.options.files.open(&active.path, How::Write);
        let file = file.map_err(|error| Error::io("cannot open", &active.path, error))?;
        active.share(&file);
        tail.file = Some(file.clone());
        Ok((file, active))
    }

    /// Seals the active segment and begins another. The sync that first covers the new one also
    /// covers the old one and the directory.
    fn roll(&self, tail: &mut Tail) -> Result<()> {
        let files = &*self.shared.options.files;
        let base = tail.end.offset;
        let segment = Arc::new(Segment::new(&self.dir, base, 0));
        let file = files.open(&segment.path, How::Create);
        let file = file.map_err(|error| Error::io("cannot create", &segment.path, error))?;
        fault::point("log.roll");
        segment.share(&file);
        segment.activate(Vec::new());
        if let Some(old) = &tail.active {
            old.seal(files, tail.end);
        }
        tail.unsynced.extend(tail.file.replace(file));
        tail.dir_dirty = true;
        tail.active = Some(segment.clone());
        tail.end.position = 0;
        tail.end.max_time = i64::MIN;
        tail.indexed = 0;
        tail.begun_ms = None;
        self.segments.write().push(segment);
        add(&self.shared.counters.rolls, 1);
        fault::point("log.roll");
        Ok(())
    }

    /// Cuts off what a failed write left after the end.
    fn trim(&self, tail: &mut Tail) -> Result<()> {
        if !tail.untrimmed {
            return Ok(());
        }
        if let (Some(file), Some(active)) = (&tail.file, &tail.active) {
            let cut = file.set_len(tail.end.position);
            cut.map_err(|error| Error::io("cannot truncate", &active.path, error))?;
        }
        tail.untrimmed = false;
        tail.shrunk = true;
        Ok(())
    }

    fn enqueue(self: &Arc<Self>) {
        if !self.shared.syncer.push(self.clone()) {
            while self.sync() {}
        }
    }

    /// Puts the partition on the queue when there is something to sync.
    pub fn sync_soon(self: &Arc<Self>) {
        let enqueue = {
            let mut tail = self.tail.lock();
            let enqueue = tail.dirty && !tail.queued;
            tail.queued |= enqueue;
            enqueue
        };
        if enqueue {
            self.enqueue();
        }
    }

    /// Makes durable what is written now. True when more was written meanwhile; the caller then
    /// calls again. One caller at a time, which `queued` sees to.
    pub fn sync(&self) -> bool {
        let begun = Instant::now();
        let (sealed, file, target, sync_dir, shrunk) = {
            let mut tail = self.tail.lock();
            let active = tail.active.as_ref().map_or(0, |active| active.base);
            let target = Synced {
                end: tail.end.offset,
                segment: active,
                position: tail.end.position,
                gone: None,
            };
            let failed = tail.round.borrow().failed.is_some();
            if !tail.dirty || failed {
                tail.queued = false;
                return false;
            }
            tail.dirty = false;
            let dir = std::mem::take(&mut tail.dir_dirty);
            let shrunk = std::mem::take(&mut tail.shrunk);
            (tail.unsynced.clone(), tail.file.clone(), target, dir, shrunk)
        };
        let done = self.sync_files(&sealed, file.as_ref(), sync_dir, shrunk);
        let mut tail = self.tail.lock();
        let counters = &self.shared.counters;
        if let Err(error) = done {
            add(&counters.fsync_errors, 1);
            tracing::error!(
                topic = %self.topic, partition = self.index, %error,
                "a sync failed; nothing more is acknowledged before the tail is repaired"
            );
            tail.queued = false;
            tail.round.send_modify(|round| round.failed = Some(error));
            return false;
        }
        fault::point("log.append.synced");
        tail.unsynced.drain(..sealed.len());
        let before = self.synced.borrow().end;
        counters.committed(u64::try_from(target.end - before).unwrap_or(0), begun.elapsed());
        self.synced.send_modify(|synced| *synced = Synced { gone: synced.gone, ..target });
        tail.round.send_modify(|round| round.synced = target.end);
        tail.queued = tail.dirty;
        tail.dirty
    }

    fn sync_files(
        &self,
        sealed: &[Arc<dyn File>],
        file: Option<&Arc<dyn File>>,
        sync_dir: bool,
        shrunk: bool,
    ) -> Result<()> {
        if self.shared.options.bug("skip_fsync") {
            return Ok(());
        }
        for file in sealed.iter().chain(file) {
            let synced = if shrunk { file.sync_all() } else { file.sync_data() };
            synced.map_err(|error| Error::sync(&self.dir, error))?;
            add(&self.shared.counters.fsyncs, 1);
        }
        if sync_dir {
            let synced = self.shared.options.files.sync_dir(&self.dir);
            synced.map_err(|error| Error::sync(&self.dir, error))?;
        }
        Ok(())
    }

    /// After a failed sync: cuts the log back to what is synced, writes the last of that again, and
    /// goes on in a new file. What was not acknowledged is gone.
    fn repair(&self, tail: &mut Tail) -> Result<()> {
        if tail.round.borrow().failed.is_none() {
            return Ok(());
        }
        let files = &*self.shared.options.files;
        let synced = *self.synced.borrow();
        tail.file = None;
        tail.unsynced.clear();
        let segment = loop {
            let last = self.segments.read().last().cloned();
            let last = last.expect("the synced end lies in a segment that is kept");
            if last.base <= synced.segment {
                break last;
            }
            recover::remove(files, &last)?;
            self.bytes.fetch_sub(last.len(), Ordering::Relaxed);
            self.segments.write().pop();
        };
        let io = |doing, error| Error::io(doing, &segment.path, error);
        let file = files.open(&segment.path, How::Write).map_err(|e| io("cannot open", e))?;
        segment.share(&file);
        file.set_len(synced.position).map_err(|e| io("cannot truncate", e))?;
        self.bytes.fetch_sub(segment.len() - synced.position, Ordering::Relaxed);
        segment.set_len(synced.position);

        let now = (self.shared.options.clock)();
        let mut entries = segment.entries(files, synced.position, false);
        let end = extend(&*file, segment.base, synced.position, now, &mut entries);
        let mut end = end.map_err(|stopped| stopped.into_error(&segment.path))?;
        // The page that holds the end was part of the failed sync: its synced bytes are written
        // again with it, once they proved right.
        let from = entries.last().map_or((0, segment.base), |last| (last.position, last.offset));
        let mut scan = Scan::new(&*file, from.0, synced.position, from.1);
        while let Some((position, _, bytes)) =
            scan.next_batch().map_err(|stopped| stopped.into_error(&segment.path))?
        {
            file.write_at(&[bytes], position).map_err(|e| io("cannot write", e))?;
        }
        file.sync_all().map_err(|error| Error::sync(&segment.path, error))?;
        files.sync_dir(&self.dir).map_err(|error| Error::sync(&self.dir, error))?;

        end.offset = synced.end;
        tail.end = end;
        tail.indexed = entries.last().map_or(0, |last| last.position);
        segment.activate(entries);
        tail.active = Some(segment);
        tail.file = Some(file);
        (tail.dirty, tail.dir_dirty, tail.untrimmed, tail.shrunk) = (false, false, false, false);
        if tail.end.position > 0 {
            self.roll(tail)?;
            // The old file is synced.
            tail.unsynced.clear();
        }
        tail.round = watch::Sender::new(Round { synced: synced.end, failed: None });
        tracing::info!(topic = %self.topic, partition = self.index, offset = synced.end, "repaired");
        Ok(())
    }

    /// Begins a new segment when the active one got its first record before `before_ms`, so that
    /// a slow topic's records can be removed too. One that is busy is left for the next time.
    pub fn roll_older_than(&self, before_ms: i64) -> Result<()> {
        {
            let mut tail = self.tail.lock();
            self.check_writable()?;
            let old = tail.begun_ms.is_some_and(|begun| begun <= before_ms);
            let failed = tail.round.borrow().failed.is_some();
            if !old || failed || tail.dirty || tail.queued {
                return Ok(());
            }
            self.trim(&mut tail)?;
            self.roll(&mut tail)?;
            // The recovery point may only name the new segment once its name is durable.
            (tail.dirty, tail.queued) = (true, true);
        }
        while self.sync() {}
        Ok(())
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
        let mut tail = self.tail.lock();
        tail.round.send_if_modified(|round| {
            let open = round.failed.is_none();
            if open {
                round.failed = Some(why);
            }
            open
        });
        tail.file = None;
    }
}

impl Durable {
    fn ready() -> Durable {
        Durable(Box::pin(std::future::ready(Ok(()))))
    }

    fn at(mut round: watch::Receiver<Round>, end: i64) -> Durable {
        Durable(Box::pin(async move {
            let settled = |round: &Round| round.synced >= end || round.failed.is_some();
            match round.wait_for(settled).await {
                Ok(round) if round.synced >= end => Ok(()),
                Ok(round) => Err(round.failed.clone().unwrap_or(Error::Closed)),
                Err(_) => Err(Error::Closed),
            }
        }))
    }
}

impl Future for Durable {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.as_mut().poll(cx)
    }
}
