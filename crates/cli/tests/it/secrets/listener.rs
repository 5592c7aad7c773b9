//! The listener for Kafka clients, and pipelines that log in there.

use super::crash::Served;
use super::spy::{LOG, Spy, give, program};
use crate::program::eventually;
use std::process::Stdio;

#[test]
fn nothing_comes_out_of_the_listener_and_its_clients() {
    let mut spy = Spy::default();
    spy.variable("RIGHT", "listener+word/a81d");
    spy.variable("WRONG", "nobodys+word/06c3");
    let server = program();
    give(&server, "users.txt", "ann:listener+word/a81d\n");
    give(&server, "torn.txt", "ann:listener+word/a81d\nlistener+word/a81d\n");
    let args = ["serve", "--kafka-listen", "127.0.0.1:0", "--kafka-users", "given/torn.txt"];
    assert_eq!(spy.runs(&server, &args).code, 2);
    let mut args = args;
    args[4] = "given/users.txt";
    let log = std::fs::File::create(server.path("serve.log")).unwrap();
    let mut command = server.command(&[&args[..], &LOG].concat());
    let _served = Served(command.stderr(log).stdout(Stdio::null()).spawn().unwrap());
    let address = eventually("it says where it listens", || {
        let log = std::fs::read_to_string(server.path("serve.log")).unwrap();
        let (_, rest) = log.split_once("kafka=127.0.0.1:")?;
        let port = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        rest.contains('\n').then(|| format!("127.0.0.1:{port}"))
    });
    let client = program();
    client.write("in.jsonl", "{\"n\": 1}\n{\"n\": 2}\n");
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        server.ok(&["topics", "create", mechanism]);
        let cluster = |password: &str| {
            format!(
                "brokers: [\"{address}\"], sasl: {{ mechanism: {mechanism}, username: ann, \
                 password: \"${{{password}}}\" }}"
            )
        };
        let put = |password: &str| {
            format!(
                "pipeline: put
source: {{ file: ../in.jsonl, format: {{ json: {{ columns: {{ n: bigint }} }} }} }}
sinks: [{{ kafka: {{ {}, topic: {mechanism} }}, format: json }}]
",
                cluster(password)
            )
        };
        give(&client, "put.yaml", &put("RIGHT"));
        give(&client, "wrong.yaml", &put("WRONG"));
        let here = ["--data", mechanism];
        for (file, code) in [("given/put.yaml", 0), ("given/wrong.yaml", 2)] {
            for args in [
                &["run", file, "--until-end", "--listen", "off"][..],
                &["check", file],
                &["check", file, "--json"],
                &["explain", file],
            ] {
                let said = spy.runs(&client, &[args, &here].concat());
                assert!([0, code].contains(&said.code), "{mechanism} {args:?}: {}", said.err);
                assert!(code == 0 || args[0] == "explain" || said.code == code, "{}", said.err);
            }
            let tap = ["tap", mechanism, "--file", file, "--from", "earliest", "--no-follow"];
            let said = spy.runs(&client, &[&tap[..], &here].concat());
            assert_eq!(said.code == 0, code == 0, "{mechanism}: {}", said.err);
        }
    }
    spy.reads(client.folder.path());
    spy.reads(server.folder.path());
    spy.finds_nothing();
}
