//! Keys to rows, one by one and many at a time.

use crate::server::{Reply, Server, is};
use crate::sink::client_options;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{Disposition, Found, Lookup, LookupKey};
use millstream_http::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

fn options(address: String, ask: Ask) -> HttpLookupOptions {
    HttpLookupOptions {
        address,
        ask,
        headers: Headers::default(),
        rows: "/data".into(),
        columns: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Utf8, true),
            Field::new("score", DataType::Int64, true),
        ])),
        concurrency: 3,
    }
}

fn key_columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, true)]))
}

fn open(client: ClientOptions, options: HttpLookupOptions) -> HttpLookup {
    let client = Client::new(client, Handle::current()).unwrap();
    let key = LookupKey::Equal(vec!["id".into()]);
    HttpLookup::open(client, options, &key, key_columns()).unwrap()
}

fn keys(keys: &[&str]) -> RecordBatch {
    let column: ArrayRef = Arc::new(StringArray::from(keys.to_vec()));
    RecordBatch::try_new(key_columns(), vec![column]).unwrap()
}

/// The scores of each key.
fn scores(found: &Found) -> Vec<Vec<i64>> {
    let column = found.rows.column(1).as_primitive::<Int64Type>();
    (0..found.ends.len()).map(|key| found.of(key).map(|row| column.value(row)).collect()).collect()
}

fn answer(body: Value) -> Reply {
    Reply::Is(200, "", body.to_string())
}

