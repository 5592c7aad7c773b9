//! Reads a topic of the embedded log.

use async_trait::async_trait;
use millstream_core::{Error, PartitionReader, Place, Records, Result, Source, Start};
use millstream_log::{PartitionLog, Reader, Topic};
use std::collections::VecDeque;

#[derive(Debug, Clone, Copy)]
pub struct TopicSourceOptions {
    pub batch_rows: usize,
    pub batch_bytes: usize,
}

pub struct TopicSource {
    topic: Topic,
    name: String,
    options: TopicSourceOptions,
}

impl TopicSource {
    pub fn new(topic: Topic, options: TopicSourceOptions) -> Self {
        let name = topic.name().to_owned();
        Self { topic, name, options }
    }

    fn partition(&self, partition: u32) -> Result<PartitionLog> {
        self.topic.partition(partition).ok_or_else(|| {
            Error::stop(
                "no_partition",
                format!(
                    "topic {} has {} partitions, not {}",
                    self.name,
                    self.topic.partitions(),
                    partition + 1
                ),
            )
        })
    }
}

#[async_trait]
impl Source for TopicSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> String {
        format!("topic:{}", self.topic.id())
    }

    fn partitions(&self) -> u32 {
        self.topic.partitions()
    }

    async fn reader(&self, partition: u32, start: Start) -> Result<Box<dyn PartitionReader>> {
        let log = self.partition(partition)?;
        let offset = match start {
            Start::Earliest => log.start_offset(),
            Start::Latest => log.end_offset(),
            Start::Offset(offset) => offset,
        };
        let reader = Reader::new(&log, offset, self.options.batch_bytes)?;
        Ok(Box::new(TopicReader {
            log,
            reader,
            ready: VecDeque::new(),
            rows_max: self.options.batch_rows,
        }))
    }

    async fn offset_of(&self, partition: u32, place: Place) -> Result<i64> {
        let log = self.partition(partition)?;
        Ok(match place {
            Place::Earliest => log.start_offset(),
            Place::Latest => log.end_offset(),
            Place::Time(time) => log.offset_at_time(time)?.unwrap_or_else(|| log.end_offset()),
            Place::Offset(offset) if (log.start_offset()..=log.end_offset()).contains(&offset) => {
                offset
            }
            Place::Offset(offset) => {
                return Err(Error::stop(
                    "offset_out_of_range",
                    format!(
                        "offset {offset} is not in partition {partition} of {}: it holds {} to {}",
                        self.name,
                        log.start_offset(),
                        log.end_offset()
                    ),
                ));
            }
        })
    }
}

struct TopicReader {
    log: PartitionLog,
    reader: Reader,
    /// What one fetch brought beyond a batch's rows.
    ready: VecDeque<Records>,
    rows_max: usize,
}

#[async_trait]
impl PartitionReader for TopicReader {
    async fn next(&mut self) -> Result<Option<Records>> {
        if let Some(records) = self.ready.pop_front() {
            return Ok(Some(records));
        }
        let records = self.reader.next().await?;
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
        self.log.end_offset()
    }
}
