//! Every secret that a file, an option or a variable can give has a value that is found nowhere else.
//! All that the program prints, answers and leaves behind is searched for it, with every log at
//! `trace`, in front of servers that let it in, refuse it, and repeat what they were sent.

use crate::program::{Program, Running, Said, ask, eventually};
use crate::web::serve;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use millstream_testkit::services::{self, Listener, unique};
use scylla::client::session_builder::SessionBuilder;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::runtime::Runtime;

/// What holds secrets on purpose stands in here, and is not searched.
const GIVEN: &str = "given";

/// The secrets, and everything that was seen of the program.
#[derive(Default)]
struct Spy {
    /// By what they are called in a failure.
    secrets: Vec<(String, String)>,
    seen: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

impl Spy {
    fn secret(&mut self, name: &str, value: &str) {
        self.secrets.push((name.to_owned(), value.to_owned()));
    }

    /// A secret that a variable gives to the program.
    fn variable(&mut self, name: &str, value: &str) {
        self.secret(name, value);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The lines of a private key.
    fn key(&mut self, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("---") && line.len() > 20);
        lines.for_each(|line| self.secret("a private key", line));
    }

    fn sees(&mut self, what: impl Into<String>, bytes: &[u8]) {
        self.seen.push((what.into(), String::from_utf8_lossy(bytes).into_owned()));
    }

    /// Runs a command to its end, with every log.
    fn runs(&mut self, program: &Program, args: &[&str]) -> Said {
        let mut command = program.command(&[args, &["--log", "trace"]].concat());
        let output = command.envs(self.variables.iter().cloned()).output().unwrap();
        self.sees(format!("the output of {args:?}"), &output.stdout);
        self.sees(format!("the log of {args:?}"), &output.stderr);
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn starts(&self, program: &Program, args: &[&str]) -> Running {
        let mut variables: Vec<(&str, &Path)> =
            self.variables.iter().map(|(name, value)| (&**name, Path::new(value))).collect();
        variables.push(("RUST_BACKTRACE", Path::new("full")));
        variables.push(("MILLSTREAM_PANIC_ON", Path::new("poison")));
        program.start_with(&[args, &["--log", "trace"]].concat(), &variables)
    }

    /// Asks a process that runs for all that it tells.
    fn asks(&mut self, program: &Program, running: &Running, pipeline: &str) {
        for page in ["/metrics", "/health/ready", "/health/live", "/registry/subjects", "/nothing"]
        {
            let (_, text) = running.get(page);
            self.sees(page, text.as_bytes());
        }
        let socket = program.path("millstream-data/millstream.sock");
        for request in ["process", "pipelines", "nothing"] {
            let answer = ask(&socket, &json!({ "request": request }).to_string());
            self.sees(format!("the socket's {request}"), answer.to_string().as_bytes());
        }
        for args in [
            &["pipelines"][..],
            &["pipelines", "--json"],
            &["offsets", "show", "--json"],
            &["topics", "list", "--json"],
            &["dead-letters", "list", pipeline],
            &["dead-letters", "list", pipeline, "--json"],
            &["tap", "out", "--from", "earliest", "--no-follow", "--json"],
            &["tap", &format!("{pipeline}.dead"), "--from", "earliest", "--no-follow", "--raw"],
        ] {
            self.runs(program, args);
        }
    }

    /// Everything in the program's folder.
    fn reads(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() && entry.file_name() != GIVEN {
                self.reads(&path);
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                self.sees(path.display().to_string(), &bytes);
            }
        }
    }

    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for (name, secret) in &self.secrets {
            for form in forms(secret) {
                for (place, text) in &self.seen {
                    if let Some(at) = text.find(&form) {
                        let from = text.floor_char_boundary(at.saturating_sub(200));
                        let to = text.ceil_char_boundary(at + form.len() + 60);
                        leaks.push(format!("{name} in {place}: …{}…", &text[from..to]));
                    }
                }
            }
        }
        leaks
    }

    fn finds_nothing(&self) {
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "{}", leaks.join("\n\n"));
    }
}

/// The ways in which a secret may come out.
fn forms(secret: &str) -> Vec<String> {
    let each = |show: fn(u8) -> String, between: &str| -> String {
        secret.bytes().map(show).collect::<Vec<_>>().join(between)
    };
    let percent = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let mut forms = vec![
        secret.to_owned(),
        each(percent, ""),
        each(percent, "").to_lowercase(),
        each(|byte| format!("{byte:02x}"), ""),
        each(|byte| byte.to_string(), ", "),
    ];
    // In the middle of a longer text, as `user:password`: what its own bytes decide.
    for before in 0..3 {
        let bytes = [&vec![b'x'; before], secret.as_bytes()].concat();
        let whole = STANDARD_NO_PAD.encode(&bytes);
        let whole = &whole[(before * 4).div_ceil(3)..bytes.len() / 3 * 4];
        forms.push(whole.to_owned());
        forms.push(whole.replace('+', "-").replace('/', "_"));
    }
    forms.sort();
    forms.dedup();
    forms
}

