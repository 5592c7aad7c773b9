//! The log against a disk that loses what it may: at every operation of a workload of appends,
//! rolls, recoveries, retention and repairs the machine stops, the process dies, a write or a sync
//! fails, or the disk is full. A model of what was acknowledged, and of what a reader was shown,
//! says what must be there afterwards.

use crate::lossy::{Disk, Fault};
use millstream_log::{
    BatchBuilder, Codec, EncodedBatch, Error, Log, Options, PartitionLog, Reader, TopicOptions,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const DIR: &str = "/disk/log";
const STEPS: usize = 24;

/// What the log promised so far.
struct Model {
    rng: StdRng,
    ids: u64,
    clock: Arc<AtomicI64>,
    /// The offset that an append gave each record, or none where the append failed.
    sent: HashMap<u64, Option<i64>>,
    /// Acknowledged or shown to a reader: the record at each offset.
    kept: BTreeMap<i64, u64>,
    /// No retention past this.
    low: i64,
}

fn options(disk: &Disk, model: &Model, bug: Option<&'static str>) -> Options {
    let clock = model.clock.clone();
    Options {
        files: Arc::new(disk.clone()),
        sync_threads: 2,
        // The workload says when, so that a seed gives one sequence of operations.
        recovery_every: Duration::MAX,
        clock: Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)),
        seeded_bug: bug,
        ..Options::default()
    }
}

