//! Follows a topic and shows its records decoded, those that a condition in SQL keeps.

mod last;
mod rows;

use super::offsets::seek;
use super::topics::no_partition;
use super::{Reply, Service, end};
use crate::answers::{self, Tapped};
use crate::protocol::{Position, RowFormat};
use crate::{Error, Result};
use futures::StreamExt;
use futures::stream;
use last::{InTimeOrder, last_places};
use millstream_core::Records;
use millstream_log::{PartitionLog, Reader};
use rows::Rows;
use serde_json::Value;

/// What one read brings at most, so that a topic of many partitions is not all in memory.
const READ_BYTES: usize = 128 << 10;

pub struct Order {
    pub topic: String,
    pub from: Position,
    pub partition: Option<u32>,
    pub filter: Option<String>,
    pub limit: Option<u64>,
    pub follow: bool,
    pub format: RowFormat,
}

/// One partition and where to stop.
struct Feed {
    partition: u32,
    reader: Reader,
    upto: Option<i64>,
}

/// Gives rows to the one who asked, up to the limit.
struct Shown<'a> {
    reply: &'a Reply,
    left: u64,
    rows: u64,
}

impl Service {
    pub async fn tap(&self, order: Order, reply: Reply) -> Result<Value> {
        let topic = self.topic(&order.topic)?;
        let chosen = match order.partition {
            Some(index) if index >= topic.partitions() => return Err(no_partition(&topic, index)),
            Some(index) => index..index + 1,
            None => 0..topic.partitions(),
        };
        let partitions = chosen
            .map(|index| topic.partition(index).ok_or_else(|| no_partition(&topic, index)))
            .collect::<Result<Vec<PartitionLog>>>()?;
        let mut rows = Rows::new(self.home().registry.clone(), order.format, order.filter.clone());
        // A mistake in the condition is told even where there is no row to ask it of.
        let is_empty = partitions.iter().all(|p| p.start_offset() == p.end_offset());
        rows.check_condition(is_empty.then_some(&*order.topic)).await?;

        // Nothing is appended to a directory that is stopped.
        let follow = order.follow && self.0.engine.is_some();
        let mut shown = Shown { reply: &reply, left: order.limit.unwrap_or(u64::MAX), rows: 0 };
        let mut froms = Vec::new();
        if let Position::Last(wanted) = order.from {
            let places = last_places(&partitions, wanted)?;
            let mut feeds = Vec::new();
            for ((partition, from), upto) in partitions.iter().zip(places.from).zip(&places.upto) {
                feeds.push(Feed::new(partition, from, Some(*upto))?);
            }
            let mut merged = InTimeOrder::new(feeds);
            while shown.left > 0
                && let Some(row) = merged.next(&mut rows).await?
            {
                shown.give(row).await?;
            }
            if follow {
                froms = places.upto;
            }
        } else {
            for partition in &partitions {
                froms.push(match seek(partition, order.from) {
                    // With many partitions an offset need not be in each.
                    Err(_) if order.partition.is_none() => partition.end_offset(),
                    from => from?,
                });
            }
        }
        let mut feeds = Vec::new();
        for (partition, from) in partitions.iter().zip(froms) {
            let upto = (!follow).then(|| partition.end_offset());
            feeds.push(Box::pin(read(Feed::new(partition, from, upto)?)));
        }
        let mut records = stream::select_all(feeds);
        while shown.left > 0
            && let Some(read) = records.next().await
        {
            let (partition, records) = read?;
            for row in rows.of(partition, &records).await? {
                if shown.left > 0 {
                    shown.give(row).await?;
                }
            }
        }
        end(Tapped { rows: shown.rows, ..rows.not_shown })
    }
}

impl Shown<'_> {
    async fn give(&mut self, row: answers::Record) -> Result<()> {
        self.reply.row(row).await?;
        self.left -= 1;
        self.rows += 1;
        Ok(())
    }
}

impl Feed {
    fn new(partition: &PartitionLog, from: i64, upto: Option<i64>) -> Result<Self> {
        let reader = Reader::new(partition, from, READ_BYTES)?;
        Ok(Self { partition: partition.index(), reader, upto })
    }

    /// The next records up to the end; none when it is reached.
    fn try_next(&mut self) -> Result<Option<Records>> {
        let Some(upto) = self.upto.filter(|upto| self.reader.offset() < *upto) else {
            return Ok(None);
        };
        let Some(records) = self.reader.try_next()? else { return Ok(None) };
        let within = records.iter().take_while(|record| record.offset < upto).count();
        Ok(Some(if within == records.len() { records } else { records.slice_rows(0, within) }))
    }
}

fn read(feed: Feed) -> impl futures::Stream<Item = Result<(u32, Records)>> {
    stream::unfold(Some(feed), async |feed| {
        let mut feed = feed?;
        let next = match feed.upto {
            Some(_) => feed.try_next().transpose()?,
            None => feed.reader.next().await.map_err(Error::from),
        };
        match next {
            Ok(records) => Some((Ok((feed.partition, records)), Some(feed))),
            Err(error) => Some((Err(error), None)),
        }
    })
}
