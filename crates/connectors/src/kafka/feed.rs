//! What stands between the fetches of a partition and its reader: a bounded queue of chunks.

use super::eras::{EpochEnd, Era, Eras};
use super::fetcher::Fetcher;
use super::records::Chunk;
use async_trait::async_trait;
use millstream_core::{Error, PartitionReader, Records, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// So many fetches in a row do not overtake what is told of the end.
const BEYOND_MAX: u32 = 5;

/// A partition that is ours.
pub(super) struct Feed {
    /// The source's number of it.
    pub id: u32,
    pub topic: Arc<str>,
    pub topic_id: Uuid,
    pub index: i32,
    /// The offset after the last record that may be read; -1 while nobody has said.
    end: AtomicI64,
    state: Mutex<State>,
    ready: Notify,
}

struct State {
    /// How often a fetch from here brought a batch beyond the end.
    beyond: u32,
    /// Which reader the queue is for. A later one makes an earlier one's fetches stale.
    reader: u64,
    attached: bool,
    position: i64,
    queue: VecDeque<Chunk>,
    queued: usize,
    /// Records that were lost before `position` and not told yet.
    skipped: u64,
    failed: Option<Error>,
    rewound: Option<Rewound>,
    eras: Eras,
    /// The leader's epoch under which the position was found to be in its log.
    checked: i32,
    fetched: Instant,
}

/// Where the next reader has to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rewound {
    pub to: i64,
    /// What was read from here on is not what is there.
    pub unread: i64,
    /// How many records are lost before.
    pub lost: u64,
}

/// Where a fetch of a feed begins, and for which of its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    reader: u64,
    pub offset: i64,
    /// The leader's epoch of the record before; -1 where that is not known.
    pub epoch: i32,
    /// The leader's epoch under which that was last found to be so.
    pub checked: i32,
}

impl Feed {
    pub fn new(id: u32, topic: Arc<str>, topic_id: Uuid, index: i32) -> Self {
        Self {
            id,
            topic,
            topic_id,
            index,
            end: AtomicI64::new(-1),
            state: Mutex::new(State {
                beyond: 0,
                reader: 0,
                attached: false,
                position: 0,
                queue: VecDeque::new(),
                queued: 0,
                skipped: 0,
                failed: None,
                rewound: None,
                eras: Eras::default(),
                checked: -1,
                fetched: Instant::now(),
            }),
            ready: Notify::new(),
        }
    }

    /// Until a broker has said where it ends there may be something to read: who waits for the end
    /// must not take this for it.
    pub fn end(&self) -> i64 {
        match self.end.load(Ordering::Relaxed) {
            -1 => self.state.lock().position + 1,
            end => end,
        }
    }

    pub fn set_end(&self, end: i64) {
        self.end.store(end, Ordering::Relaxed);
    }

    /// Starts anew at an offset, for a new reader.
    pub(super) fn attach(&self, offset: i64) -> u64 {
        let mut state = self.state.lock();
        state.reader += 1;
        state.beyond = 0;
        state.attached = true;
        state.position = offset;
        state.queue.clear();
        state.queued = 0;
        state.skipped = 0;
        state.failed = None;
        state.eras.cut(offset);
        if let Some(rewound) = state.rewound.take().filter(|rewound| rewound.to == offset) {
            state.skipped = rewound.lost;
            state.eras.cut(rewound.unread);
        }
        if state.eras.before(offset).is_none() {
            state.eras = Eras::default();
        }
        state.checked = -1;
        state.fetched = Instant::now();
        state.reader
    }

    fn detach(&self, reader: u64) {
        let mut state = self.state.lock();
        if state.reader == reader {
            state.attached = false;
            state.queue.clear();
            state.queued = 0;
        }
    }

    /// Whether somebody reads it and nothing stands in the way.
    pub fn is_read(&self) -> bool {
        let state = self.state.lock();
        state.attached && state.failed.is_none()
    }

    /// Where to fetch next, while less than this many bytes wait.
    pub fn wanted(&self, queued_max: usize) -> Option<Place> {
        let state = self.state.lock();
        (state.attached && state.failed.is_none() && state.queued < queued_max).then(|| Place {
            reader: state.reader,
            offset: state.position,
            epoch: state.eras.before(state.position).unwrap_or(-1),
            checked: state.checked,
        })
    }

