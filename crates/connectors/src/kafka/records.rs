//! What a fetch brought, into records: Kafka's batches as brokers really keep them.
//!
//! Unlike the embedded log's own batches these may have gaps (a compacted topic), no records at all
//! (what compaction leaves of a producer's last batch), markers of transactions, records of
//! transactions that were given up, and an epoch. All of that counts as read.

use super::eras::Era;
use bytes::{Bytes, BytesMut};
use millstream_core::{Error, Records, RecordsBuilder, Result};
use millstream_log::Codec;
use millstream_log::codec::Body;
use std::collections::{HashSet, VecDeque};
use std::time::Instant;

const HEADER_BYTES: usize = 61;
const BATCH_BYTES_MAX: usize = millstream_log::codec::BATCH_BYTES_MAX;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// Whole batches of one partition as one fetch brought them, or several that followed each other.
pub(super) struct Chunk {
    bytes: Bytes,
    /// The offset that was asked for: records before it come along and are left out.
    from: i64,
    /// The offset after the last batch.
    next: i64,
    /// Transactions that were given up, by their first offset: producer ids.
    aborted: VecDeque<(i64, i64)>,
    /// Those of them that the batches so far belong to.
    giving_up: HashSet<i64>,
    /// Records that the broker had removed before `from`.
    skipped: u64,
    /// Which leaders wrote them.
    eras: Vec<Era>,
    arrived: Instant,
}

struct Batch {
    base_offset: i64,
    bytes: usize,
    /// Of the leader that wrote it; -1 where that is not known.
    epoch: i32,
    crc: u32,
    attributes: i16,
    last_delta: i32,
    base_time: i64,
    max_time: i64,
    producer: i64,
    records: i32,
}

impl Chunk {
    /// The whole batches at the start of what was fetched, up to where the partition ends. `None`
    /// when there is not one.
    ///
    /// A batch's checksum does not cover where the batch begins: that is held against its
    /// neighbours. Compaction leaves gaps between them, and never turns the order around.
    pub fn new(
        bytes: Bytes,
        from: i64,
        end: i64,
        mut aborted: Vec<(i64, i64)>,
    ) -> Result<Option<Chunk>> {
        let (mut at, mut next) = (0, from);
        let mut eras: Vec<Era> = Vec::new();
        while bytes.len() - at >= HEADER_BYTES {
            let batch = Batch::read(&bytes[at..], from)?;
            if batch.bytes > bytes.len() - at {
                break;
            }
            let in_order = match at {
                0 => batch.next_offset() > from,
                _ => batch.base_offset >= next,
            };
            if !in_order {
                return Err(damaged(next, format!("a batch says {}", batch.base_offset)));
            }
            // What is told of the end may be a moment older than what is sent: it comes again.
            if batch.next_offset() > end {
                break;
            }
            at += batch.bytes;
            next = next.max(batch.next_offset());
            match eras.last_mut() {
                Some(era) if era.epoch == batch.epoch => era.to = next,
                _ => eras.push(Era { epoch: batch.epoch, from: batch.base_offset, to: next }),
            }
        }
        aborted.sort_unstable();
        Ok((at > 0).then(|| Chunk {
            bytes: bytes.slice(..at),
            from,
            next,
            aborted: aborted.into(),
            giving_up: HashSet::new(),
            skipped: 0,
            eras,
            arrived: Instant::now(),
        }))
    }

    /// One chunk of several of which each begins where the one before ended, none taken from yet.
    pub fn join(mut chunks: Vec<Chunk>) -> Option<Chunk> {
        if chunks.len() < 2 {
            return chunks.pop();
        }
        let mut bytes = BytesMut::with_capacity(chunks.iter().map(Chunk::len).sum());
        let mut joined: Option<Chunk> = None;
        for chunk in chunks {
            bytes.extend_from_slice(&chunk.bytes);
            match &mut joined {
                None => joined = Some(chunk),
                Some(joined) => {
                    joined.next = chunk.next;
                    joined.aborted.extend(chunk.aborted);
                }
            }
        }
        let mut joined = joined?;
        joined.bytes = bytes.freeze();
        // A transaction over several of them is told of with each.
        joined.aborted.make_contiguous().sort_unstable();
        Some(joined)
    }

