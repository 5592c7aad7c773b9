//! What the log promises its users, on real files.

use millstream_core::Disposition;
use millstream_log::{
    Appended, BatchBuilder, Codec, Error, Log, Options, PartitionLog, Raw, Reader, SyncMode,
    TopicOptions, codec,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn open(dir: &Path) -> Log {
    Log::open(dir, Options::default()).unwrap()
}

/// A log with one topic `t` of one partition.
fn one(options: TopicOptions) -> (TempDir, Log, PartitionLog) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let partition = log.create_topic("t", options).unwrap().partition(0).unwrap();
    (dir, log, partition)
}

fn again(log: &Log) -> PartitionLog {
    log.topic("t").unwrap().partition(0).unwrap()
}

/// Small segments: about ten batches of [`append`] each.
fn small() -> TopicOptions {
    TopicOptions { segment_bytes: 2_000, ..TopicOptions::default() }
}

/// One batch of values with these timestamps.
fn append_at(partition: &PartitionLog, times: &[i64]) -> Appended {
    let mut builder = BatchBuilder::new(Codec::None);
    for time in times {
        builder.push(*time, Some(b"k"), Some(format!("value {time:>94}").as_bytes()), &[]);
    }
    partition.append(&builder.finish()).unwrap()
}

async fn append(partition: &PartitionLog, times: impl IntoIterator<Item = i64>) {
    for time in times {
        append_at(partition, &[time]).durable.await.unwrap();
    }
}

fn read_all(partition: &PartitionLog, from: i64) -> Result<Vec<(i64, i64)>, Error> {
    let mut reader = Reader::new(partition, from, 4096)?;
    let mut found = Vec::new();
    while let Some(records) = reader.try_next()? {
        found.extend(records.iter().map(|record| (record.offset, record.timestamp)));
    }
    Ok(found)
}

