//! Kafka as a source, as an operator meets it: a cluster that is not there yet, who is not let in,
//! two processes with one name, and what the SQL can know of a record.

use crate::program::{Program, eventually};
use millstream_testkit::proxy::Proxy;
use millstream_testkit::services::{self, Files, Listener, unique};
use std::net::{SocketAddr, TcpListener};

fn log_of(program: &Program) -> String {
    std::fs::read_to_string(program.path("run.log")).unwrap()
}

/// A pipeline from Kafka into the embedded log.
fn pipeline(name: &str, kafka: &str, topic: &str, more: &str) -> String {
    format!(
        "pipeline: {name}
source:
  kafka: {{ brokers: [\"{kafka}\"], topic: {topic}, {more} }}
  format: {{ json: {{ columns: {{ n: bigint }} }} }}
sinks: [{{ topic: out, partitions: 1, format: json }}]
"
    )
}

/// Puts lines of JSON into a topic, by a pipeline that ends.
fn put(kafka: &str, topic: &str, lines: &str) {
    let program = Program::new();
    program.write("in.jsonl", lines);
    program.write(
        "p.yaml",
        format!(
            "pipeline: put
source: {{ file: in.jsonl, format: {{ json: {{ columns: {{ n: bigint }} }} }} }}
sinks: [{{ kafka: {{ brokers: [\"{kafka}\"], topic: {topic} }}, format: json }}]
"
        ),
    );
    program.ok(&["run", "p.yaml", "--until-end", "--listen", "off"]);
}

/// The rows that came out so far.
fn out(program: &Program) -> usize {
    let said = program.run(&["tap", "out", "--from", "earliest", "--no-follow", "--json"]);
    said.out.lines().count()
}

#[test]
fn a_cluster_that_is_not_there_yet_is_waited_for() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("late");
    kafka.create_topic(&topic, 2, &[]);
    put(&kafka.bootstrap(), &topic, "{\"n\":1}\n{\"n\":2}\n");
    // Nobody listens there until the proxy does.
    let door = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = Program::new();
    program.write("p.yaml", pipeline(&topic, &door.to_string(), &topic, "start: earliest"));

    let said = program.run(&["check", "p.yaml"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains(&format!("no broker of {door} answers")), "{}", said.err);

    // A script that waits for the end learns it.
    let said = program.run(&["run", "p.yaml", "--exit-when-idle", "--listen", "off"]);
    assert_eq!(said.code, 1, "{}", said.err);

    let running = program.start(&["p.yaml"]);
    eventually("it says what it waits for", || {
        log_of(&program).contains("waiting: no pipeline is started yet").then_some(())
    });
    let (status, ready) = running.get("/health/ready");
    assert_eq!(status, 503, "{ready}");
    assert!(ready.contains(&format!("no broker of {door} answers")), "{ready}");
    assert_eq!(running.get("/health/live").0, 200);
    let upstream: SocketAddr = kafka.bootstrap().parse().unwrap();
    let _proxy = Proxy::listen(door, upstream, 1).unwrap();
    eventually("all rows came out", || (out(&program) == 2).then_some(()));
    eventually("it is ready", || (running.get("/health/ready").0 == 200).then_some(()));
    let log = log_of(&program);
    assert_eq!(log.matches("no pipeline is started yet").count(), 1, "it is said once: {log}");
    assert_eq!(running.end(), 0);

    // Whoever asks it to end meanwhile does not have to wait either.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = Program::new();
    program.write("p.yaml", pipeline(&topic, &nowhere.to_string(), &topic, "start: earliest"));
    let running = program.start(&["p.yaml"]);
    eventually("it waits", || log_of(&program).contains("waiting: no pipeline").then_some(()));
    assert_eq!(running.end(), 0);
}

#[test]
fn who_is_not_let_in_is_told_at_once() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("door");
    kafka.create_topic(&topic, 1, &[]);
    let Files { ca, stranger_cert, stranger_key, client_cert, client_key, .. } = kafka.files();
    let (ca, stranger) = (ca.display(), stranger_cert.display());
    let cases = [
        (
            Listener::Sasl,
            "sasl: { mechanism: scram-sha-256, username: alice, password: \"${WRONG}\" }"
                .to_owned(),
            "did not let `alice` in",
        ),
        (
            Listener::Sasl,
            "sasl: { mechanism: oauthbearer, token: \"${WRONG}\" }".to_owned(),
            "did not take the token",
        ),
        (Listener::Tls, format!("tls: {{ ca: {stranger} }}"), "see `ca`"),
        (
            Listener::MutualTls,
            format!(
                "tls: {{ ca: {ca}, certificate: {stranger}, key: {} }}",
                stranger_key.display()
            ),
            "does not take our certificate",
        ),
    ];
    for (listener, more, words) in cases {
        let program = Program::new();
        program.write("p.yaml", pipeline(&topic, &kafka.brokers(listener), &topic, &more));
        for command in [&["check", "p.yaml"][..], &["run", "p.yaml", "--listen", "off"]] {
            let output = program.command(command).env("WRONG", "no-such-secret").output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{words} {command:?}: {err}");
            assert!(err.contains(words) && err.contains("p.yaml:3:"), "{words}: {err}");
            assert!(!err.contains("no-such-secret"), "{err}");
        }
    }
    let program = Program::new();
    let tls = format!(
        "tls: {{ ca: {ca}, certificate: {}, key: {} }}",
        client_cert.display(),
        client_key.display()
    );
    program.write("p.yaml", pipeline(&topic, &kafka.brokers(Listener::MutualTls), &topic, &tls));
    program.ok(&["check", "p.yaml"]);
}

#[test]
fn of_two_processes_with_one_name_one_ends_with_a_sentence() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in ["classic", "consumer"] {
        let topic = unique("twins");
        kafka.create_topic(&topic, 2, &[]);
        let more = format!("protocol: {protocol}, instance: twin, session_timeout: 6s");
        let text = pipeline(&topic, &kafka.bootstrap(), &topic, &more);
        let programs = [Program::new(), Program::new()];
        programs.iter().for_each(|program| drop(program.write("p.yaml", &text)));
        let elder = programs[0].start(&["p.yaml"]);
        eventually("one has the partitions", || {
            log_of(&programs[0]).contains("partitions are ours").then_some(())
        });
        let younger = programs[1].start(&["p.yaml"]);
        // The classic protocol lets the newcomer in, the newer one who is there.
        let (out_of_it, ended, stays, other) = match protocol {
            "classic" => (&programs[0], elder, &programs[1], younger),
            _ => (&programs[1], younger, &programs[0], elder),
        };
        assert_eq!(ended.wait().code(), Some(1), "{protocol}");
        let log = log_of(out_of_it);
        assert!(log.contains("another process has joined as `instance: twin`"), "{log}");
        put(&kafka.bootstrap(), &topic, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
        eventually("the other does the work", || (out(stays) == 3).then_some(()));
        assert_eq!(other.end(), 0, "{protocol}");
    }
}

/// Every column that tells of a record, over topics that a pattern matches.
#[test]
fn a_record_says_where_it_is_from_when_it_was_and_what_it_carries() {
    let Some(kafka) = services::kafka() else { return };
    let prefix = unique("told");
    for end in ["a", "b"] {
        kafka.create_topic(&format!("{prefix}.{end}"), 2, &[("retention.ms", "-1")]);
    }
    kafka.create_topic(&format!("{prefix}-other"), 1, &[]);
    let brokers = kafka.bootstrap();
    let program = Program::new();
    let times = ["2023-01-02T03:04:05.678Z", "2024-05-06T07:08:09.012Z"];
    program.write(
        "in.jsonl",
        format!(
            "{{\"t\":\"{prefix}.a\",\"k\":\"one\",\"at\":\"{}\",\"n\":1}}\n\
             {{\"t\":\"{prefix}.b\",\"k\":\"two\",\"at\":\"{}\",\"n\":2}}\n\
             {{\"t\":\"{prefix}-other\",\"k\":\"three\",\"at\":\"{}\",\"n\":3}}\n",
            times[0], times[1], times[1]
        ),
    );
    program.write(
        "put.yaml",
        format!(
            "pipeline: put
source:
  file: in.jsonl
  format: {{ json: {{ columns: {{ t: string, k: string, at: timestamp, n: bigint }} }} }}
steps:
  - sql: |
      SELECT t, k, at, n, MAP {{'trace': k, 'kind': 'test'}} AS h FROM input
sinks:
  - kafka: {{ brokers: [\"{brokers}\"], topic_column: t }}
    key: k
    headers: h
    timestamp: at
    format: json
"
        ),
    );
    program.ok(&["run", "put.yaml", "--until-end", "--listen", "off"]);
    program.write(
        "get.yaml",
        format!(
            "pipeline: {prefix}
source:
  kafka: {{ brokers: [\"{brokers}\"], pattern: '{prefix}\\..', start_time: 2023-01-01T00:00:00Z }}
  format: {{ json: {{ columns: {{ n: bigint }} }} }}
steps:
  - sql: |
      SELECT n, CAST(_key AS VARCHAR) AS k, CAST(_headers['trace'] AS VARCHAR) AS trace,
             _timestamp AS at, _topic AS t, _partition AS p, _offset AS o
      FROM input
sinks: [{{ topic: out, partitions: 1, format: json }}]
"
        ),
    );
    program.ok(&["run", "get.yaml", "--exit-when-idle", "--listen", "off"]);
    let tapped = program.ok(&["tap", "out", "--from", "earliest", "--no-follow", "--json"]);
    let mut rows: Vec<serde_json::Value> = tapped
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["value"].clone())
        .collect();
    rows.sort_by_key(|row| row["n"].as_i64());
    assert_eq!(rows.len(), 2, "the third is in a topic that does not match: {rows:?}");
    for (row, (key, end, time)) in
        rows.iter().zip([("one", "a", &times[0][..19]), ("two", "b", &times[1][..19])])
    {
        assert_eq!((&row["k"], &row["trace"]), (&key.into(), &key.into()), "{row}");
        assert_eq!(row["t"], format!("{prefix}.{end}"));
        assert!(row["at"].as_str().unwrap().starts_with(time), "{row}");
        assert!(matches!(row["p"].as_i64(), Some(0 | 1)) && row["o"] == 0, "{row}");
    }
}
