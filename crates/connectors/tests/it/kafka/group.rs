//! Membership: who has what, when members come, go, vanish and come back.

use super::member::{Book, Member, Seen};
use super::*;
use millstream_connectors::kafka::{Protocol, StartAt};
use millstream_core::{Change, Source};
use millstream_testkit::services::{self, unique};
use std::collections::BTreeMap;

async fn member(
    cluster: &Cluster,
    topic: &str,
    all: &Book,
    change: impl FnOnce(&mut KafkaSourceOptions),
) -> Member {
    let mut options = reading(topic, topic);
    options.group.session_timeout = Duration::from_secs(6);
    change(&mut options);
    Member::join_with(source(cluster, options).await, all.clone())
}

/// Every offset of every partition was seen, in order but for repetitions.
fn check(seen: &[Seen], count: usize) -> usize {
    let mut next: BTreeMap<u32, i64> = BTreeMap::new();
    let mut repeated = 0;
    for record in seen {
        let next = next.entry(record.partition).or_default();
        assert!(record.offset <= *next, "offset {next} of {} is missing", record.partition);
        repeated += usize::from(record.offset < *next);
        *next = (record.offset + 1).max(*next);
    }
    assert_eq!(next.values().sum::<i64>(), count as i64);
    repeated
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_and_hand_over_without_a_gap_or_a_repetition() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let topic = unique("share");
        kafka.create_topic(&topic, 6, KEEP);
        let cluster = cluster(&kafka.bootstrap());
        let all = Book::default();
        let with = |options: &mut KafkaSourceOptions| options.group.protocol = protocol;
        let first = member(&cluster, &topic, &all, with).await;
        until("one has all", || first.owned() == 6).await;
        let sent = events(21, 6_000);
        let producing = {
            let (cluster, topic, sent) = (cluster.clone(), topic.clone(), sent.clone());
            tokio::spawn(async move {
                for part in sent.chunks(100) {
                    produce(&cluster, &topic, Codec::Lz4, part).await;
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            })
        };
        let second = member(&cluster, &topic, &all, with).await;
        until("two share", || first.owned() == 3 && second.owned() == 3).await;
        // Cooperative: what stays is not taken away for a moment.
        assert_eq!(first.notes.lock().revoked, 3);
        first.leave().await;
        until("the other has all", || second.owned() == 6).await;
        producing.await.unwrap();
        until("all are read", || all.lock().seen.len() >= sent.len()).await;
        assert_eq!(check(&all.lock().seen, sent.len()), 0, "{protocol:?}");
        assert_eq!(second.notes.lock().lost, 0);
        second.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_vanishes_is_replaced_from_its_last_commit() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("vanish");
    kafka.create_topic(&topic, 4, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    let all = Book::default();
    let classic = |options: &mut KafkaSourceOptions| options.group.protocol = Protocol::Classic;
    let sent = events(22, 3_000);
    // Its own connections, so that they end with it.
    let doomed = {
        let own = super::cluster(&kafka.bootstrap());
        member(&own, &topic, &all, classic).await
    };
    until("one has all", || doomed.owned() == 4).await;
    produce(&cluster, &topic, Codec::None, &sent[..1_000]).await;
    until("it reads", || all.lock().seen.len() >= 1_000).await;
    let heir = member(&cluster, &topic, &all, classic).await;
    until("they share", || doomed.owned() == 2 && heir.owned() == 2).await;
    doomed.die().await;
    produce(&cluster, &topic, Codec::None, &sent[1_000..]).await;
    until("the heir has all", || heir.owned() == 4).await;
    until("all are read", || {
        let seen = all.lock().seen.clone();
        let distinct: std::collections::BTreeSet<_> =
            seen.iter().map(|s| (s.partition, s.offset)).collect();
        distinct.len() == sent.len()
    })
    .await;
    check(&all.lock().seen, sent.len());
    heir.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_a_name_of_its_own_comes_back_to_its_partitions() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let topic = unique("static");
        kafka.create_topic(&topic, 4, KEEP);
        let cluster = cluster(&kafka.bootstrap());
        let all = Book::default();
        let named = |name: &str| {
            let name = name.to_owned();
            move |options: &mut KafkaSourceOptions| {
                options.group.protocol = protocol;
                options.group.instance = Some(name);
                options.group.session_timeout = Duration::from_secs(30);
            }
        };
        let stays = member(&cluster, &topic, &all, named("a")).await;
        let goes = member(&cluster, &topic, &all, named("b")).await;
        until("they share", || stays.owned() == 2 && goes.owned() == 2).await;
        let had: Vec<_> = goes.notes.lock().owned.keys().cloned().collect();
        let disturbed = stays.notes.lock().revoked;
        goes.leave().await;
        let back = member(&cluster, &topic, &all, named("b")).await;
        until("it is back", || back.owned() == 2).await;
        assert_eq!(back.notes.lock().owned.keys().cloned().collect::<Vec<_>>(), had);
        assert_eq!(stays.owned(), 2);
        assert_eq!(stays.notes.lock().revoked, disturbed);
        back.leave().await;
        stays.leave().await;
    }
}

/// A reader that takes nothing for longer than the session is not put out of the group.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_held_stays_ours() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("held");
    kafka.create_topic(&topic, 1, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    let mut options = reading(&topic, &topic);
    options.group.protocol = Protocol::Classic;
    options.group.session_timeout = Duration::from_secs(6);
    let source = source(&cluster, options).await;
    let group = source.group().unwrap();
    let Change::Assigned(ours) = group.next().await.unwrap() else { panic!("nothing is ours") };
    assert_eq!(ours, [0]);
    let _reader = source.reader(0, millstream_core::Start::Offset(0)).await.unwrap();
    produce(&cluster, &topic, Codec::None, &events(1, 5_000)).await;
    let told = tokio::time::timeout(Duration::from_secs(10), group.next()).await;
    assert!(told.is_err(), "{told:?}");
    assert_eq!(group.commit(&[(0, 7)]).await.unwrap(), [(0, 7)]);
    assert_eq!(group.commit(&[(3, 7)]).await.unwrap(), [], "it is not ours");
    group.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_for_what_was_given_up_late() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("late");
    kafka.create_topic(&topic, 2, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    produce(&cluster, &topic, Codec::None, &events(1, 500)).await;
    let mut options = reading(&topic, &topic);
    options.group.rebalance_timeout = Duration::from_secs(4);
    let slow = source(&cluster, options).await;
    let group = slow.group().unwrap();
    let Change::Assigned(ours) = group.next().await.unwrap() else { panic!("nothing is ours") };
    assert_eq!(ours.len(), 2);
    let other = member(&cluster, &topic, &Book::default(), |_| ()).await;
    let Change::Revoked(gone, release) = group.next().await.unwrap() else { panic!("not asked") };
    // It never says that it is done; until the deadline it may still commit.
    let gone = gone[0];
    assert_eq!(group.commit(&[(gone, 3)]).await.unwrap(), [(gone, 3)]);
    until("the other has it", || other.owned() == 1).await;
    assert_eq!(group.commit(&[(gone, 200)]).await.unwrap(), []);
    assert_eq!(other.notes.lock().starts[0].2, 3, "the successor begins at the commit");
    drop(release);
    other.leave().await;
    group.leave().await;
}

/// Partitions that are added while rows come: each row is read once, in the order of its partition.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_under_load_are_taken_up_whole() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let topic = unique("raised");
        kafka.create_topic(&topic, 2, KEEP);
        let cluster = cluster(&kafka.bootstrap());
        let all = Book::default();
        let with = |options: &mut KafkaSourceOptions| {
            options.group.protocol = protocol;
            // Even so: what is in a new partition before it is known is not passed over.
            options.group.start = StartAt::Latest;
        };
        let first = member(&cluster, &topic, &all, with).await;
        let second = member(&cluster, &topic, &all, with).await;
        until("they share", || first.owned() == 1 && second.owned() == 1).await;
        let sent = events(23, 5_000);
        let producing = {
            let (topic, sent, brokers) = (topic.clone(), sent.clone(), kafka.bootstrap());
            tokio::spawn(async move {
                for part in sent.chunks(100) {
                    // One that knows the new partitions at once.
                    let fresh = super::cluster(&brokers);
                    produce(&fresh, &topic, Codec::Lz4, part).await;
                    tokio::time::sleep(Duration::from_millis(60)).await;
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::block_in_place(|| {
            kafka.tool(&["topics", "--alter", "--topic", &topic, "--partitions", "6"])
        });
        producing.await.unwrap();
        until("all are read", || all.lock().seen.len() >= sent.len()).await;
        until("they share all", || first.owned() == 3 && second.owned() == 3).await;
        assert_eq!(check(&all.lock().seen, sent.len()), 0, "{protocol:?}");
        let used: std::collections::BTreeSet<u32> =
            all.lock().seen.iter().map(|seen| seen.partition).collect();
        assert_eq!(used.len(), 6, "{protocol:?}: the new ones were written too");
        first.leave().await;
        second.leave().await;
    }
}

/// In the classic protocol the newcomer puts the other out, in the newer one it is not let in.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_with_one_name_only_one_goes_on() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let topic = unique("twins");
        kafka.create_topic(&topic, 2, KEEP);
        let all = Book::default();
        let named = |options: &mut KafkaSourceOptions| {
            options.group.protocol = protocol;
            options.group.instance = Some("twin".into());
        };
        let clusters = [cluster(&kafka.bootstrap()), cluster(&kafka.bootstrap())];
        let elder = member(&clusters[0], &topic, &all, named).await;
        until("one has all", || elder.owned() == 2).await;
        let younger = member(&clusters[1], &topic, &all, named).await;
        let (out, stays) = match protocol {
            Protocol::Classic => (&elder, &younger),
            _ => (&younger, &elder),
        };
        until("one is put out", || !out.notes.lock().errors.is_empty()).await;
        let told = out.notes.lock().errors[0].clone();
        assert!(told.contains("another process has joined as `instance: twin`"), "{told}");
        until("the other has all", || out.owned() == 0 && stays.owned() == 2).await;
        // Whoever is out stays out, and what comes is read once.
        produce(&clusters[0], &topic, Codec::None, &events(24, 400)).await;
        until("all are read", || all.lock().seen.len() >= 400).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(check(&all.lock().seen, 400), 0, "{protocol:?}");
        assert_eq!((out.owned(), stays.owned(), stays.seen()), (0, 2, 400), "{protocol:?}");
        elder.leave().await;
        younger.leave().await;
    }
}
