//! Servers of HTTP, as look-up, sink, registry and Sentry; they repeat what they were sent.

use super::spy::{Spy, give, program};
use crate::program::eventually;
use crate::web::serve;
use serde_json::json;

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
    for words in ["HTTP 401", "HTTP 422", "a value contains `poison`", "X-Key"] {
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
    give(
        &program,
        "mistake.yaml",
        "pipeline: p
source: { file: ../in.jsonl, format: { json: { columns: { n: bigint } } } }
sinks:
  - http: { url: \"http://h/in?key=sinkquery2f\", token: \"${HEADER}\", tokn: \"${LOOKUP_TOKEN}\" }
  - http: { url: \"http://me:inaddress81@h/\", retries: \"${REGISTRY_TOKEN}\" }
",
    );
    for args in [&["check", "given/mistake.yaml"][..], &["check", "given/mistake.yaml", "--json"]] {
        let said = spy.runs(&program, args);
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(format!("{}{}", said.out, said.err).contains("?***"), "{}{}", said.out, said.err);
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
