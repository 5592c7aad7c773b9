//! A replica that lacks records becomes leader of a real cluster: what was read is not there any
//! more, and that is never passed over in silence.

use super::member::Member;
use super::*;
use millstream_testkit::events::Fate;
use millstream_testkit::services::{self, unique};
use std::collections::BTreeSet;

/// Each event once, of these sequence numbers.
fn of(from: u64, to: u64) -> Vec<Event> {
    (from..to).map(|seq| Event::new(format!("k{}", seq % 7), seq, Fate::Out)).collect()
}

/// The sequence numbers that a member has seen from an offset on, with how often it began there.
fn seen_from(member: &Member, offset: i64) -> Vec<u64> {
    let notes = member.notes.lock();
    let there = notes.seen.iter().filter(|seen| seen.offset >= offset);
    there
        .map(|seen| {
            let row: serde_json::Value =
                serde_json::from_slice(seen.value.as_deref().unwrap()).unwrap();
            let event: Event = serde_json::from_str(row["line"].as_str().unwrap()).unwrap();
            event.seq
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclean_election_is_told_and_what_took_the_place_of_the_lost_is_read() {
    let Some(kafka) = services::kafka_cluster() else { return };
    let topic = unique("unclean");
    // Broker 3 only keeps the controllers' majority.
    tokio::task::block_in_place(|| {
        kafka.tool(&[
            "topics",
            "--create",
            "--topic",
            &topic,
            "--replica-assignment",
            "1:2",
            "--config",
            "unclean.leader.election.enable=true",
            "--config",
            "min.insync.replicas=1",
            "--config",
            "retention.ms=-1",
        ])
    });
    let mut options = options(&kafka.bootstrap());
    options.request_timeout = Duration::from_secs(3);
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let join = async |name: &str, lost| {
        let mut options = reading(&topic, &format!("{topic}-{name}"));
        options.on_lost_offset = lost;
        Member::join(source(&cluster, options).await)
    };
    let holds = join("holds", OnLostOffset::Hold).await;
    let earliest = join("earliest", OnLostOffset::Earliest).await;
    let absent = join("absent", OnLostOffset::Earliest).await;
    produce(&cluster, &topic, Codec::None, &of(0, 100)).await;
    tokio::task::block_in_place(|| kafka.kill(2));
    // Only broker 1 has these.
    produce(&cluster, &topic, Codec::None, &of(100, 200)).await;
    let at_end = |member: &Member| member.notes.lock().committed.values().copied().eq([200]);
    until("all have read and committed", || at_end(&holds) && at_end(&earliest) && at_end(&absent))
        .await;
    absent.leave().await;
    tokio::task::block_in_place(|| {
        kafka.kill(1);
        kafka.start(2);
    });
    produce(&cluster, &topic, Codec::None, &of(200, 350)).await;

    until("it says so", || !holds.notes.lock().errors.is_empty()).await;
    let told = holds.notes.lock().errors[0].clone();
    assert!(
        told.contains(&format!("partition 0 of `{topic}` was cut back"))
            && told.contains("up to offset 200")
            && told.contains("from offset 100 on"),
        "{told}"
    );
    assert_eq!(holds.seen(), 200, "it reads nothing of the other log");
    until("the other reads what took their place", || {
        earliest.notes.lock().committed.values().copied().eq([250])
    })
    .await;
    let expected: BTreeSet<u64> = (100..350).collect();
    assert_eq!(seen_from(&earliest, 100).into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(earliest.notes.lock().starts.last().map(|start| start.2), Some(100));

    // The commit says under which leader it was made: one that was away notices too.
    let absent = join("absent", OnLostOffset::Earliest).await;
    until("one that was away reads it", || {
        absent.notes.lock().committed.values().copied().eq([250])
    })
    .await;
    assert_eq!(seen_from(&absent, 0), (200..350).collect::<Vec<_>>());
    let starts: Vec<i64> = absent.notes.lock().starts.iter().map(|start| start.2).collect();
    assert_eq!(starts, [200, 100]);
    for member in [holds, earliest, absent] {
        member.leave().await;
    }
}
