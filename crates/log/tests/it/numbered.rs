//! A producer that numbers its batches and sends each until it is acknowledged, against a disk that
//! loses what it may: in the end each is in the log once, in order, where it was said to be.

use crate::lossy::{Disk, Fault};
use bytes::Bytes;
use millstream_log::codec::records_of;
use millstream_log::{BatchBuilder, Codec, Error, Log, Options, Raw, RawBatch, TopicOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DIR: &str = "/disk/log";
const BATCHES: i32 = 40;

/// Two records, whose numbers are what they say.
fn batch(sequence: i32) -> Vec<RawBatch> {
    let mut builder = BatchBuilder::new(Codec::None);
    for at in 0..2 {
        builder.push(0, None, Some(&(sequence + at).to_be_bytes()), &[]);
    }
    let mut bytes = builder.finish().into_bytes_at(0);
    bytes[43..51].copy_from_slice(&9i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&0i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    RawBatch::split(Bytes::from(bytes)).unwrap()
}

fn open(disk: &Disk) -> Result<Log, Error> {
    let options = Options {
        files: Arc::new(disk.clone()),
        sync_threads: 1,
        recovery_every: Duration::MAX,
        ..Options::default()
    };
    Log::open(Path::new(DIR), options)
}

/// Sends what is not acknowledged yet, at most four at a time, until an error. Gives the offset that
/// each was told.
fn produce(
    log: &Log,
    rng: &mut StdRng,
    told: &mut Vec<i64>,
    faults: &mut bool,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let partition = log.topic("t").unwrap().partition(0).unwrap();
    while (told.len() as i32) < BATCHES {
        let first = told.len() as i32;
        let many = rng.random_range(1..=4).min(BATCHES - first);
        let mut waiting = VecDeque::new();
        for at in 0..many {
            match partition.append_raw(&batch((first + at) * 2)) {
                Ok(appended) => waiting.push_back(appended),
                Err(error) if waiting.is_empty() => return Err(error),
                Err(_) => {
                    *faults = true;
                    break;
                }
            }
        }
        // Also while the syncs are under way.
        if rng.random_bool(0.3) {
            let _ = log.save_points();
        }
        for appended in waiting {
            runtime.block_on(appended.durable)?;
            told.push(appended.base_offset);
        }
    }
    Ok(())
}

fn run(seed: u64) -> bool {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut disk = Disk::new(seed);
    {
        let log = open(&disk).unwrap();
        let options = TopicOptions { segment_bytes: 600, ..TopicOptions::default() };
        log.create_topic("t", options).unwrap();
        log.close();
    }
    let mut told = Vec::new();
    let mut faults = false;
    for _ in 0..200 {
        let fault = match rng.random_range(0..4) {
            0 => Fault::Eio(rng.random_range(1..4)),
            1 => Fault::Full(rng.random_range(1..4)),
            _ => Fault::Crash,
        };
        disk.set_fault(Some((rng.random_range(1..120), fault)));
        if let Ok(log) = open(&disk) {
            // A client tries again for as long as it is not told that it cannot be.
            for _ in 0..5 {
                match produce(&log, &mut rng, &mut told, &mut faults) {
                    Err(error @ (Error::Sequence { .. } | Error::ProducerEpoch { .. })) => {
                        panic!("seed {seed}: {error}")
                    }
                    Err(_) => faults = true,
                    Ok(()) => break,
                }
            }
            log.close();
        }
        disk.set_fault(None);
        if disk.crashed() {
            faults = true;
            disk = match rng.random_bool(0.5) {
                true => disk.power_lost(rng.random()),
                false => disk.killed(),
            };
        }
        if told.len() as i32 == BATCHES {
            break;
        }
    }
    assert_eq!(told.len() as i32, BATCHES, "seed {seed}");
    let log = open(&disk).unwrap();
    let partition = log.topic("t").unwrap().partition(0).unwrap();
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < partition.end_offset() {
        let Raw::Batches { bytes, .. } = partition.read_raw(offset, 1 << 20).unwrap() else {
            panic!("offset {offset} lies before the end")
        };
        let records = records_of(bytes.to_vec(), offset).unwrap();
        for record in records.iter() {
            let value = i32::from_be_bytes(*record.value.unwrap().first_chunk().unwrap());
            found.push((value, record.offset));
        }
        offset = records.next_offset();
    }
    let due: Vec<(i32, i64)> = told
        .iter()
        .enumerate()
        .flat_map(|(at, offset)| [(at as i32 * 2, *offset), (at as i32 * 2 + 1, offset + 1)])
        .collect();
    assert_eq!(found, due, "seed {seed}");
    faults
}

#[test]
fn every_numbered_batch_is_there_once_whatever_the_disk_does() {
    let seeds = std::env::var("MILLSTREAM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let faults = (0..seeds.unwrap_or(150)).filter(|seed| run(*seed)).count();
    assert!(faults > 50, "{faults} runs saw a fault");
}
