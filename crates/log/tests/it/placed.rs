//! Batches that stay where they lie until a socket takes them, against those that are read.

#![cfg(target_os = "linux")]

use millstream_log::{
    BatchBuilder, Codec, Error, Log, Options, PartitionLog, Placed, Raw, TopicOptions,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn open(dir: &Path) -> (Log, PartitionLog) {
    let log = Log::open(dir, Options::default()).unwrap();
    let options = TopicOptions { segment_bytes: 200_000, ..TopicOptions::default() };
    let topic = log.topic("t").unwrap_or_else(|| log.create_topic("t", options).unwrap());
    let partition = topic.partition(0).unwrap();
    (log, partition)
}

fn new() -> (TempDir, Log, PartitionLog) {
    let dir = tempfile::tempdir().unwrap();
    let (log, partition) = open(dir.path());
    (dir, log, partition)
}

async fn append(partition: &PartitionLog, values: &[usize]) {
    let mut builder = BatchBuilder::new(Codec::None);
    for (at, len) in values.iter().enumerate() {
        builder.push(at as i64, None, Some(&vec![at as u8; *len]), &[]);
    }
    partition.append(&builder.finish()).unwrap().durable.await.unwrap();
}

/// What a socket gives that takes a little at a time.
fn sent(mut placed: Placed) -> Vec<u8> {
    let (from, mut to) = UnixStream::pair().unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        to.read_to_end(&mut bytes).unwrap();
        bytes
    });
    while placed.send(&from).unwrap() > 0 {}
    drop(from);
    reading.join().unwrap()
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("topics/t/0/00000000000000000000.log")
}

fn is_damage(found: Result<Raw, Error>) -> bool {
    matches!(found, Err(Error::Damage(_)))
}

#[tokio::test]
async fn what_a_socket_is_sent_is_what_is_read() {
    let mut rng = StdRng::seed_from_u64(7);
    let (dir, _log, partition) = new();
    for _ in 0..120 {
        let few = rng.random_bool(0.3);
        let len = if few { 1..500 } else { 3_000..12_000 };
        let values: Vec<usize> =
            (0..rng.random_range(1..5)).map(|_| rng.random_range(len.clone())).collect();
        append(&partition, &values).await;
    }
    assert!(std::fs::read_dir(segment(dir.path()).parent().unwrap()).unwrap().count() > 6);
    let (mut placed_bytes, mut read_bytes) = (0, 0);
    for max_bytes in [9_000, 50_000, 1 << 20] {
        let mut offset = 0;
        while offset < partition.end_offset() {
            let (bytes, records, next) =
                match partition.find_raw(offset, max_bytes, max_bytes).unwrap() {
                    Raw::Placed { placed, next } => {
                        let (len, records) = (placed.len(), placed.records());
                        let bytes = sent(placed);
                        assert_eq!(bytes.len(), len);
                        placed_bytes += len;
                        (bytes, records as i64, next)
                    }
                    Raw::Batches { bytes, next } => {
                        read_bytes += bytes.len();
                        (bytes.to_vec(), next - offset, next)
                    }
                    Raw::Larger(bytes) => {
                        assert!(bytes > max_bytes);
                        let Raw::Placed { placed, next } =
                            partition.find_raw(offset, bytes, bytes).unwrap()
                        else {
                            panic!("a batch of {bytes} bytes is read")
                        };
                        (sent(placed), next - offset, next)
                    }
                    Raw::End => panic!("{offset} is not the end"),
                };
            let Raw::Batches { bytes: read, .. } = partition.read_raw(offset, 1 << 20).unwrap()
            else {
                panic!("batches are there")
            };
            assert!(read.starts_with(&bytes), "at {offset}, {max_bytes} at most");
            assert_eq!(records, next - offset);
            offset = next;
        }
    }
    assert!(placed_bytes > 1 << 20 && read_bytes > 100_000, "{placed_bytes}, {read_bytes}");
}

#[tokio::test]
async fn what_was_there_before_is_checked_each_time() {
    let (dir, log, partition) = new();
    append(&partition, &[20_000]).await;
    log.close();
    drop((log, partition));
    let (_log, partition) = open(dir.path());
    append(&partition, &[20_000]).await;
    assert!(matches!(partition.find_raw(0, 1 << 20, 1 << 20), Ok(Raw::Batches { .. })));
    assert!(matches!(partition.find_raw(1, 1 << 20, 1 << 20), Ok(Raw::Placed { .. })));
    let mut bytes = std::fs::read(segment(dir.path())).unwrap();
    bytes[300] ^= 1;
    std::fs::write(segment(dir.path()), bytes).unwrap();
    assert!(is_damage(partition.find_raw(0, 1 << 20, 1 << 20)));
}

#[tokio::test]
async fn a_file_that_was_cut_or_whose_headers_are_wrong_is_damage() {
    let (dir, _log, partition) = new();
    append(&partition, &[20_000]).await;
    append(&partition, &[20_000]).await;
    let Raw::Placed { mut placed, .. } = partition.find_raw(0, 1 << 20, 1 << 20).unwrap() else {
        panic!("it was appended")
    };
    let whole = std::fs::read(segment(dir.path())).unwrap();
    for at in [3, 10, 16, 60] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(segment(dir.path()), bytes).unwrap();
        assert!(is_damage(partition.find_raw(0, 1 << 20, 1 << 20)), "byte {at}");
        if let Ok(Raw::Larger(bytes)) = partition.find_raw(0, 1_000, 1_000) {
            assert!(is_damage(partition.find_raw(0, bytes, bytes)), "byte {at}, alone");
        }
    }
    std::fs::write(segment(dir.path()), &whole[..30_000]).unwrap();
    assert!(matches!(partition.find_raw(0, 25_000, 25_000), Ok(Raw::Placed { .. })));
    assert!(is_damage(partition.find_raw(1, 1 << 20, 1 << 20)));
    // Cut after it was found.
    let (from, to) = UnixStream::pair().unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut &to, &mut std::io::sink()));
    let end = loop {
        match placed.send(&from) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
    drop(from);
    assert_eq!(reading.join().unwrap().unwrap(), 30_000);
}

#[tokio::test]
async fn what_is_removed_meanwhile_is_still_sent() {
    let (dir, _log, partition) = new();
    append(&partition, &[100_000]).await;
    let Raw::Placed { placed, .. } = partition.find_raw(0, 1 << 20, 1 << 20).unwrap() else {
        panic!("it was appended")
    };
    let whole = std::fs::read(segment(dir.path())).unwrap();
    for _ in 0..4 {
        append(&partition, &[100_000]).await;
    }
    partition.delete_before(4).unwrap();
    assert!(!segment(dir.path()).exists());
    let len = placed.len();
    assert!(sent(placed) == whole[..len]);
}