    /// The record before an offset that the group keeps was written under this leader.
    pub fn begins_after(&self, epoch: i32, offset: i64) {
        let mut state = self.state.lock();
        state.eras = Eras::default();
        state.eras.add(Era { epoch, from: offset - 1, to: offset });
    }

    /// The leader's epoch of the record before an offset; -1 where that is not known.
    pub fn epoch_before(&self, offset: i64) -> i32 {
        self.state.lock().eras.before(offset).unwrap_or(-1)
    }

    /// What was read says nothing of what will be: the operator has chosen where to go on.
    pub fn forget_eras(&self) {
        self.state.lock().eras = Eras::default();
    }

    /// Up to where what was read is what the leader has, after it answered so; see [`Eras::common`].
    pub fn common(&self, told: EpochEnd) -> Option<i64> {
        self.state.lock().eras.common(told)
    }

    /// The leader of this epoch has what was read before this place.
    pub fn is_checked(&self, place: Place, leader: i32) {
        let mut state = self.state.lock();
        if state.is_at(place) {
            state.checked = leader;
        }
    }

    /// Takes in what a fetch from `place` brought, unless the reader has gone elsewhere meanwhile.
    pub fn deliver(&self, place: Place, chunk: Option<Chunk>) {
        let mut state = self.state.lock();
        state.fetched = Instant::now();
        let Some(mut chunk) = chunk.filter(|_| state.is_at(place)) else { return };
        state.beyond = 0;
        chunk.skip(std::mem::take(&mut state.skipped));
        chunk.take_eras().into_iter().for_each(|era| state.eras.add(era));
        state.position = chunk.next_offset();
        state.queued += chunk.len();
        state.queue.push_back(chunk);
        drop(state);
        self.ready.notify_one();
    }

    /// A fetch from `place` brought a batch beyond the partition's end. What is told of the end may be
    /// a moment older than the batch, so that only one which stays there is not where it says.
    pub fn stays_beyond(&self, place: Place) -> bool {
        let mut state = self.state.lock();
        if !state.is_at(place) {
            return false;
        }
        state.beyond += 1;
        state.beyond >= BEYOND_MAX
    }

    /// Goes on at a later offset: so many records are lost before it.
    pub fn skip_to(&self, place: Place, offset: i64, lost: u64) {
        let mut state = self.state.lock();
        if state.is_at(place) {
            state.skipped += lost;
            state.position = offset;
            // Nothing of what was read says what stands before it.
            state.eras = Eras::default();
        }
    }

