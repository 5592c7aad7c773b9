//! What `/metrics` of the real binary says of Kafka: as the listener that clients talk to, and of a
//! pipeline that reads and writes it.

use super::network::topics;
use crate::program::{Program, Running, eventually};
use millstream_testkit::services::{self, Client, unique};

/// The value of a series whose name and labels begin and go on so.
fn value(running: &Running, name: &str, labels: &[&str]) -> Option<f64> {
    let (status, text) = running.get("/metrics");
    assert_eq!(status, 200);
    let line = text.lines().find(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
        rest.is_some_and(|rest| labels.iter().all(|label| rest.contains(label)))
    })?;
    Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

fn is(running: &Running, name: &str, labels: &[&str], wanted: f64) {
    let found = || value(running, name, labels);
    eventually(&format!("{name}{labels:?} is {wanted}, now {:?}", found()), || {
        (found() == Some(wanted)).then_some(())
    });
}

#[test]
fn the_listener_counts_its_clients_what_they_ask_and_their_groups() {
    let program = Program::new();
    program.write("in.jsonl", "");
    program.write(
        "p.yaml",
        "pipeline: p
source: { file: in.jsonl, follow: true, format: { json: { columns: { a: string } } } }
sinks: [{ topic: out, format: json }]
",
    );
    program.ok(&["topics", "create", "counted", "--partitions", "2"]);
    let running = program.start(&["--kafka-listen", "127.0.0.1:0", "p.yaml"]);
    let address = eventually("it says where it listens", || {
        let log = std::fs::read_to_string(program.path("run.log")).unwrap();
        let address = log.split("kafka=").nth(1)?.split_whitespace().next()?;
        address.parse().ok()
    });
    let client = Client::new(vec![address]).patiently();
    let mut feeder = client.feeder();
    let record = |n: usize| (format!("k{n}"), vec![b'x'; 100]);
    feeder.feed("counted", 0, &(0..30).map(record).collect::<Vec<_>>());
    feeder.feed("counted", 1, &(0..12).map(record).collect::<Vec<_>>());
    assert_eq!(client.read("counted", 0, 0).unwrap().len(), 30);
    assert!(client.topic("missing").is_err());

    is(&running, "millstream_kafka_records_produced_total", &[], 42.0);
    is(&running, "millstream_kafka_records_fetched_total", &[], 30.0);
    is(&running, "millstream_kafka_request_seconds_count", &["Produce"], 2.0);
    is(&running, "millstream_kafka_groups", &[], 0.0);
    is(&running, "millstream_kafka_group_members", &[], 0.0);
    is(&running, "millstream_kafka_committed_offsets", &[], 0.0);
    is(&running, "millstream_kafka_connections", &[], 0.0);
    is(&running, "millstream_kafka_connections_refused_total", &[], 0.0);
    is(&running, "millstream_kafka_handshake_errors_total", &[], 0.0);
    let least = [
        ("millstream_kafka_connections_total", 6.0),
        ("millstream_kafka_bytes_in_total", 4_200.0),
        ("millstream_kafka_bytes_out_total", 3_000.0),
        ("millstream_kafka_bytes_produced_total", 4_200.0),
        ("millstream_kafka_bytes_fetched_total", 3_000.0),
    ];
    for (name, least) in least {
        let found = value(&running, name, &[]);
        assert!(found.is_some_and(|found| found >= least), "{name}: {found:?}");
    }
    assert_eq!(running.end(), 0);
}

#[test]
fn a_pipeline_on_kafka_counts_its_rows_its_lag_and_its_commits() {
    let Some(kafka) = services::kafka() else { return };
    let (name, brokers) = (topics(&kafka, &unique("counts")), kafka.bootstrap());
    let program = Program::new();
    program.write(
        "p.yaml",
        format!(
            "pipeline: {name}
source:
  kafka: {{ brokers: [\"{brokers}\"], topic: {name} }}
  format: {{ json: {{ columns: {{ n: bigint }} }} }}
steps:
  - sql: SELECT n FROM input WHERE n > 3
sinks: [{{ kafka: {{ brokers: [\"{brokers}\"], topic: {name}-out }}, format: json }}]
dead_letters: {{ topic: {name}-dead, kafka: {{ brokers: [\"{brokers}\"] }} }}
max_dead_ratio: 1
"
        ),
    );
    let running = program.start(&["p.yaml"]);
    let line = |n: u64| (format!("k{n}"), format!("{{\"n\":{n}}}").into_bytes());
    let mut lines: Vec<_> = (0..10).map(line).collect();
    lines.push(("bad".into(), b"no json".to_vec()));
    kafka.client().feeder().feed(&name, 1, &lines);
    let pipeline = format!("pipeline=\"{name}\"");
    let of = [&*pipeline];
    is(&running, "millstream_rows_in_total", &of, 11.0);
    is(&running, "millstream_rows_out_total", &of, 6.0);
    is(&running, "millstream_rows_filtered_total", &of, 4.0);
    is(&running, "millstream_rows_dead_total", &of, 1.0);
    is(&running, "millstream_sink_rows_total", &of, 6.0);
    is(&running, "millstream_in_flight_batches", &of, 0.0);
    let partition = [&*pipeline, "partition=\"1\""];
    is(&running, "millstream_committed_offset", &partition, 11.0);
    is(&running, "millstream_lag_rows", &partition, 0.0);
    is(&running, "millstream_partition_holding", &partition, 0.0);
    let commits = value(&running, "millstream_commits_total", &of);
    assert!(commits.is_some_and(|commits| commits >= 1.0), "{commits:?}");
    assert_eq!(running.end(), 0);
}
