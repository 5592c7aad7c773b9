//! A partition that is shown: of the embedded log, or of a Kafka cluster.

use super::super::offsets::seek;
use super::READ_BYTES;
use crate::protocol::Position;
use crate::{Error, Result};
use millstream_connectors::kafka::KafkaSource;
use millstream_core::{PartitionReader, Place, Records, Source as _, Start};
use millstream_log::{PartitionLog, Reader};
use std::sync::Arc;
use std::time::Duration;

/// After so long without a record a partition is asked whether it still has what was there.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub enum Partition {
    Log(PartitionLog),
    Kafka {
        source: Arc<KafkaSource>,
        index: u32,
        /// Where it began and ended when it was looked at.
        start: i64,
        end: i64,
    },
}

impl Partition {
    pub async fn of_kafka(source: Arc<KafkaSource>, index: u32) -> Result<Partition> {
        let start = source.offset_of(index, Place::Earliest).await?;
        let end = source.offset_of(index, Place::Latest).await?;
        Ok(Partition::Kafka { source, index, start, end })
    }

    pub fn index(&self) -> u32 {
        match self {
            Partition::Log(log) => log.index(),
            Partition::Kafka { index, .. } => *index,
        }
    }

    pub fn start(&self) -> i64 {
        match self {
            Partition::Log(log) => log.start_offset(),
            Partition::Kafka { start, .. } => *start,
        }
    }

    pub fn end(&self) -> i64 {
        match self {
            Partition::Log(log) => log.end_offset(),
            Partition::Kafka { end, .. } => *end,
        }
    }

    /// The offset of a position.
    pub async fn seek(&self, to: Position) -> Result<i64> {
        let (source, index) = match self {
            Partition::Log(log) => return seek(log, to),
            Partition::Kafka { source, index, .. } => (source, *index),
        };
        Ok(match to {
            Position::Earliest => self.start(),
            Position::Latest => self.end(),
            Position::Last(records) => {
                let records = i64::try_from(records).unwrap_or(i64::MAX);
                self.end().saturating_sub(records).max(self.start())
            }
            Position::Time(at) => source.offset_of(index, Place::Time(at)).await?,
            Position::Offset(at) => source.offset_of(index, Place::Offset(at)).await?,
        })
    }

    pub async fn read_from(&self, offset: i64) -> Result<From> {
        Ok(match self {
            Partition::Log(log) => From::Log(Reader::new(log, offset, READ_BYTES)?),
            Partition::Kafka { source, index, .. } => {
                let reader = source.reader(*index, Start::Offset(offset)).await?;
                From::Kafka { reader, offset, source: source.clone(), index: *index }
            }
        })
    }
}

/// Reads a partition in order.
pub enum From {
    Log(Reader),
    Kafka { reader: Box<dyn PartitionReader>, offset: i64, source: Arc<KafkaSource>, index: u32 },
}

impl From {
    /// Where the next records begin.
    pub fn offset(&self) -> i64 {
        match self {
            From::Log(reader) => reader.offset(),
            From::Kafka { offset, .. } => *offset,
        }
    }

    /// The next records; waits until there are some. Cancel safe.
    pub async fn next(&mut self) -> Result<Records> {
        match self {
            From::Log(reader) => reader.next().await.map_err(Error::from),
            From::Kafka { .. } => match self.next_before(i64::MAX).await? {
                Some(records) => Ok(records),
                None => std::future::pending().await,
            },
        }
    }

    /// The next records that begin before `upto`, which are there. Those beyond it may be among
    /// them. Cancel safe.
    pub async fn next_before(&mut self, upto: i64) -> Result<Option<Records>> {
        match self {
            _ if self.offset() >= upto => Ok(None),
            From::Log(reader) => Ok(reader.try_next()?),
            From::Kafka { reader, offset, source, index } => loop {
                let records = match tokio::time::timeout(QUIET, reader.next()).await {
                    Ok(records) => records?,
                    Err(_) if upto == i64::MAX => continue,
                    // Retention may have taken what was there.
                    Err(_) if source.offset_of(*index, Place::Earliest).await? >= upto => {
                        return Ok(None);
                    }
                    Err(_) => continue,
                };
                if let Some(records) = &records {
                    *offset = records.next_offset();
                }
                return Ok(records);
            },
        }
    }
}
