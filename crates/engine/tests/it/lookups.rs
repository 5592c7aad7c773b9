//! Look-ups: the cache, a store that fails, and the joins on them.

use crate::harness::{Bench, file, numbered, simple};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{
    Error, Found, Headers, Lookup, LookupKey, PartitionReader, Place, Record, Records,
    RecordsBuilder, Result, Source, Start,
};
use millstream_engine::{CacheOptions, Guarded, KeyColumns, Metrics, Policy, Waits};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Answers even keys with the number of the call; counts what it is asked.
#[derive(Default)]
struct Store {
    asked: Mutex<Vec<Vec<i64>>>,
    delay_ms: AtomicU64,
    fails: AtomicBool,
    generation: AtomicU64,
}

fn column(name: &str, values: Vec<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([(name, Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
}

#[async_trait]
impl Lookup for Store {
    fn schema(&self) -> SchemaRef {
        column("call", vec![]).schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let keys = keys.column(0).as_primitive::<Int64Type>().values().to_vec();
        let call = {
            let mut asked = self.asked.lock();
            asked.push(keys.clone());
            asked.len() as i64
        };
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))).await;
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::retry("away", "the store is away"));
        }
        let mut ends = Vec::new();
        let mut found = 0;
        for key in &keys {
            found += u32::from(key % 2 == 0);
            ends.push(found);
        }
        Ok(Found { rows: column("call", vec![call; found as usize]), ends })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

impl Store {
    fn asked(&self) -> Vec<Vec<i64>> {
        self.asked.lock().clone()
    }
}

fn cache() -> CacheOptions {
    CacheOptions {
        entries_max: 1000,
        bytes_max: 64 << 20,
        ttl: Duration::from_secs(60),
        negative_ttl: Duration::from_secs(60),
        stale: Duration::ZERO,
    }
}

fn policy(cache: Option<CacheOptions>) -> Policy {
    Policy { cache, dead_letter: false, retries: 2, timeout: Some(Duration::from_secs(5)) }
}

struct Guard {
    store: Arc<Store>,
    guarded: Arc<Guarded>,
    waits: Arc<Waits>,
    metrics: Metrics,
}

fn guard(policy: Policy) -> Guard {
    let store = Arc::new(Store::default());
    let metrics = Metrics::new();
    let waits = Arc::new(Waits::default());
    let guarded = Guarded::new(
        "l",
        store.clone(),
        &[DataType::Int64],
        policy,
        Arc::new(metrics.pipeline("p", None)),
        waits.clone(),
    );
    Guard { store, guarded: Arc::new(guarded.unwrap()), waits, metrics }
}

impl Guard {
    /// For each key the call that answered it.
    async fn get(&self, keys: &[i64]) -> Result<Vec<Option<i64>>> {
        get(self.guarded.clone(), keys.to_vec()).await
    }

    fn says(&self, line: &str) {
        let text = self.metrics.text();
        assert!(text.lines().any(|l| l == line), "no `{line}` in {text}");
    }
}

async fn get(guarded: Arc<Guarded>, keys: Vec<i64>) -> Result<Vec<Option<i64>>> {
    let count = keys.len();
    let found = guarded.get_many(&column("k", keys)).await?;
    let calls = found.rows.column(0).as_primitive::<Int64Type>();
    Ok((0..count).map(|key| found.of(key).next().map(|row| calls.value(row))).collect())
}

