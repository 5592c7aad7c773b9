//! Rows reach the server, each once where it answers, and what it refuses stands alone.

use crate::server::{Asked, Reply, Server, is};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use hyper::Method;
use hyper::header::HeaderName;
use millstream_core::{
    Batch, Beginning, Disposition, Headers as RecordHeaders, Hidden, Partition, Receipt, Record,
    Records, RecordsBuilder, Sink,
};
use millstream_http::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

pub fn client_options() -> ClientOptions {
    ClientOptions {
        auth: Auth::None,
        tls: TlsOptions::default(),
        timeout: Duration::from_secs(30),
        connections: 16,
        requests_per_second: None,
        retries: 0,
        answer_bytes_max: 1 << 16,
    }
}

fn options(port: u16) -> HttpSinkOptions {
    let (site, target) = Site::of(&format!("http://127.0.0.1:{port}/in?kind=row")).unwrap();
    HttpSinkOptions {
        target: Target::Address(site, target),
        method: Method::POST,
        headers: Headers::default(),
        body: Body::Array,
        batch_rows: 100,
        batch_bytes: 1 << 20,
        concurrency: 4,
        gzip: false,
        idempotency: None,
        pipeline: "p".into(),
        sink: "s".into(),
    }
}

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("url", DataType::Utf8, true),
    ]))
}

fn batch(numbers: std::ops::Range<i64>, url: impl Fn(i64) -> Option<String>) -> Batch {
    let values: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(numbers.clone())),
        Arc::new(numbers.map(url).collect::<StringArray>()),
    ];
    Batch::same(RecordBatch::try_new(columns(), values).unwrap())
}

fn rows(numbers: std::ops::Range<i64>) -> Batch {
    batch(numbers, |_| None)
}

fn records(from: i64, count: usize) -> Arc<Records> {
    let mut builder = RecordsBuilder::new();
    for at in 0..count as i64 {
        let headers = RecordHeaders::default();
        builder.push(Record { offset: from + at, timestamp: 0, key: None, value: None, headers });
    }
    Arc::new(builder.finish(from + count as i64))
}

fn open(client: ClientOptions, options: HttpSinkOptions) -> Box<dyn Sink> {
    let client = Client::new(client, Handle::current()).unwrap();
    let mut sink = HttpTarget::open(client, options, &columns()).unwrap().sink().unwrap();
    let place = Partition { source: "t".into(), index: 3 };
    sink.begin(&Beginning { place, identity: "topic:1".into(), from: 0 });
    sink
}

/// What the server was told, by row: how often it said yes.
fn numbers(asked: &Asked) -> Vec<i64> {
    let body = match asked.body.starts_with('[') {
        true => asked.body.clone(),
        false => format!("[{}]", asked.body.trim().replace('\n', ",")),
    };
    let rows: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap();
    rows.iter().map(|row| row["n"].as_i64().unwrap()).collect()
}

/// A server that refuses requests with one of these rows, and counts the others.
struct Stored(parking_lot::Mutex<BTreeMap<i64, u32>>);

impl Stored {
    fn new() -> Arc<Self> {
        Arc::new(Self(parking_lot::Mutex::default()))
    }

    fn add(&self, asked: &Asked) {
        let mut stored = self.0.lock();
        numbers(asked).into_iter().for_each(|n| *stored.entry(n).or_default() += 1);
    }

    fn once(&self, expected: impl Iterator<Item = i64>) {
        let expected: BTreeMap<i64, u32> = expected.map(|n| (n, 1)).collect();
        assert_eq!(*self.0.lock(), expected);
    }
}

fn rejected(receipt: &Receipt) -> Vec<u32> {
    receipt.rejected.iter().map(|(row, _)| *row).collect()
}

#[tokio::test]
async fn each_kind_of_body_holds_the_rows() {
    for body in [Body::Row, Body::Array, Body::Lines] {
        for gzip in [false, true] {
            let stored = Stored::new();
            let noted = stored.clone();
            let server = Server::start(move |_, asked| {
                noted.add(asked);
                is(201)
            })
            .await;
            let mut given = options(server.port);
            (given.body, given.gzip, given.batch_rows) = (body, gzip, 7);
            let secret = Hidden("canary".into());
            given.headers = headers([("X-Key", &secret)].into_iter()).unwrap();
            let mut sink = open(client_options(), given);
            let receipt = sink.write(&rows(0..20)).await.unwrap();
            receipt.durable.await.unwrap();
            assert_eq!(receipt.rows, 20);
            stored.once(0..20);
            let asked = server.asked();
            assert_eq!(asked.len(), if body == Body::Row { 20 } else { 3 });
            let one = &asked[0];
            assert_eq!((one.method.as_str(), one.target.as_str()), ("POST", "/in?kind=row"));
            assert_eq!(one.headers["x-key"], "canary");
            let kind =
                if body == Body::Lines { "application/x-ndjson" } else { "application/json" };
            assert_eq!(one.headers["content-type"], kind);
            assert!(server.connections.load(Ordering::SeqCst) <= 4, "they are kept open");
        }
    }
}

