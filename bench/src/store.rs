//! The disk without us: raw writes with their syncs, and fjall by itself.

use crate::generate::{Event, Generator, SEED};
use crate::job::{Measured, Meter, Scratch};
use anyhow::{Context, Result, anyhow};
use fjall::compaction::Leveled;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const FILES: u64 = 20;
const WRITE_BYTES: usize = 256 << 10;
const BATCH_ROWS: u64 = 2048;
/// Events made beforehand, so that making them is not counted.
const POOL_ROWS: u64 = 50_000;
/// How often a pipeline commits, hence how often its rows have to be on disk.
const PERSIST_EVERY: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// Writes `bytes` into as many files as the log has partitions, from a thread each, with `syncs`
/// calls of `fdatasync` in all.
pub fn raw_writes(messages: u64, bytes: u64, syncs: u64) -> Result<Measured> {
    let scratch = Scratch::new("raw")?;
    let rounds = (syncs / FILES).max(1);
    let share = bytes / FILES;
    let mut block = Vec::with_capacity(WRITE_BYTES + 1024);
    let mut generator = Generator::new(SEED);
    let mut event = Event::default();
    while block.len() < WRITE_BYTES {
        generator.next_into(&mut event);
        block.extend_from_slice(&event.frame);
    }
    let block = &block[..WRITE_BYTES];
    let mut meter = Meter::paused();
    meter.resume();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..FILES)
            .map(|index| {
                let path = scratch.path().join(format!("{index}.raw"));
                scope.spawn(move || write_share(File::create(path)?, share, rounds, block))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow!("a writer panicked"))?.context("raw writes")
        })
    })?;
    meter.pause();
    let mut measured = meter.measured("raw writes and fdatasyncs", messages, bytes)?;
    measured.extra.insert("fsyncs".into(), (rounds * FILES) as f64);
    Ok(measured)
}

fn write_share(mut file: File, share: u64, rounds: u64, block: &[u8]) -> std::io::Result<()> {
    for round in 0..rounds {
        let mut left = (share * (round + 1) / rounds - share * round / rounds) as usize;
        while left > 0 {
            let len = left.min(block.len());
            file.write_all(&block[..len])?;
            left -= len;
        }
        file.sync_data()?;
    }
    Ok(())
}

/// Inserts rows of `bytes_each`, key and value, under the events' uid and time, a batch at a time, made durable as
/// often as a pipeline commits. fjall is set up as the tables set it up.
pub fn fjall_inserts(messages: u64, bytes_each: usize) -> Result<Measured> {
    let scratch = Scratch::new("fjall")?;
    let database = fjall::Database::builder(scratch.path())
        .cache_size(16 * MIB)
        .worker_threads(2)
        .max_journaling_size(128 * MIB)
        .manual_journal_persist(true)
        .open()?;
    let options = || {
        fjall::KeyspaceCreateOptions::default()
            .manual_journal_persist(true)
            .max_memtable_size(8 * MIB)
            .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(16 * MIB)))
    };
    let rows = database.keyspace("rows", options)?;
    let mut generator = Generator::new(SEED);
    let mut events: Vec<Event> = (0..POOL_ROWS).map(|_| Event::default()).collect();
    events.iter_mut().for_each(|event| generator.next_into(event));
    let mut bytes = 0;
    let mut persisted = Instant::now();
    let mut meter = Meter::paused();
    meter.resume();
    let mut next = 0;
    while next < messages {
        let mut batch = database.batch();
        let end = messages.min(next + BATCH_ROWS);
        for row in next..end {
            let event = &events[(row % POOL_ROWS) as usize];
            // The pool comes round again at a later time, under keys of its own.
            let time = event.seen_at + (row / POOL_ROWS) as i64 * 60_000;
            let mut key = event.uid.clone();
            key.extend_from_slice(&time.to_be_bytes());
            let value_bytes = bytes_each.saturating_sub(key.len());
            let mut value = Vec::with_capacity(value_bytes);
            while value.len() < value_bytes {
                let left = value_bytes - value.len();
                value.extend_from_slice(&event.frame[..left.min(event.frame.len())]);
            }
            bytes += (key.len() + value.len()) as u64;
            batch.insert(&rows, key, value);
        }
        batch.commit()?;
        next = end;
        if persisted.elapsed() >= PERSIST_EVERY || next == messages {
            database.persist(fjall::PersistMode::SyncData)?;
            persisted = Instant::now();
        }
    }
    meter.pause();
    meter.measured("bare fjall, batched inserts", messages, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written() {
        let measured = raw_writes(10, 10_000_000, 40).unwrap();
        assert_eq!(measured.extra["fsyncs"], 40.0);
        assert_eq!(fjall_inserts(5_000, 125).unwrap().bytes, 5_000 * 125);
    }
}
