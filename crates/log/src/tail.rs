//! The writer's side of a partition: append, roll, group commit, and repair after a failed sync.
//!
//! An append writes to the page cache under the tail's lock and puts the partition on the queue of
//! the [`crate::syncer::Syncer`]; the lock is never held while a sync is under way, so that appends
//! that arrive meanwhile share the next. After a failed sync the partition takes nothing before its
//! tail has been cut back to what is synced, written again and synced.

use crate::codec::{BATCH_BYTES_MAX, EncodedBatch, Producing, RawBatch};
use crate::error::{Error, Result};
use crate::files::{File, How};
use crate::index::{INTERVAL_BYTES, IndexEntry};
use crate::options::SyncMode;
use crate::partition::{Partition, Synced};
use crate::producers::Producers;
use crate::recover;
use crate::segment::{Scan, Segment, extend};
use crate::stats::add;
use millstream_core::fault;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::watch;

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

/// What waits for a sync. A new round begins when a failed partition was repaired, since offsets
/// above the synced end are given out again then.
#[derive(Debug, Clone)]
struct Round {
    synced: i64,
    failed: Option<Error>,
}

pub struct Tail {
    /// None where nothing can be written.
    file: Option<Arc<dyn File>>,
    active: Option<Arc<Segment>>,
    /// The end of what is written, in the active segment.
    pub end: IndexEntry,
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
    pub producers: Producers,
}

/// Base offset, length, epoch.
const HEAD_BYTES: usize = 16;

/// What an append is told of a batch.
pub struct Part<'a> {
    bytes: &'a [u8],
    records: u32,
    max_time: i64,
    producing: Option<Producing>,
}

impl Tail {
    /// The tail of a partition that was just recovered; `active` is none where it was refused.
    pub fn new(
        active: Option<Arc<Segment>>,
        end: IndexEntry,
        indexed: u64,
        producers: Producers,
    ) -> Tail {
        Tail {
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
            // A process before this one may have died before it synced what it cut off.
            shrunk: true,
            round: watch::Sender::new(Round { synced: end.offset, failed: None }),
            producers,
        }
    }

    /// Tells those who still wait that nothing will come.
    pub fn end(&mut self, why: Error) {
        self.round.send_if_modified(|round| {
            let open = round.failed.is_none();
            if open {
                round.failed = Some(why);
            }
            open
        });
        self.file = None;
    }
}

impl Partition {
    pub fn append(self: &Arc<Self>, batches: &[Part<'_>]) -> Result<Appended> {
        for batch in batches {
            let bytes = batch.bytes.len();
            if bytes > BATCH_BYTES_MAX {
                return Err(Error::TooLarge { bytes, max: BATCH_BYTES_MAX });
            }
        }
        let batches = batches.iter().filter(|batch| batch.records > 0);
        let bytes: u64 = batches.clone().map(|batch| batch.bytes.len() as u64).sum();
        let mut tail = self.tail.lock();
        self.check_writable()?;
        self.repair(&mut tail)?;
        self.trim(&mut tail)?;
        for batch in batches.clone() {
            let Some(producing) = &batch.producing else { continue };
            if let Some(written) = tail.producers.check(producing)? {
                // Sent again: acknowledged when the first one is durable.
                return Ok(Appended {
                    base_offset: written.base_offset,
                    last_offset: written.last_offset,
                    durable: self.durable_at(&tail, written.last_offset + 1),
                });
            }
            let end = self.synced.borrow().end;
            tail.producers.name(&*self.shared.options.files, &self.dir, end)?;
        }
        let (file, active) = self.room_for(&mut tail, bytes)?;

        // The log's own part of a batch, its base offset and its epoch, is not covered by the
        // checksum, so that the batch is written as it came.
        let first = tail.end.offset;
        let mut end = tail.end;
        let mut heads = Vec::with_capacity(batches.clone().count());
        for batch in batches.clone() {
            heads.push(head(end.offset, batch.bytes));
            end.offset += i64::from(batch.records);
        }
        let parts: Vec<&[u8]> = heads
            .iter()
            .zip(batches.clone())
            .flat_map(|(head, batch)| [head.as_slice(), &batch.bytes[HEAD_BYTES..]])
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
            if let Some(producing) = &batch.producing {
                let last = end.offset + i64::from(batch.records) - 1;
                tail.producers.wrote(producing, end.offset, last, now);
            }
            end.offset += i64::from(batch.records);
            end.position += batch.bytes.len() as u64;
            end.max_time = end.max_time.max(batch.max_time);
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
        let durable = self.durable_at(&tail, end.offset);
        let enqueue = group && tail.dirty && !tail.queued;
        tail.queued |= enqueue;
        drop(tail);
        if enqueue {
            self.enqueue();
        }
        Ok(Appended { base_offset: first, last_offset: end.offset - 1, durable })
    }

    /// Resolves when everything below `end` is acknowledged.
    fn durable_at(&self, tail: &Tail, end: i64) -> Durable {
        let group = self.shared.options.sync == SyncMode::GroupCommit;
        if !group || self.shared.options.bug("ack_on_enqueue") {
            Durable::ready()
        } else {
            Durable::at(tail.round.subscribe(), end)
        }
    }

    /// The file to write `bytes` to: the active one, or a new one where that is full.
    fn room_for(&self, tail: &mut Tail, bytes: u64) -> Result<(Arc<dyn File>, Arc<Segment>)> {
        let (file, active) = self.writer(tail)?;
        let full = tail.end.position > 0
            && (tail.end.position + bytes > self.config().segment_bytes
                || tail.end.offset - active.base > i64::from(i32::MAX));
        if !full {
            return Ok((file, active));
        }
        self.roll(tail)?;
        self.writer(tail)
    }

    /// The active segment and its file.
    fn writer(&self, tail: &mut Tail) -> Result<(Arc<dyn File>, Arc<Segment>)> {
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
        // Also one that this process did not write to: its end may not be durable as it stands.
        let (old_file, old) = self.writer(tail)?;
        let base = tail.end.offset;
        let segment = Arc::new(Segment::new(&self.dir, base, 0));
        let file = files.open(&segment.path, How::Create);
        let file = file.map_err(|error| Error::io("cannot create", &segment.path, error))?;
        fault::point("log.roll");
        segment.share(&file);
        segment.activate(Vec::new());
        old.seal(files, tail.end);
        tail.unsynced.push(old_file);
        tail.file = Some(file);
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
    pub fn repair(&self, tail: &mut Tail) -> Result<()> {
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
        tail.producers.cut(synced.end);
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
}

impl<'a> From<&'a EncodedBatch> for Part<'a> {
    fn from(batch: &'a EncodedBatch) -> Part<'a> {
        let (records, max_time) = (batch.len() as u32, batch.max_time());
        Part { bytes: batch.as_bytes(), records, max_time, producing: None }
    }
}

impl<'a> From<&'a RawBatch> for Part<'a> {
    fn from(batch: &'a RawBatch) -> Part<'a> {
        let header = batch.header();
        Part {
            bytes: batch.as_bytes(),
            records: header.records,
            max_time: header.max_time,
            producing: header.producing(),
        }
    }
}

/// What the log writes in place of the first bytes of a batch: its own base offset, the length as
/// it is, and epoch 0.
fn head(offset: i64, batch: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&offset.to_be_bytes());
    head[8..12].copy_from_slice(&batch[8..12]);
    head
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
