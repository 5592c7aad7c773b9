//! What a partition remembers of producers that number their batches, so that a batch sent twice is
//! kept once.
//!
//! The last five batches of each producer, in memory, and in the file `producers` as of some synced
//! offset. What was appended after that offset is read from the headers of the log when it is
//! opened. The file is written without a sync: one that is torn costs a walk over all headers, and
//! no file at all means that no numbered batch was ever appended, which is why the first such batch
//! waits until the file's name is durable.

use crate::codec::Producing;
use crate::directory::{read_all, write_synced};
use crate::error::{Error, Result};
use crate::files::{Files, How};
use crate::index::IndexEntry;
use crate::segment::{Scan, Segment};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

const NAME: &str = "producers";
const MAGIC: &[u8; 8] = b"msprod01";
/// As many as a producer may have in flight.
const BATCHES: usize = 5;
/// More than these in one partition push the one out that was silent longest.
const PRODUCERS_MAX: usize = 10_000;
/// A producer that was silent this long is forgotten.
const FORGET_MS: i64 = 24 * 3_600_000;

#[derive(Debug, Default)]
pub struct Producers {
    known: HashMap<i64, Producer>,
    /// The file is there, durably.
    named: bool,
    changed: bool,
}

#[derive(Debug, Clone)]
struct Producer {
    epoch: i16,
    last_ms: i64,
    batches: VecDeque<Written>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    first: i32,
    last: i32,
    pub base_offset: i64,
    pub last_offset: i64,
}

impl Producers {
    /// Where the same batch went before; `None` when it is the one that follows.
    pub fn check(&self, batch: &Producing) -> Result<Option<Written>> {
        // Of one that is not known any number is right: what it sent before may be long removed.
        let Some(known) = self.known.get(&batch.id) else { return Ok(None) };
        if batch.epoch < known.epoch {
            let (found, known) = (batch.epoch, known.epoch);
            return Err(Error::ProducerEpoch { producer: batch.id, found, known });
        }
        let expected = match known.batches.back() {
            Some(last) if batch.epoch == known.epoch => {
                let same = |w: &&Written| w.first == batch.first && w.last == batch.last;
                if let Some(written) = known.batches.iter().find(same) {
                    return Ok(Some(*written));
                }
                Producing { id: batch.id, epoch: known.epoch, first: 0, last: last.last }.next()
            }
            _ => 0,
        };
        if batch.first != expected {
            return Err(Error::Sequence { producer: batch.id, found: batch.first, expected });
        }
        Ok(None)
    }

