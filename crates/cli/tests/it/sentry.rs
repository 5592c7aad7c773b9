//! What Sentry is told: a service of the test takes the place of Sentry and keeps what it gets.

use crate::program::{Program, Said, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The project's key. It goes to the service, in one header, and nowhere else.
const KEY: &str = "canarykey4f1c";
/// Values that must be in nothing that is sent.
const ROW: &str = "canaryrow77";
const PASSWORD: &str = "canarypass9b";

/// A request as it came.
#[derive(Clone)]
struct Request {
    head: String,
    body: String,
}

#[derive(Clone)]
struct Service {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Service {
    /// Answers everything with this; with nothing at all where it is empty.
    fn that_answers(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service { address, requests: Arc::default() };
        let requests = service.requests.clone();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().flatten() {
                let Some(request) = read(&stream) else { continue };
                requests.lock().unwrap().push(request);
                let _ = (&stream).write_all(answer.as_bytes());
                if answer.is_empty() {
                    kept.push(stream);
                }
            }
        });
        service
    }

    fn new() -> Self {
        Self::that_answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    }

    fn dsn(&self) -> String {
        format!("http://{KEY}@{}/of/42", self.address)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The events, after a look at the envelopes around them.
    fn events(&self) -> Vec<Value> {
        self.requests().iter().map(Request::event).collect()
    }

    /// Pipeline, step and kind of each event.
    fn kinds(&self) -> Vec<[String; 3]> {
        let kind = |event: &Value| {
            ["pipeline", "step", "kind"]
                .map(|tag| event["tags"][tag].as_str().unwrap_or_default().to_owned())
        };
        self.events().iter().map(kind).collect()
    }
}

impl Request {
    fn event(&self) -> Value {
        assert!(self.head.starts_with("POST /of/api/42/envelope/ HTTP/1.1\r\n"), "{}", self.head);
        let head = self.head.to_lowercase();
        assert!(head.contains("content-type: application/x-sentry-envelope"), "{head}");
        let auth = head.lines().find(|line| line.starts_with("x-sentry-auth: sentry ")).unwrap();
        assert!(auth.contains("sentry_version=7"), "{auth}");
        assert!(auth.contains(&format!("sentry_key={KEY}")), "{auth}");
        let lines: Vec<&str> = self.body.lines().collect();
        let [head, item, event] = lines[..] else { panic!("{}", self.body) };
        let [head, item, parsed] =
            [head, item, event].map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!((&item["type"], &item["length"]), (&"event".into(), &event.len().into()));
        assert_eq!(head["event_id"], parsed["event_id"]);
        parsed
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())?.ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { head, body: String::from_utf8(body).ok()? })
}

/// A pipeline whose rows fail in several ways, and one that holds.
fn failing() -> Program {
    let program = Program::new();
    let mut rows = String::new();
    for n in 0..200 {
        rows.push_str(&match n {
            20..24 => format!("{{\"n\": \"{ROW}-{n}\", broken\n"),
            50..53 => format!("{{\"n\": \"{ROW}-{n}\"}}\n"),
            _ => format!("{{\"n\": \"{n}\"}}\n"),
        });
    }
    program.write("rows.json", rows);
    program.write("wrong.json", format!("{ROW} is no JSON\n").repeat(2000));
    let file = |name: &str, source: &str, ratio: &str, more: &str| {
        format!(
            "pipeline: {name}\n\
             registry: {{ url: [\"http://127.0.0.1:9\"], username: u, password: \"${{REGISTRY}}\" }}\n\
             source: {{ file: {source}, {more} format: {{ json: {{ columns: {{ n: string }} }} }} }}\n\
             steps: [{{ name: cast, sql: \"SELECT CAST(n AS BIGINT) AS n FROM input\" }}]\n\
             sinks: [{{ topic: {name}, format: json }}]\n\
             max_dead_ratio: {ratio}\n"
        )
    };
    program.write("fails.yaml", file("fails", "rows.json", "100%", ""));
    program.write("follows.yaml", file("follows", "rows.json", "100%", "follow: true,"));
    program.write("holds.yaml", file("holds", "wrong.json", "5%", ""));
    program
}

