//! Connections that break, stall and lie, and brokers that die: nothing is lost, nothing is written
//! twice, and all of it goes on by itself.

use super::member::Member;
use super::*;
use millstream_testkit::events::{Checker, Fate};
use millstream_testkit::proxy::{Direction, Fault};
use millstream_testkit::services::{self, unique};
use std::collections::BTreeSet;

fn line_of(value: &[u8]) -> Event {
    let row: serde_json::Value = serde_json::from_slice(value).unwrap();
    serde_json::from_str(row["line"].as_str().unwrap()).unwrap()
}

/// What a topic holds, each event as often as it is there.
pub async fn read_all(cluster: &Cluster, topic: &str, at_least: usize) -> Vec<Event> {
    let member = Member::join(source(cluster, reading(topic, &unique("all"))).await);
    until("all are read", || member.seen() >= at_least).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = member.notes.lock().seen.clone();
    member.leave().await;
    seen.iter().map(|s| line_of(s.value.as_deref().unwrap())).collect()
}

pub fn check(sent: &[Event], found: &[Event], duplicates: u64) {
    let mut checker = Checker::default();
    sent.iter().for_each(|event| checker.sent(event));
    for fate in [Fate::Out, Fate::Drop, Fate::Dead] {
        let part: Vec<_> = found.iter().filter(|e| e.fate == fate).cloned().collect();
        checker.arrived("the topic", fate, &part, true, duplicates);
    }
    assert_eq!(checker.faults(), []);
}

/// The faults that a network may have, one after the other.
const FAULTS: [(Direction, Fault); 6] = [
    (Direction::ToClient, Fault::ResetAfter(2_000)),
    (Direction::ToServer, Fault::CutAfter(30_000)),
    (Direction::ToClient, Fault::BlackHole),
    (Direction::ToServer, Fault::Delay { ms_min: 1, ms_max: 30 }),
    (Direction::ToClient, Fault::Hold),
    (Direction::ToServer, Fault::ResetAfter(10_000)),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_over_a_bad_network_is_there_once_and_in_order() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("net-out");
    kafka.create_topic(&topic, 3, KEEP);
    let proxied = tokio::task::block_in_place(|| kafka.proxied(7));
    let mut options = options(&proxied.bootstrap);
    options.request_timeout = Duration::from_secs(2);
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let sent = events(31, 6_000);
    let mut sink =
        sink(&cluster, Target::Topic(topic.as_str().into()), Codec::Lz4, &rows(&sent[..1]));
    let mut durable = Vec::new();
    for (at, part) in sent.chunks(100).enumerate() {
        let (direction, fault) = FAULTS[at / 10];
        match at % 10 {
            2 => proxied.proxies[0].set(direction, fault),
            7 => {
                tokio::time::sleep(Duration::from_millis(600)).await;
                proxied.proxies[0].set(direction, Fault::None);
            }
            _ => {}
        }
        durable.push(sink.write(&batch(rows(part))).await.unwrap().durable);
    }
    for receipt in durable {
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
    }
    let direct = super::cluster(&kafka.bootstrap());
    check(&sent, &read_all(&direct, &topic, sent.len()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_over_a_bad_network_is_whole_and_in_order() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("net-in");
    kafka.create_topic(&topic, 3, KEEP);
    let direct = super::cluster(&kafka.bootstrap());
    let sent = events(32, 6_000);
    let proxied = tokio::task::block_in_place(|| kafka.proxied(8));
    let mut options = options(&proxied.bootstrap);
    options.request_timeout = Duration::from_secs(2);
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    for (at, part) in sent.chunks(1_000).enumerate() {
        let (direction, fault) = FAULTS[at];
        proxied.proxies[0].set(direction, fault);
        produce(&direct, &topic, Codec::None, part).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxied.proxies[0].set(direction, Fault::None);
    }
    until("all are read", || {
        let notes = member.notes.lock();
        let distinct: BTreeSet<_> = notes.seen.iter().map(|s| (s.partition, s.offset)).collect();
        distinct.len() == sent.len()
    })
    .await;
    let found: Vec<_> = {
        let notes = member.notes.lock();
        notes.seen.iter().map(|s| line_of(s.value.as_deref().unwrap())).collect()
    };
    // The group may have thought us gone for a moment.
    check(&sent, &found, sent.len() as u64);
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_found_and_read_again() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("bits");
    kafka.create_topic(&topic, 2, KEEP);
    let direct = super::cluster(&kafka.bootstrap());
    let sent = events(33, 4_000);
    produce(&direct, &topic, Codec::Lz4, &sent).await;
    let proxied = tokio::task::block_in_place(|| kafka.proxied(9));
    let mut options = options(&proxied.bootstrap);
    options.request_timeout = Duration::from_secs(2);
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("something is ours", || member.owned() > 0).await;
    proxied.proxies[0].set(Direction::ToClient, Fault::Corrupt { every: 20_000 });
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxied.proxies[0].set(Direction::ToClient, Fault::None);
    until("all are read", || {
        let notes = member.notes.lock();
        let distinct: BTreeSet<_> = notes.seen.iter().map(|s| (s.partition, s.offset)).collect();
        distinct.len() == sent.len()
    })
    .await;
    let found: Vec<_> = {
        let notes = member.notes.lock();
        notes.seen.iter().map(|s| line_of(s.value.as_deref().unwrap())).collect()
    };
    check(&sent, &found, sent.len() as u64);
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_die_and_stand_still_lose_nothing() {
    let Some(kafka) = services::kafka_cluster() else { return };
    let topic = unique("brokers");
    kafka.create_topic(&topic, 6, &[("min.insync.replicas", "2"), ("retention.ms", "-1")]);
    let mut options = options(&kafka.bootstrap());
    options.request_timeout = Duration::from_secs(3);
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    let sent = events(34, 6_000);
    let mut sink =
        sink(&cluster, Target::Topic(topic.as_str().into()), Codec::Lz4, &rows(&sent[..1]));
    let mut durable = Vec::new();
    for (at, part) in sent.chunks(100).enumerate() {
        tokio::task::block_in_place(|| match at {
            10 => kafka.kill(1),
            20 => kafka.start(1),
            30 => kafka.pause(2),
            40 => kafka.resume(2),
            45 => kafka.kill(3),
            55 => kafka.start(3),
            _ => {}
        });
        durable.push(sink.write(&batch(rows(part))).await.unwrap().durable);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for receipt in durable {
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
    }
    until("all are read", || {
        let notes = member.notes.lock();
        let distinct: BTreeSet<_> = notes.seen.iter().map(|s| (s.partition, s.offset)).collect();
        distinct.len() == sent.len()
    })
    .await;
    member.leave().await;
    check(&sent, &read_all(&cluster, &topic, sent.len()).await, 0);
}