fn segments(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("topics/t/0")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    paths.sort();
    paths
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn records_come_back_in_order_after_a_reopen() {
    let (dir, log, partition) = one(small());
    append(&partition, 0..100).await;
    assert_eq!((partition.start_offset(), partition.end_offset()), (0, 100));
    let expected: Vec<_> = (0..100).map(|n| (n, n)).collect();
    assert_eq!(read_all(&partition, 0).unwrap(), expected);
    assert!(segments(dir.path(), ".log").len() > 5, "the workload rolls");
    let (id, bytes) = (log.topic("t").unwrap().id(), partition.bytes());
    drop((log, partition));

    let log = open(dir.path());
    assert_eq!((log.topic("t").unwrap().id(), again(&log).bytes()), (id, bytes));
    for from in [0, 1, 37, 99, 100] {
        assert_eq!(read_all(&again(&log), from).unwrap(), expected[from as usize..]);
    }
    append(&again(&log), 100..103).await;
    assert_eq!(read_all(&again(&log), 99).unwrap(), [(99, 99), (100, 100), (101, 101), (102, 102)]);
    assert_eq!(log.stats().records_appended, 3);
    assert!(log.stats().fsyncs >= 3);
}

#[tokio::test]
async fn a_batch_is_read_from_its_middle_and_past_the_size_asked_for() {
    let (_dir, _log, partition) = one(TopicOptions::default());
    append_at(&partition, &(0..50).collect::<Vec<_>>()).durable.await.unwrap();
    append_at(&partition, &(50..60).collect::<Vec<_>>()).durable.await.unwrap();
    let mut reader = Reader::new(&partition, 20, 1).unwrap();
    let records = reader.try_next().unwrap().unwrap();
    assert_eq!((records.first_offset(), records.len(), records.next_offset()), (Some(20), 30, 50));
    assert_eq!(reader.try_next().unwrap().unwrap().len(), 10);
    let mut reader = Reader::new(&partition, 20, 1 << 20).unwrap();
    assert_eq!(reader.try_next().unwrap().unwrap().len(), 40, "several batches in one");
}

#[tokio::test]
async fn every_codec_is_read_side_by_side() {
    let (_dir, _log, partition) = one(TopicOptions::default());
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec);
        for n in 0..100 {
            builder.push(n, None, Some(codec.name().as_bytes()), &[]);
        }
        partition.append(&builder.finish()).unwrap().durable.await.unwrap();
    }
    let mut reader = Reader::new(&partition, 0, 1 << 20).unwrap();
    let records = reader.try_next().unwrap().unwrap();
    assert_eq!(records.len(), 500);
    for (row, record) in records.iter().enumerate() {
        assert_eq!(record.value, Some(Codec::ALL[row / 100].name().as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_and_sees_synced_records_only() {
    let (_dir, log, partition) = one(TopicOptions::default());
    let mut reader = Reader::new(&partition, 0, 4096).unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(50), reader.next()).await;
    assert!(waited.is_err(), "there is nothing to read");
    let reading = tokio::spawn(async move {
        let records = reader.next().await.unwrap();
        (records.len(), reader.next().await.map(|records| records.len()))
    });
    append_at(&partition, &[1, 2]).durable.await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    log.close();
    let (first, second) = reading.await.unwrap();
    assert_eq!(first, 2);
    assert!(matches!(second, Err(Error::Closed)), "a reader that waits learns of the end");
    assert!(matches!(append_err(&partition), Error::Closed));
}

fn append_err(partition: &PartitionLog) -> Error {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(0, None, None, &[]);
    partition.append(&builder.finish()).err().expect("the append is refused")
}

#[tokio::test]
async fn relaxed_appends_are_acknowledged_at_once_and_seen_when_synced() {
    let dir = tempfile::tempdir().unwrap();
    let every = Duration::from_millis(100);
    let options = Options { sync: SyncMode::Relaxed { every }, ..Options::default() };
    let log = Log::open(dir.path(), options).unwrap();
    let partition = log.create_topic("t", TopicOptions::default()).unwrap().partition(0).unwrap();
    append(&partition, 0..10).await;
    assert_eq!((partition.end_offset(), partition.unsynced_records()), (0, 10));
    let mut reader = Reader::new(&partition, 0, 4096).unwrap();
    assert_eq!(reader.next().await.unwrap().len(), 10);
    append(&partition, 10..12).await;
    drop(log);
    let log = open(dir.path());
    assert_eq!(again(&log).end_offset(), 12, "a close syncs");
}

#[tokio::test]
async fn times_are_found_by_their_running_maximum() {
    let (dir, log, partition) = one(small());
    // Out of order: the maximum is 5 at offset 1, 90 at 4, 100 at 7.
    append_at(&partition, &[3, 5, 1]).durable.await.unwrap();
    append_at(&partition, &[2, 90, 4]).durable.await.unwrap();
    append_at(&partition, &[7, 100]).durable.await.unwrap();
    append(&partition, 101..150).await;
    let find = |partition: &PartitionLog| {
        let found = [i64::MIN, 3, 4, 5, 6, 90, 91, 100, 101, 120, 149, 150, i64::MAX]
            .map(|time| partition.offset_at_time(time).unwrap());
        assert_eq!(
            found,
            [
                Some(0),
                Some(0),
                Some(1),
                Some(1),
                Some(4),
                Some(4),
                Some(7),
                Some(7),
                Some(8),
                Some(27),
                Some(56),
                None,
                None
            ]
        );
    };
    find(&partition);
    drop((log, partition));
    let log = open(dir.path());
    find(&again(&log));
    drop(log);
    // The indexes are caches: without them, and with wrong ones, the answers are the same.
    for (at, path) in segments(dir.path(), ".index").into_iter().enumerate() {
        match at % 3 {
            0 => fs::remove_file(path).unwrap(),
            1 => flip(&path, 3),
            _ => fs::write(path, b"").unwrap(),
        }
    }
    let log = open(dir.path());
    find(&again(&log));
    assert_eq!(read_all(&again(&log), 20).unwrap().len(), 37);
}

#[tokio::test]
async fn an_index_of_another_log_is_not_believed() {
    let (dir, log, partition) = one(TopicOptions::default());
    for n in 0..30 {
        append_at(&partition, &vec![n; 100]).durable.await.unwrap();
    }
    log.close();
    let (other_dir, other, partition) = one(TopicOptions::default());
    for n in 0..60 {
        append_at(&partition, &vec![n; 57]).durable.await.unwrap();
    }
    other.close();
    let index = |dir: &Path| segments(dir, ".index").remove(0);
    assert!(fs::metadata(index(other_dir.path())).unwrap().len() > 0);
    fs::copy(index(other_dir.path()), index(dir.path())).unwrap();
    let log = open(dir.path());
    for from in [0, 1_500, 2_999] {
        let read = read_all(&again(&log), from).unwrap();
        assert_eq!((read[0], read.len()), ((from, from / 100), 3000 - from as usize));
    }
}

fn batches(partition: &PartitionLog, offset: i64, max_bytes: usize) -> (Vec<u8>, i64) {
    match partition.read_raw(offset, max_bytes).unwrap() {
        Raw::Batches { bytes, next } => (bytes.to_vec(), next),
        other => panic!("batches at {offset} were expected, not {other:?}"),
    }
}

#[tokio::test]
async fn raw_batches_are_kafkas() {
    let (_dir, _log, partition) = one(small());
    append(&partition, 0..50).await;
    let Raw::Larger(bytes) = partition.read_raw(7, 1).unwrap() else { panic!("one byte is few") };
    assert_eq!(partition.read_raw(7, bytes - 1).unwrap(), Raw::Larger(bytes));
    let (raw, next) = batches(&partition, 7, bytes);
    assert_eq!((codec::records_of(raw, 7).unwrap().len(), next), (1, 8));
    let (raw, next) = batches(&partition, 7, 600);
    assert_eq!((codec::records_of(raw.clone(), 7).unwrap().len(), next), (3, 10));
    assert_eq!(codec::split(&raw).unwrap().len(), 3);
    assert_eq!(partition.read_raw(50, 600).unwrap(), Raw::End);
    assert!(matches!(partition.read_raw(51, 600), Err(Error::Beyond { .. })));
    for batch in codec::split(&raw).unwrap() {
        partition.append(&batch).unwrap().durable.await.unwrap();
    }
    assert_eq!(read_all(&partition, 50).unwrap(), [(50, 7), (51, 8), (52, 9)]);
}

#[tokio::test]
async fn raw_reads_go_on_where_others_ended() {
    let (_dir, _log, partition) = one(small());
    // Readers of different paces, also across segments and after each was at the end.
    let mut offsets = [0, 0, 0];
    for round in 0..40 {
        append(&partition, round * 10..round * 10 + 10).await;
        for (reader, offset) in offsets.iter_mut().enumerate() {
            for _ in 0..=reader * 4 {
                match partition.read_raw(*offset, 500 + 400 * reader).unwrap() {
                    Raw::Batches { bytes, next } => {
                        let records = codec::records_of(bytes.to_vec(), *offset).unwrap();
                        let times = records.iter().map(|record| (record.offset, record.timestamp));
                        assert!(times.eq((*offset..next).map(|at| (at, at))));
                        *offset = next;
                    }
                    Raw::End => assert_eq!(*offset, partition.end_offset()),
                    other => panic!("batches were expected, not {other:?}"),
                }
            }
        }
    }
    assert_eq!(offsets[2], 400);
    // What is removed meanwhile is passed over.
    partition.delete_before(300).unwrap();
    let Raw::Batches { next, .. } = partition.read_raw(10, 500).unwrap() else { panic!() };
    assert!(next > 300);
}

#[tokio::test]
async fn an_offset_beyond_the_end_is_damage_and_not_a_reset() {
    let (_dir, log, partition) = one(TopicOptions::default());
    append(&partition, 0..3).await;
    let error = Reader::new(&partition, 4, 100).err().unwrap();
    assert!(matches!(error, Error::Beyond { offset: 4, end: 3, .. }));
    assert_eq!(error.disposition(), Disposition::Stop);
    assert!(partition.check_offset(3).is_ok());
    assert!(log.set_low_commit("t", 0, "p", 4).is_err());
    assert!(matches!(log.set_low_commit("no", 0, "p", 0), Err(Error::NoTopic(_))));
}

#[tokio::test]
async fn a_topic_made_again_is_another() {
    let (dir, log, partition) = one(TopicOptions::default());
    append(&partition, 0..3).await;
    let id = log.topic("t").unwrap().id();
    assert!(matches!(log.create_topic("t", small()), Err(Error::TopicExists(_))));
    let mut reader = Reader::new(&partition, 0, 100).unwrap();
    log.delete_topic("t").unwrap();
    assert!(log.topic("t").is_none());
    assert!(matches!(reader.next().await, Err(Error::Deleted(_))));
    assert!(matches!(append_err(&partition), Error::Deleted(_)));
    assert!(matches!(log.delete_topic("t"), Err(Error::NoTopic(_))));
    let topic = log.create_topic("t", small()).unwrap();
    assert_ne!(topic.id(), id);
    assert_eq!(topic.partition(0).unwrap().end_offset(), 0);
    assert!(matches!(append_err(&partition), Error::Deleted(_)), "the old handle stays dead");
    drop(log);
    assert_eq!(open(dir.path()).topics().len(), 1);
    assert_eq!(fs::read_dir(dir.path().join("topics")).unwrap().count(), 1);
}

#[test]
fn names_and_options_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for name in ["", ".", "..", "a/b", "a b", "~x", "ä", &"x".repeat(250)] {
        let refused = log.create_topic(name, TopicOptions::default());
        assert!(matches!(refused, Err(Error::TopicName { .. })), "{name}");
    }
    for (partitions, segment_bytes) in [(0, 1000), (10_001, 1000), (1, 0), (1, 1 << 31)] {
        let options = TopicOptions { partitions, segment_bytes, ..TopicOptions::default() };
        assert!(matches!(log.create_topic("t", options), Err(Error::TopicOption { .. })));
    }
    log.create_topic(&"x".repeat(249), TopicOptions::default()).unwrap();
}

#[tokio::test]
async fn a_batch_over_the_limit_is_rejected_alone() {
    let (_dir, _log, partition) = one(TopicOptions::default());
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(0, None, Some(&vec![1; codec::BATCH_BYTES_MAX]), &[]);
    let error = partition.append(&builder.finish()).err().unwrap();
    assert_eq!((error.disposition(), error.kind()), (Disposition::Reject, "too_large"));
    let large = vec![7; 20 << 20];
    builder.push(0, None, Some(&large), &[]);
    partition.append(&builder.finish()).unwrap().durable.await.unwrap();
    let mut reader = Reader::new(&partition, 0, 4096).unwrap();
    assert_eq!(reader.try_next().unwrap().unwrap().value(0), Some(&large[..]));
}

/// A topic whose clock the test moves.
fn aging(options: TopicOptions) -> (TempDir, Log, PartitionLog, Arc<AtomicI64>) {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock = now.clone();
    let clock = Arc::new(move || clock.load(Ordering::Relaxed));
    let log = Log::open(dir.path(), Options { clock, ..Options::default() }).unwrap();
    let partition = log.create_topic("t", options).unwrap().partition(0).unwrap();
    (dir, log, partition, now)
}

#[tokio::test]
async fn retention_counts_from_the_append_and_waits_for_pipelines() {
    let (dir, log, partition, now) = aging(TopicOptions { retention_ms: Some(1_000), ..small() });
    // Events of 1970: their own time does not count.
    append(&partition, 0..50).await;
    now.store(1_000_500, Ordering::Relaxed);
    append(&partition, 50..100).await;
    assert_eq!(log.enforce_retention(1_000_999).unwrap(), []);

    log.set_low_commit("t", 0, "slow", 20).unwrap();
    log.set_low_commit("t", 0, "fast", 90).unwrap();
    let removed = log.enforce_retention(1_001_000).unwrap().remove(0);
    assert!(removed.start_offset <= 20 && removed.start_offset > 5, "{removed:?}");
    assert_eq!(partition.start_offset(), removed.start_offset);
    log.forget_pipeline("t", "slow");
    log.enforce_retention(1_001_000).unwrap();
    let start = partition.start_offset();
    assert!(start > 35 && start <= 50, "up to the segment that holds newer records: {start}");
    assert_eq!(read_all(&partition, start).unwrap().len() as i64, 100 - start);
    // All is old, the active segment too; what a pipeline has not committed stays.
    log.enforce_retention(1_002_000).unwrap();
    let start = partition.start_offset();
    assert!(start > 75 && start <= 90, "{start}");
    log.forget_pipeline("t", "fast");
    log.enforce_retention(1_002_000).unwrap();
    assert_eq!((partition.start_offset(), partition.bytes()), (100, 0));
    drop((log, partition));
    let log = open(dir.path());
    assert_eq!((again(&log).start_offset(), again(&log).end_offset()), (100, 100));
    append(&again(&log), [7]).await;
    assert_eq!(read_all(&again(&log), 100).unwrap(), [(100, 7)]);
}

#[tokio::test]
async fn retention_by_size_keeps_at_least_that_much() {
    let (_dir, log, partition, _now) =
        aging(TopicOptions { retention_bytes: Some(5_000), ..small() });
    append(&partition, 0..100).await;
    log.enforce_retention(0).unwrap();
    assert!((5_000..7_100).contains(&partition.bytes()), "{}", partition.bytes());
    assert_eq!(log.enforce_retention(0).unwrap(), []);
    assert_eq!(log.stats().bytes_removed > 0, partition.start_offset() > 0);
}

#[tokio::test]
async fn hard_retention_leaves_a_gap_that_the_reader_reports() {
    let (_dir, log, partition, _now) =
        aging(TopicOptions { retention_bytes: Some(3_000), hard: true, ..small() });
    append(&partition, 0..20).await;
    let mut reader = Reader::new(&partition, 0, 200).unwrap();
    let first = reader.try_next().unwrap().unwrap();
    assert_eq!((first.next_offset(), first.skipped()), (1, 0));
    append(&partition, 20..100).await;
    log.set_low_commit("t", 0, "p", 1).unwrap();
    log.enforce_retention(0).unwrap();
    let start = partition.start_offset();
    assert!(start > 50);
    let next = reader.try_next().unwrap().unwrap();
    assert_eq!((next.first_offset(), next.skipped()), (Some(start), start as u64 - 1));
    assert_eq!(reader.try_next().unwrap().unwrap().skipped(), 0, "a gap is reported once");
    assert_eq!(log.stats().records_skipped, start as u64 - 1);
}

/// What a process that is killed leaves: a copy of the directory while the log is open.
fn killed(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    copy
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A log whose recovery point is at offset 30 of 60, with a batch a record, in one segment.
async fn half_way() -> (TempDir, Vec<(i64, i64)>) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { recovery_every: Duration::MAX, ..Options::default() };
    let log = Log::open(dir.path(), options).unwrap();
    let partition = log.create_topic("t", TopicOptions::default()).unwrap().partition(0).unwrap();
    append(&partition, 0..30).await;
    log.save_points().unwrap();
    append(&partition, 30..60).await;
    (killed(dir.path()), (0..60).map(|n| (n, n)).collect())
}

#[tokio::test]
async fn above_the_recovery_point_the_first_bad_batch_ends_the_log() {
    let (dir, all) = half_way().await;
    let segment = segments(dir.path(), ".log").remove(0);
    let bytes = fs::read(&segment).unwrap();
    let batch = bytes.len() / 60;
    assert!(bytes.len().is_multiple_of(60), "batches of one size");
    flip(&segment, 45 * batch + 30);

    let look = Log::open_read_only(dir.path()).unwrap();
    assert_eq!(read_all(&again(&look), 0).unwrap(), all[..45]);
    assert_eq!(fs::metadata(&segment).unwrap().len(), bytes.len() as u64, "nothing is written");
    assert!(matches!(append_err(&again(&look)), Error::ReadOnly));

    let log = open(dir.path());
    assert_eq!(read_all(&again(&log), 0).unwrap(), all[..45]);
    assert_eq!(log.stats().bytes_truncated, 15 * batch as u64);
    assert_eq!(fs::metadata(&segment).unwrap().len(), 45 * batch as u64);
    assert!(log.verify("t").unwrap().is_sound());
    append(&again(&log), [100]).await;
    assert_eq!(read_all(&again(&log), 44).unwrap(), [(44, 44), (45, 100)]);
}

#[tokio::test]
async fn a_tail_cut_anywhere_loses_only_what_was_cut() {
    let (dir, all) = half_way().await;
    let len = fs::read(segments(dir.path(), ".log").remove(0)).unwrap().len();
    let batch = len / 60;
    for cut in [30 * batch, 30 * batch + 1, 40 * batch - 1, 59 * batch + 60, len] {
        let dir = killed(dir.path());
        let segment = segments(dir.path(), ".log").remove(0);
        fs::File::options().write(true).open(&segment).unwrap().set_len(cut as u64).unwrap();
        let log = open(dir.path());
        assert_eq!(read_all(&again(&log), 0).unwrap(), all[..cut / batch], "cut at {cut}");
    }
    let segment = segments(dir.path(), ".log").remove(0);
    fs::File::options().write(true).open(&segment).unwrap().set_len(30 * batch as u64 - 1).unwrap();
    let log = open(dir.path());
    let (_, _, error) = log.refused().remove(0);
    assert_eq!(error.damage().map(|d| (&d.segment, d.offset)), Some((&segment, 30)));
}

#[tokio::test]
async fn below_the_recovery_point_damage_is_refused_where_it_is_met() {
    let (dir, all) = half_way().await;
    let segment = segments(dir.path(), ".log").remove(0);
    let batch = fs::read(&segment).unwrap().len() / 60;
    flip(&segment, 10 * batch + 100);
    let log = open(dir.path());
    assert!(log.refused().is_empty(), "what lies below is not read on open");
    let mut reader = Reader::new(&again(&log), 0, 4096).unwrap();
    let mut read = Vec::new();
    let error = loop {
        match reader.try_next() {
            Ok(Some(records)) => {
                read.extend(records.iter().map(|record| (record.offset, record.timestamp)));
            }
            Ok(None) => panic!("damage was not met"),
            Err(error) => break error,
        }
    };
    assert_eq!(read, all[..10], "what comes before it is given");
    assert_eq!(error.disposition(), Disposition::Stop);
    let damage = error.damage().unwrap();
    assert_eq!(
        (&damage.segment, damage.position, damage.offset),
        (&segment, 10 * batch as u64, 10)
    );
    assert_eq!(read_all(&again(&log), 11).unwrap_err().to_string(), error.to_string());

    let report = log.verify("t").unwrap();
    assert_eq!(&report.partitions[0].damage[0], damage);
    let text = millstream_core::Error::from(error).chain();
    assert!(text.contains("00000000000000000000.log") && text.contains("offset 10"), "{text}");
}

#[tokio::test]
async fn verify_goes_on_after_damage() {
    let (dir, log, partition) = one(small());
    append(&partition, 0..100).await;
    log.close();
    let logs = segments(dir.path(), ".log");
    flip(&logs[1], 70);
    flip(&logs[4], 5);
    fs::remove_file(&logs[6]).unwrap();
    let log = open(dir.path());
    let report = log.verify("t").unwrap().partitions.remove(0);
    let named: Vec<_> = report.damage.iter().map(|damage| damage.segment.clone()).collect();
    assert_eq!(named, [logs[1].clone(), logs[4].clone(), logs[5].clone()]);
    assert!(report.records > 60 && report.records < 90, "{report:?}");
    assert!(read_all(&again(&log), 99).is_ok());
    let error = read_all(&again(&log), partition_base(&logs[5])).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

fn partition_base(path: &Path) -> i64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_damaged_partition_does_not_stop_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let options = TopicOptions { partitions: 3, ..TopicOptions::default() };
    let topic = log.create_topic("t", options).unwrap();
    for index in 0..3 {
        append(&topic.partition(index).unwrap(), 0..5).await;
    }
    log.close();
    fs::remove_file(dir.path().join("topics/t/1/recovery-point")).unwrap();
    let log = open(dir.path());
    let topic = log.topic("t").unwrap();
    assert_eq!(log.refused().len(), 1);
    assert!(Reader::new(&topic.partition(1).unwrap(), 0, 100).is_err());
    assert!(append_err(&topic.partition(1).unwrap()).damage().is_some());
    for index in [0, 2] {
        append(&topic.partition(index).unwrap(), [5]).await;
        assert_eq!(read_all(&topic.partition(index).unwrap(), 0).unwrap().len(), 6);
    }
    assert!(!log.verify("t").unwrap().is_sound());
}

#[test]
fn one_process_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let refused = Log::open(dir.path(), Options::default()).err().unwrap();
    assert!(matches!(&refused, Error::Locked { dir: named } if named == dir.path()));
    assert!(refused.to_string().contains("in use by another process"));
    let other = log.clone();
    drop(log);
    assert!(Log::open(dir.path(), Options::default()).is_err(), "a handle is left");
    drop(other);
    open(dir.path());
}

