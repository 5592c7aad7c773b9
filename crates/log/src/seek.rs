//! Where an offset or a time lies in a partition.

use crate::codec::{self, HEADER_BYTES, Header, Invalid};
use crate::error::{Error, Result};
use crate::files::File;
use crate::partition::{Partition, PartitionLog, Synced};
use crate::segment::{Scan, Segment};
use millstream_core::Record;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A place in a segment where a batch begins.
pub struct Cursor {
    pub segment: Arc<Segment>,
    pub file: Arc<dyn File>,
    pub position: u64,
    /// The base offset of the batch there.
    pub expected: i64,
    /// The place comes from the index, which may be wrong.
    pub guessed: bool,
}

impl PartitionLog {
    /// The first offset whose record, or one before it, has at least this timestamp: a reader that
    /// starts there misses none that does. `None` when no synced record is that late.
    pub fn offset_at_time(&self, timestamp: i64) -> Result<Option<i64>> {
        Ok(self.record_at_time(timestamp)?.map(|(offset, _)| offset))
    }

    /// The largest timestamp of all synced records, and the first record that has it.
    pub fn max_time(&self) -> Result<Option<(i64, i64)>> {
        self.0.check_refused()?;
        let files = &*self.0.shared.options.files;
        let segments = self.0.segments.read().clone();
        let sealed = &segments[..segments.len().saturating_sub(1)];
        let sealed = sealed.iter().filter_map(|segment| segment.summary(files));
        let written = self.0.tail.lock().end.max_time;
        let mut times: Vec<i64> = sealed.map(|end| end.max_time).chain([written]).collect();
        // Records that are not synced, or were deleted, may have the largest.
        times.sort_unstable();
        times.dedup();
        while let Some(time) = times.pop() {
            if let Some(found) = self.record_at_time(time)? {
                return Ok(Some(found));
            }
        }
        self.record_at_time(i64::MIN + 1)
    }

    /// As [`Self::offset_at_time`], with the timestamp of the record.
    pub fn record_at_time(&self, timestamp: i64) -> Result<Option<(i64, i64)>> {
        self.0.check_refused()?;
        self.0.check_gone()?;
        let files = &*self.0.shared.options.files;
        let synced = *self.0.synced.borrow();
        let segments = self.0.segments.read().clone();
        let start = self.start_offset();
        for segment in segments {
            let limit = synced.limit(&segment);
            if segment.base < synced.segment {
                let late = segment.summary(files).is_none_or(|end| end.max_time >= timestamp);
                if !late {
                    continue;
                }
            }
            let entries = segment.entries(files, limit, !self.0.shared.read_only);
            // Everything before an entry whose running maximum is too small is too early.
            let early = entries.partition_point(|entry| entry.max_time < timestamp);
            let from = early
                .checked_sub(1)
                .map_or((0, segment.base), |at| (entries[at].position, entries[at].offset));
            let file = self.0.open_segment(&segment)?;
            let mut scan = Scan::new(&*file, from.0, limit, from.1);
            loop {
                let found = scan.next_batch();
                match found.map_err(|stopped| stopped.into_error(&segment.path))? {
                    None => break,
                    Some((_, header, _)) if header.max_time < timestamp => {}
                    Some((position, header, bytes)) => {
                        let records = codec::records_of(bytes.to_vec(), header.base_offset);
                        let records = records.map_err(|failed| {
                            let what = failed.why.to_string();
                            Error::damaged(&segment.path, position, header.base_offset, what)
                        })?;
                        let late = |record: &Record<'_>| {
                            record.timestamp >= timestamp && record.offset >= start
                        };
                        let found = records.iter().find(late);
                        if let Some(record) = found {
                            return Ok(Some((record.offset, record.timestamp)));
                        }
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Partition {
    /// A place at or before `offset`, which lies between the start and the end.
    pub fn seek(&self, offset: i64) -> Result<Cursor> {
        let segment = {
            let segments = self.segments.read();
            let after = segments.partition_point(|segment| segment.base <= offset);
            after.checked_sub(1).map(|at| segments[at].clone())
        };
        let Some(segment) = segment else {
            let path = Segment::new(&self.dir, offset, 0).path;
            return Err(Error::damaged(&path, 0, offset, "the segment is missing"));
        };
        let limit = self.synced.borrow().limit(&segment);
        let heal = !self.shared.read_only;
        let entries = segment.entries(&*self.shared.options.files, limit, heal);
        let after = entries.partition_point(|entry| entry.offset <= offset);
        let entry = after.checked_sub(1).map(|at| entries[at]);
        let file = self.open_segment(&segment)?;
        Ok(Cursor {
            position: entry.map_or(0, |entry| entry.position),
            expected: entry.map_or(segment.base, |entry| entry.offset),
            guessed: entry.is_some(),
            segment,
            file,
        })
    }

    /// The segment after the one that begins at `base`.
    pub fn segment_after(&self, base: i64) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        segments.get(segments.partition_point(|segment| segment.base <= base)).cloned()
    }

    pub fn open_segment(&self, segment: &Segment) -> Result<Arc<dyn File>> {
        segment.open(&*self.shared.options.files).map_err(|error| {
            let kept = segment.base >= self.start.load(Ordering::Acquire);
            if error.kind() == io::ErrorKind::NotFound && kept {
                return Error::damaged(&segment.path, 0, segment.base, "the segment is missing");
            }
            Error::io("cannot open", &segment.path, error)
        })
    }
}

impl Synced {
    /// How much of a segment may be read.
    pub fn limit(&self, segment: &Segment) -> u64 {
        match segment.base.cmp(&self.segment) {
            std::cmp::Ordering::Less => segment.len(),
            std::cmp::Ordering::Equal => self.position,
            std::cmp::Ordering::Greater => 0,
        }
    }
}

impl Cursor {
    pub fn restart(&mut self) {
        self.position = 0;
        self.expected = self.segment.base;
        self.guessed = false;
    }

    /// About `max_bytes` from here, or the first batch whole where that is larger.
    pub fn read(&self, limit: u64, max_bytes: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(limit - self.position).unwrap_or(usize::MAX);
        let mut raw = vec![0; left.min(max_bytes.max(HEADER_BYTES))];
        self.fill(&mut raw, 0)?;
        let Ok(header) = Header::read_at(&raw, self.expected) else { return Ok(raw) };
        if header.bytes > left {
            let why = Invalid::Short { have: left, need: header.bytes };
            return Err(self.damage(codec::Failed { at: 0, offset: self.expected, why }));
        }
        let have = raw.len();
        if header.bytes > have {
            raw.resize(header.bytes, 0);
            self.fill(&mut raw, have)?;
        }
        Ok(raw)
    }

    pub fn fill(&self, raw: &mut [u8], from: usize) -> Result<()> {
        let path = &self.segment.path;
        self.file.read_at(&mut raw[from..], self.position + from as u64).map_err(
            |error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    let what = "the file ends before the log";
                    Error::damaged(path, self.position, self.expected, what)
                }
                _ => Error::io("cannot read", path, error),
            },
        )
    }

    pub fn damage(&self, failed: codec::Failed) -> Error {
        let position = self.position + failed.at as u64;
        Error::damaged(&self.segment.path, position, failed.offset, failed.why.to_string())
    }
}
