//! Removes what is asked for, and what is old or too much, by whole segments, never past the lowest commit of a known
//! pipeline unless the topic says `hard`.

use crate::error::{Error, Result};
use crate::partition::Partition;
use crate::point::{Point, PointFile};
use crate::recover;
use crate::segment::Segment;
use crate::stats::add;
use millstream_core::fault;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What retention took from one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub topic: Arc<str>,
    pub partition: u32,
    pub segments: usize,
    pub bytes: u64,
    /// The offsets that are gone: up to this one, exclusive.
    pub start_offset: i64,
}

impl Partition {
    pub fn enforce_retention(&self, now_ms: i64) -> Result<Option<Removed>> {
        let config = self.config();
        if self.refused.is_some()
            || (config.retention_ms.is_none() && config.retention_bytes.is_none())
        {
            return Ok(None);
        }
        let keep_from = config
            .retention_ms
            .map(|ms| now_ms.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)));
        if let Some(keep_from) = keep_from {
            self.roll_older_than(keep_from)?;
        }
        let low = if config.hard { i64::MAX } else { self.low_commit() };

        let files = &*self.shared.options.files;
        let mut held = self.point.lock();
        let Some(point) = held.as_mut() else { return Ok(None) };
        let synced = *self.synced.borrow();
        let segments = self.segments.read().clone();
        let mut left = self.bytes.load(Ordering::Relaxed);
        let mut gone = 0;
        for pair in segments.windows(2) {
            let (segment, end) = (&pair[0], pair[1].base);
            if end > synced.segment || end > low {
                break;
            }
            let rest = left.saturating_sub(segment.len());
            let too_much = config.retention_bytes.is_some_and(|keep| rest >= keep);
            let too_old = keep_from.is_some_and(|keep_from| {
                segment.summary(files).is_some_and(|end| end.appended_ms <= keep_from)
            });
            if !too_much && !too_old {
                break;
            }
            left = rest;
            gone += 1;
        }
        if gone == 0 {
            return Ok(None);
        }

        let start = segments[gone].base;
        let bytes = self.remove_before(point, start, &segments[..gone])?;
        let (topic, partition) = (self.topic.clone(), self.index);
        Ok(Some(Removed { topic, partition, segments: gone, bytes, start_offset: start }))
    }

    /// Moves the start to `upto`, whatever pipelines have read; where no segment ends, the records
    /// before it stay on disk and are not given any more. Answers with the new start.
    pub fn delete_before(&self, upto: i64) -> Result<i64> {
        self.check_writable()?;
        self.check_offset(upto)?;
        let mut held = self.point.lock();
        let Some(point) = held.as_mut() else { return Ok(self.start.load(Ordering::Acquire)) };
        let start = self.start.load(Ordering::Acquire);
        if upto <= start {
            return Ok(start);
        }
        let synced = self.synced.borrow().segment;
        let segments = self.segments.read().clone();
        let over = |pair: &&[Arc<Segment>]| pair[1].base <= upto && pair[1].base <= synced;
        let gone = segments.windows(2).take_while(over).count();
        self.remove_before(point, upto, &segments[..gone])?;
        Ok(upto)
    }

    /// First the new start is durable, then the files go: what a crash leaves of them is known to
    /// be garbage. Answers with the bytes that were freed.
    fn remove_before(
        &self,
        point: &mut PointFile,
        start: i64,
        segments: &[Arc<Segment>],
    ) -> Result<u64> {
        let files = &*self.shared.options.files;
        let synced = *self.synced.borrow();
        let gone = segments.len();
        point.save(
            files,
            Point { start, offset: synced.end, segment: synced.segment, position: synced.position },
        )?;
        self.start.store(start, Ordering::Release);
        self.segments.write().drain(..gone);
        fault::point("log.retention");
        let bytes = segments.iter().map(|segment| segment.len()).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        for segment in segments {
            recover::remove(files, segment)?;
            fault::point("log.retention");
        }
        files.sync_dir(&self.dir).map_err(|error| Error::sync(&self.dir, error))?;
        add(&self.shared.counters.segments_removed, gone as u64);
        add(&self.shared.counters.bytes_removed, bytes);
        Ok(bytes)
    }

    /// The lowest commit of all known pipelines.
    fn low_commit(&self) -> i64 {
        self.low_commits.lock().values().copied().min().unwrap_or(i64::MAX)
    }
}