/// A folder with another for what holds secrets.
fn program() -> Program {
    let program = Program::new();
    std::fs::create_dir(program.path(GIVEN)).unwrap();
    program
}

fn give(program: &Program, name: &str, text: &str) {
    let path = program.write(&format!("{GIVEN}/{name}"), text);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_comes_out_in_any_form_is_found() {
    let secret = "a+long/secret:9";
    let coded = STANDARD_NO_PAD.encode(format!("user:{secret}"));
    for text in [
        format!("x{secret}x"),
        format!("Basic {coded}=="),
        format!("auth={}", coded.replace('+', "-").replace('/', "_")),
        "a%2Blong%2Fsecret%3A9".to_owned(),
        format!("{:?}", secret.as_bytes()),
    ] {
        let mut spy = Spy::default();
        spy.secret("it", secret);
        spy.sees("nothing", b"a long secret");
        assert!(spy.leaks().is_empty());
        spy.sees("this", text.as_bytes());
        assert!(!spy.leaks().is_empty(), "{text}");
    }
}

/// A server of HTTP that refuses some requests at first, with all that it was sent in its words.
fn repeating() -> u16 {
    let refused = std::sync::atomic::AtomicU32::new(0);
    serve(move |asked| {
        let repeated = format!("{} {:?}", asked.target, asked.headers);
        let again = |times: u32| refused.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < times;
        let path = asked.target.split('?').next().unwrap().to_owned();
        Some(match &*path {
            "/names/3" if again(2) => (401, repeated),
            "/bearer" if asked.body.contains("\"n\":6") && again(5) => (401, repeated),
            "/basic" if asked.body.contains("\"n\":5") => (422, repeated),
            path if path.contains("/subjects") || path.contains("/schemas") => {
                (401, json!({ "error_code": 40101, "message": repeated }).to_string())
            }
            "/names/1" => (404, repeated),
            path => match path.strip_prefix("/names/") {
                Some(n) => (200, format!("{{\"n\": {n}, \"name\": \"somebody\"}}")),
                None => (200, String::new()),
            },
        })
    })
}

#[test]
fn nothing_comes_out_of_what_http_servers_are_sent() {
    let mut spy = Spy::default();
    for (name, value) in [
        ("LOOKUP_TOKEN", "lookup+token/4c1e"),
        ("HEADER", "header+value/77d2"),
        ("REGISTRY_PASSWORD", "registry+word/b20c"),
        ("REGISTRY_TOKEN", "registry+token/5d5d"),
    ] {
        spy.variable(name, value);
    }
    spy.secret("the file's password", "sink+password/901a");
    spy.secret("the file's token", "sink+token/33fe");
    spy.secret("the look-up's query", "lookupquery6b");
    spy.secret("the sink's query", "sinkquery2f");
    spy.secret("the registry's address", "inaddress81");
    spy.secret("the key of Sentry", "sentrykey0d4");
    let port = repeating();
    let program = program();
    give(&program, "password.txt", "sink+password/901a\n");
    give(&program, "token.txt", "sink+token/33fe\n");
    give(
        &program,
        "web.yaml",
        &"pipeline: web
source: { file: ../in.jsonl, follow: true, format: { json: { columns: { n: bigint, note: string } } } }
lookups:
  names:
    http:
      url: http://127.0.0.1:PORT/names/{n}?key=lookupquery6b
      token: ${LOOKUP_TOKEN}
      columns: { n: bigint, name: string }
steps:
  - sql: SELECT i.n, i.note, x.name FROM input i LEFT JOIN names x ON x.n = i.n
sinks:
  - name: basic
    http:
      url: http://127.0.0.1:PORT/basic?key=sinkquery2f
      username: me
      password: { file: password.txt }
      headers: { X-Key: \"${HEADER}\" }
      retries: 0
  - { name: bearer, http: { url: \"http://127.0.0.1:PORT/bearer\", token_file: token.txt, retries: 0 } }
  - { topic: out, partitions: 1, format: json }
max_dead_ratio: 1
"
        .replace("PORT", &port.to_string()),
    );
    give(
        &program,
        "web.test.yaml",
        "cases:
  - name: nobody is known
    input: [{ n: 1, note: x }]
    lookups: { names: [{ n: 2, name: x }] }
    expect: { rows: [{ n: 1, note: x, name: other }] }
",
    );
    let lines = (1..10).map(|n| json!({ "n": n, "note": if n == 8 { "poison" } else { "" } }));
    let lines: String = lines.map(|line| line.to_string() + "\n").collect();
    program.write("in.jsonl", &lines);
    for args in [
        &["check", "given/web.yaml"][..],
        &["check", "given/web.yaml", "--json"],
        &["explain", "given/web.yaml"],
        &["explain", "given/web.yaml", "--json"],
        &["test", "given/web.yaml"],
        &["test", "given/web.yaml", "--json"],
        &["run", "given/web.yaml", "--preview", "20"],
        &["run", "given/web.yaml", "--preview", "20", "--json"],
    ] {
        let said = spy.runs(&program, args);
        assert_eq!(said.code, i32::from(args[0] == "test"), "{args:?}: {}", said.err);
    }
    let sentry = format!("http://sentrykey0d4@127.0.0.1:{port}/9");
    for (at, format) in ["text", "json"].iter().enumerate() {
        program.write("in.jsonl", lines.repeat(at + 1));
        let more = ["given/web.yaml", "--log-format", format, "--sentry-dsn", &sentry];
        let running = spy.starts(&program, &more);
        eventually("all rows are settled", || {
            spy.asks(&program, &running, "web");
            let metrics = running.get("/metrics").1;
            let lag = metrics.lines().find(|line| line.starts_with("millstream_lag_rows{"))?;
            lag.ends_with(" 0").then_some(())
        });
        assert_eq!(running.end(), 0);
        spy.reads(program.folder.path());
    }
    // The servers had their say.
    let all: String = spy.seen.iter().map(|(_, text)| text.as_str()).collect();
    for words in ["HTTP 401", "HTTP 422", "a value contains `poison`", "X-Key", "***"] {
        assert!(all.to_lowercase().contains(&words.to_lowercase()), "{words}");
    }

    for (name, registry) in [
        (
            "basic",
            "url: [\"http://127.0.0.1:PORT\"], username: me, password: \"${REGISTRY_PASSWORD}\"",
        ),
        ("bearer", "url: [\"http://127.0.0.1:PORT\"], token: \"${REGISTRY_TOKEN}\""),
        ("address", "url: [\"http://me:inaddress81@127.0.0.1:PORT\"]"),
        ("mistake", "url: [\"http://me:inaddress81@127.0.0.1:PORT\"], usrname: me"),
        ("nowhere", "url: [\"http://me:inaddress81@127.0.0.1:9\", \"http://me:inaddress81@\"]"),
    ] {
        let registry = registry.replace("PORT", &port.to_string());
        give(
            &program,
            "registry.yaml",
            &format!(
                "pipeline: {name}
registry: {{ {registry} }}
source: {{ file: ../in.jsonl, format: avro }}
sinks: [{{ discard: true }}]
"
            ),
        );
        give(
            &program,
            "sink.yaml",
            &format!(
                "pipeline: {name}
registry: {{ auto_register: true, {registry} }}
source: {{ file: ../in.jsonl, format: {{ json: {{ columns: {{ n: bigint, note: string }} }} }} }}
sinks: [{{ kafka: {{ brokers: [\"127.0.0.1:9\"], topic: x }}, format: {{ avro: {{}} }} }}]
"
            ),
        );
        for file in ["given/registry.yaml", "given/sink.yaml"] {
            for args in [&["check", file][..], &["check", file, "--json"], &["explain", file]] {
                spy.runs(&program, args);
            }
            let said = spy.runs(&program, &["run", file, "--until-end", "--listen", "off"]);
            assert_ne!(said.code, 0, "{name}: {}", said.err);
        }
    }
    let address = format!("http://me:inaddress81@127.0.0.1:{port}");
    for args in
        [&["schemas", "list", "--registry", &address], &["tap", "x", "--registry", &address]]
    {
        spy.runs(&program, args);
    }
    spy.reads(program.folder.path());
    spy.finds_nothing();
}

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

/// A `serve` for Kafka clients, killed at the end.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
    let mut command = server.command(&[&args[..], &["--log", "trace"]].concat());
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

/// The soft and the hard limit of a process's core files.
fn core_limits(pid: u32) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn a_crash_leaves_no_core_file() {
    for (more, allowed) in [("", false), ("--allow-core-files", true)] {
        let program = Program::new();
        // As far as the machine lets a process have core files.
        let script = format!(
            "ulimit -S -c $(ulimit -H -c) && exec \"$0\" serve --kafka-listen 127.0.0.1:0 {more}"
        );
        let binary = program.command(&[]).get_program().to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(binary).current_dir(program.folder.path());
        command.stdout(Stdio::null()).stderr(std::fs::File::create(program.path("log")).unwrap());
        let mut served = Served(command.spawn().unwrap());
        eventually("it is up", || {
            std::fs::read_to_string(program.path("log")).unwrap().contains("kafka=").then_some(())
        });
        let (soft, hard) = core_limits(served.0.id());
        if allowed {
            assert_eq!(soft, hard);
            continue;
        }
        assert!(["0", "1"].contains(&&*soft), "{soft}");
        let pid = served.0.id().to_string();
        assert!(Command::new("kill").args(["-ABRT", &pid]).status().unwrap().success());
        let status = served.0.wait().unwrap();
        assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
        let left = std::fs::read_dir(program.folder.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("core")), "{left:?}");
    }
}