fn filler(id: u64) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..(state >> 32) % 25 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            rng: StdRng::seed_from_u64(seed),
            ids: 0,
            clock: Arc::new(AtomicI64::new(1_000)),
            sent: HashMap::new(),
            kept: BTreeMap::new(),
            low: 0,
        }
    }

    fn batch(&mut self) -> (EncodedBatch, Vec<u64>) {
        let codec = Codec::ALL[self.rng.random_range(0..Codec::ALL.len())];
        let mut builder = BatchBuilder::new(codec);
        let ids: Vec<u64> = (0..self.rng.random_range(1..5)).map(|n| self.ids + n).collect();
        self.ids += ids.len() as u64;
        for id in &ids {
            builder.push(*id as i64, Some(b"key"), Some(&filler(*id)), &[]);
        }
        (builder.finish(), ids)
    }

    /// Reads all that can be seen, and checks it against every promise.
    fn check(&mut self, partition: &PartitionLog) -> Result<(), String> {
        let start = partition.start_offset();
        if start > self.low {
            return Err(format!("retention went to {start}, past the low commit {}", self.low));
        }
        let mut reader = Reader::new(partition, start, 700).map_err(|e| chain(&e))?;
        let mut expected = start;
        loop {
            let records = match reader.try_next() {
                Ok(Some(records)) => records,
                Ok(None) => break,
                Err(error) => return Err(format!("reading: {}", chain(&error))),
            };
            for record in records.iter() {
                if record.offset != expected {
                    return Err(format!("offset {} where {expected} was due", record.offset));
                }
                expected += 1;
                let value = record.value.ok_or("a value is gone")?;
                let id = value.first_chunk().map(|id| u64::from_be_bytes(*id));
                let id = id.ok_or("a value is cut short")?;
                if value != filler(id) || record.key != Some(b"key") {
                    return Err(format!("record {id} is not what was written"));
                }
                match self.sent.get(&id) {
                    Some(Some(offset)) if *offset != record.offset => {
                        return Err(format!("record {id} is at {}, not {offset}", record.offset));
                    }
                    Some(_) => {}
                    None => return Err(format!("record {id} was never sent")),
                }
                if let Some(other) = self.kept.insert(record.offset, id)
                    && other != id
                {
                    let at = record.offset;
                    return Err(format!("offset {at} had record {other}, now it has {id}"));
                }
            }
        }
        match self.kept.last_key_value() {
            Some((last, id)) if *last >= expected => Err(format!(
                "record {id} at {last} was acknowledged or shown; the log now ends at {expected}"
            )),
            _ => Ok(()),
        }
    }

    fn append(&mut self, partition: &PartitionLog, groups: usize) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut waiting = Vec::new();
        let mut failed = None;
        for _ in 0..groups {
            let (batches, ids): (Vec<_>, Vec<_>) =
                (0..self.rng.random_range(1..3)).map(|_| self.batch()).unzip();
            let ids = ids.concat();
            match partition.append_all(&batches) {
                Ok(appended) => {
                    for (at, id) in ids.iter().enumerate() {
                        self.sent.insert(*id, Some(appended.base_offset + at as i64));
                    }
                    waiting.push((ids, appended));
                }
                Err(error) => {
                    self.sent.extend(ids.iter().map(|id| (*id, None)));
                    failed = Some(error);
                }
            }
        }
        for (ids, appended) in waiting {
            match runtime.block_on(appended.durable) {
                Ok(()) => {
                    let offsets = appended.base_offset..=appended.last_offset;
                    self.kept.extend(offsets.zip(ids));
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Steps until the end or until the machine is off.
    fn work(&mut self, disk: &Disk, bug: Option<&'static str>) -> Result<(), String> {
        let Some(mut log) = self.open_at_last(disk, bug)? else { return Ok(()) };
        for step in 0..STEPS {
            let Some(partition) = log.topic("t").and_then(|topic| topic.partition(0)) else {
                let options = TopicOptions {
                    segment_bytes: 1_400,
                    retention_bytes: Some(3_000),
                    ..TopicOptions::default()
                };
                match log.create_topic("t", options) {
                    Err(_) if disk.crashed() => return Ok(()),
                    _ => continue,
                }
            };
            if let Some(error) = partition.refused() {
                return Err(format!("refused: {}", chain(error)));
            }
            match self.rng.random_range(0..12) {
                0 => {
                    drop(log.save_points());
                }
                1 => {
                    self.low = self.rng.random_range(self.low..=partition.end_offset());
                    log.set_low_commit("t", 0, "p", self.low).map_err(|e| chain(&e))?;
                    drop(log.enforce_retention(0));
                }
                2 => {
                    log.close();
                    let Some(opened) = self.open_at_last(disk, bug)? else { return Ok(()) };
                    log = opened;
                }
                3 => drop(self.append(&partition, 4)),
                _ => drop(self.append(&partition, 1)),
            }
            if disk.crashed() {
                return Ok(());
            }
            if step % 5 == 4
                && let Some(partition) = log.topic("t").and_then(|topic| topic.partition(0))
            {
                match self.check(&partition) {
                    Err(_) if disk.crashed() => return Ok(()),
                    checked => checked?,
                }
            }
        }
        Ok(())
    }

    /// Opens the log, if need be after the fault is over; `None` when the machine is off.
    fn open_at_last(&self, disk: &Disk, bug: Option<&'static str>) -> Result<Option<Log>, String> {
        let mut tries = 0;
        loop {
            match self.open(disk, bug) {
                Ok(log) => return Ok(Some(log)),
                Err(_) if disk.crashed() => return Ok(None),
                Err(_) if tries < 10 => tries += 1,
                Err(error) => return Err(format!("opening: {}", chain(&error))),
            }
        }
    }

    fn open(&self, disk: &Disk, bug: Option<&'static str>) -> Result<Log, Error> {
        let log = Log::open(Path::new(DIR), options(disk, self, bug))?;
        // A fault while a partition was opened, as distinct from damage.
        match log.refused().pop() {
            Some((_, _, error)) if error.damage().is_none() => Err(error),
            _ => Ok(log),
        }
    }

    /// Opens what a crash left and checks it.
    fn check_disk(&mut self, disk: &Disk, bug: Option<&'static str>) -> Result<(), String> {
        let log = self.open(disk, bug).map_err(|error| format!("opening: {}", chain(&error)))?;
        if let Some((_, _, error)) = log.refused().pop() {
            return Err(format!("refused: {}", chain(&error)));
        }
        match log.topic("t").and_then(|topic| topic.partition(0)) {
            Some(partition) => self.check(&partition)?,
            None if self.kept.is_empty() => {}
            None => return Err("the topic is gone".into()),
        }
        let report = log.verify("t");
        match report {
            Ok(report) if !report.is_sound() => Err(format!("verify: {report:?}")),
            _ => Ok(()),
        }
    }
}

fn chain(error: &Error) -> String {
    millstream_core::Error::from(error.clone()).chain()
}

/// One life after the other on one disk: work, fault, crash or kill, check.
fn run(seed: u64, at: u64, fault: Fault, bug: Option<&'static str>) -> Result<(), String> {
    let mut model = Model::new(seed);
    let mut disk = Disk::new(seed);
    disk.set_fault(Some((at, fault)));
    model.work(&disk, bug)?;
    for life in 0..3 {
        let kill = model.rng.random_bool(0.4);
        let loss = model.rng.random();
        disk = if kill { disk.killed() } else { disk.power_lost(loss) };
        model.check_disk(&disk, bug).map_err(|error| {
            format!("seed {seed}, {fault:?} at {at}, life {life}, kill {kill}: {error}")
        })?;
        // And what the check was shown, or a second crash right after it.
        disk = disk.power_lost(model.rng.random());
        model.check_disk(&disk, bug).map_err(|error| {
            format!("seed {seed}, {fault:?} at {at}, life {life}, power lost after: {error}")
        })?;
        if life < 2 {
            let again = model.rng.random_range(1..120);
            disk.set_fault(Some((again, Fault::Crash)));
            model.work(&disk, bug).map_err(|error| {
                format!("seed {seed}, {fault:?} at {at}, life {life}, working on: {error}")
            })?;
        }
    }
    Ok(())
}

/// Every operation of the workload of a seed, each with this fault. Gives the number of runs and
/// the failures.
fn sweep(
    seeds: std::ops::Range<u64>,
    fault: Fault,
    bug: Option<&'static str>,
) -> (u64, Vec<String>) {
    let mut failures = Vec::new();
    let mut runs = 0;
    for seed in seeds {
        let mut model = Model::new(seed);
        let disk = Disk::new(seed);
        if let Err(error) = model.work(&disk, bug) {
            failures.push(format!("seed {seed} without a fault: {error}"));
        }
        let operations = disk.operations();
        assert!(operations > 30, "the workload does nothing");
        let next = AtomicU64::new(1);
        let found = parking_lot::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at > operations {
                            return;
                        }
                        if let Err(error) = run(seed, at, fault, bug) {
                            found.lock().push(error);
                        }
                    }
                });
            }
        });
        runs += operations;
        failures.extend(found.into_inner());
        // A seeded bug is found once; the rest would find it again.
        if bug.is_some() && !failures.is_empty() {
            break;
        }
    }
    (runs, failures)
}

