//! Follows a partition: whole records, in offset order, synced ones only.

use crate::codec::{self, Failed, Invalid};
use crate::error::{Error, Result};
use crate::partition::{Partition, PartitionLog, Synced};
use crate::seek::Cursor;
use crate::stats::add;
use millstream_core::Records;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// What [`Reader::new`] is given when nothing speaks for another size.
pub const READ_BYTES: usize = 512 << 10;

/// Reads one partition from an offset on.
pub struct Reader {
    partition: Arc<Partition>,
    synced: watch::Receiver<Synced>,
    /// The next record to give.
    offset: i64,
    max_bytes: usize,
    cursor: Option<Cursor>,
    /// Records that retention took before they were read, not yet reported.
    skipped: u64,
}

impl Reader {
    /// A reader whose first record is that of `offset`. Each call to [`Self::next`] gives about
    /// `max_bytes`, and always at least one batch.
    ///
    /// An offset beyond the end is damage; one before the start is a gap, which the first records
    /// report.
    pub fn new(partition: &PartitionLog, offset: i64, max_bytes: usize) -> Result<Reader> {
        let partition = partition.0.clone();
        partition.check_refused()?;
        partition.check_offset(offset)?;
        let synced = partition.synced.subscribe();
        let max_bytes = max_bytes.max(1);
        Ok(Reader { partition, synced, offset, max_bytes, cursor: None, skipped: 0 })
    }

    /// The next records; waits until some are synced.
    ///
    /// Cancel safe: records are given whole or not at all.
    pub async fn next(&mut self) -> Result<Records> {
        loop {
            if let Some(records) = self.try_next()? {
                return Ok(records);
            }
            let offset = self.offset;
            let news = |synced: &Synced| synced.end > offset || synced.gone.is_some();
            if self.synced.wait_for(news).await.is_err() {
                return Err(Error::Closed);
            }
        }
    }

    /// The next records that are there now.
    pub fn try_next(&mut self) -> Result<Option<Records>> {
        loop {
            self.partition.check_gone()?;
            let synced = *self.synced.borrow();
            self.step_over_gap();
            if self.offset >= synced.end {
                self.partition.check_offset(self.offset)?;
                return Ok(None);
            }
            let read = match self.cursor.take() {
                Some(cursor) => self.read(cursor, synced),
                None => match self.partition.seek(self.offset) {
                    Ok(cursor) => self.read(cursor, synced),
                    Err(error) => Err(error),
                },
            };
            match read {
                Ok(Some(records)) => return Ok(Some(records)),
                Ok(None) => {}
                // Retention took the file away under the reader.
                Err(_) if self.offset < self.partition.start.load(Ordering::Acquire) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The offset of the next record.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The offset after the last record that is there to read.
    pub fn end_offset(&self) -> i64 {
        self.synced.borrow().end
    }

    fn step_over_gap(&mut self) {
        let start = self.partition.start.load(Ordering::Acquire);
        if self.offset >= start {
            return;
        }
        let skipped = (start - self.offset.max(0)) as u64;
        tracing::warn!(
            topic = %self.partition.topic,
            partition = self.partition.index,
            offset = self.offset,
            start,
            skipped,
            "retention removed records before they were read"
        );
        add(&self.partition.shared.counters.records_skipped, skipped);
        self.skipped += skipped;
        self.offset = start;
        self.cursor = None;
    }

    /// One read; `None` when it gave no records but moved on.
    fn read(&mut self, mut cursor: Cursor, synced: Synced) -> Result<Option<Records>> {
        let limit = synced.limit(&cursor.segment);
        if cursor.position >= limit {
            self.cursor = Some(self.next_segment(cursor)?);
            return Ok(None);
        }
        let raw = cursor.read(limit, self.max_bytes);
        let decoded = match raw {
            Err(error) => Err(error),
            Ok(raw) => {
                let have = raw.len();
                match codec::decode(raw, cursor.expected, self.offset, self.max_bytes) {
                    Ok(decoded) if decoded.consumed == 0 => {
                        let why = Invalid::Short { have, need: codec::HEADER_BYTES };
                        Err(cursor.damage(Failed { at: 0, offset: cursor.expected, why }))
                    }
                    Ok(decoded) => Ok(decoded),
                    Err(failed) => Err(cursor.damage(failed)),
                }
            }
        };
        let mut decoded = match decoded {
            Ok(decoded) => decoded,
            Err(Error::Damage(_)) if cursor.guessed => {
                cursor.restart();
                self.cursor = Some(cursor);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        cursor.position += decoded.consumed as u64;
        cursor.expected = decoded.next;
        // An index entry proved right.
        cursor.guessed = false;
        cursor.file.will_need(cursor.position, 2 * self.max_bytes as u64);
        self.cursor = Some(cursor);
        let counters = &self.partition.shared.counters;
        add(&counters.bytes_read, decoded.consumed as u64);
        if decoded.builder.is_empty() {
            self.offset = self.offset.max(decoded.next);
            return Ok(None);
        }
        add(&counters.records_read, decoded.builder.len() as u64);
        decoded.builder.skip(std::mem::take(&mut self.skipped));
        self.offset = decoded.next;
        Ok(Some(decoded.builder.finish(decoded.next)))
    }

    fn next_segment(&self, cursor: Cursor) -> Result<Cursor> {
        let here = &cursor.segment;
        match self.partition.segment_after(here.base) {
            Some(segment) if segment.base == cursor.expected => {
                let file = self.partition.open_segment(&segment)?;
                let expected = segment.base;
                Ok(Cursor { segment, file, position: 0, expected, guessed: false })
            }
            next => {
                let what = match next {
                    Some(next) => format!("records up to offset {} are missing", next.base),
                    None => "the next segment is missing".to_owned(),
                };
                Err(Error::damaged(&here.path, cursor.position, cursor.expected, what))
            }
        }
    }
}
