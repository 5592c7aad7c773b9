//! Kafka, a registry and the stores, with passwords, tokens and certificates that are right and wrong.

use super::spy::{Spy, give, program};
use crate::program::eventually;
use millstream_testkit::services::{self, Listener, unique};
use scylla::client::session_builder::SessionBuilder;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// A server of PostgreSQL's protocol that wants the password as it is, and repeats it.
fn postgres_that_repeats() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let message = |mut stream: &TcpStream, is_tagged: bool| -> std::io::Result<Vec<u8>> {
        stream.read_exact(&mut vec![0; usize::from(is_tagged)])?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        stream.read_exact(&mut body)?;
        Ok(body)
    };
    let answer = move |mut stream: &TcpStream| -> std::io::Result<()> {
        message(stream, false)?;
        stream.write_all(b"R\0\0\0\x08\0\0\0\x03")?;
        let password = message(stream, true)?;
        let password = String::from_utf8_lossy(&password[..password.len() - 1]).into_owned();
        let words = format!("SFATAL\0C28P01\0Mnobody has the password {password}\0\0");
        let length = (words.len() as u32 + 4).to_be_bytes();
        stream.write_all(&[b"E", &length[..], words.as_bytes()].concat())
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever goes away early has heard enough.
            let _ = answer(&stream);
        }
    });
    address
}