    /// Tells the reader, after it has read what waits.
    pub fn fail(&self, place: Place, error: Error) {
        let mut state = self.state.lock();
        if state.is_at(place) {
            state.failed = Some(error);
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Tells the reader, and lets the next one begin at an earlier offset.
    pub fn rewind(&self, place: Place, to: Rewound, error: Error) {
        {
            let mut state = self.state.lock();
            if !state.is_at(place) {
                return;
            }
            // What was read stays known until then: commits of it go on saying whose it was.
            state.rewound = Some(to);
        }
        self.fail(place, error);
    }

    /// Where the next reader has to begin, when it is not at the commit.
    pub fn rewound(&self) -> Option<i64> {
        self.state.lock().rewound.map(|rewound| rewound.to)
    }

    /// Whether nobody has asked the broker about it for this long.
    pub fn is_quiet(&self, since: Instant) -> bool {
        let mut state = self.state.lock();
        let quiet = state.fetched < since;
        if quiet {
            state.fetched = Instant::now();
        }
        quiet
    }

    /// What has come: of several fetches as much as one batch may hold. Cancel safe.
    async fn chunk(&self, reader: u64, bytes_max: usize) -> Result<Chunk> {
        loop {
            let ready = self.ready.notified();
            let chunks = {
                let mut state = self.state.lock();
                if state.reader != reader {
                    return Err(Error::retry("gone", "another reader took this one's place"));
                }
                let chunks = state.take(bytes_max);
                if chunks.is_empty()
                    && let Some(error) = state.failed.take()
                {
                    // Nothing is fetched until a new reader begins.
                    state.attached = false;
                    return Err(error);
                }
                chunks
            };
            match Chunk::join(chunks) {
                Some(chunk) => return Ok(chunk),
                None => ready.await,
            }
        }
    }
}

impl State {
    /// The first chunk with those that follow it.
    fn take(&mut self, bytes_max: usize) -> Vec<Chunk> {
        let Some(first) = self.queue.pop_front() else { return Vec::new() };
        let mut bytes = first.len();
        let mut chunks = vec![first];
        while let Some(chunk) = self.queue.pop_front_if(|chunk| {
            bytes + chunk.len() <= bytes_max
                && chunks.last().is_some_and(|last| chunk.follows(last))
        }) {
            bytes += chunk.len();
            chunks.push(chunk);
        }
        self.queued -= bytes;
        chunks
    }

    fn is_at(&self, place: Place) -> bool {
        self.attached && self.reader == place.reader && self.position == place.offset
    }
}

/// Reads one partition. Dropped, it pauses the partition.
pub(super) struct Reader {
    feed: Arc<Feed>,
    fetcher: Arc<Fetcher>,
    number: u64,
    chunk: Option<Chunk>,
    /// What one chunk brought beyond a batch's rows.
    ready: VecDeque<Records>,
    rows_max: usize,
    bytes_max: usize,
}

impl Reader {
    pub fn new(
        feed: Arc<Feed>,
        fetcher: Arc<Fetcher>,
        offset: i64,
        rows_max: usize,
        bytes_max: usize,
    ) -> Self {
        let number = feed.attach(offset);
        fetcher.changed();
        Self { feed, fetcher, number, chunk: None, ready: VecDeque::new(), rows_max, bytes_max }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.detach(self.number);
    }
}

#[async_trait]
impl PartitionReader for Reader {
    async fn next(&mut self) -> Result<Option<Records>> {
        if let Some(records) = self.ready.pop_front() {
            return Ok(Some(records));
        }
        if self.chunk.is_none() {
            self.chunk = Some(self.feed.chunk(self.number, self.bytes_max).await?);
            self.fetcher.has_room();
        }
        let Some(chunk) = &mut self.chunk else { return Ok(None) };
        let records = chunk.take(self.bytes_max)?;
        if chunk.is_empty() {
            self.chunk = None;
        }
        if records.len() <= self.rows_max {
            return Ok(Some(records));
        }
        for from in (0..records.len()).step_by(self.rows_max) {
            let to = records.len().min(from + self.rows_max);
            self.ready.push_back(records.slice_rows(from, to));
        }
        Ok(self.ready.pop_front())
    }

    fn end_offset(&self) -> i64 {
        self.feed.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_log::{BatchBuilder, Codec};

    fn chunk(from: i64, bytes: usize) -> Chunk {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(0, None, Some(&vec![7; bytes]), &[]);
        let bytes = builder.finish().into_bytes_at(from);
        Chunk::new(bytes.into(), from, i64::MAX, vec![]).unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_several_fetches_brought_is_one_batch_as_far_as_it_fits() {
        let feed = Feed::new(0, "t".into(), Uuid::nil(), 0);
        let reader = feed.attach(0);
        for (from, bytes) in [(0, 100), (1, 100), (2, 2_000), (3, 100)] {
            let place = feed.wanted(usize::MAX).unwrap();
            assert_eq!(place.offset, from);
            feed.deliver(place, Some(chunk(from, bytes)));
        }
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(feed.chunk(reader, 1_000).await.unwrap().next_offset());
        }
        assert_eq!(taken, [2, 3, 4], "one that is larger goes alone");
        assert_eq!(feed.state.lock().queued, 0);
    }

    #[test]
    fn nobody_takes_an_end_that_is_not_known_for_reached() {
        let feed = Feed::new(0, "t".into(), Uuid::nil(), 0);
        feed.attach(7);
        assert_eq!(feed.end(), 8);
        feed.set_end(7);
        assert_eq!(feed.end(), 7);
        feed.set_end(0);
        assert_eq!(feed.end(), 0, "an empty partition");
    }
}
