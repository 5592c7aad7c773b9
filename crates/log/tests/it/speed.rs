//! Group commit against raw writes of the same bytes with the same number of syncs. A measurement,
//! not a test: `cargo test --release -p millstream-log -- --ignored --nocapture speed`.

use millstream_log::{BatchBuilder, Codec, Log, Options, Reader, TopicOptions};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

const PARTITIONS: u32 = 20;
const BATCHES: usize = 400;
const IN_FLIGHT: usize = 8;

#[test]
#[ignore = "a measurement"]
fn speed_of_group_commit_against_raw_writes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut builder = BatchBuilder::new(Codec::None);
    let begun = Instant::now();
    let mut batch = builder.finish();
    let rounds = 500;
    for _ in 0..rounds {
        builder.reuse(batch);
        for n in 0..210i64 {
            builder.push(n, Some(b"user-1234567"), Some(&[n as u8; 290]), &[]);
        }
        batch = builder.finish();
    }
    let records = (rounds * batch.len()) as f64;
    let per_record = begun.elapsed().as_nanos() as f64 / records;
    println!("encode: {per_record:.0} ns a record of 303 bytes");

    for round in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), Options::default()).unwrap();
        let options = TopicOptions { partitions: PARTITIONS, ..TopicOptions::default() };
        let topic = log.create_topic("t", options).unwrap();
        let begun = Instant::now();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..PARTITIONS)
                .map(|index| {
                    let (partition, batch) = (topic.partition(index).unwrap(), batch.clone());
                    tokio::spawn(async move {
                        let mut waiting = VecDeque::new();
                        for _ in 0..BATCHES {
                            waiting.push_back(partition.append(&batch).unwrap().durable);
                            if waiting.len() == IN_FLIGHT {
                                waiting.pop_front().unwrap().await.unwrap();
                            }
                        }
                        for durable in waiting {
                            durable.await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        let log_took = begun.elapsed();
        let syncs = log.stats().fsyncs as usize;

        let begun = Instant::now();
        let mut read = 0;
        for index in 0..PARTITIONS {
            let partition = topic.partition(index).unwrap();
            let mut reader = Reader::new(&partition, 0, millstream_log::READ_BYTES).unwrap();
            while let Some(records) = reader.try_next().unwrap() {
                read += records.len();
            }
        }
        let per_read = begun.elapsed().as_nanos() as f64 / read as f64;
        drop(log);

        let raw_dir = tempfile::tempdir().unwrap();
        let every = (BATCHES * PARTITIONS as usize).div_ceil(syncs).max(1);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for index in 0..PARTITIONS {
                let (path, batch) = (raw_dir.path().join(index.to_string()), &batch);
                scope.spawn(move || {
                    let file = File::create(path).unwrap();
                    for at in 0..BATCHES {
                        let bytes = batch.as_bytes();
                        file.write_all_at(bytes, (at * bytes.len()) as u64).unwrap();
                        if (at + 1) % every == 0 {
                            file.sync_data().unwrap();
                        }
                    }
                    file.sync_data().unwrap();
                });
            }
        });
        let raw_took = begun.elapsed();
        let bytes = BATCHES * PARTITIONS as usize * batch.as_bytes().len();
        println!(
            "round {round}: log {log_took:?}, raw {raw_took:?} ({:.0} %), {} MB, {syncs} syncs; \
             read {per_read:.0} ns a record",
            100.0 * raw_took.as_secs_f64() / log_took.as_secs_f64(),
            bytes >> 20,
        );
    }
}