    /// Whether this is what comes after another, and nothing between them was lost.
    pub fn follows(&self, before: &Chunk) -> bool {
        let starts = Batch::read(&self.bytes, self.from).map(|first| first.base_offset);
        self.skipped == 0
            && self.from == before.next
            && starts.is_ok_and(|starts| starts >= self.from)
    }

    /// What is wrong where the first batch ends beyond where the partition does, and goes on doing so.
    pub fn beyond(bytes: &[u8], from: i64, end: i64) -> Option<Error> {
        let batch = Batch::read(bytes, from).ok()?;
        let is_beyond = batch.bytes <= bytes.len() && batch.next_offset() > end;
        let told = || format!("a batch says {}, the partition ends at {end}", batch.base_offset);
        is_beyond.then(|| damaged(from, told()))
    }

    /// The broker had removed this many records before these.
    pub fn skip(&mut self, records: u64) {
        self.skipped += records;
    }

    /// The offset after the last batch.
    pub fn next_offset(&self) -> i64 {
        self.next
    }

    /// Which leaders wrote them; told once.
    pub fn take_eras(&mut self) -> Vec<Era> {
        std::mem::take(&mut self.eras)
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes batches until they unpack to `bytes_max`, at least one.
    pub fn take(&mut self, bytes_max: usize) -> Result<Records> {
        let mut found = Vec::new();
        let mut packed = false;
        let (mut at, mut unpacked, mut next) = (0, 0, self.from);
        let mut body = Body::default();
        let bytes = self.bytes.clone();
        while at < bytes.len() && (at == 0 || unpacked < bytes_max) {
            let batch = Batch::read(&bytes[at..], self.from)?;
            let raw = &bytes[at..at + batch.bytes];
            batch.check(raw)?;
            next = next.max(batch.next_offset());
            if self.is_for_readers(&batch, raw) && batch.next_offset() > self.from {
                let codec = batch.codec()?;
                let records = at + HEADER_BYTES..at + batch.bytes;
                if codec == Codec::None && !packed {
                    unpacked += records.len();
                    found.push((batch, records));
                } else {
                    if !packed {
                        // Those before were not packed: the buffer must hold all.
                        packed = true;
                        body = Body::with_room(bytes.len().saturating_mul(3).min(bytes_max));
                        for (_, range) in &mut found {
                            let start = body.len();
                            body.extend_from_slice(&bytes[range.clone()]);
                            *range = start..body.len();
                        }
                    }
                    let start = body.len();
                    body.unpack(codec, &raw[HEADER_BYTES..])
                        .map_err(|e| damaged(batch.base_offset, e))?;
                    unpacked += body.len() - start;
                    found.push((batch, start..body.len()));
                }
            }
            at += raw.len();
        }
        let buffer = if packed { body.into_bytes() } else { self.bytes.slice(..at) };
        let mut builder = RecordsBuilder::over(buffer.clone());
        // A record has at least seven bytes, whatever its batch says.
        let count: usize = found.iter().map(|(batch, _)| batch.records as usize).sum();
        builder.reserve(count.min(buffer.len() / 7));
        for (batch, range) in &found {
            batch.each(&buffer[range.clone()], |record| {
                if record.offset >= self.from {
                    let shift = |(at, len): (usize, usize)| (at + range.start, len);
                    builder.push_at(
                        record.offset,
                        record.timestamp,
                        record.key.map(shift),
                        record.value.map(shift),
                        shift(record.headers),
                    );
                }
            })?;
        }
        builder.skip(std::mem::take(&mut self.skipped));
        self.bytes = self.bytes.slice(at..);
        self.from = next;
        Ok(builder.finish(next).arrived_at(self.arrived))
    }

    /// Whether a batch holds records for us: no markers, nothing of a transaction that was given up.
    fn is_for_readers(&mut self, batch: &Batch, raw: &[u8]) -> bool {
        while let Some((_, producer)) =
            self.aborted.pop_front_if(|(first, _)| *first < batch.next_offset())
        {
            self.giving_up.insert(producer);
        }
        if batch.attributes & CONTROL != 0 {
            if batch.is_abort(raw) {
                self.giving_up.remove(&batch.producer);
            }
            return false;
        }
        batch.attributes & TRANSACTIONAL == 0 || !self.giving_up.contains(&batch.producer)
    }
}

struct Record {
    offset: i64,
    timestamp: i64,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    headers: (usize, usize),
}

impl Batch {
    fn read(bytes: &[u8], near: i64) -> Result<Batch> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(damaged(near, "a batch is cut short"));
        };
        let i64_at = |at: usize| i64::from_be_bytes(chunk(head, at));
        let i32_at = |at: usize| i32::from_be_bytes(chunk(head, at));
        let base_offset = i64_at(0);
        if head[16] != 2 {
            return Err(Error::stop(
                "old_format",
                format!(
                    "the records at offset {base_offset} are in format {}, which brokers before \
                     0.11 wrote: have the topic rewritten",
                    head[16]
                ),
            ));
        }
        let length = usize::try_from(i32_at(8)).ok().and_then(|length| length.checked_add(12));
        let length = length.filter(|length| (HEADER_BYTES..=BATCH_BYTES_MAX).contains(length));
        let bytes =
            length.ok_or_else(|| damaged(base_offset, "a batch's length makes no sense"))?;
        let (last_delta, records) = (i32_at(23), i32_at(57));
        let overflows = base_offset.checked_add(i64::from(last_delta) + 1).is_none();
        if last_delta < 0 || records < 0 || base_offset < 0 || overflows {
            return Err(damaged(base_offset, "a batch's offsets make no sense"));
        }
        Ok(Batch {
            base_offset,
            bytes,
            epoch: i32_at(12),
            crc: u32::from_be_bytes(chunk(head, 17)),
            attributes: i16::from_be_bytes(chunk(head, 21)),
            last_delta,
            base_time: i64_at(27),
            max_time: i64_at(35),
            producer: i64_at(43),
            records,
        })
    }

    fn check(&self, raw: &[u8]) -> Result<()> {
        match crc32c::crc32c(&raw[21..]) {
            computed if computed == self.crc => Ok(()),
            computed => Err(damaged(
                self.base_offset,
                format!("a checksum is {:08x}, the bytes give {computed:08x}", self.crc),
            )),
        }
    }

    fn next_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_delta)).saturating_add(1)
    }

    fn codec(&self) -> Result<Codec> {
        Codec::of_id(self.attributes & 0b111).ok_or_else(|| {
            Error::stop(
                "unknown_codec",
                format!(
                    "the batch at offset {} is packed in a way we do not know",
                    self.base_offset
                ),
            )
        })
    }

    /// A marker's key is its version and its type: 0 gives up, 1 commits.
    fn is_abort(&self, raw: &[u8]) -> bool {
        let mut abort = false;
        let _ = self.each(&raw[HEADER_BYTES..], |record| {
            if let Some((at, 4..)) = record.key {
                abort = raw[HEADER_BYTES + at + 2..][..2] == [0, 0];
            }
        });
        abort
    }

    fn each(&self, bytes: &[u8], mut found: impl FnMut(Record)) -> Result<()> {
        let mut at = 0;
        let mut least = 0;
        for _ in 0..self.records {
            let record = self.record(bytes, &mut at, &mut least).ok_or_else(|| {
                damaged(self.base_offset, "a record of the batch there is malformed")
            })?;
            found(record);
        }
        match bytes.len() - at {
            0 => Ok(()),
            left => Err(damaged(self.base_offset, format!("{left} bytes are left over"))),
        }
    }

    #[inline]
    fn record(&self, bytes: &[u8], at: &mut usize, least: &mut i64) -> Option<Record> {
        let len = usize::try_from(varint(bytes, at)?).ok()?;
        let end = at.checked_add(len).filter(|end| *end <= bytes.len())?;
        let bytes = &bytes[..end];
        // The record's own attributes are unused.
        bytes.get(*at)?;
        *at += 1;
        let time_delta = varint(bytes, at)?;
        let offset_delta = varint(bytes, at)?;
        // Compaction leaves gaps, but never turns the order around.
        if offset_delta < *least || offset_delta > i64::from(self.last_delta) {
            return None;
        }
        *least = offset_delta + 1;
        let key = part(bytes, at)?;
        let value = part(bytes, at)?;
        let headers = (*at, end - *at);
        if headers.1 == 0 {
            return None;
        }
        *at = end;
        Some(Record {
            offset: self.base_offset + offset_delta,
            timestamp: match self.attributes & LOG_APPEND_TIME {
                0 => self.base_time.wrapping_add(time_delta),
                _ => self.max_time,
            },
            key,
            value,
            headers,
        })
    }
}