#[test]
fn a_lock_held_by_another_process_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    // flock(1) is another process for certain; it holds the lock until its input ends.
    let child = std::process::Command::new("flock")
        .arg(dir.path().join("lock"))
        .args(["-c", "echo held; cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: there is no flock(1)");
        return;
    };
    let mut line = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let refused = Log::open(dir.path(), Options::default()).err();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(matches!(refused, Some(Error::Locked { .. })), "{refused:?}");
    open(dir.path());
}

#[test]
fn directories_that_are_not_ours_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::write(dir.path().join("format"), "millstream-log 2\n").unwrap();
    let refused = Log::open(dir.path(), Options::default()).err().unwrap();
    assert!(matches!(refused, Error::NewerFormat { found: 2, known: 1, .. }));
    assert!(refused.to_string().contains("newer version"), "{refused}");
    for text in ["", "millstream-log x", "something else", "millstream-log 0"] {
        fs::write(dir.path().join("format"), text).unwrap();
        let refused = Log::open(dir.path(), Options::default()).err().unwrap();
        assert!(matches!(refused, Error::NotALog { .. }), "{text}: {refused}");
    }
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(Log::open(home.path(), Options::default()), Err(Error::NotALog { .. })));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing was put there");
    let file = home.path().join("letter.txt");
    assert!(matches!(Log::open(&file, Options::default()), Err(Error::Io { .. })));
    assert!(matches!(Log::open_read_only(&home.path().join("no")), Err(Error::Io { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_from_many_tasks_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let options = TopicOptions { partitions: 4, ..TopicOptions::default() };
    let topic = log.create_topic("t", options).unwrap();
    let mut tasks = Vec::new();
    for task in 0..16 {
        let partition = topic.partition(task % 4).unwrap();
        tasks.push(tokio::spawn(async move {
            let mut offsets = Vec::new();
            for _ in 0..20 {
                let waits: Vec<_> = (0..10).map(|n| append_at(&partition, &[n])).collect();
                for appended in waits {
                    offsets.push(appended.base_offset);
                    appended.durable.await.unwrap();
                    assert!(partition.end_offset() > appended.last_offset);
                }
            }
            offsets
        }));
    }
    let mut given: Vec<_> = Vec::new();
    for (task, offsets) in tasks.into_iter().enumerate() {
        let offsets = offsets.await.unwrap();
        assert!(offsets.is_sorted());
        given.extend(offsets.into_iter().map(|offset| (task % 4, offset)));
    }
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 3200, "every offset is given once");
    let stats = log.stats();
    assert_eq!((stats.commit_records.sum, stats.records_appended), (3200, 3200));
    assert!(stats.fsyncs < 3200 / 4, "{} syncs for 3200 appends", stats.fsyncs);
}

#[tokio::test]
async fn a_large_log_opens_without_being_read() {
    let (dir, log, partition) = one(TopicOptions { segment_bytes: 8 << 20, ..small() });
    let value = vec![9; 1 << 20];
    for _ in 0..64 {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(0, None, Some(&value), &[]);
        partition.append(&builder.finish()).unwrap().durable.await.unwrap();
    }
    drop((log, partition));
    let begun = Instant::now();
    let log = open(dir.path());
    let took = begun.elapsed();
    assert_eq!(again(&log).end_offset(), 64);
    assert!(took < Duration::from_millis(200), "{took:?}");
}
