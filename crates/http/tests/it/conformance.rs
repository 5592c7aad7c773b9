//! The suite that every look-up and sink passes.

use crate::server::{Reply, Server, is};
use crate::sink::client_options;
use arrow_schema::{DataType, Field, Schema};
use futures::FutureExt;
use hyper::Method;
use millstream_core::LookupKey;
use millstream_http::*;
use millstream_testkit::conformance::{self, Again, Stage};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_does_what_all_do() {
    let stored: HashMap<String, i64> = conformance::stored().collect();
    let server = Server::start(move |_, asked| {
        let key = asked.target.rsplit('/').next().unwrap();
        match stored.get(key) {
            Some(number) => Reply::Is(200, "", json!({ "number": number }).to_string()),
            None => is(404),
        }
    })
    .await;
    let options = HttpLookupOptions {
        address: format!("http://127.0.0.1:{}/{{key}}", server.port),
        ask: Ask::Get,
        headers: Headers::default(),
        rows: String::new(),
        columns: Arc::new(Schema::new(vec![Field::new("number", DataType::Int64, true)])),
        concurrency: 16,
    };
    let client = Client::new(client_options(), Handle::current()).unwrap();
    let key = LookupKey::Equal(vec!["key".into()]);
    let columns = Arc::new(Schema::new(vec![Field::new("key", DataType::Utf8, true)]));
    let lookup = HttpLookup::open(client, options, &key, columns).unwrap();
    conformance::lookup(Arc::new(lookup)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_does_what_all_do() {
    let server = Server::start(|_, _| is(200)).await;
    let (site, target) = Site::of(&format!("http://127.0.0.1:{}/in", server.port)).unwrap();
    let options = HttpSinkOptions {
        target: Target::Address(site, target),
        method: Method::POST,
        headers: Headers::default(),
        body: Body::Array,
        batch_rows: 30,
        batch_bytes: 1 << 20,
        concurrency: 1,
        gzip: false,
        idempotency: None,
        pipeline: "p".into(),
        sink: "s".into(),
    };
    let client = Client::new(client_options(), Handle::current()).unwrap();
    let target = HttpTarget::open(client, options, &conformance::schema()).unwrap();
    let stage = Stage {
        open: Box::new(move || target.sink().unwrap()),
        stored: Box::new(move || {
            let asked = server.asked();
            async move {
                let rows = asked
                    .iter()
                    .flat_map(|asked| serde_json::from_str::<Vec<Value>>(&asked.body).unwrap());
                let text = |row: &Value| row["key"].as_str().unwrap().to_owned();
                rows.map(|row| (text(&row), row["number"].as_i64().unwrap())).collect()
            }
            .boxed()
        }),
        again: Again::Repeats,
        by_key: false,
    };
    stage.run().await;
}