/// `Some(None)` is a null part, `None` is damage.
#[inline]
fn part(bytes: &[u8], at: &mut usize) -> Option<Option<(usize, usize)>> {
    let len = varint(bytes, at)?;
    if len == -1 {
        return Some(None);
    }
    let start = *at;
    let end = start.checked_add(usize::try_from(len).ok()?).filter(|end| *end <= bytes.len())?;
    *at = end;
    Some(Some((start, end - start)))
}

#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    // Nearly all take one byte or two.
    let zigzag = |value: u64| (value >> 1) as i64 ^ -((value & 1) as i64);
    match bytes.get(*at..)? {
        [low, ..] if *low < 0x80 => {
            *at += 1;
            return Some(zigzag(u64::from(*low)));
        }
        [low, high, ..] if *high < 0x80 => {
            *at += 2;
            return Some(zigzag(u64::from(low & 0x7f) | u64::from(*high) << 7));
        }
        _ => {}
    }
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(zigzag(value));
        }
    }
    None
}

fn chunk<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the header's fields lie within it")
}

/// Bytes that changed on their way are fetched again.
fn damaged(offset: i64, what: impl std::fmt::Display) -> Error {
    Error::retry("damaged", format!("what was fetched at offset {offset} is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_log::BatchBuilder;

    fn batch(codec: Codec, offset: i64, values: &[&str]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        for (at, value) in values.iter().enumerate() {
            builder.push(1_000 + at as i64, Some(b"key"), Some(value.as_bytes()), &[]);
        }
        builder.finish().into_bytes_at(offset)
    }

    /// Changes the fixed part and puts the checksum right again.
    fn with(mut batch: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        change(&mut batch);
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    fn of_transaction(batch: Vec<u8>, producer: i64, control: bool) -> Vec<u8> {
        with(batch, |bytes| {
            bytes[22] |= (TRANSACTIONAL | if control { CONTROL } else { 0 }) as u8;
            bytes[43..51].copy_from_slice(&producer.to_be_bytes());
        })
    }

    fn marker(offset: i64, producer: i64, commit: bool) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(0, Some(&[0, 0, 0, u8::from(commit)]), Some(&[0; 6]), &[]);
        of_transaction(builder.finish().into_bytes_at(offset), producer, true)
    }

    fn read(bytes: Vec<u8>, from: i64, aborted: Vec<(i64, i64)>) -> (Vec<(i64, String)>, i64) {
        let mut chunk = Chunk::new(bytes.into(), from, i64::MAX, aborted).unwrap().unwrap();
        let mut rows = Vec::new();
        let mut next = from;
        while !chunk.is_empty() {
            // One batch a time: the state of transactions must live on.
            let records = chunk.take(1).unwrap();
            for record in records.iter() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default());
                rows.push((record.offset, value.into_owned()));
            }
            next = records.next_offset();
        }
        assert_eq!(next, chunk.next_offset());
        (rows, next)
    }

    #[test]
    fn every_codec_is_read_and_what_lies_before_is_left_out() {
        for codec in Codec::ALL {
            let long = "x".repeat(2_000);
            let mut bytes = batch(codec, 5, &[&long, &long, &long]);
            bytes.extend(batch(Codec::None, 8, &["d"]));
            bytes.extend(batch(codec, 9, &["e"]));
            let (rows, next) = read(bytes.clone(), 6, vec![]);
            let offsets: Vec<_> = rows.iter().map(|(offset, _)| *offset).collect();
            assert_eq!((offsets, next), (vec![6, 7, 8, 9], 10), "{codec}");
            let mut chunk = Chunk::new(bytes.into(), 6, i64::MAX, vec![]).unwrap().unwrap();
            chunk.skip(3);
            let all = chunk.take(usize::MAX).unwrap();
            assert_eq!((all.len(), all.skipped(), chunk.len()), (4, 3, 0), "{codec}");
            assert_eq!(all.get(3).value, Some(&b"e"[..]));
        }
    }

    #[test]
    fn chunks_that_follow_each_other_are_read_as_one() {
        // Transaction 7 is over all of them and given up at 5; 8 is committed.
        let parts = [
            of_transaction(batch(Codec::Lz4, 0, &["a", "b"]), 7, false),
            of_transaction(batch(Codec::None, 2, &["c"]), 8, false),
            of_transaction(batch(Codec::Zstd, 3, &["d"]), 7, false),
            [marker(4, 8, true), marker(5, 7, false)].concat(),
            of_transaction(batch(Codec::None, 6, &["e"]), 7, false),
        ];
        let new = |bytes: &[u8], from| {
            Chunk::new(bytes.to_vec().into(), from, i64::MAX, vec![(0, 7)]).unwrap().unwrap()
        };
        let froms = [0, 2, 3, 4, 6];
        let chunks: Vec<_> = parts.iter().zip(froms).map(|(part, from)| new(part, from)).collect();
        assert!(chunks.is_sorted_by(|before, chunk| chunk.follows(before)));
        let arrived = chunks[0].arrived;
        let mut joined = Chunk::join(chunks).unwrap();
        assert_eq!((joined.len(), joined.next_offset()), (parts.concat().len(), 7));
        let records = joined.take(usize::MAX).unwrap();
        let values: Vec<_> = records.iter().map(|record| record.value.unwrap()).collect();
        assert_eq!(values, [b"c", b"e"]);
        assert_eq!((records.arrived(), joined.is_empty()), (arrived, true));
        assert!(Chunk::join(vec![]).is_none());
    }

    #[test]
    fn chunks_with_something_lost_between_are_not_joined() {
        let new = |from, to: i64| {
            let bytes: Vec<u8> =
                (from..to).flat_map(|at| batch(Codec::None, at * 2, &["a", "b"])).collect();
            Chunk::new(bytes.into(), from * 2, i64::MAX, vec![]).unwrap().unwrap()
        };
        let first = new(0, 3);
        assert!(new(3, 4).follows(&first));
        assert!(!new(4, 5).follows(&first), "two records are not there");
        let mut after_a_loss = new(3, 4);
        after_a_loss.skip(1);
        assert!(!after_a_loss.follows(&first));
        // The log begins in the midst of a batch.
        let mut cut = new(3, 4);
        cut.from = 7;
        let mut before = new(0, 3);
        before.next = 7;
        assert!(!cut.follows(&before));
    }

    #[test]
    fn a_batch_that_is_cut_off_waits_for_the_next_fetch() {
        let mut bytes = batch(Codec::None, 0, &["a"]);
        let whole = bytes.len();
        bytes.extend(batch(Codec::None, 1, &["b"]));
        for cut in whole..bytes.len() {
            assert_eq!(read(bytes[..cut].to_vec(), 0, vec![]).1, 1);
        }
        for cut in 0..whole {
            let found = Chunk::new(bytes[..cut].to_vec().into(), 0, i64::MAX, vec![]);
            assert!(found.unwrap().is_none());
        }
    }

    #[test]
    fn a_batch_that_is_not_where_it_says_is_damage() {
        let three = |second: i64| {
            let mut bytes = batch(Codec::None, 16, &["a", "b"]);
            bytes.extend(batch(Codec::None, second, &["c", "d"]));
            bytes.extend(batch(Codec::None, 40, &["e"]));
            Bytes::from(bytes)
        };
        // There may be a gap before it, and the first may begin before what was asked for.
        assert_eq!(read(three(18).to_vec(), 17, vec![]).1, 41);
        assert_eq!(read(three(32).to_vec(), 17, vec![]).1, 41);
        for second in [2, 16, 17, 39] {
            assert!(Chunk::new(three(second), 17, 41, vec![]).is_err(), "{second}");
        }
        // One beyond the end is left for the next fetch, with all that follows.
        let found = Chunk::new(three(1 << 40), 17, 41, vec![]).unwrap().unwrap();
        assert_eq!(found.next_offset(), 18);
        let rest = batch(Codec::None, 1 << 40, &["c", "d"]);
        assert!(Chunk::new(rest.clone().into(), 18, 41, vec![]).unwrap().is_none());
        assert!(Chunk::beyond(&rest, 18, 41).is_some());
        assert!(Chunk::beyond(&rest[..rest.len() - 1], 18, 41).is_none(), "it is cut off");
        assert!(Chunk::beyond(&rest, 18, (1 << 40) + 2).is_none());
        assert!(Chunk::new(three(18), 18, 41, vec![]).is_err(), "the first lies before");
        for base in [i64::MAX, i64::MAX - 2] {
            let bytes = batch(Codec::None, base, &["a", "b"]).into();
            let found = Chunk::new(bytes, 0, i64::MAX, vec![]);
            assert_eq!(found.is_ok(), base < i64::MAX, "{base}");
        }
    }

    #[test]
    fn gaps_of_compaction_count_as_read() {
        // Offsets 10 to 19, of which compaction left the first and the third.
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(0, None, Some(b"a"), &[]);
        builder.push(0, None, None, &[]);
        let gaps = with(builder.finish().into_bytes_at(10), |bytes| {
            bytes[23..27].copy_from_slice(&9i32.to_be_bytes());
            let second = bytes.len() - 5 - 1;
            // length, attributes, time, offset delta: 1 becomes 2.
            assert_eq!(bytes[second + 2], 2);
            bytes[second + 2] = 4;
        });
        let empty = with(batch(Codec::None, 20, &["x"]), |bytes| {
            bytes[23..27].copy_from_slice(&4i32.to_be_bytes());
            bytes[57..61].copy_from_slice(&0i32.to_be_bytes());
        });
        let mut bytes = gaps;
        let mut empty = empty[..HEADER_BYTES].to_vec();
        empty[8..12].copy_from_slice(&((HEADER_BYTES - 12) as i32).to_be_bytes());
        bytes.extend(with(empty, |_| ()));
        let (rows, next) = read(bytes, 10, vec![]);
        assert_eq!(rows, [(10, "a".to_owned()), (12, String::new())]);
        assert_eq!(next, 25);
    }

    #[test]
    fn what_was_given_up_is_left_out_and_what_was_committed_is_not() {
        let mut bytes = of_transaction(batch(Codec::None, 0, &["gone"]), 7, false);
        bytes.extend(of_transaction(batch(Codec::None, 1, &["kept"]), 8, false));
        bytes.extend(marker(2, 7, false));
        bytes.extend(marker(3, 8, true));
        bytes.extend(of_transaction(batch(Codec::None, 4, &["later"]), 7, false));
        bytes.extend(marker(5, 7, true));
        let (rows, next) = read(bytes.clone(), 0, vec![(0, 7)]);
        assert_eq!(rows, [(1, "kept".to_owned()), (4, "later".to_owned())]);
        assert_eq!(next, 6);
        // Without the list everything is there but the markers.
        assert_eq!(read(bytes, 0, vec![]).0.len(), 3);
    }

    #[test]
    fn damage_is_found_and_never_panics() {
        let mut bytes = batch(Codec::Lz4, 0, &["a", "b", &"c".repeat(300)]);
        bytes.extend(batch(Codec::None, 3, &["d"]));
        for at in 0..bytes.len() {
            for bit in [1u8, 0x80] {
                let mut broken = bytes.clone();
                broken[at] ^= bit;
                let Ok(Some(mut chunk)) = Chunk::new(broken.into(), 0, i64::MAX, vec![]) else {
                    continue;
                };
                let mut rows = 0;
                let mut failed = false;
                while !chunk.is_empty() {
                    match chunk.take(1) {
                        Ok(records) => rows += records.len(),
                        Err(_) => {
                            failed = true;
                            break;
                        }
                    }
                }
                // Offset and epoch stand before what the checksum covers.
                assert!(failed || at % 94 < 17 || rows <= 4, "{at}");
                if at >= HEADER_BYTES && at < bytes.len() - 80 {
                    assert!(failed, "a flipped bit at {at} was not seen");
                }
            }
        }
    }
}
