//! Fields of nested records that nobody reads are not decoded, and nobody can tell.

use crate::harness::{Bench, file};
use millstream_engine::{Catalog, plan_all};
use serde_json::json;

/// Makes Avro records with more in them than is read.
const MAKE: &str = "
pipeline: make
source:
  topic: raw
  format:
    json:
      columns:
        id: bigint
        n: struct<before string, site struct<name string, hosts string[], rank int>, tags string[], counts bigint[], attrs map<string>, more map<struct<a string, b int>>, after double>
        unread: struct<x string, y string[]>
sinks: [{ topic: in, format: avro }]
";

const READ: &str = "
pipeline: NAME
source: { topic: in, format: avro }
steps:
  - sql: >
      SELECT id, n.site.name AS name, n.tags[1] AS tag, n.attrs['k'] AS attr,
             n.more['m'].b AS b
      FROM input
      WHERE n.site.name IS NULL OR n.site.name <> 'dropped'
sinks:
  - { topic: NAME-out, format: json }
";

fn events() -> Vec<String> {
    let mut events = Vec::new();
    for id in 0..60 {
        let site = match id % 4 {
            0 => json!(null),
            1 => json!({"name": null, "hosts": null, "rank": 1}),
            2 => json!({"name": "dropped", "hosts": [], "rank": null}),
            _ => json!({"name": format!("site {id}"), "hosts": ["a", null, "b"], "rank": id}),
        };
        let tags = match id % 3 {
            0 => json!(null),
            1 => json!([]),
            _ => json!([format!("tag {id}"), null, "x"]),
        };
        let attrs = match id % 5 {
            0 => json!(null),
            1 => json!({}),
            2 => json!({"other": "x"}),
            _ => json!({"a": "x", "k": format!("value {id}"), "z": null}),
        };
        let more = json!({"l": {"a": "x", "b": 0}, "m": {"a": "long ".repeat(id), "b": id}});
        let n = match id % 13 {
            12 => json!(null),
            _ => json!({"before": "b".repeat(id), "site": site, "tags": tags,
                "counts": [id, id], "attrs": attrs, "more": more, "after": 0.5}),
        };
        let unread = json!({"x": "x".repeat(id), "y": ["y", null]});
        events.push(json!({"id": id, "n": n, "unread": unread}).to_string());
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_fields_give_the_same_rows_with_and_without_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    for topic in ["raw", "in", "some-out", "all-out"] {
        bench.topic(topic, 1);
    }
    bench.produce("raw", 0, &events()).await;
    bench.start(&[file(dir.path(), "make.yaml", MAKE)]).await;
    bench.idle().await;
    assert_eq!(bench.counts("make"), (60, 60, 0, 0));

    let some = file(dir.path(), "some.yaml", &READ.replace("NAME", "some"));
    // A sink of the source's own rows needs all of them.
    let whole = READ.replace("NAME", "all") + "  - { from: source, discard: true }\n";
    let whole = file(dir.path(), "all.yaml", &whole);
    let mut explained = Vec::new();
    for file in [&some, &whole] {
        let mut catalog = Catalog::new(bench.home.clone());
        let plans = plan_all(std::slice::from_ref(file), &mut catalog).await.unwrap();
        let source = plans[0].explain().source;
        let columns: Vec<_> = source.columns.into_iter().map(|c| (c.name, c.data_type)).collect();
        explained.push((columns, source.columns_there));
    }
    let n = "struct<site struct<name string>, tags string[], attrs map<string>, \
             more map<struct<a string, b int>>>";
    let read = [("id", "bigint"), ("n", n)].map(|(name, t)| (name.to_owned(), t.to_owned()));
    assert_eq!(explained[0], (read.to_vec(), 3));
    assert_eq!(explained[1].0.len(), 3);
    assert!(explained[1].0[1].1.contains("hosts string[]"), "{:?}", explained[1]);

    bench.start(&[some, whole]).await;
    bench.idle().await;
    let rows = bench.rows("some-out");
    assert_eq!(rows, bench.rows("all-out"));
    let (read, out, filtered, dead) = bench.counts("some");
    assert_eq!((read, dead, out), (60, 0, rows.len() as u64));
    assert!(filtered > 0);
    let row = rows.iter().find(|row| row["id"] == 23).unwrap();
    let want = json!({"id": 23, "name": "site 23", "tag": "tag 23", "attr": "value 23", "b": 23});
    assert_eq!(*row, want);
}