#[tokio::test]
async fn one_request_at_a_time_keeps_the_order_and_several_stay_within_their_bound() {
    for concurrency in [1, 3] {
        let server = Server::start(|_, _| is(200)).await;
        let mut given = options(server.port);
        (given.body, given.concurrency) = (Body::Row, concurrency);
        let mut sink = open(client_options(), given);
        sink.write(&rows(0..30)).await.unwrap();
        assert!(server.under_way.1.load(Ordering::SeqCst) <= concurrency);
        let order: Vec<i64> = server.asked().iter().flat_map(numbers).collect();
        if concurrency == 1 {
            assert_eq!(order, (0..30).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn poison_rows_stand_alone_and_the_others_are_stored_once() {
    for status in [400, 404, 409, 422] {
        let stored = Stored::new();
        let noted = stored.clone();
        let server = Server::start(move |_, asked| {
            if numbers(asked).iter().any(|n| [17, 63].contains(n)) {
                return Reply::Is(status, "", "no such thing".into());
            }
            noted.add(asked);
            is(200)
        })
        .await;
        let mut sink = open(client_options(), options(server.port));
        let receipt = sink.write(&rows(0..250)).await.unwrap();
        assert_eq!(rejected(&receipt), [17, 63]);
        assert!(receipt.rejected[0].1.contains("no such thing"), "{:?}", receipt.rejected);
        assert_eq!(receipt.rows, 248);
        stored.once((0..250).filter(|n| ![17, 63].contains(n)));
    }
}

#[tokio::test]
async fn what_is_too_large_is_halved_and_a_row_that_is_too_large_alone_is_refused() {
    let stored = Stored::new();
    let noted = stored.clone();
    let server = Server::start(move |_, asked| {
        let rows = numbers(asked);
        if rows.len() > 9 || rows.contains(&30) {
            return is(413);
        }
        noted.add(asked);
        is(200)
    })
    .await;
    let mut sink = open(client_options(), options(server.port));
    let receipt = sink.write(&rows(0..100)).await.unwrap();
    assert_eq!(rejected(&receipt), [30]);
    stored.once((0..100).filter(|n| *n != 30));
}

/// Whatever a server does, a row it has said yes to is not sent again, and none is left out.
#[tokio::test]
async fn a_server_that_fails_in_every_way_gets_each_row_once_in_the_end() {
    let replies = [
        Reply::Is(500, "", "broken".into()),
        Reply::Is(503, "Retry-After: 0\r\n", String::new()),
        Reply::Is(429, "Retry-After: 0\r\n", String::new()),
        is(401),
        is(403),
        is(408),
        is(425),
        Reply::Is(302, "Location: /elsewhere\r\n", String::new()),
        Reply::Half,
        Reply::Cut,
        Reply::Reset,
        Reply::Slow(Duration::from_secs(20)),
    ];
    for reply in replies {
        let stored = Stored::new();
        let (noted, answer) = (stored.clone(), reply.clone());
        let failing = Arc::new(AtomicBool::new(true));
        let fails = failing.clone();
        let server = Server::start(move |number, asked| {
            if number % 3 == 1 && fails.load(Ordering::SeqCst) {
                return answer.clone();
            }
            noted.add(asked);
            is(200)
        })
        .await;
        let mut client = client_options();
        if matches!(reply, Reply::Slow(_)) {
            client.timeout = Duration::from_millis(300);
        }
        let mut given = options(server.port);
        given.batch_rows = 5;
        let mut sink = open(client, given);
        let all = rows(0..100);
        let mut failures = 0;
        let receipt = loop {
            match sink.write(&all).await {
                Ok(receipt) => break receipt,
                Err(error) => {
                    assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
                    assert!(error.chain().contains("/in"), "{}", error.chain());
                    assert!(!error.chain().contains("kind=row"), "{}", error.chain());
                    failures += 1;
                }
            }
            if failures > 3 {
                failing.store(false, Ordering::SeqCst);
            }
        };
        assert!(failures > 0, "{reply:?}");
        assert_eq!((receipt.rows, receipt.rejected.len()), (100, 0), "{reply:?}");
        stored.once(0..100);
        assert!(server.asked().iter().all(|asked| asked.target == "/in?kind=row"), "no redirect");
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_a_pause_is_kept() {
    let stored = Stored::new();
    let noted = stored.clone();
    let times = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = times.clone();
    let server = Server::start(move |number, asked| {
        seen.lock().push(std::time::Instant::now());
        match number {
            0 => Reply::Is(429, "Retry-After: 1\r\n", String::new()),
            1 => Reply::Reset,
            2 => is(500),
            _ => {
                noted.add(asked);
                is(200)
            }
        }
    })
    .await;
    let mut client = client_options();
    client.retries = 5;
    let mut sink = open(client, options(server.port));
    let receipt = sink.write(&rows(0..10)).await.unwrap();
    assert_eq!(receipt.rows, 10);
    stored.once(0..10);
    let times = times.lock();
    assert!(times[1] - times[0] >= Duration::from_millis(950), "before the server wanted it");
}

#[tokio::test]
async fn a_long_pause_is_told_before_it_is_waited_for() {
    let server = Server::start(|_, _| Reply::Is(503, "Retry-After: 600\r\n", "later".into())).await;
    let mut client = client_options();
    client.retries = 5;
    let mut sink = open(client, options(server.port));
    let error = sink.write(&rows(0..10)).await.err().unwrap();
    assert!(error.chain().contains("503: later"), "{}", error.chain());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_costs_nothing() {
    let server = Server::start(|_, _| Reply::Is(200, "Connection: close\r\n", String::new())).await;
    let mut sink = open(client_options(), options(server.port));
    for at in 0..20 {
        sink.write(&rows(at..at + 1)).await.unwrap();
    }
    assert_eq!(server.asked().len(), 20);
}

#[tokio::test]
async fn rows_name_their_own_address() {
    let server = Server::start(|_, _| is(200)).await;
    let port = server.port;
    let mut given = options(port);
    given.target = Target::Column("url".into());
    let mut sink = open(client_options(), given);
    let url = move |n: i64| match n {
        3 => None,
        4 => Some("not an address".to_owned()),
        n => Some(format!("http://127.0.0.1:{port}/to/{}", n % 2)),
    };
    let receipt = sink.write(&batch(0..8, url)).await.unwrap();
    assert_eq!(rejected(&receipt), [3, 4]);
    let mut told: Vec<_> =
        server.asked().iter().map(|asked| (asked.target.clone(), numbers(asked))).collect();
    told.sort();
    assert_eq!(told, [("/to/0".to_owned(), vec![0, 2, 6]), ("/to/1".to_owned(), vec![1, 5, 7])]);
    assert!(server.asked().iter().all(|asked| !asked.body.contains("url")), "no part of the body");
}

#[tokio::test]
async fn the_same_rows_have_the_same_key_also_after_a_restart() {
    let keys = async |fail_first: bool| {
        let server =
            Server::start(move |number, _| is(if fail_first && number < 2 { 500 } else { 200 }))
                .await;
        let mut given = options(server.port);
        (given.batch_rows, given.concurrency) = (4, 1);
        given.idempotency = Some(HeaderName::from_static("idempotency-key"));
        let mut client = client_options();
        client.retries = 3;
        let mut sink = open(client, given);
        sink.stems_from(&records(1000, 10), &[]);
        sink.write(&rows(0..10)).await.unwrap();
        let keys = server.asked().into_iter().map(|asked| asked.headers["idempotency-key"].clone());
        keys.collect::<Vec<_>>()
    };
    let calm = keys(false).await;
    assert_eq!(calm.len(), 3);
    assert!(calm[0].starts_with("p-s-") && calm[0].ends_with("-p3-1000.0-1003.0"), "{calm:?}");
    assert_ne!(calm[0], calm[1]);
    let mut after_failures = keys(true).await;
    assert_eq!(after_failures[0], after_failures[1]);
    after_failures.dedup();
    assert_eq!(after_failures, calm);
}

#[tokio::test]
async fn requests_keep_to_the_rate() {
    let server = Server::start(|_, _| is(200)).await;
    let mut client = client_options();
    client.requests_per_second = Some(50.0);
    let mut given = options(server.port);
    given.body = Body::Row;
    let mut sink = open(client, given);
    let begin = std::time::Instant::now();
    sink.write(&rows(0..11)).await.unwrap();
    // Ten times 20 ms lie between them, however slow the machine is.
    assert!(begin.elapsed() >= Duration::from_millis(190));
}