    pub fn wrote(&mut self, batch: &Producing, base_offset: i64, last_offset: i64, now: i64) {
        self.changed = true;
        if self.known.len() >= PRODUCERS_MAX && !self.known.contains_key(&batch.id) {
            let oldest = self.known.iter().min_by_key(|(_, producer)| producer.last_ms);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.known.remove(&oldest);
            }
        }
        let producer = self.known.entry(batch.id).or_insert_with(|| Producer {
            epoch: batch.epoch,
            last_ms: now,
            batches: VecDeque::with_capacity(BATCHES),
        });
        if producer.epoch != batch.epoch {
            producer.epoch = batch.epoch;
            producer.batches.clear();
        }
        producer.last_ms = now;
        if producer.batches.len() == BATCHES {
            producer.batches.pop_front();
        }
        let (first, last) = (batch.first, batch.last);
        producer.batches.push_back(Written { first, last, base_offset, last_offset });
    }

    /// Forgets batches from `end` on, which are not in the log any more.
    pub fn cut(&mut self, end: i64) {
        self.changed = true;
        for producer in self.known.values_mut() {
            producer.batches.retain(|written| written.last_offset < end);
        }
        self.known.retain(|_, producer| !producer.batches.is_empty());
    }

    /// Makes the file's name durable before the first numbered batch is appended.
    pub fn name(&mut self, files: &dyn Files, dir: &Path, end: i64) -> Result<()> {
        if self.named {
            return Ok(());
        }
        write_synced(files, &dir.join(NAME), &encode(&[], end))?;
        files.sync_dir(dir).map_err(|error| Error::sync(dir, error))?;
        self.named = true;
        Ok(())
    }

    /// The file's new content, when it has changed: batches below the synced `end` only.
    pub fn snapshot(&mut self, end: i64, now: i64) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.known.retain(|_, producer| producer.last_ms > now.saturating_sub(FORGET_MS));
        let mut rows = Vec::with_capacity(self.known.len());
        for (id, producer) in &self.known {
            let synced = producer.batches.iter().filter(|written| written.last_offset < end);
            let batches: VecDeque<Written> = synced.copied().collect();
            // The rest is read from the log, or becomes part of the next one.
            self.changed |= batches.len() < producer.batches.len();
            if !batches.is_empty() {
                rows.push((*id, Producer { batches, ..*producer }));
            }
        }
        Some(encode(&rows, end))
    }

    /// What the file and the log say when a partition is opened.
    pub fn load(
        files: &dyn Files,
        dir: &Path,
        segments: &[Arc<Segment>],
        end: IndexEntry,
        now: i64,
    ) -> Result<Producers> {
        let path = dir.join(NAME);
        let bytes = match read_all(files, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read.map_err(|error| Error::io("cannot read", &path, error))?,
        };
        let (known, from) = decode(&bytes).unwrap_or_default();
        let mut producers = Producers { known, named: true, changed: false };
        // Only a disk that lost what it had synced leaves less than was noted.
        if from > end.offset {
            producers.cut(end.offset);
        }
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1);
            if next.is_some_and(|next| next.base <= from) {
                continue;
            }
            let limit = if next.is_some() { segment.len() } else { end.position };
            let entries = segment.entries(files, limit, false);
            let known = entries.partition_point(|entry| entry.offset <= from);
            let mut start = known
                .checked_sub(1)
                .map_or((0, segment.base), |at| (entries[at].position, entries[at].offset));
            let file = segment.open(files);
            let file = file.map_err(|error| Error::io("cannot open", &segment.path, error))?;
            let mut scan = Scan::new(&*file, start.0, limit, start.1);
            loop {
                match scan.next_header() {
                    Ok(Some((_, header))) => {
                        let batch = header.producing().filter(|_| header.base_offset >= from);
                        if let Some(batch) = batch {
                            let last = header.next_offset() - 1;
                            producers.wrote(&batch, header.base_offset, last, now);
                        }
                    }
                    Ok(None) => break,
                    // An index entry was wrong.
                    Err(_) if start.0 > 0 && scan.position == start.0 => {
                        start = (0, segment.base);
                        scan = Scan::new(&*file, start.0, limit, start.1);
                    }
                    // Damage is for the readers to report; what follows it is read all the same.
                    Err(stopped) => {
                        let error = stopped.into_error(&segment.path);
                        tracing::warn!(%error, "batches of producers may not be known again");
                        break;
                    }
                }
            }
        }
        Ok(producers)
    }
}

/// Puts a new content in the file's place.
pub fn save(files: &dyn Files, dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let (new, path) = (dir.join("producers.new"), dir.join(NAME));
    files.open(&new, How::Create)?.write_at(&[bytes], 0)?;
    files.rename(&new, &path)
}