#[test]
fn nothing_comes_out_of_a_server_that_repeats_a_password() {
    let mut spy = Spy::default();
    spy.variable("PASSWORD", "postgres+word/7e7e");
    spy.secret("the file's password", "postgres+file/12b0");
    let address = postgres_that_repeats();
    let program = program();
    program.write("in.jsonl", "{\"n\": 1}\n");
    give(&program, "password.txt", "postgres+file/12b0\n");
    for password in ["password: \"${PASSWORD}\"", "password_file: password.txt"] {
        give(
            &program,
            "p.yaml",
            &format!(
                "pipeline: p
source: {{ file: ../in.jsonl, format: {{ json: {{ columns: {{ n: bigint }} }} }} }}
sinks: [{{ postgres: {{ hosts: [\"{address}\"], database: d, username: u, {password}, table: t }} }}]
"
            ),
        );
        for args in [
            &["check", "given/p.yaml"][..],
            &["check", "given/p.yaml", "--json"],
            &["explain", "given/p.yaml"],
            &["run", "given/p.yaml", "--until-end", "--listen", "off"],
        ] {
            let said = spy.runs(&program, args);
            let told = format!("{}{}", said.out, said.err);
            assert!(told.contains("nobody has the password ***"), "{args:?}: {told}");
        }
    }
    spy.reads(program.folder.path());
    spy.finds_nothing();
}

#[test]
fn nothing_comes_out_of_what_real_stores_are_told() {
    let (Some(kafka), Some(cassandra)) = (services::kafka(), services::cassandra()) else { return };
    let (Some(postgres), Some(mongo)) = (services::postgres(), services::mongo()) else { return };
    let Some(registry) = services::registry() else { return };
    let files = kafka.files();
    let mut spy = Spy::default();
    // What lets everybody in who has it.
    for name in ["KAFKA", "CASSANDRA", "POSTGRES"] {
        spy.variable(name, &files.password);
    }
    spy.variable("REGISTRY", "registry+word/44aa");
    spy.variable("WRONG", "nobodys+word/06c3");
    spy.variable("TOKEN", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJub2JvZHkifQ.c2VjcmV0");
    spy.key(&files.client_key);
    spy.key(&files.stranger_key);

    let name = unique("canaries");
    let space = name.replace('-', "_");
    let runtime = Runtime::new().unwrap();
    for topic in [&name, &format!("{name}-out"), &format!("{name}-dead")] {
        kafka.create_topic(topic, 1, &[]);
    }
    runtime.block_on(async {
        let builder = SessionBuilder::new().known_nodes(cassandra.nodes());
        let session = builder.user(&files.user, &files.password).build().await.unwrap();
        for statement in [
            format!(
                "CREATE KEYSPACE {space} WITH replication = \
                 {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
            ),
            format!("CREATE TABLE {space}.places (key text PRIMARY KEY, place text)"),
            format!("CREATE TABLE {space}.events (key text PRIMARY KEY, place text, city text)"),
        ] {
            session.query_unpaged(statement, ()).await.unwrap();
        }
        let address = postgres.address();
        let mut config = tokio_postgres::Config::new();
        config.host(address.ip().to_string()).port(address.port()).dbname("postgres");
        config.user(&files.user).password(&files.password);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let made = format!(
            "CREATE SCHEMA {space}; CREATE TABLE {space}.cities (key text PRIMARY KEY, city text); \
             CREATE TABLE {space}.events (key text, place text, city text)"
        );
        client.batch_execute(&made).await.unwrap();
    });

    let tls = format!(
        "{{ ca: {}, certificate: {}, key: {} }}",
        files.ca.display(),
        files.client_cert.display(),
        files.client_key.display()
    );
    let list = |addresses: &str| -> String {
        let quoted: Vec<String> = addresses.split(',').map(|one| format!("\"{one}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let user = &files.user;
    let kafka_with = |listener: Listener, tls: &str, sasl: &str| {
        format!("brokers: {}, tls: {tls}, sasl: {{ {sasl} }}", list(&kafka.brokers(listener)))
    };
    let scram = |password: &str| {
        let sasl =
            format!("mechanism: scram-sha-512, username: {user}, password: \"${{{password}}}\"");
        kafka_with(Listener::SaslTls, &tls, &sasl)
    };
    let cql = |password: &str| {
        format!(
            "nodes: {}, username: {user}, password: \"${{{password}}}\", tls: {tls}, keyspace: {space}",
            list(&cassandra.nodes().join(","))
        )
    };
    let sql = |password: &str| {
        format!(
            "hosts: [\"{}\"], database: postgres, username: {user}, password: \"${{{password}}}\", \
             schema: {space}",
            postgres.address()
        )
    };
    let program = program();
    give(
        &program,
        "p.yaml",
        &format!(
            "pipeline: {name}
registry: {{ url: [\"{url}\"], username: me, password: \"${{REGISTRY}}\", auto_register: true }}
source:
  kafka: {{ {scram}, topic: {name}, start: earliest }}
  format: {{ json: {{ columns: {{ key: string, number: string }} }} }}
lookups:
  places: {{ cql: {{ {cql}, table: places }} }}
  cities: {{ postgres: {{ {sql}, table: cities }} }}
steps:
  - sql: |
      SELECT i.key, p.place, c.city
      FROM input i LEFT JOIN places p ON p.key = i.key LEFT JOIN cities c ON c.key = i.key
      WHERE CAST(i.number AS BIGINT) > 0
sinks:
  - cql: {{ {cql}, table: events }}
  - postgres: {{ {sql}, table: events }}
  - {{ kafka: {{ {scram}, topic: {name}-out }}, format: {{ avro: {{}} }} }}
dead_letters: {{ topic: {name}-dead, kafka: {{ {scram} }} }}
max_dead_ratio: 1
",
            url = registry.url(),
            scram = scram("KAFKA"),
            cql = cql("CASSANDRA"),
            sql = sql("POSTGRES"),
        ),
    );
    let rows = "{\"key\":\"a\",\"number\":\"1\"}\n{\"key\":\"b\",\"number\":\"x\"}\n\
                {\"key\":\"poison\",\"number\":\"2\"}\n";
    program.write("rows.jsonl", rows);
    give(
        &program,
        "put.yaml",
        &format!(
            "pipeline: put-{name}
source: {{ file: ../rows.jsonl, format: {{ json: {{ columns: {{ key: string, number: string }} }} }} }}
sinks: [{{ kafka: {{ {}, topic: {name} }}, format: json }}]
",
            scram("KAFKA")
        ),
    );
    let there = |spy: &mut Spy, args: &[&str]| {
        let said = spy.runs(&program, args);
        assert_eq!(said.code, 0, "{args:?}: {}", &said.err[said.err.len().saturating_sub(2000)..]);
    };
    there(&mut spy, &["run", "given/put.yaml", "--until-end", "--listen", "off"]);
    for args in [
        &["check", "given/p.yaml"][..],
        &["check", "given/p.yaml", "--json"],
        &["explain", "given/p.yaml", "--json"],
        &["run", "given/p.yaml", "--preview", "5", "--json"],
        &["tap", &name, "--file", "given/p.yaml", "--from", "earliest", "--no-follow"],
    ] {
        there(&mut spy, args);
    }
    // What there is to say of it: only the words count.
    for args in [
        &["produce", &name, "--file", "given/p.yaml"][..],
        &["topics", "list", "--file", "given/p.yaml", "--json"],
        &["schemas", "list", "--file", "given/p.yaml", "--json"],
        &["offsets", "show", "--file", "given/p.yaml", "--json"],
        &["dead-letters", "list", &name, "--file", "given/p.yaml", "--json"],
        &["migrate", "--dry-run", "given/p.yaml"],
    ] {
        spy.runs(&program, args);
    }
    let running = spy.starts(&program, &["given/p.yaml"]);
    eventually("the rows are settled", || {
        let metrics = running.get("/metrics").1;
        let dead = metrics.lines().filter(|line| line.starts_with("millstream_rows_dead_total{"));
        let dead: u64 =
            dead.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
        (dead >= 2).then_some(())
    });
    spy.asks(&program, &running, &name);
    assert_eq!(running.end(), 0);
    spy.reads(program.folder.path());

    let stranger = format!(
        "{{ ca: {}, certificate: {}, key: {} }}",
        files.ca.display(),
        files.stranger_cert.display(),
        files.stranger_key.display()
    );
    let plain = format!("mechanism: plain, username: {user}, password: \"${{WRONG}}\"");
    let token = "mechanism: oauthbearer, token: \"${TOKEN}\"";
    for (at, sink) in [
        format!("kafka: {{ {}, topic: {name} }}, format: json", scram("WRONG")),
        format!(
            "kafka: {{ {}, topic: {name} }}, format: json",
            kafka_with(Listener::SaslTls, &tls, &plain)
        ),
        format!(
            "kafka: {{ {}, topic: {name} }}, format: json",
            kafka_with(Listener::SaslTls, &tls, token)
        ),
        format!(
            "kafka: {{ brokers: {}, tls: {stranger}, topic: {name} }}, format: json",
            list(&kafka.brokers(Listener::MutualTls))
        ),
        format!("cql: {{ {}, table: events }}", cql("WRONG")),
        format!("postgres: {{ {}, table: events }}", sql("WRONG")),
        format!(
            "mongodb: {{ hosts: [\"{}\"], database: {space}, username: {user}, \
             password: \"${{WRONG}}\", connect_timeout: 2s, collection: events }}",
            mongo.address()
        ),
        format!(
            "mongodb: {{ hosts: [\"{}\"], database: {space}, username: {user}, \
             password: \"${{WRONG}}\", tls: {tls}, connect_timeout: 2s, collection: events }}",
            mongo.tls_address()
        ),
    ]
    .iter()
    .enumerate()
    {
        give(
            &program,
            "refused.yaml",
            &format!(
                "pipeline: refused-{at}
source: {{ file: ../rows.jsonl, format: {{ json: {{ columns: {{ key: string, place: string, city: string }} }} }} }}
sinks: [{{ {sink} }}]
"
            ),
        );
        for args in [
            &["check", "given/refused.yaml"][..],
            &["check", "given/refused.yaml", "--json"],
            &["explain", "given/refused.yaml"],
            &["run", "given/refused.yaml", "--until-end", "--listen", "off"],
        ] {
            let said = spy.runs(&program, args);
            let is_mongo = sink.starts_with("mongodb");
            assert!(args[0] == "explain" || is_mongo || said.code != 0, "{sink}: {args:?}");
        }
    }
    spy.reads(program.folder.path());
    // The drivers had their say, at the lowest level.
    let all: String = spy.seen.iter().map(|(_, text)| text.as_str()).collect();
    for words in ["Sending 1 requests", "TRACE"] {
        assert!(all.contains(words), "{words}");
    }
    spy.finds_nothing();
}