#[tokio::test]
async fn a_key_is_asked_for_once_found_or_not() {
    let g = guard(policy(Some(cache())));
    assert_eq!(g.get(&[2, 3, 4]).await.unwrap(), [Some(1), None, Some(1)]);
    assert_eq!(g.get(&[4, 5, 3, 2, 6]).await.unwrap(), [Some(1), None, None, Some(1), Some(2)]);
    assert_eq!(g.store.asked(), [vec![2, 3, 4], vec![5, 6]]);
    g.says(r#"millstream_lookup_cache_hits_total{lookup="l",pipeline="p"} 3"#);
    g.says(r#"millstream_lookup_cache_misses_total{lookup="l",pipeline="p"} 5"#);
    g.says(r#"millstream_lookup_cache_entries{lookup="l",pipeline="p"} 5"#);
    let without = guard(policy(None));
    without.get(&[2]).await.unwrap();
    assert_eq!(without.get(&[2]).await.unwrap(), [Some(2)]);
}

#[tokio::test]
async fn answers_expire_and_misses_by_their_own_time() {
    let ttl = Duration::from_millis(300);
    let g = guard(policy(Some(CacheOptions { ttl, negative_ttl: Duration::ZERO, ..cache() })));
    g.get(&[2, 3]).await.unwrap();
    g.get(&[2, 3]).await.unwrap();
    assert_eq!(g.store.asked(), [vec![2, 3], vec![3]]);
    for _ in 0..4 {
        tokio::time::sleep(ttl + Duration::from_millis(20)).await;
        g.get(&[2]).await.unwrap();
    }
    assert_eq!(g.store.asked().len(), 6);
    // A key that was asked for again is one entry still.
    g.says(r#"millstream_lookup_cache_entries{lookup="l",pipeline="p"} 2"#);
}

#[tokio::test]
async fn a_stale_answer_is_given_while_one_asks_again() {
    let options =
        CacheOptions { ttl: Duration::from_millis(20), stale: Duration::from_secs(60), ..cache() };
    let g = guard(policy(Some(options)));
    g.get(&[2]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(40)).await;
    g.store.fails.store(true, Ordering::Relaxed);
    assert_eq!(g.get(&[2]).await.unwrap(), [Some(1)], "given at once");
    g.says(r#"millstream_lookup_cache_stale_total{lookup="l",pipeline="p"} 1"#);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(g.store.asked().len(), 2);
    // The first refresh failed: the next one is tried.
    g.store.fails.store(false, Ordering::Relaxed);
    assert_eq!(g.get(&[2]).await.unwrap(), [Some(1)]);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(g.store.asked().len(), 3);
    assert_eq!(g.get(&[2]).await.unwrap(), [Some(3)]);
}

#[tokio::test]
async fn the_cache_keeps_its_bound() {
    let g = guard(policy(Some(CacheOptions { entries_max: 64, ..cache() })));
    for from in 0..50 {
        let keys: Vec<_> = (from * 40..from * 40 + 40).chain([0]).collect();
        let keys = if from == 0 { keys[..40].to_vec() } else { keys };
        let got = g.get(&keys).await.unwrap();
        assert_eq!(got.len(), keys.len());
    }
    let [entries, evicted, misses] =
        ["entries", "evicted_total", "misses_total"].map(|name| gauge(&g.metrics, name));
    assert!((16..=64).contains(&entries), "{entries}");
    assert_eq!(entries + evicted, misses, "each that was asked for is there, or was");
}

#[tokio::test]
async fn many_who_want_a_key_ask_once_and_one_who_goes_away_holds_nobody() {
    let g = guard(policy(Some(cache())));
    g.store.delay_ms.store(50, Ordering::Relaxed);
    let all = futures::future::join_all((0..8).map(|_| g.get(&[2, 4])));
    assert!(all.await.into_iter().all(|got| got.unwrap() == [Some(1), Some(1)]));
    assert_eq!(g.store.asked().len(), 1);
    g.says(r#"millstream_lookup_cache_misses_total{lookup="l",pipeline="p"} 2"#);
    g.says(r#"millstream_lookup_cache_shared_total{lookup="l",pipeline="p"} 14"#);

    // The one who fetches is cancelled: who waits for it asks itself, nobody waits for ever.
    let mut first = Box::pin(g.get(&[6]));
    assert!((&mut first).now_or_never().is_none());
    let second = tokio::spawn(get(g.guarded.clone(), vec![6]));
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(first);
    let got = tokio::time::timeout(Duration::from_secs(5), second).await.expect("not stuck");
    assert_eq!(got.unwrap().unwrap(), [Some(3)]);
    assert_eq!(g.get(&[6]).await.unwrap(), [Some(3)]);
}

#[tokio::test]
async fn a_store_that_was_replaced_empties_the_cache() {
    let g = guard(policy(Some(cache())));
    g.get(&[2]).await.unwrap();
    g.store.generation.store(1, Ordering::Relaxed);
    assert_eq!(g.get(&[2]).await.unwrap(), [Some(2)]);
    // An answer that was asked for before the change is not kept after it.
    g.store.delay_ms.store(50, Ordering::Relaxed);
    let mut old = Box::pin(g.get(&[4]));
    assert!((&mut old).now_or_never().is_none());
    g.store.generation.store(2, Ordering::Relaxed);
    g.get(&[8]).await.unwrap();
    assert_eq!(old.await.unwrap(), [Some(3)]);
    assert_eq!(g.get(&[4]).await.unwrap(), [Some(5)]);
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for() {
    let g = guard(policy(Some(cache())));
    g.store.fails.store(true, Ordering::Relaxed);
    let waiting = tokio::spawn(get(g.guarded.clone(), vec![2]));
    while g.store.asked().len() < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(g.waits.all()[0].contains("the store is away"), "{:?}", g.waits.all());
    g.store.fails.store(false, Ordering::Relaxed);
    assert!(waiting.await.unwrap().unwrap()[0].is_some());
    assert!(g.waits.all().is_empty());
}

#[tokio::test]
async fn a_store_that_stays_away_is_given_up_where_the_file_says_so() {
    let g = guard(Policy { dead_letter: true, ..policy(Some(cache())) });
    g.get(&[2]).await.unwrap();
    g.store.fails.store(true, Ordering::Relaxed);
    let error = g.get(&[2, 4]).await.unwrap_err();
    assert_eq!(error.disposition(), millstream_core::Disposition::Reject);
    assert!(error.chain().contains("failed 3 times"), "{}", error.chain());
    assert_eq!(g.store.asked().len(), 4, "two retries");
    // While the rows to blame are found, it is not asked again; what is known is answered.
    assert!(g.get(&[4]).await.is_err());
    assert_eq!(g.get(&[2]).await.unwrap(), [Some(1)]);
    assert_eq!(g.store.asked().len(), 4);

    let slow = Policy {
        timeout: Some(Duration::from_millis(20)),
        dead_letter: true,
        retries: 0,
        cache: None,
    };
    let g = guard(slow);
    g.store.delay_ms.store(5_000, Ordering::Relaxed);
    let error = g.get(&[2]).await.unwrap_err();
    assert_eq!(error.kind(), "timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_need_no_answer_go_on_when_the_store_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..40)).await;
    bench.produce("in", 0, &["{\"v\":\"no key\"}".into()]).await;
    let g = guard(Policy { dead_letter: true, retries: 0, ..policy(Some(cache())) });
    g.get(&[10, 12]).await.unwrap();
    g.store.fails.store(true, Ordering::Relaxed);
    let text = "max_dead_ratio: 1";
    bench
        .start_with(&simple(dir.path(), text), |pipeline| {
            let input = (pipeline.decoder)().unwrap().schema();
            let schema = column("call", vec![]).schema();
            let mut fields = schema.fields().to_vec();
            fields.push(Arc::new(arrow_schema::Field::new("key", DataType::Int64, true)));
            let lookups = BTreeMap::from([(
                "l".to_owned(),
                Arc::new(arrow_schema::Schema::new(fields)) as SchemaRef,
            )]);
            let sql = "SELECT i.id, l.call FROM input i LEFT JOIN l ON l.key = i.id \
                       WHERE i.id IS NULL OR i.id >= 10";
            let query = millstream_sql::plan(sql, &input, &lookups).unwrap();
            pipeline.flow.steps[0].step = query.bind(vec![g.guarded.clone()]).unwrap();
        })
        .await;
    bench.idle().await;
    // Out: the two that the cache knows, and the one without a key. Filtered: those below ten.
    assert_eq!(bench.counts("p"), (41, 3, 10, 28));
    let ids: Vec<_> = bench.rows("out").iter().map(|row| row["id"].as_i64()).collect();
    assert_eq!(ids, [Some(10), Some(12), None]);
    assert!(bench.letters("p.dead").iter().all(|l| l.kind == "away" && l.step == "step 1"));
}

const JOINS: &str = "
pipeline: p
source: { topic: in, format: { json: { columns: { id: bigint, ip: bigint } } } }
lookups:
  sites: { table: sites }
  owners: { file: owners.csv, columns: { owner: bigint, name: string } }
  ranges: { file: ranges.csv, columns: { low: bigint, high: bigint, net: string }, range: [low, high] }
steps:
  - sql: |
      SELECT i.id, s.page, o.name, r.net
      FROM input i
      JOIN sites s ON s.site = i.id
      LEFT JOIN owners o ON o.owner = s.owner
      LEFT JOIN ranges r ON i.ip BETWEEN r.low AND r.high
sinks: [{ topic: out, format: json }]
";

#[tokio::test(flavor = "multi_thread")]
async fn joins_filter_give_nulls_find_by_prefix_and_range_and_chain() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir.path());
    bench.topic("load", 1);
    bench.topic("in", 1);
    let rows = ["[1,1,7]", "[1,2,8]", "[2,1,9]"].map(|row| {
        let [site, page, owner]: [i64; 3] = serde_json::from_str(row).unwrap();
        format!(r#"{{"site":{site},"page":{page},"owner":{owner}}}"#)
    });
    bench.produce("load", 0, &rows).await;
    let load = "
pipeline: load
source: { topic: load, format: { json: { columns: { site: bigint, page: bigint, owner: bigint } } } }
sinks: [{ table: sites, key: [site], clustering: [page] }]
";
    bench.start(&[file(dir.path(), "load.yaml", load)]).await;
    bench.idle().await;
    bench.restart().await;

    std::fs::write(dir.path().join("owners.csv"), "owner,name\n7,seven\n9,nine\n").unwrap();
    std::fs::write(dir.path().join("ranges.csv"), "low,high,net\n10,19,a\n20,29,b\n").unwrap();
    let rows =
        [(1, 10), (2, 29), (3, 15), (2, 30)].map(|(id, ip)| format!(r#"{{"id":{id},"ip":{ip}}}"#));
    bench.produce("in", 0, &rows).await;
    bench.start(&[file(dir.path(), "p.yaml", JOINS)]).await;
    bench.idle().await;
    let out: Vec<String> = bench.rows("out").iter().map(ToString::to_string).collect();
    assert_eq!(
        out,
        [
            r#"{"id":1,"page":1,"name":"seven","net":"a"}"#,
            r#"{"id":1,"page":2,"name":null,"net":"a"}"#,
            r#"{"id":2,"page":1,"name":"nine","net":"b"}"#,
            r#"{"id":2,"page":1,"name":"nine","net":null}"#,
        ]
    );
    assert_eq!(bench.counts("p"), (4, 3, 1, 0));
    let report = bench.report("p");
    let sites = report.lookups.iter().find(|l| l.name == "sites").unwrap();
    assert_eq!((sites.asked, sites.found), (4, 3), "rows, not keys");
}

/// Wide rows for all keys.
struct Wide {
    bytes: usize,
}

#[async_trait]
impl Lookup for Wide {
    fn schema(&self) -> SchemaRef {
        wide(&[], self.bytes).schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let keys = keys.column(0).as_primitive::<Int64Type>().values();
        Ok(Found { rows: wide(keys, self.bytes), ends: (1..=keys.len() as u32).collect() })
    }
}

fn wide(keys: &[i64], bytes: usize) -> RecordBatch {
    let text = |key: &i64| format!("{key:0>bytes$}");
    let texts: StringArray = keys.iter().map(text).map(Some).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from(keys.to_vec()))),
        ("text", Arc::new(texts.clone())),
        ("again", Arc::new(texts)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn guard_wide(options: CacheOptions, bytes: usize) -> (Arc<Guarded>, Metrics) {
    let metrics = Metrics::new();
    let guarded = Guarded::new(
        "l",
        Arc::new(Wide { bytes }),
        &[DataType::Int64],
        policy(Some(options)),
        Arc::new(metrics.pipeline("p", None)),
        Arc::default(),
    );
    (Arc::new(guarded.unwrap()), metrics)
}

fn texts(found: &Found) -> Vec<String> {
    let texts = found.rows.column(2).as_string::<i32>();
    texts.iter().map(|text| text.unwrap().to_owned()).collect()
}

fn gauge(metrics: &Metrics, name: &str) -> usize {
    let text = metrics.text();
    let line = text.lines().find(|l| l.starts_with(&format!("millstream_lookup_cache_{name}{{")));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn the_cache_keeps_its_bound_in_bytes_and_says_what_it_takes() {
    const BOUND: usize = 1 << 20;
    const WIDTH: usize = 1000;
    let options = CacheOptions { entries_max: 100_000, bytes_max: BOUND, ..cache() };
    let (guarded, metrics) = guard_wide(options, WIDTH);
    // Single keys, and a batch of more than there is room for.
    for at_once in [1, 7, 100, 3000] {
        for keys in (0..3000).collect::<Vec<i64>>().chunks(at_once) {
            let keys = keys.iter().map(|key| key * 10 + at_once as i64).collect();
            guarded.get_many(&column("k", keys)).await.unwrap();
            let (entries, bytes) = (gauge(&metrics, "entries"), gauge(&metrics, "bytes"));
            assert!(bytes <= BOUND, "{bytes} bytes");
            // What it says is what the rows take, and a little more.
            let rows = entries * (8 + 2 * (WIDTH + 4));
            assert!(bytes >= rows && bytes <= rows + entries * 600 + 4096, "{entries}: {bytes}");
        }
        assert!(gauge(&metrics, "bytes") > BOUND * 3 / 4, "the room is used");
    }
    drop(guarded);
    assert_eq!((gauge(&metrics, "entries"), gauge(&metrics, "bytes")), (0, 0));
}

#[tokio::test]
async fn every_key_gets_its_own_rows_whatever_moves_in_the_cache() {
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    for (entries_max, bytes_max) in [(50, 1 << 20), (100_000, 40_000), (2, 1 << 20), (1000, 1)] {
        let ttl = Duration::from_millis(3);
        let options = CacheOptions {
            entries_max,
            bytes_max,
            ttl,
            stale: Duration::from_millis(3),
            ..cache()
        };
        let (guarded, metrics) = guard_wide(options, 20);
        for _ in 0..300 {
            let mut keys: Vec<i64> = (0..random.random_range(1..60))
                .map(|_| random.random_range(0..200i64).min(random.random_range(0..200)))
                .collect();
            keys.sort_unstable();
            keys.dedup();
            let found = guarded.get_many(&column("k", keys.clone())).await.unwrap();
            let want: Vec<_> = keys.iter().map(|key| format!("{key:0>20}")).collect();
            assert_eq!(texts(&found), want);
            assert_eq!(found.ends, (1..=keys.len() as u32).collect::<Vec<_>>());
            assert!(gauge(&metrics, "entries") <= entries_max);
            assert!(gauge(&metrics, "bytes") <= bytes_max);
        }
    }
}

#[tokio::test]
#[ignore = "prints times, for comparing by hand"]
async fn how_long_hits_take() {
    for (fill, asked) in [(8192, 8192), (64, 8192), (2048, 2048)] {
        let (guarded, _metrics) = guard_wide(CacheOptions { entries_max: 100_000, ..cache() }, 16);
        let all: Vec<i64> = (0..65_536).collect();
        for keys in all.chunks(fill) {
            guarded.get_many(&column("k", keys.to_vec())).await.unwrap();
        }
        let keys: Vec<i64> = (0..asked).map(|n| (n * 7919) % 65_536).collect();
        let keys = column("k", keys);
        let since = std::time::Instant::now();
        let rounds = 200;
        for _ in 0..rounds {
            assert_eq!(guarded.get_many(&keys).await.unwrap().rows.num_rows(), asked as usize);
        }
        let each = since.elapsed().as_nanos() / (rounds * asked as u128);
        println!("filled by {fill}, asked by {asked}: {each} ns a key");
    }
}

/// A topic of one partition that the test writes.
struct Told(Arc<tokio::sync::Mutex<tokio::sync::mpsc::Receiver<Records>>>);

struct ToldReader(Arc<tokio::sync::Mutex<tokio::sync::mpsc::Receiver<Records>>>);

#[async_trait]
impl PartitionReader for ToldReader {
    async fn next(&mut self) -> Result<Option<Records>> {
        Ok(self.0.lock().await.recv().await)
    }

    fn end_offset(&self) -> i64 {
        0
    }
}

#[async_trait]
impl Source for Told {
    fn name(&self) -> &str {
        "changes"
    }

    fn identity(&self) -> String {
        "changes".into()
    }

    fn partitions(&self) -> u32 {
        1
    }

    async fn reader(&self, _: u32, _: Start) -> Result<Box<dyn PartitionReader>> {
        Ok(Box::new(ToldReader(self.0.clone())))
    }

    async fn offset_of(&self, _: u32, _: Place) -> Result<i64> {
        Ok(0)
    }
}

/// A look-up that follows what the sender tells.
fn following() -> (Guard, tokio::sync::mpsc::Sender<Records>) {
    let mut g = guard(policy(Some(cache())));
    let (tell, told) = tokio::sync::mpsc::channel(1);
    let told = Arc::new(Told(Arc::new(tokio::sync::Mutex::new(told))));
    let key = LookupKey::Equal(vec!["k".into()]);
    let key = KeyColumns::of(&key, &[DataType::Int64]).unwrap();
    let guarded = Arc::get_mut(&mut g.guarded).unwrap();
    guarded.follow(told, key, &tokio::runtime::Handle::current());
    (g, tell)
}

fn changed(keys: &[&str]) -> Records {
    let mut records = RecordsBuilder::new();
    for (at, key) in keys.iter().enumerate() {
        records.push(Record {
            offset: at as i64,
            timestamp: 0,
            key: Some(key.as_bytes()),
            value: None,
            headers: Headers::default(),
        });
    }
    records.finish(keys.len() as i64)
}

async fn invalidated(g: &Guard, count: u64) {
    let line =
        format!(r#"millstream_lookup_cache_invalidated_total{{lookup="l",pipeline="p"}} {count}"#);
    for _ in 0..500 {
        if g.metrics.text().lines().any(|said| said == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no `{line}`");
}

#[tokio::test]
async fn what_changed_is_asked_for_again_and_the_rest_is_not() {
    let (g, tell) = following();
    assert_eq!(g.get(&[2, 4, 5]).await.unwrap(), [Some(1), Some(1), None]);
    tell.send(changed(&["4", r#"{"k": 5}"#])).await.unwrap();
    invalidated(&g, 2).await;
    assert_eq!(g.get(&[2, 4, 5]).await.unwrap(), [Some(1), Some(2), None]);
    assert_eq!(g.store.asked(), [vec![2, 4, 5], vec![4, 5]]);
    g.says(r#"millstream_lookup_cache_entries{lookup="l",pipeline="p"} 3"#);
    // A key that cannot be read may be any.
    tell.send(changed(&["what"])).await.unwrap();
    invalidated(&g, 5).await;
    assert_eq!(g.get(&[2]).await.unwrap(), [Some(3)]);
}

#[tokio::test]
async fn an_answer_that_was_under_way_while_its_key_changed_is_not_kept() {
    let (g, tell) = following();
    g.store.delay_ms.store(300, Ordering::Relaxed);
    let early = tokio::spawn(get(g.guarded.clone(), vec![2, 4]));
    while g.store.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tell.send(changed(&["2"])).await.unwrap();
    invalidated(&g, 1).await;
    assert_eq!(early.await.unwrap().unwrap(), [Some(1), Some(1)]);
    assert_eq!(g.get(&[2, 4]).await.unwrap(), [Some(2), Some(1)]);
}
