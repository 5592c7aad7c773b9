//! Topics that are deleted and made again, that take no large messages, and that are not ours to
//! read or write any more.

use super::network::topics;
use super::rig::{PARTITIONS, Rig, Seen, Setup};
use super::{each, seed};
use millstream_testkit::events::{Event, Fate};
use millstream_testkit::services::{self, Kafka, Listener, Right};

#[test]
fn topics_may_be_made_again() {
    let Some(kafka) = services::kafka() else { return };
    let name = topics(&kafka, "again");
    let rig = Rig::start(&name, kafka.client(), Setup::new(kafka.bootstrap(), seed()));
    let places = rig.places.clone();
    let again = |topic: &str| {
        // Nothing of the old one is in the new one, whatever its offsets are.
        rig.ledger().lock().unwrap().made_again(topic);
        kafka.create_topic(topic, PARTITIONS as i32, &[]);
    };
    each(&[&places.source, &places.out, &places.dead], |topic, lasts| {
        // What is in a topic when it is deleted is its owner's loss.
        rig.pause_feeding(topic);
        let is_source = *topic == places.source;
        let missing = match is_source {
            true => format!("there is no topic `{topic}`"),
            false => format!("writing to partition 0 of `{topic}`"),
        };
        let line: &[&str] = match (is_source, *topic == places.out) {
            (true, _) => &["looking for topics", "trying again", &missing],
            (_, true) => &["trying again", "unknown topic"],
            _ => &["trying again", "-dead", "unknown topic"],
        };
        rig.fault(
            &format!("{topic} is made again"),
            lasts,
            Seen::new(line, Some(topic)),
            || {
                kafka.delete_topic(topic);
                if !is_source {
                    rig.feed_again();
                }
            },
            || {
                again(topic);
                rig.feed_again();
            },
        );
    });
    rig.end("again");
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
    let rig = Rig::start(&name, kafka.client(), setup);
    each(&["700", "1200", "500"], |bytes, lasts| {
        rig.fault(
            &format!("{bytes} bytes are the most"),
            lasts,
            Seen::new(&[], None),
            || limit(bytes),
            || limit("2000"),
        );
    });
    rig.end("large");
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
    let rig = Rig::start(&name, kafka.client(), as_alice(&kafka));
    let places = rig.places.clone();
    let rights = [
        (Right::Read, &places.source, &["holding", "partition=0", "reading partition"][..]),
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
    rig.end("rights");
}
