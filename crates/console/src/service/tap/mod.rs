//! Follows a topic and shows its records decoded, those that a condition in SQL keeps.

mod last;
mod partition;
mod rows;

use super::elsewhere::read_topic;
use super::{Reply, Service, end};
use crate::answers::{self, Tapped};
use crate::protocol::{Elsewhere, Position, RowFormat};
use crate::{Error, Result};
use futures::StreamExt;
use futures::stream;
use last::{InTimeOrder, last_places};
use millstream_core::{Records, Source as _};
use partition::{From, Partition};
use rows::Rows;
use serde_json::Value;
use std::sync::Arc;

/// What one read brings at most, so that a topic of many partitions is not all in memory.
const READ_BYTES: usize = 128 << 10;
/// Partitions of a cluster that are asked about at the same time.
const PARTITIONS_AT_ONCE: usize = 8;

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
    from: From,
    upto: Option<i64>,
}

/// Gives rows to the one who asked, up to the limit.
struct Shown<'a> {
    reply: &'a Reply,
    left: u64,
    rows: u64,
}

impl Service {
    pub async fn tap(&self, order: Order, elsewhere: &Elsewhere, reply: Reply) -> Result<Value> {
        let place = self.place_of_topic(elsewhere, &order.topic)?;
        let is_elsewhere = place.cluster.is_some();
        let partitions = match place.cluster {
            Some(cluster) => {
                let source = read_topic(cluster, &order.topic, place.committed_only).await?;
                let source = Arc::new(source);
                let chosen = chosen(&order, source.partitions())?;
                let looked = chosen.map(|index| Partition::of_kafka(source.clone(), index));
                let looked = stream::iter(looked).buffered(PARTITIONS_AT_ONCE);
                looked.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>>>()?
            }
            None => {
                let topic = self.home().log.topic(&order.topic);
                let topic = topic.ok_or_else(|| self.no_topic(&order.topic))?;
                let chosen = chosen(&order, topic.partitions())?;
                chosen.filter_map(|index| topic.partition(index)).map(Partition::Log).collect()
            }
        };
        let mut rows = Rows::new(place.registry, order.format, order.filter.clone());
        // A mistake in the condition is told even where there is no row to ask it of.
        let is_empty = partitions.iter().all(|p| p.start() == p.end());
        rows.check_condition(is_empty.then_some(&*order.topic)).await?;

        // Nothing is appended to a directory that is stopped.
        let follow = order.follow && (self.0.engine.is_some() || is_elsewhere);
        let mut shown = Shown { reply: &reply, left: order.limit.unwrap_or(u64::MAX), rows: 0 };
        let mut froms = Vec::new();
        if let Position::Last(wanted) = order.from {
            let places = last_places(&partitions, wanted).await?;
            let mut feeds = Vec::new();
            for ((partition, from), upto) in partitions.iter().zip(places.from).zip(&places.upto) {
                feeds.push(Feed::new(partition, from, Some(*upto)).await?);
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
                froms.push(match partition.seek(order.from).await {
                    // With many partitions an offset need not be in each.
                    Err(error) if order.partition.is_none() && is_beyond(&error, order.from) => {
                        partition.end()
                    }
                    from => from?,
                });
            }
        }
        let mut feeds = Vec::new();
        for (partition, from) in partitions.iter().zip(froms) {
            let upto = (!follow).then(|| partition.end());
            feeds.push(Box::pin(read(Feed::new(partition, from, upto).await?)));
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
    async fn new(partition: &Partition, from: i64, upto: Option<i64>) -> Result<Self> {
        let reader = partition.read_from(from).await?;
        Ok(Self { partition: partition.index(), from: reader, upto })
    }

    /// The next records up to the end; none when it is reached.
    async fn next_before_end(&mut self) -> Result<Option<Records>> {
        let Some(upto) = self.upto else { return Ok(None) };
        let Some(records) = self.from.next_before(upto).await? else { return Ok(None) };
        let within = records.iter().take_while(|record| record.offset < upto).count();
        Ok(Some(if within == records.len() { records } else { records.slice_rows(0, within) }))
    }
}

fn chosen(order: &Order, partitions: u32) -> Result<std::ops::Range<u32>> {
    match order.partition {
        Some(index) if index >= partitions => {
            let there = millstream_engine::partitions_of(&order.topic, partitions);
            Err(Error::mistake(format!("{there}, not {index}")))
        }
        Some(index) => Ok(index..index + 1),
        None => Ok(0..partitions),
    }
}

/// Whether a partition has not the offset that was asked for.
fn is_beyond(error: &Error, from: Position) -> bool {
    matches!(from, Position::Offset(_)) && error.code == crate::Code::Mistake
}

fn read(feed: Feed) -> impl futures::Stream<Item = Result<(u32, Records)>> {
    stream::unfold(Some(feed), async |feed| {
        let mut feed = feed?;
        let next = match feed.upto {
            Some(_) => feed.next_before_end().await.transpose()?,
            None => feed.from.next().await,
        };
        match next {
            Ok(records) => Some((Ok((feed.partition, records)), Some(feed))),
            Err(error) => Some((Err(error), None)),
        }
    })
}