#[track_caller]
fn holds(mut seeds: std::ops::Range<u64>, fault: Fault) {
    // More of them on demand, each a workload of its own.
    if let Some(more) =
        std::env::var("MILLSTREAM_LOSSY_SEEDS").ok().and_then(|n| n.parse::<u64>().ok())
    {
        seeds = seeds.start * 1_000_000..seeds.start * 1_000_000 + more;
    }
    let (runs, failures) = sweep(seeds, fault, None);
    println!("{fault:?}: {runs} runs, {} failures", failures.len());
    assert!(
        failures.is_empty(),
        "{} of {runs} runs failed, such as {}",
        failures.len(),
        failures[0]
    );
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    holds(0..8, Fault::Crash);
}

#[test]
fn nothing_is_acknowledged_after_a_failed_write_or_sync() {
    holds(100..104, Fault::Eio(1));
    holds(110..112, Fault::Eio(3));
}

#[test]
fn a_full_disk_fails_appends_and_nothing_else() {
    holds(200..203, Fault::Full(1));
    holds(210..212, Fault::Full(6));
}

#[test]
fn seeded_bugs_are_found() {
    for bug in ["skip_fsync", "ack_on_enqueue", "truncate_wrong"] {
        let (runs, failures) = sweep(0..8, Fault::Crash, Some(bug));
        assert!(!failures.is_empty(), "{runs} runs did not find {bug}");
        println!("{bug}: {}", failures[0]);
    }
}

#[test]
fn a_flipped_bit_is_never_served() {
    let (mut refused, mut read_found, mut verify_found) = (0, 0, 0);
    for seed in 0..300u64 {
        let mut model = Model::new(seed);
        let disk = Disk::new(seed);
        model.work(&disk, None).unwrap();
        let disk = disk.killed();
        // A clean close puts the recovery point at the end: whatever flips below is damage.
        drop(model.open(&disk, None).unwrap());
        let suffix = if seed % 10 == 0 { ".index" } else { ".log" };
        let files: Vec<_> =
            disk.files_ending(suffix).into_iter().filter(|(_, len)| *len > 0).collect();
        let Some((path, len)) = files.get(model.rng.random_range(0..files.len().max(1))) else {
            continue;
        };
        disk.flip(path, model.rng.random_range(0..len * 8));

        let log = model.open(&disk, None).unwrap();
        let partition = log.topic("t").unwrap().partition(0).unwrap();
        let named = |error: &Error| {
            let damage = error.damage().unwrap_or_else(|| panic!("seed {seed}: {error}"));
            assert_eq!(&damage.segment, path, "seed {seed}");
        };
        let mut is_damaged = false;
        if let Some(error) = partition.refused() {
            named(error);
            (refused, is_damaged) = (refused + 1, true);
        } else {
            let mut reader = Reader::new(&partition, partition.start_offset(), 700).unwrap();
            loop {
                match reader.try_next() {
                    Ok(None) => break,
                    Ok(Some(records)) => {
                        for record in records.iter() {
                            let id = model.kept[&record.offset];
                            assert_eq!(record.value, Some(&filler(id)[..]), "seed {seed}");
                        }
                    }
                    Err(error) => {
                        named(&error);
                        (read_found, is_damaged) = (read_found + 1, true);
                        break;
                    }
                }
            }
        }
        assert_eq!(is_damaged, suffix == ".log", "seed {seed}: {}", path.display());
        let report = log.verify("t").unwrap();
        let found = report.partitions[0].damage.iter().any(|damage| &damage.segment == path);
        assert_eq!(found, suffix == ".log", "seed {seed}: {report:?}");
        verify_found += u64::from(found);
    }
    println!("refused at open {refused}, found by a reader {read_found}, by verify {verify_found}");
    assert!(refused > 0 && read_found > 0 && verify_found > 100);
}