#[tokio::test]
async fn a_key_is_a_part_of_the_address_and_cannot_leave_it() {
    let server = Server::start(|_, asked| {
        let key = asked.target.rsplit('/').next().unwrap().split('?').next().unwrap();
        match key {
            "none" => is(404),
            "null" => answer(json!({"data": null})),
            "list" => {
                answer(json!({"data": [{"id": "list", "score": 1}, {"score": 2, "more": {}}]}))
            }
            key => answer(json!({"data": {"score": key.len()}})),
        }
    })
    .await;
    let address = format!("http://127.0.0.1:{}/users/{{id}}?by={{id}}", server.port);
    let lookup = open(client_options(), options(address, Ask::Get));
    let asked = ["none", "a/b?c=d&e#f", "null", "list", "..", "ü 1"];
    let found = lookup.get_many(&keys(&asked)).await.unwrap();
    assert_eq!(scores(&found), [vec![], vec![21], vec![], vec![1, 2], vec![], vec![10]]);
    let ids = found.rows.column(0).as_string::<i32>();
    assert_eq!(ids.iter().flatten().collect::<Vec<_>>(), ["a/b?c=d&e#f", "list", "list", "ü 1"]);
    let mut targets: Vec<_> = server.asked().into_iter().map(|asked| asked.target).collect();
    targets.sort();
    assert_eq!(targets[0], "/users/%C3%BC%201?by=%C3%BC%201");
    assert_eq!(targets[1], "/users/a%2Fb%3Fc%3Dd%26e%23f?by=a%2Fb%3Fc%3Dd%26e%23f");
    assert_eq!(targets.len(), 5, "`..` is asked for nowhere");
    assert!(server.under_way.1.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn many_keys_are_asked_for_together_and_found_by_their_columns() {
    let server = Server::start(|_, asked| {
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let keys = body["ids"].as_array().unwrap().clone();
        if keys.contains(&json!("bad")) {
            return is(422);
        }
        let rows = keys.iter().rev().filter(|key| **key != "none");
        let row = |key: &Value| json!({"id": key, "score": key.as_str().unwrap().len()});
        answer(json!({"data": rows.map(row).collect::<Vec<_>>()}))
    })
    .await;
    let address = format!("http://127.0.0.1:{}/many", server.port);
    let ask = Ask::Post { body: Some(r#"{"ids": {keys}}"#.into()), keys_max: 4 };
    let lookup = open(client_options(), options(address, ask));
    let found = lookup.get_many(&keys(&["a", "bb", "none", "dddd", "eeeee"])).await.unwrap();
    assert_eq!(scores(&found), [vec![1], vec![2], vec![], vec![4], vec![5]]);
    assert_eq!(server.asked().len(), 2);
    // One that is refused is found by halving, and told.
    let error = lookup.get_many(&keys(&["a", "b", "bad", "d"])).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Reject);
    let found = lookup.get_many(&keys(&["a", "b", "d"])).await.unwrap();
    assert_eq!(scores(&found), [[1], [1], [1]]);
}

#[tokio::test]
async fn what_no_answer_is_says_what_to_do() {
    let cases: [(Reply, Disposition, &str); 11] = [
        (is(500), Disposition::Retry, "unavailable"),
        (is(429), Disposition::Retry, "throttled"),
        (is(401), Disposition::Retry, "not_allowed"),
        (is(301), Disposition::Retry, "refused"),
        (is(400), Disposition::Reject, "refused"),
        (Reply::Half, Disposition::Retry, "unreachable"),
        (Reply::Cut, Disposition::Retry, "unreachable"),
        (Reply::Reset, Disposition::Retry, "unreachable"),
        (Reply::Is(200, "", "<html>".into()), Disposition::Retry, "nonsense"),
        (Reply::Is(200, "", "x".repeat(1 << 17)), Disposition::Reject, "too_large"),
        (answer(json!({"data": {"score": "many"}})), Disposition::Reject, "malformed"),
    ];
    for (reply, disposition, kind) in cases {
        let answer = reply.clone();
        let server = Server::start(move |_, _| answer.clone()).await;
        let address = format!("http://127.0.0.1:{}/{{id}}?token=canary", server.port);
        let lookup = open(client_options(), options(address, Ask::Get));
        let error = lookup.get_many(&keys(&["a"])).await.unwrap_err();
        let told = error.chain();
        assert_eq!((error.disposition(), error.kind()), (disposition, kind), "{told}");
        assert!(!told.contains("canary"), "{told}");
    }
}

#[tokio::test]
async fn numbers_are_keys_too_and_several_columns_are_one() {
    let server = Server::start(|_, asked| {
        let keys: Vec<Value> = serde_json::from_str(&asked.body).unwrap();
        let row = |key: &Value| json!({"id": key["id"], "n": key["n"], "score": 7});
        answer(json!({"data": keys.iter().map(row).collect::<Vec<_>>()}))
    })
    .await;
    let mut given = options(
        format!("http://127.0.0.1:{}/", server.port),
        Ask::Post { body: None, keys_max: 100 },
    );
    given.columns = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("score", DataType::Int64, true),
    ]));
    let key = LookupKey::Equal(vec!["n".into(), "id".into()]);
    let columns = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("id", DataType::Utf8, true),
    ]));
    let client = Client::new(client_options(), Handle::current()).unwrap();
    let lookup = HttpLookup::open(client, given, &key, columns.clone()).unwrap();
    let values: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(vec!["a", "a"]))];
    let found = lookup.get_many(&RecordBatch::try_new(columns, values).unwrap()).await.unwrap();
    assert_eq!(found.ends, [1, 2]);
    assert_eq!(server.asked()[0].body, r#"[{"n":1,"id":"a"},{"n":2,"id":"a"}]"#);
}

#[tokio::test]
async fn what_cannot_be_asked_is_said_beforehand() {
    let refused = |address: &str, key: &str| {
        let client = Client::new(client_options(), Handle::current()).unwrap();
        let key = LookupKey::Equal(vec![key.into()]);
        let opened =
            HttpLookup::open(client, options(address.into(), Ask::Get), &key, key_columns());
        opened.err().unwrap().chain()
    };
    assert!(refused("http://h/{id}", "name").contains("asked by name"));
    assert!(refused("http://{id}/", "id").contains("path or its query"));
    assert!(refused("http://h/{id", "id").contains("not closed"));
    assert!(refused("{id}", "id").contains("not one"));
}
