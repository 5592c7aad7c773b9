//! Anything at all as a line on the admin socket.

use millstream_console::Request;
use millstream_testkit::fuzz;

const REQUESTS: [&str; 15] = [
    r#"{"request":"topics"}"#,
    r#"{"request":"check","files":{"paths":["/a.yaml","/a.test.yaml"],"variables":{}}}"#,
    r#"{"request":"explain","files":{"paths":["/a.yaml"],"variables":{"TOPIC":"t"}}}"#,
    r#"{"request":"preview","files":{"paths":[],"variables":{}},"rows":10}"#,
    r#"{"request":"offsets","pipeline":null}"#,
    r#"{"request":"reset_offsets","pipeline":"p","to":{"offset":7},"partition":null,"file":null}"#,
    r#"{"request":"reset_offsets","pipeline":"p","to":"earliest","partition":3,"file":{"paths":["/p.yaml"],"variables":{}}}"#,
    r#"{"request":"create_topic","topic":"t","partitions":20,"codec":"lz4","retention_ms":1,"retention_bytes":null,"hard":false}"#,
    r#"{"request":"produce","topic":"t","partitions":1,"partition":0,"encode":{"subject":"s"},"records":[{"key":"k","value":"v","timestamp":1,"headers":[["a","b"]],"line":3}]}"#,
    r#"{"request":"tap","topic":"t","from":{"last":10},"partition":null,"filter":"id > 3","limit":5,"follow":true,"format":"auto"}"#,
    r#"{"request":"load_table","table":"t","file":"/x.csv","delimiter":",","shape":{"key":["id"],"clustering":[],"columns":[["id","int"]],"ttl_ms":null},"timestamp":"at"}"#,
    r#"{"request":"scan_table","table":"t","prefix":["a"],"from":[],"to":["z"],"limit":null}"#,
    r#"{"request":"register_schema","subject":"s","schema":{"text":"\"int\"","kind":"avro","references":[["n","s",1]]}}"#,
    r#"{"request":"show_dead_letter","of":"d","partition":0,"offset":-1}"#,
    r#"{"request":"replay_dead_letters","pipeline":"p","choice":{"these":[[0,1],[1,2]]},"file":null}"#,
];

#[test]
fn fuzz_requests() {
    let words = ["request", "pipeline", "kind", "all", "time", "latest", "raw", "{}", "[]"];
    fuzz::run_text("fuzz_requests", &REQUESTS, &words, |text| {
        if let Ok(request) = serde_json::from_slice::<Request>(text.as_bytes()) {
            let _ = request.access();
            let line = serde_json::to_string(&request).unwrap();
            assert!(!line.contains('\n'), "a request is one line");
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
    });
}

#[test]
fn every_request_of_the_corpus_is_one() {
    for text in REQUESTS {
        serde_json::from_str::<Request>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}
