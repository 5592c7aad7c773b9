//! Topics that change: more partitions, other settings, records given up on purpose.

use millstream_log::{
    BatchBuilder, Codec, Error, Log, Options, PartitionLog, Reader, TopicOptions,
};

fn append(partition: &PartitionLog, runtime: &tokio::runtime::Runtime, count: u64) {
    for _ in 0..count {
        let mut builder = BatchBuilder::new(Codec::None);
        for at in 0..10 {
            builder.push(1_000 + at, None, Some(&[7; 50]), &[]);
        }
        runtime.block_on(partition.append(&builder.finish()).unwrap().durable).unwrap();
    }
}

fn offsets(partition: &PartitionLog, from: i64) -> Vec<i64> {
    let mut reader = Reader::new(partition, from, 1 << 20).unwrap();
    let mut found = Vec::new();
    while let Some(records) = reader.try_next().unwrap() {
        found.extend(records.iter().map(|record| record.offset));
    }
    found
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_topic_gets_partitions_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    append(&topic.partition(0).unwrap(), &runtime, 3);
    let grown = log.add_partitions("t", 4).unwrap();
    assert_eq!((grown.partitions(), grown.id()), (4, topic.id()));
    append(&grown.partition(3).unwrap(), &runtime, 2);
    // One that was there before is the same for old handles.
    append(&topic.partition(0).unwrap(), &runtime, 1);
    assert_eq!(grown.partition(0).unwrap().end_offset(), 40);
    for fewer in [4, 1] {
        let error = log.add_partitions("t", fewer).err().unwrap();
        assert!(matches!(error, Error::TopicOption { option: "partitions", .. }), "{error}");
    }
    assert!(matches!(log.add_partitions("nobody", 9), Err(Error::NoTopic(_))));
    log.close();
    // What a crash in the middle leaves is in nobody's way.
    std::fs::create_dir(dir.path().join("topics/t/4")).unwrap();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    assert_eq!(log.topic("t").unwrap().partitions(), 4);
    let grown = log.add_partitions("t", 6).unwrap();
    append(&grown.partition(4).unwrap(), &runtime, 1);
    let ends: Vec<i64> = (0..6).map(|index| grown.partition(index).unwrap().end_offset()).collect();
    assert_eq!(ends, [40, 0, 0, 20, 10, 0]);
}

#[test]
fn a_topics_settings_change_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    let options = TopicOptions { segment_bytes: 1_000, ..TopicOptions::default() };
    let partition = log.create_topic("t", options).unwrap().partition(0).unwrap();
    append(&partition, &runtime, 20);
    assert!(log.enforce_retention(0).unwrap().is_empty());
    let wrong = log.alter_topic("t", |options| options.segment_bytes = 0).err().unwrap();
    assert!(matches!(wrong, Error::TopicOption { option: "segment_bytes", .. }), "{wrong}");
    let altered = log.alter_topic("t", |options| options.retention_bytes = Some(2_000)).unwrap();
    assert_eq!(altered.options().retention_bytes, Some(2_000));
    assert_eq!(log.enforce_retention(0).unwrap().len(), 1, "also for handles from before");
    assert!(partition.start_offset() > 0);
    log.close();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    assert_eq!(log.topic("t").unwrap().options().retention_bytes, Some(2_000));
}

#[test]
fn records_below_an_offset_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    let options = TopicOptions { segment_bytes: 2_000, ..TopicOptions::default() };
    let partition = log.create_topic("t", options).unwrap().partition(0).unwrap();
    append(&partition, &runtime, 20);
    let bytes = partition.bytes();
    for (upto, start) in [(75, 75), (3, 75), (133, 133)] {
        assert_eq!(partition.delete_before(upto).unwrap(), start);
        assert_eq!(partition.start_offset(), start);
        assert_eq!(offsets(&partition, start), (start..200).collect::<Vec<_>>());
        assert_eq!(offsets(&partition, 0), (start..200).collect::<Vec<_>>(), "a gap, then these");
        assert_eq!(partition.offset_at_time(0).unwrap(), Some(start));
    }
    assert!(partition.bytes() < bytes / 2, "whole segments are gone from the disk");
    assert!(matches!(partition.delete_before(201), Err(Error::Beyond { .. })));
    log.close();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    let partition = log.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(partition.start_offset(), 133);
    assert_eq!(offsets(&partition, 0), (133..200).collect::<Vec<_>>());
    assert!(log.verify("t").unwrap().is_sound());
    // Everything may go, and the log goes on.
    assert_eq!(partition.delete_before(200).unwrap(), 200);
    append(&partition, &runtime, 1);
    assert_eq!(offsets(&partition, 0), (200..210).collect::<Vec<_>>());
    log.close();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    assert_eq!(log.topic("t").unwrap().partition(0).unwrap().start_offset(), 200);
}