fn with_dsn(program: &Program, dsn: &str, args: &[&str]) -> Said {
    let mut command = program.command(args);
    command.env("SENTRY_DSN", dsn).env("REGISTRY", PASSWORD);
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn distinct<T: Ord>(all: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    all.into_iter().collect()
}

/// The value of `millstream_sentry_events_total` for an outcome.
fn counted(metrics: &str, outcome: &str) -> u64 {
    let name = format!("millstream_sentry_events_total{{outcome=\"{outcome}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("there is no {name} in {metrics}")).parse().unwrap()
}

#[test]
fn each_kind_of_error_is_told_once_and_nothing_that_is_secret() {
    let program = failing();
    let service = Service::new();
    let dsn = service.dsn();
    let running = program.start_with(
        &["follows.yaml", "holds.yaml", "--sentry-environment", "testing", "--log", "trace"],
        &[
            ("SENTRY_DSN", Path::new(&dsn)),
            ("REGISTRY", Path::new(PASSWORD)),
            ("MILLSTREAM_PANIC_ON", Path::new("\"n\": \"150\"")),
        ],
    );
    let wanted = [
        ["follows", "cast", "cast"],
        ["follows", "task", "panic"],
        ["holds", "partitions", "holding"],
    ];
    let kinds = eventually("all kinds are told", || {
        let kinds = service.kinds();
        let has = |of: &[&str; 3]| {
            kinds.iter().any(|kind| kind[0] == of[0] && (kind[1] == of[1] || kind[2] == of[2]))
        };
        (wanted.iter().all(has) && kinds.len() >= 6).then_some(kinds)
    });
    let metrics = eventually("what was sent is counted", || {
        let (_, metrics) = running.get("/metrics");
        (counted(&metrics, "sent") >= kinds.len() as u64).then_some(metrics)
    });
    assert_eq!(running.end(), 0);
    let kinds = service.kinds();
    assert_eq!(distinct(&kinds).len(), kinds.len(), "{kinds:?}");
    // Every kind that the metrics count is told.
    for line in metrics.lines().filter(|line| line.starts_with("millstream_errors_total{")) {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let kind = [label("pipeline"), label("step"), label("kind")];
        assert!(kinds.contains(&kind), "{kind:?} is not told: {kinds:?}");
    }
    for event in service.events() {
        assert_eq!(event["release"], concat!("millstream@", env!("CARGO_PKG_VERSION")));
        assert_eq!(event["environment"], "testing");
        assert_eq!(event["exception"]["values"][0]["type"], event["tags"]["kind"]);
    }
    let panic = service.events().into_iter().find(|event| event["tags"]["step"] == "task").unwrap();
    assert!(panic["extra"]["at"][0].as_str().unwrap().starts_with("core/src/fault.rs:"), "{panic}");
    let folder = program.folder.path().display().to_string();
    for request in service.requests() {
        for hidden in [KEY, ROW, PASSWORD, folder.as_str(), "rows.json", "127.0.0.1"] {
            assert!(!request.body.contains(hidden), "{hidden} is in {}", request.body);
        }
    }
    let log = std::fs::read_to_string(program.path("run.log")).unwrap();
    for hidden in [KEY, PASSWORD] {
        assert!(!log.contains(hidden), "{hidden} is in the log");
        assert!(!metrics.contains(hidden), "{hidden} is in the metrics");
    }
}

#[test]
fn a_run_that_ends_at_once_has_told_what_failed() {
    let program = failing();
    let service = Service::new();
    let args = ["run", "fails.yaml", "--until-end", "--listen", "off"];
    let said = with_dsn(&program, &service.dsn(), &args);
    assert_eq!(said.code, 0, "{}", said.err);
    let kinds = service.kinds();
    assert!(kinds.len() >= 2, "{kinds:?}");
    let rows: u64 = service.events().iter().filter_map(|e| e["extra"]["times"].as_u64()).sum();
    assert_eq!(rows, 7);
    assert!(service.events().iter().all(|event| event["environment"] == "production"));
}

#[test]
fn a_run_that_cannot_start_is_told_without_its_reason() {
    let program = failing();
    let service = Service::new();
    let args = ["run", "missing.yaml", "--listen", "off"];
    let said = with_dsn(&program, &service.dsn(), &args);
    assert_eq!(said.code, 2, "{}", said.err);
    let events = service.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (&events[0]["level"], &events[0]["tags"]["kind"]),
        (&"fatal".into(), &"not_started".into())
    );
    assert!(!events[0].to_string().contains("missing"));
}

#[test]
fn a_service_that_wants_less_gets_nothing_more() {
    let program = failing();
    let service = Service::that_answers(
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    let dsn = service.dsn();
    let variables = [("SENTRY_DSN", Path::new(&dsn)), ("REGISTRY", Path::new(PASSWORD))];
    let running = program.start_with(&["follows.yaml", "holds.yaml"], &variables);
    eventually("the others are dropped and counted", || {
        (counted(&running.get("/metrics").1, "rate_limited") >= 4).then_some(())
    });
    assert_eq!(running.end(), 0);
    assert_eq!(service.requests().len(), 1);
}

#[test]
fn a_service_that_is_away_or_silent_holds_nothing_up() {
    let silent = Service::that_answers("");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{KEY}@{gone}/1");
    for dsn in [gone.as_str(), &silent.dsn()] {
        let program = failing();
        let args = ["run", "fails.yaml", "--until-end", "--listen", "off"];
        let said = with_dsn(&program, dsn, &args);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.err.contains("out=193"), "{}", said.err);
        assert!(said.err.matches("does not take events").count() <= 1, "{}", said.err);
        assert!(!said.err.contains(KEY), "{}", said.err);
    }
    assert_eq!(distinct(silent.kinds()).len(), silent.kinds().len());
}

#[test]
fn a_dsn_is_checked_and_never_repeated() {
    let program = failing();
    let wrong = format!("https://{KEY}@127.0.0.1");
    let said = with_dsn(&program, &wrong, &["run", "fails.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("SENTRY_DSN") && said.err.contains("project"), "{}", said.err);
    assert!(!said.err.contains(KEY), "{}", said.err);
    let said = with_dsn(&program, "", &["run", "fails.yaml", "--sentry-dsn", &wrong]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(!said.err.contains(KEY), "{}", said.err);
    // Switched off by an empty variable.
    let args = ["run", "fails.yaml", "--until-end", "--listen", "off"];
    assert_eq!(with_dsn(&program, "", &args).code, 0);
}
