//! Writes rows to a topic of the embedded log: encoded by a format, keyed by a column, partitioned
//! by the key's murmur2 as Kafka's Java client does, one record batch a partition.

use crate::record_columns::RecordColumns;
use arrow_array::RecordBatch;
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Encoder, Receipt, Result, Sink};
use millstream_log::{BatchBuilder, Durable, Topic, partition_for};
use std::sync::Arc;

pub struct TopicSinkOptions {
    pub topic: Topic,
    pub encoder: Box<dyn Encoder>,
    pub columns: RecordColumns,
}

pub struct TopicSink {
    options: TopicSinkOptions,
    builders: Vec<BatchBuilder>,
    /// Where the next batch without keys goes.
    next_partition: u32,
    /// A batch of which some partitions were written when another failed.
    half: Option<Half>,
}

/// How far a batch got. When it is given again it goes on from here, so that a partition that has
/// room does not get it twice because another has none.
struct Half {
    batch: RecordBatch,
    unkeyed: u32,
    accepted: Vec<bool>,
    rows: u64,
    bytes: u64,
    durable: Vec<Durable>,
}

impl Half {
    fn is_of(&self, batch: &RecordBatch) -> bool {
        let (ours, theirs) = (self.batch.columns(), batch.columns());
        self.batch.num_rows() == batch.num_rows()
            && ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(ours, theirs)| Arc::ptr_eq(ours, theirs))
    }
}

impl TopicSink {
    pub fn new(options: TopicSinkOptions) -> Self {
        let codec = options.topic.options().codec;
        let partitions = options.topic.partitions();
        Self {
            builders: (0..partitions).map(|_| BatchBuilder::new(codec)).collect(),
            next_partition: 0,
            half: None,
            options,
        }
    }
}

#[async_trait]
impl Sink for TopicSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let columns = &self.options.columns;
        let encoded = self.options.encoder.encode(&*columns.values(&batch.rows)?)?;
        let parts = columns.of(&batch.rows)?;
        let mut rejected = Vec::new();

        let partitions = self.builders.len() as u32;
        let begun = self.half.take().filter(|half| half.is_of(&batch.rows));
        let mut half = begun.unwrap_or_else(|| {
            let unkeyed = self.next_partition % partitions;
            self.next_partition = unkeyed + 1;
            Half {
                batch: batch.rows.clone(),
                unkeyed,
                accepted: vec![false; partitions as usize],
                rows: 0,
                bytes: 0,
                durable: Vec::new(),
            }
        });
        self.builders.iter_mut().for_each(BatchBuilder::clear);
        let mut refused = encoded.rejected.iter().cloned().peekable();
        for row in 0..encoded.len() {
            let unencodable = refused.next_if(|(refused, _)| *refused as usize == row);
            let value = match (parts.is_tombstone(row), unencodable) {
                (Ok(true), _) => None,
                (Ok(false), None) => Some(encoded.row(row)),
                (Ok(false), Some((_, why))) | (Err(why), _) => {
                    rejected.push((row as u32, why));
                    continue;
                }
            };
            let key = parts.key(row);
            let partition = key.map_or(half.unkeyed, |key| partition_for(key, partitions));
            self.builders[partition as usize].push(parts.timestamp(row), key, value, &[]);
        }

        for (partition, builder) in self.builders.iter_mut().enumerate() {
            if builder.is_empty() || half.accepted[partition] {
                continue;
            }
            let rows = builder.len() as u64;
            let log = self.options.topic.partition(partition as u32).ok_or_else(|| {
                millstream_core::Error::stop("no_partition", "a partition is gone")
            })?;
            let built = builder.finish();
            match log.append(&built) {
                Ok(appended) => {
                    half.accepted[partition] = true;
                    half.durable.push(appended.durable);
                    half.rows += rows;
                    half.bytes += built.as_bytes().len() as u64;
                    builder.reuse(built);
                }
                Err(error) => {
                    self.half = Some(half);
                    return Err(error.into());
                }
            }
        }
        let Half { rows, bytes, durable, .. } = half;
        Ok(Receipt {
            rejected,
            rows,
            bytes,
            durable: async move {
                for part in durable {
                    part.await?;
                }
                Ok(())
            }
            .boxed(),
        })
    }
}
