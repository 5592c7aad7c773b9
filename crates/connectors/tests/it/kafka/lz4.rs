//! What is packed here is read by Kafka's own client and by librdkafka, byte for byte.

use super::*;
use millstream_core::Encoder;
use millstream_testkit::services::{self, unique};
use std::process::{Command, Output};

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_read_what_is_packed_here() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("lz4");
    kafka.create_topic(&topic, 1, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    // Of one block and of several, the last one short; what repeats, and what hardly does.
    let mut generator = Generator::new(11, 5_000);
    let mut sent = Vec::new();
    for rows in [1, 10, 700, 4_000] {
        sent.push((0..rows).map(|_| generator.event()).collect::<Vec<_>>());
    }
    let first = rows(&sent[0]);
    let mut sink = sink(&cluster, Target::Topic(topic.as_str().into()), Codec::Lz4, &first);
    let mut expected = String::new();
    for events in &sent {
        let rows = rows(events);
        let encoded = JsonEncoder::new(rows.schema()).unwrap().encode(&rows).unwrap();
        for row in 0..encoded.len() {
            expected += std::str::from_utf8(encoded.row(row)).unwrap();
            expected.push('\n');
        }
        let receipt = sink.write(&batch(rows)).await.unwrap();
        assert!(receipt.rejected.is_empty(), "{:?}", receipt.rejected);
        receipt.durable.await.unwrap();
    }
    let count = sent.iter().map(Vec::len).sum::<usize>().to_string();
    let services = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/services");
    let java = Command::new(services)
        .args(["kafka", "consume", "--topic", &topic, "--from-beginning"])
        .args(["--max-messages", &count, "--timeout-ms", "60000"])
        .output()
        .unwrap();
    assert!(text(java) == expected, "Kafka's own client reads something else");
    let brokers = kafka.bootstrap();
    let kcat = Command::new("kcat")
        .args(["-b", &brokers, "-C", "-t", &topic, "-o", "beginning", "-e", "-q"])
        .output();
    match kcat {
        Ok(kcat) => assert!(text(kcat) == expected, "librdkafka reads something else"),
        Err(why) if std::env::var_os("CI").is_some() => panic!("kcat is due in CI: {why}"),
        Err(why) => eprintln!("skipped, there is no kcat: {why}"),
    }
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
