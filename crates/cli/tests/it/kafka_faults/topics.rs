//! Topics that are deleted and made again, that take no large messages, and that are not ours to
//! read or write any more.

use super::faults::{NOTHING, PARTITIONS, Seen};
use super::network::topics;
use super::rig::{self, Places, Setup};
use super::{each, seed};
use millstream_testkit::events::{Event, Fate};
use millstream_testkit::services::{self, Kafka, Listener, Right};

#[test]
fn topics_may_be_made_again() {
    let Some(kafka) = services::kafka() else { return };
    let name = topics(&kafka, "again");
    let rig = rig::start(&name, kafka.client(), Setup::new(kafka.bootstrap(), seed()));
    let places = Places::of(&name);
    each(&places.all(), |topic, lasts| {
        let is_source = topic == places.source;
        let (missing, written) =
            (format!("there is no topic `{topic}`"), format!("`{topic}`: trying again"));
        let line: &[&str] = match is_source {
            true => &["looking for topics", "trying again", &missing],
            false => &["writing to ", &written],
        };
        rig.fault(
            &format!("{topic} is made again"),
            lasts,
            Seen::new(line, Some(topic)),
            || {
                // What is in a topic when it is deleted is its owner's loss.
                rig.pause_feeding(topic);
                kafka.delete_topic(topic);
                if !is_source {
                    rig.feed_again();
                }
            },
            || {
                rig.make_again(topic, || kafka.create_topic(topic, PARTITIONS, &[]));
                rig.feed_again();
            },
        );
    });
    rig.end();
}

/// Those that are to be dead letters are so because they are too large.
fn padded(event: &Event) -> Vec<u8> {
    let mut row = serde_json::to_value(event).unwrap();
    if event.fate == Fate::Dead {
        row["number"] = event.seq.to_string().into();
        row["pad"] = "x".repeat(3_000).into();
    }
    row.to_string().into_bytes()
}

#[test]
fn a_topic_may_take_no_large_messages() {
    let Some(kafka) = services::kafka() else { return };
    let name = topics(&kafka, "large");
    let client = kafka.client();
    let out = format!("{name}-out");
    let limit = |bytes: &str| client.configure(&out, "max.message.bytes", Some(bytes));
    limit("2000");
    let mut setup = Setup::new(kafka.bootstrap(), seed());
    setup.format = "{ json: { columns: { key: string, seq: bigint, fate: string, crc: string, \
                    number: string, pad: string } } }"
        .into();
    setup.select = ", i.pad";
    setup.encode = padded;
    let rig = rig::start(&name, kafka.client(), setup);
    each(&["700", "1200", "500"], |bytes, lasts| {
        rig.fault(
            &format!("{bytes} bytes are the most"),
            lasts,
            NOTHING,
            || limit(bytes),
            || limit("2000"),
        );
    });
    rig.end();
}

fn as_alice(kafka: &Kafka) -> Setup {
    let files = kafka.files();
    let mut setup = Setup::new(kafka.brokers(Listener::Sasl), seed());
    setup.cluster.push_str(&format!(
        ", sasl: {{ mechanism: scram-sha-256, username: {}, password: {} }}",
        files.user, files.password
    ));
    setup
}

#[test]
fn rights_may_be_withdrawn_and_given_back() {
    let Some(kafka) = services::kafka() else { return };
    let name = topics(&kafka, "rights");
    let client = kafka.client();
    let user = kafka.files().user;
    let rig = rig::start(&name, kafka.client(), as_alice(&kafka));
    let places = Places::of(&name);
    let rights = [
        (Right::Read, &places.source, &["holding", "partition=0", "give this user access"][..]),
        (Right::Write, &places.out, &["writing to ", "-out`: trying again", "authorization"]),
        (Right::Write, &places.dead, &["writing to ", "-dead`: trying again", "authorization"]),
    ];
    each(&rights, |(right, topic, line), lasts| {
        rig.fault(
            &format!("{right:?} of {topic} is denied"),
            lasts,
            Seen::new(line, Some("give this user access to the topic")),
            || client.deny(&user, right, topic, true),
            || client.deny(&user, right, topic, false),
        );
    });
    rig.end();
}
