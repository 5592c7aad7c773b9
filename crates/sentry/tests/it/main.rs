//! The service against an endpoint of the test: what it sends of the log and of panics, and that
//! nothing waits for it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use millstream_sentry::{Count, Kind, Level, Options, Sentry, Tally};
use prometheus::Registry;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use tracing_subscriber::layer::SubscriberExt;

/// Answers each request with this, and gives its event. With an empty answer it reads nothing.
fn endpoint(answer: &'static str) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dsn = format!("http://key@{}/1", listener.local_addr().unwrap());
    let (told, events) = channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().flatten() {
            if answer.is_empty() {
                kept.push(stream);
                continue;
            }
            if let Some(event) = read(&stream) {
                (&stream).write_all(answer.as_bytes()).unwrap();
                let _ = told.send(event);
            }
        }
    });
    (dsn, events)
}

fn read(stream: &TcpStream) -> Option<Value> {
    let mut lines = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap();
            }
            Some(_) => {}
            None if line.trim().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    serde_json::from_str(String::from_utf8(body).unwrap().lines().nth(2)?).ok()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn start(dsn: &str) -> Sentry {
    let dsn = dsn.parse().unwrap();
    Sentry::start(Options { dsn, environment: "test".into(), release: "r@1".into() }).unwrap()
}

fn tally(word: &str) -> Tally {
    let kind = Kind::of("p", "s", word);
    Tally { kind, level: Level::Error, says: "it failed", count: Count::Once }
}

fn counted(registry: &Registry, outcome: &str) -> u64 {
    let families = registry.gather();
    let metric = families[0].get_metric().iter().find(|m| m.get_label()[0].value() == outcome);
    metric.unwrap().get_counter().get_value() as u64
}

#[test]
fn of_the_log_and_of_panics_only_the_place_is_sent() {
    let (dsn, events) = endpoint(OK);
    let sentry = start(&dsn);
    let subscriber = tracing_subscriber::registry().with(vec![sentry.handle().layer()]);
    tracing::subscriber::with_default(subscriber, || {
        tracing::error!(path = "/etc/canary", "canary of {}", "a row");
        tracing::warn!("canary that passes");
        // Its counters tell of it.
        tracing::error!(target: "millstream_engine::engine", pipeline = "p", "holding: canary");
    });
    sentry.handle().notice_panics();
    let panics = std::thread::Builder::new().name("worker".into()).spawn(|| panic!("canary"));
    assert!(panics.unwrap().join().is_err());
    drop(sentry);
    let events: Vec<Value> = events.try_iter().collect();
    assert_eq!(events.len(), 2, "{events:?}");
    for (event, step) in events.iter().zip(["it", "thread worker"]) {
        assert_eq!(event["tags"]["step"], step);
        let at = event["extra"]["at"][0].as_str().unwrap();
        assert!(at.contains("main.rs:"), "{event}");
        assert!(!event.to_string().contains("canary"), "{event}");
    }
}

#[test]
fn what_is_watched_is_told_when_it_grows_also_at_the_end() {
    let (dsn, events) = endpoint(OK);
    let sentry = start(&dsn);
    let mut looks = 0;
    let (looked, seen) = channel();
    sentry.handle().watch(move || {
        looks += 1;
        let _ = looked.send(());
        vec![Tally { count: Count::Ever(looks), ..tally("a") }]
    });
    seen.recv().unwrap();
    assert_eq!(events.recv().unwrap()["extra"]["times"], 1);
    sentry.handle().tell(tally("b"));
    drop(sentry);
    assert_eq!(events.recv().unwrap()["tags"]["kind"], "b");
    assert!(seen.try_recv().is_ok(), "the end looks once more");
    assert!(events.try_recv().is_err(), "a kind is told once a minute");
}

#[test]
fn a_silent_endpoint_costs_events_and_nothing_else() {
    let (dsn, _events) = endpoint("");
    let sentry = start(&dsn);
    let registry = Registry::new();
    sentry.handle().export(&registry).unwrap();
    for n in 0..10_000 {
        sentry.handle().tell(tally(&format!("kind {n}")));
    }
    drop(sentry);
    assert!(counted(&registry, "queue_full") > 0);
    assert_eq!(counted(&registry, "sent"), 0);
}

#[test]
fn an_answer_that_limits_is_obeyed_whatever_its_status() {
    let (dsn, events) = endpoint(
        "HTTP/1.1 200 OK\r\nX-Sentry-Rate-Limits: 3600:error:organization\r\nContent-Length: 0\r\n\r\n",
    );
    let sentry = start(&dsn);
    let registry = Registry::new();
    sentry.handle().export(&registry).unwrap();
    for word in ["a", "b", "c"] {
        sentry.handle().tell(tally(word));
    }
    drop(sentry);
    assert_eq!(events.try_iter().count(), 1);
    assert_eq!((counted(&registry, "sent"), counted(&registry, "rate_limited")), (1, 2));
}