fn encode(producers: &[(i64, Producer)], end: i64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(end.to_be_bytes());
    bytes.extend((producers.len() as u32).to_be_bytes());
    for (id, producer) in producers {
        bytes.extend(id.to_be_bytes());
        bytes.extend(producer.epoch.to_be_bytes());
        bytes.extend(producer.last_ms.to_be_bytes());
        bytes.push(producer.batches.len() as u8);
        for written in &producer.batches {
            bytes.extend(written.first.to_be_bytes());
            bytes.extend(written.last.to_be_bytes());
            bytes.extend(written.base_offset.to_be_bytes());
            bytes.extend(written.last_offset.to_be_bytes());
        }
    }
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

/// The producers, and the offset up to which they are known; `None` for a file that is torn.
fn decode(bytes: &[u8]) -> Option<(HashMap<i64, Producer>, i64)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let end = i64::from_be_bytes(take(&mut rest)?);
    let count = u32::from_be_bytes(take(&mut rest)?);
    let mut known = HashMap::new();
    for _ in 0..count {
        let id = i64::from_be_bytes(take(&mut rest)?);
        let epoch = i16::from_be_bytes(take(&mut rest)?);
        let last_ms = i64::from_be_bytes(take(&mut rest)?);
        let [batches] = take(&mut rest)?;
        let mut producer = Producer { epoch, last_ms, batches: VecDeque::new() };
        for _ in 0..batches {
            producer.batches.push_back(Written {
                first: i32::from_be_bytes(take(&mut rest)?),
                last: i32::from_be_bytes(take(&mut rest)?),
                base_offset: i64::from_be_bytes(take(&mut rest)?),
                last_offset: i64::from_be_bytes(take(&mut rest)?),
            });
        }
        known.insert(id, producer);
    }
    Some((known, end))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (found, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, first: i32, last: i32) -> Producing {
        Producing { id: 7, epoch, first, last }
    }

    #[test]
    fn the_last_five_are_known_again_and_a_gap_is_refused() {
        let mut producers = Producers::default();
        for at in 0..7 {
            let next = batch(0, at * 10, at * 10 + 9);
            assert_eq!(producers.check(&next).unwrap(), None);
            producers.wrote(&next, i64::from(at) * 10, i64::from(at) * 10 + 9, 1);
        }
        for at in 2..7 {
            let again = producers.check(&batch(0, at * 10, at * 10 + 9)).unwrap().unwrap();
            assert_eq!(again.base_offset, i64::from(at) * 10);
        }
        for (first, last) in [(10, 19), (71, 80), (60, 68)] {
            let error = producers.check(&batch(0, first, last)).unwrap_err();
            assert!(matches!(error, Error::Sequence { expected: 70, .. }), "{error}");
        }
        assert!(producers.check(&batch(0, 70, 70)).unwrap().is_none());
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_an_old_one_is_refused() {
        let mut producers = Producers::default();
        producers.wrote(&batch(3, 0, 9), 0, 9, 1);
        assert!(matches!(
            producers.check(&batch(2, 10, 19)).unwrap_err(),
            Error::ProducerEpoch { known: 3, .. }
        ));
        assert!(producers.check(&batch(4, 10, 19)).is_err());
        assert!(producers.check(&batch(4, 0, 9)).unwrap().is_none());
    }

    #[test]
    fn what_is_cut_off_the_log_is_not_known_again() {
        let mut producers = Producers::default();
        producers.wrote(&batch(0, 0, 9), 0, 9, 1);
        producers.wrote(&batch(0, 10, 19), 10, 19, 1);
        producers.cut(10);
        assert!(producers.check(&batch(0, 10, 19)).unwrap().is_none());
        assert!(producers.check(&batch(0, 0, 9)).unwrap().is_some());
    }

    #[test]
    fn the_file_holds_synced_batches_only_and_a_torn_one_is_none() {
        let mut producers = Producers::default();
        producers.wrote(&batch(0, 0, 9), 0, 9, 1);
        producers.wrote(&batch(0, 10, 19), 10, 19, 1);
        let bytes = producers.snapshot(10, 2).unwrap();
        let (known, end) = decode(&bytes).unwrap();
        assert_eq!((known[&7].batches.len(), end), (1, 10));
        assert!(producers.snapshot(20, 2).is_some(), "the rest is still to be written");
        assert!(producers.snapshot(20, 2).is_none());
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_none());
        }
    }
}
