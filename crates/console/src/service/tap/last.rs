//! The last records of a topic, over all its partitions.
//!
//! The log keeps no order between partitions, so the records' timestamps give it. Within a partition
//! the order of the offsets stays: a record counts as late as the latest before it.

use super::rows::Rows;
use super::{Feed, Partition};
use crate::Result;
use crate::answers::Record;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Where the last records begin and end in each partition.
pub struct Places {
    pub from: Vec<i64>,
    pub upto: Vec<i64>,
}

/// Finds the `wanted` last records of these partitions as they are now.
pub async fn last_places(partitions: &[Partition], wanted: u64) -> Result<Places> {
    let most = usize::try_from(wanted).unwrap_or(usize::MAX);
    let upto: Vec<i64> = partitions.iter().map(Partition::end).collect();
    // The latest so far, the earliest of them on top. Of one time the partitions take turns.
    let mut latest: BinaryHeap<Reverse<(i64, i64, usize)>> = BinaryHeap::new();
    for (at, (partition, upto)) in partitions.iter().zip(&upto).enumerate() {
        let start = partition.start();
        let mut span = i64::try_from(wanted).unwrap_or(i64::MAX);
        let found = loop {
            let from = upto.saturating_sub(span).max(start);
            let found = times(partition, from, *upto, most).await?;
            // Not every offset has a record: what was compacted away, the ends of transactions.
            if found.len() >= most || from == start {
                break found;
            }
            span = span.saturating_mul(8);
        };
        let mut time = i64::MIN;
        for (offset, timestamp) in found {
            time = time.max(timestamp);
            latest.push(Reverse((time, offset - upto, at)));
            if latest.len() > most {
                latest.pop();
            }
        }
    }
    let mut from = upto.clone();
    for Reverse((_, before_end, at)) in latest {
        from[at] = from[at].min(upto[at] + before_end);
    }
    Ok(Places { from, upto })
}

/// The offsets and times of the last `most` records between two offsets.
async fn times(
    partition: &Partition,
    from: i64,
    upto: i64,
    most: usize,
) -> Result<VecDeque<(i64, i64)>> {
    let mut times = VecDeque::new();
    if from >= upto {
        return Ok(times);
    }
    let mut reader = partition.read_from(from).await?;
    while let Some(records) = reader.next_before(upto).await? {
        for record in records.iter().filter(|record| record.offset < upto) {
            times.push_back((record.offset, record.timestamp));
            if times.len() > most {
                times.pop_front();
            }
        }
    }
    Ok(times)
}

/// Feeds with an end, their rows by time.
pub struct InTimeOrder {
    feeds: Vec<Buffered>,
}

struct Buffered {
    feed: Feed,
    rows: VecDeque<Record>,
    ended: bool,
    /// The latest time that was given.
    time: i64,
}

impl InTimeOrder {
    pub fn new(feeds: Vec<Feed>) -> Self {
        let buffered =
            |feed| Buffered { feed, rows: VecDeque::new(), ended: false, time: i64::MIN };
        Self { feeds: feeds.into_iter().map(buffered).collect() }
    }

    pub async fn next(&mut self, rows: &mut Rows) -> Result<Option<Record>> {
        for buffered in &mut self.feeds {
            while buffered.rows.is_empty() && !buffered.ended {
                match buffered.feed.next_before_end().await? {
                    Some(records) => {
                        let partition = buffered.feed.partition;
                        buffered.rows.extend(rows.of(partition, &records).await?);
                    }
                    None => buffered.ended = true,
                }
            }
        }
        let time =
            |buffered: &Buffered| buffered.rows.front().map(|row| row.timestamp.max(buffered.time));
        let first = self.feeds.iter_mut().filter(|b| !b.rows.is_empty()).min_by_key(|b| time(b));
        Ok(first.and_then(|buffered| {
            let row = buffered.rows.pop_front()?;
            buffered.time = buffered.time.max(row.timestamp);
            Some(row)
        }))
    }
}
