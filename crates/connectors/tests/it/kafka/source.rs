//! Reading: what is there is read whole, whatever shape the broker keeps it in.

use super::member::Member;
use super::*;
use millstream_connectors::kafka::{Protocol, StartAt};
use millstream_core::{Disposition, Place, Source};
use millstream_testkit::events::{Checker, Fate};
use millstream_testkit::services::{self, unique};
use std::collections::BTreeMap;

/// Every event of a fate that members saw, checked.
fn check(sent: &[Event], seen: &[member::Seen], duplicates: u64) {
    let mut checker = Checker::default();
    sent.iter().for_each(|event| checker.sent(event));
    let seen: Vec<Event> = seen.iter().map(|s| line_of(s.value.as_deref().unwrap())).collect();
    for fate in [Fate::Out, Fate::Drop, Fate::Dead] {
        let part: Vec<_> = seen.iter().filter(|e| e.fate == fate).cloned().collect();
        checker.arrived("the members", fate, &part, true, duplicates);
    }
    assert_eq!(checker.faults(), []);
}

fn line_of(value: &[u8]) -> Event {
    let row: serde_json::Value = serde_json::from_slice(value).unwrap();
    serde_json::from_str(row["line"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_is_read_whole_and_in_order() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("codecs");
    kafka.create_topic(&topic, 5, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    let sent = events(1, 5_000);
    for (at, part) in sent.chunks(1_000).enumerate() {
        produce(&cluster, &topic, Codec::ALL[at], part).await;
    }
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("all are read", || member.seen() >= sent.len()).await;
    check(&sent, &member.notes.lock().seen, 0);
    let first = member.notes.lock().seen[0].clone();
    assert_eq!(first.timestamp, 1_700_000_000_000 + line_of(&first.value.unwrap()).seq as i64);
    assert_eq!(member.source.partitions(), 5);
    let lag = || -> i64 {
        let notes = member.notes.lock();
        notes
            .owned
            .iter()
            .map(|(place, id)| {
                member.source.end_of(*id).unwrap()
                    - notes.committed.get(place).copied().unwrap_or(0)
            })
            .sum()
    };
    until("the lag is gone", || lag() == 0).await;
    member.leave().await;

    // Who comes next begins at the commits.
    let again = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("all are assigned", || again.owned() == 5).await;
    produce(&cluster, &topic, Codec::None, &sent[..10]).await;
    until("what is new is read", || again.seen() >= 10).await;
    assert_eq!(again.seen(), 10);
    again.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_begins_where_it_is_told() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("starts");
    kafka.create_topic(&topic, 1, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    let sent: Vec<Event> = (1..=10).map(|seq| Event::new("k".into(), seq, Fate::Out)).collect();
    produce(&cluster, &topic, Codec::None, &sent).await;
    let begun = async |start, group: &str| {
        let mut options = reading(&topic, group);
        options.group.start = start;
        let member = Member::join(source(&cluster, options).await);
        until("it begins", || {
            let notes = member.notes.lock();
            !notes.starts.is_empty() || !notes.errors.is_empty()
        })
        .await;
        let (start, error) = {
            let notes = member.notes.lock();
            (notes.starts.first().map(|(_, _, start)| *start), notes.errors.first().cloned())
        };
        member.leave().await;
        (start, error)
    };
    assert_eq!(begun(StartAt::Earliest, &unique("g")).await.0, Some(0));
    assert_eq!(begun(StartAt::Time(1_700_000_000_004), &unique("g")).await.0, Some(3));
    assert_eq!(begun(StartAt::Time(1_900_000_000_000), &unique("g")).await.0, Some(10));
    let group = unique("g");
    assert_eq!(begun(StartAt::Latest, &group).await.0, Some(10));
    // The end that was found is committed: later ones are not skipped.
    produce(&cluster, &topic, Codec::None, &sent[..2]).await;
    assert_eq!(begun(StartAt::Latest, &group).await.0, Some(10));
    let (_, error) = begun(StartAt::Committed, &unique("g")).await;
    assert!(error.unwrap().contains("has no offset for partition 0"));

    let source = source(&cluster, reading(&topic, &unique("g"))).await;
    assert_eq!(source.offset_of(0, Place::Earliest).await.unwrap(), 0);
    assert_eq!(source.offset_of(0, Place::Latest).await.unwrap(), 12);
    assert_eq!(source.offset_of(0, Place::Time(1_700_000_000_006)).await.unwrap(), 5);
    let wrong = source.offset_of(0, Place::Offset(13)).await.unwrap_err();
    assert_eq!(wrong.disposition(), Disposition::Stop);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_and_new_topics_are_read_from_their_beginning() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let prefix = unique("grow");
        let (first, second) = (format!("{prefix}.a"), format!("{prefix}.b"));
        kafka.create_topic(&first, 1, KEEP);
        let cluster = cluster(&kafka.bootstrap());
        let mut options = reading(&first, &prefix);
        options.topics = Topics::matching(&format!("{prefix}\\..")).unwrap();
        options.group.start = StartAt::Latest;
        options.group.protocol = protocol;
        let member = Member::join(source(&cluster, options).await);
        until("it begins", || member.owned() == 1).await;
        kafka.create_topic(&second, 2, KEEP);
        produce(&cluster, &second, Codec::Lz4, &events(3, 100)).await;
        until("the new topic is read", || member.seen() == 100).await;
        kafka.tool(&["topics", "--alter", "--topic", &first, "--partitions", "3"]);
        until("the new partitions are ours", || member.owned() == 5).await;
        produce(&cluster, &first, Codec::Lz4, &events(4, 100)).await;
        until("they are read", || member.seen() == 200).await;
        let starts = member.notes.lock().starts.clone();
        assert!(starts.iter().all(|(_, _, start)| *start == 0), "{starts:?}");
        member.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_again_does_not_get_the_old_offsets() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let topic = unique("remade");
        kafka.create_topic(&topic, 2, KEEP);
        let cluster = cluster(&kafka.bootstrap());
        produce(&cluster, &topic, Codec::None, &events(5, 200)).await;
        let mut options = reading(&topic, &topic);
        options.group.protocol = protocol;
        let member = Member::join(source(&cluster, options).await);
        until("the first is read", || member.seen() == 200).await;
        kafka.delete_topic(&topic);
        until("it is gone", || member.owned() == 0).await;
        kafka.create_topic(&topic, 2, KEEP);
        let fresh = super::cluster(&kafka.bootstrap());
        // As many as before: an old offset would find none of them.
        produce(&fresh, &topic, Codec::None, &events(5, 200)).await;
        until("the second is read", || member.seen() == 400).await;
        {
            // Whoever noticed first: the group, which asked for them, or we.
            let notes = member.notes.lock();
            assert!(notes.lost + notes.revoked >= 2);
        }
        member.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_gone_is_told_and_counted() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("lost");
    kafka.create_topic(&topic, 1, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    let sent: Vec<Event> = (1..=100).map(|seq| Event::new("k".into(), seq, Fate::Out)).collect();
    produce(&cluster, &topic, Codec::None, &sent[..50]).await;
    let groups = [unique("hold"), unique("earliest")];
    for group in &groups {
        let mut options = reading(&topic, group);
        options.group.start = StartAt::Latest;
        let member = Member::join(source(&cluster, options).await);
        until("its offset is set", || !member.notes.lock().starts.is_empty()).await;
        member.leave().await;
    }
    produce(&cluster, &topic, Codec::None, &sent[50..]).await;
    delete_records(&kafka, &topic, 70);

    let holding = Member::join(source(&cluster, reading(&topic, &groups[0])).await);
    until("it says so", || !holding.notes.lock().errors.is_empty()).await;
    let told = holding.notes.lock().errors[0].clone();
    assert!(told.contains("offset 50 of partition 0") && told.contains("70 to 100"), "{told}");
    assert_eq!(holding.seen(), 0);
    holding.leave().await;

    let mut options = reading(&topic, &groups[1]);
    options.on_lost_offset = OnLostOffset::Earliest;
    let member = Member::join(source(&cluster, options).await);
    until("what is left is read", || member.seen() == 30).await;
    assert_eq!(member.notes.lock().skipped, 20);
    member.leave().await;
}

fn delete_records(kafka: &services::Kafka, topic: &str, before: i64) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("offsets.json");
    let partition = format!(r#"{{"topic":"{topic}","partition":0,"offset":{before}}}"#);
    std::fs::write(&file, format!(r#"{{"version":1,"partitions":[{partition}]}}"#)).unwrap();
    kafka.tool(&["delete-records", "--offset-json-file", file.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_named() {
    let Some(kafka) = services::kafka() else { return };
    let cluster = cluster(&kafka.bootstrap());
    let missing = unique("missing");
    let error = KafkaSource::open(cluster, reading(&missing, "g")).await.err().unwrap();
    assert_eq!(error.disposition(), Disposition::Stop);
    assert!(error.to_string().contains(&missing), "{error}");
    let nobody = super::cluster("127.0.0.1:1");
    let error = KafkaSource::open(nobody, reading(&missing, "g")).await.err().unwrap();
    assert!(error.to_string().contains("no broker of 127.0.0.1:1 answers"), "{error}");
}

/// Transactions leave markers that are nobody's records: the commit reaches the end all the same.
#[tokio::test(flavor = "multi_thread")]
async fn markers_of_transactions_count_as_read() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("transactions");
    kafka.create_topic(&topic, 1, KEEP);
    let bootstrap = format!("bootstrap.servers={}", kafka.bootstrap());
    let id = unique("perf");
    kafka.tool(&[
        "perf-produce",
        "--topic",
        &topic,
        "--num-records",
        "500",
        "--record-size",
        "50",
        "--throughput",
        "-1",
        "--transactional-id",
        &id,
        "--transaction-duration-ms",
        "20",
        "--producer-props",
        &bootstrap,
    ]);
    let cluster = cluster(&kafka.bootstrap());
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("all are read", || member.seen() == 500).await;
    let end = member.source.offset_of(0, Place::Latest).await.unwrap();
    assert!(end > 500, "there are no markers");
    until("the commit is at the end", || member.notes.lock().committed.values().copied().eq([end]))
        .await;
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_joins_no_group_and_commits_nothing() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("looked-at");
    kafka.create_topic(&topic, 1, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    produce(&cluster, &topic, Codec::None, &events(2, 100)).await;
    let source = source(&cluster, reading(&topic, &topic)).await;
    let mut reader = source.reader(0, millstream_core::Start::Earliest).await.unwrap();
    let records = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap().unwrap();
    assert!(!records.is_empty());
    assert!(!kafka.tool(&["groups", "--list"]).contains(&topic));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_topics_are_one_source_and_each_record_says_where_it_is_from() {
    let Some(kafka) = services::kafka() else { return };
    let prefix = unique("several");
    let topics: Vec<Arc<str>> = ["a", "b", "c"].map(|end| format!("{prefix}.{end}").into()).into();
    let cluster = cluster(&kafka.bootstrap());
    for (at, topic) in topics.iter().enumerate() {
        kafka.create_topic(topic, at as i32 + 1, KEEP);
        produce(&cluster, topic, Codec::Snappy, &events(at as u64, 100)).await;
    }
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let mut options = reading("", &unique("several"));
        options.topics = Topics::Named(topics[..2].to_vec());
        options.group.protocol = protocol;
        let member = Member::join(source(&cluster, options).await);
        until("both are read", || member.seen() == 200).await;
        assert_eq!(member.owned(), 3);
        let mut places = BTreeMap::<(Arc<str>, u32), usize>::new();
        for seen in &member.notes.lock().seen {
            *places.entry((seen.topic.clone(), seen.partition)).or_default() += 1;
        }
        let of = |topic: &Arc<str>| -> usize {
            places.iter().filter(|((of, _), _)| of == topic).map(|(_, rows)| rows).sum()
        };
        assert_eq!((of(&topics[0]), of(&topics[1])), (100, 100), "{places:?}");
        member.leave().await;
    }
}
