//! Appends to the embedded log, acknowledged on disk: a writer for each of 20 partitions.

use crate::generate::{Event, Generator, SEED};
use crate::job::{Measured, Meter, Scratch};
use crate::store::FILES;
use anyhow::Result;
use millstream_log::{BatchBuilder, Codec, Durable, Log, Options, PartitionLog, TopicOptions};
use std::collections::VecDeque;

const BATCH_ROWS: u64 = 500;
/// Appends of one partition that wait for their sync.
const OUTSTANDING: usize = 8;

/// Builds batches and appends them until every one is durable.
pub fn append(messages: u64, codec: Codec) -> Result<Measured> {
    let scratch = Scratch::new("log")?;
    let log = Log::open(scratch.path(), Options::default())?;
    let options = TopicOptions { partitions: FILES as u32, codec, ..TopicOptions::default() };
    let topic = log.create_topic("navigation", options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let share = messages / FILES;
    let mut writers = Vec::new();
    for index in 0..FILES {
        let partition = topic.partition(index as u32).expect("the topic was made with them");
        let mut generator = Generator::new(SEED + index);
        let mut events: Vec<Event> = (0..BATCH_ROWS).map(|_| Event::default()).collect();
        events.iter_mut().for_each(|event| generator.next_into(event));
        writers.push((partition, events));
    }
    let mut meter = Meter::paused();
    meter.resume();
    runtime.block_on(async {
        let tasks: Vec<_> = writers
            .into_iter()
            .map(|(partition, events)| tokio::spawn(write(partition, events, share, codec)))
            .collect();
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(())
    })?;
    meter.pause();
    let stats = log.stats();
    let name = format!("log append, 20 partitions, {}", codec.name());
    let mut measured = meter.measured(&name, share * FILES, stats.bytes_appended)?;
    measured.extra.insert("fsyncs".into(), stats.fsyncs as f64);
    log.close();
    Ok(measured)
}

async fn write(
    partition: PartitionLog,
    events: Vec<Event>,
    share: u64,
    codec: Codec,
) -> millstream_log::Result<()> {
    let mut builder = BatchBuilder::new(codec);
    let mut outstanding: VecDeque<Durable> = VecDeque::new();
    let mut left = share as usize;
    while left > 0 {
        let count = left.min(events.len());
        left -= count;
        for event in &events[..count] {
            builder.push(event.seen_at, Some(&event.uid), Some(&event.frame), &[]);
        }
        let batch = builder.finish();
        outstanding.push_back(partition.append(&batch)?.durable);
        builder.reuse(batch);
        if outstanding.len() >= OUTSTANDING
            && let Some(oldest) = outstanding.pop_front()
        {
            oldest.await?;
        }
    }
    for durable in outstanding {
        durable.await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_are_counted_and_synced() {
        let measured = append(2_000, Codec::None).unwrap();
        assert_eq!(measured.messages, 2_000);
        assert!(measured.bytes > 2_000 * 290 && measured.extra["fsyncs"] >= 20.0);
    }
}
