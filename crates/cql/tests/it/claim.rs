//! Rows that are inserted unless their key is there: who is told that it came first.

use crate::support::{World, ask, longs, options, shown, texts, world};
use arrow_array::cast::AsArray;
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, RecordBatch,
    TimestampMillisecondArray,
};
use arrow_schema::DataType;
use millstream_core::{Batch, Found, LookupKey};
use millstream_cql::{
    Cluster, CqlClaim, CqlClaimOptions, CqlSinkOptions, CqlTable, Execution, Nulls, Operation,
    SerialConsistency, Ttl,
};
use millstream_testkit::cql_proxy::{Asked, CqlProxy, Hold, Refusal, Way};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const LATE: Duration = Duration::from_millis(400);
const TIMEOUT: Duration = Duration::from_millis(150);

fn claim_options(world: &World, table: &str) -> CqlClaimOptions {
    CqlClaimOptions {
        keyspace: world.keyspace.clone(),
        table: table.into(),
        columns: None,
        ttl_seconds: None,
        concurrency: 16,
        serial: SerialConsistency::LocalSerial,
        execution: world.options(table).execution,
        read_only: false,
    }
}

async fn claim(
    world: &World,
    options: CqlClaimOptions,
    key: &[(&str, DataType)],
) -> Result<CqlClaim, String> {
    world.cluster.refresh().await.unwrap();
    let columns = key.iter().map(|(name, _)| (*name).to_owned()).collect();
    let types: Vec<_> = key.iter().map(|(_, t)| t.clone()).collect();
    let key = LookupKey::Equal(columns);
    let opened = CqlClaim::open(world.cluster.clone(), options, &key, &types);
    opened.await.map_err(|error| error.chain())
}

/// `KS.seen`, which is claimed by its key `id` for an `owner`.
async fn seen(world: &World) -> CqlClaim {
    world.cql("CREATE TABLE KS.seen (id text PRIMARY KEY, owner bigint, note text)").await;
    claim(world, claim_options(world, "seen"), &SEEN).await.unwrap()
}

const SEEN: [(&str, DataType); 2] = [("owner", DataType::Int64), ("id", DataType::Utf8)];

fn of(rows: &[(&str, i64)]) -> Vec<(&'static str, ArrayRef)> {
    let ids: Vec<_> = rows.iter().map(|(id, _)| Some(*id)).collect();
    let owners: Vec<_> = rows.iter().map(|(_, owner)| Some(*owner)).collect();
    vec![("owner", longs(&owners)), ("id", texts(&ids))]
}

fn applied(found: &Found) -> Vec<bool> {
    let column = found.rows.column_by_name("applied").unwrap().as_boolean();
    column.iter().map(Option::unwrap).collect()
}

/// A field of the row that is there, for each row that was found.
fn stored(found: &Found, field: &str) -> Vec<String> {
    let there = found.rows.column_by_name("stored").unwrap().as_struct();
    let rows = RecordBatch::from(there.clone());
    (0..rows.num_rows()).map(|row| shown(&rows, field, row)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_a_key_is_told_so_however_often_it_asks() {
    let Some(world) = world().await else { return };
    let claim = seen(&world).await;
    world.cql("INSERT INTO KS.seen (id, owner, note) VALUES ('old', 9, 'before')").await;
    let rows = [("a", 1), ("b", 2), ("a", 3), ("old", 4), ("a", 1_000)];
    for _ in 0..3 {
        let found = ask(&claim, of(&rows)).await.unwrap();
        assert_eq!(found.ends, [1, 2, 3, 4, 5]);
        assert_eq!(applied(&found), [true, true, false, false, false]);
        assert_eq!(stored(&found, "owner"), ["1", "2", "1", "9", "1"]);
        assert_eq!(stored(&found, "note"), ["", "", "", "before", ""]);
        // What the ON says is so.
        let owners: Vec<_> = (0..5).map(|row| shown(&found.rows, "owner", row)).collect();
        assert_eq!(owners, ["1", "2", "3", "4", "1000"]);
        assert_eq!(shown(&found.rows, "note", 3), "before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_batch_the_earlier_row_is_first_whatever_else_the_partition_has() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (a text, c bigint, owner bigint, PRIMARY KEY (a, c))").await;
    let key = [("a", DataType::Utf8), ("c", DataType::Int64), ("owner", DataType::Int64)];
    let claim = claim(&world, claim_options(&world, "t"), &key).await.unwrap();
    let rows = 120;
    let partitions: Vec<_> = (0..rows).map(|row| format!("p{}", row % 3)).collect();
    let partitions: Vec<_> = partitions.iter().map(|name| Some(name.as_str())).collect();
    // Each key is there four times.
    let clustering: Vec<_> = (0..rows).map(|row| Some(row / 3 % 10)).collect();
    let owners: Vec<_> = (0..rows).map(Some).collect();
    let keys =
        || vec![("a", texts(&partitions)), ("c", longs(&clustering)), ("owner", longs(&owners))];
    for _ in 0..2 {
        let found = ask(&claim, keys()).await.unwrap();
        let first: Vec<bool> = (0..rows).map(|row| row < 30).collect();
        assert_eq!(applied(&found), first);
        let whose: Vec<_> = (0..rows).map(|row| (row % 30).to_string()).collect();
        assert_eq!(stored(&found, "owner"), whose);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_value_of_the_column_is_a_miss_and_inserts_nothing() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id uuid PRIMARY KEY, small smallint)").await;
    let key = [("id", DataType::Utf8), ("small", DataType::Int32)];
    let claim = claim(&world, claim_options(&world, "t"), &key).await.unwrap();
    let uuid = "123e4567-e89b-12d3-a456-426614174000";
    let ids = texts(&[Some("no uuid"), Some(uuid), Some(uuid)]);
    let small = Int32Array::from(vec![1, 70_000, 7]);
    let found = ask(&claim, vec![("id", ids), ("small", Arc::new(small))]).await.unwrap();
    assert_eq!(found.ends, [0, 0, 1]);
    assert_eq!((applied(&found), stored(&found, "small")), (vec![true], vec!["7".to_owned()]));
}

/// Some values come back in another text than they were given in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_known_again_whatever_its_types() {
    let Some(world) = world().await else { return };
    world
        .cql(
            "CREATE TABLE KS.t (id text PRIMARY KEY, u uuid, i inet, d decimal, \
             v varint, t timestamp, f double, b boolean, s text, n smallint)",
        )
        .await;
    let times = TimestampMillisecondArray::from(vec![1_700_000_000_123; 2]).with_timezone("UTC");
    let address = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
    let addresses = FixedSizeBinaryArray::try_from_iter([address; 2].into_iter()).unwrap();
    let both = |text| texts(&[Some(text); 2]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", both("a")),
        ("u", both("123E4567-E89B-12D3-A456-426614174000")),
        ("i", Arc::new(addresses)),
        ("d", both("1.500")),
        ("v", both("-00123")),
        ("t", Arc::new(times)),
        ("f", Arc::new(Float64Array::from(vec![-0.0, 0.0]))),
        ("b", Arc::new(BooleanArray::from(vec![true; 2]))),
        ("s", both("")),
        ("n", Arc::new(Int32Array::from(vec![-2; 2]))),
    ];
    let key: Vec<_> = columns.iter().map(|(name, c)| (*name, c.data_type().clone())).collect();
    let claim = claim(&world, claim_options(&world, "t"), &key).await.unwrap();
    // They differ in the sign of their zero.
    for _ in 0..2 {
        let found = ask(&claim, columns.clone()).await.unwrap();
        assert_eq!(applied(&found), [true, false]);
        assert_eq!(stored(&found, "d"), ["1.500", "1.500"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_lives_as_long_as_the_file_says() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.seen (id text PRIMARY KEY, owner bigint)").await;
    let living = CqlClaimOptions { ttl_seconds: Some(500), ..claim_options(&world, "seen") };
    let claim = claim(&world, living, &SEEN).await.unwrap();
    ask(&claim, of(&[("a", 1)])).await.unwrap();
    let text = format!("SELECT TTL(owner) FROM {}.seen", world.keyspace);
    let rows = world.session.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
    let (ttl,) = rows.single_row::<(i32,)>().unwrap();
    assert!((400..=500).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_look_inserts_nothing() {
    let Some(world) = world().await else { return };
    drop(seen(&world).await);
    world.cql("INSERT INTO KS.seen (id, owner) VALUES ('a', 1)").await;
    let looking = CqlClaimOptions { read_only: true, ..claim_options(&world, "seen") };
    let claim = claim(&world, looking, &SEEN).await.unwrap();
    for _ in 0..2 {
        let found = ask(&claim, of(&[("a", 1), ("a", 2), ("b", 3)])).await.unwrap();
        assert_eq!(applied(&found), [true, false, true]);
        assert_eq!(stored(&found, "owner"), ["1", "1", "3"]);
    }
    let text = format!("SELECT id FROM {}.seen", world.keyspace);
    let rows = world.session.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
    assert_eq!(rows.rows_num(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_claimed_is_a_sentence() {
    let Some(world) = world().await else { return };
    world
        .cql("CREATE TABLE KS.t (a text, c bigint, v text, tags set<text>, PRIMARY KEY (a, c))")
        .await;
    world.cql("CREATE TABLE KS.fixed (a text, c int, s text static, PRIMARY KEY (a, c))").await;
    world.cql("CREATE TABLE KS.hits (a text PRIMARY KEY, n counter)").await;
    world.cql("CREATE TABLE KS.taken (a text PRIMARY KEY, applied boolean, v text)").await;
    let [text, long] = [DataType::Utf8, DataType::Int64];
    let told = async |table: &str, key: &[(&str, DataType)]| {
        claim(&world, claim_options(&world, table), key).await.err().unwrap()
    };
    let said = told("t", &[("a", text.clone()), ("v", text.clone())]).await;
    assert!(said.contains("is a, c: the ON gives no `c`"), "{said}");
    let typed = [("a", text.clone()), ("c", long.clone()), ("v", long.clone())];
    let said = told("t", &typed).await;
    assert!(said.contains("`v`: bigint cannot be written as text; CAST it to string"), "{said}");
    let list = DataType::new_list(text.clone(), true);
    let said = told("t", &[("a", text.clone()), ("c", long.clone()), ("tags", list)]).await;
    assert!(said.contains("`tags`") && said.contains("no simple value"), "{said}");
    let said = told("fixed", &[("a", text.clone()), ("c", long.clone())]).await;
    assert!(said.contains("`s`") && said.contains("is static"), "{said}");
    let said = told("hits", &[("a", text.clone())]).await;
    assert!(said.contains("`n`") && said.contains("counts"), "{said}");
    let said = told("taken", &[("a", text.clone())]).await;
    assert!(said.contains("no value beside its key"), "{said}");
    let said = told("taken", &[("a", text.clone()), ("v", text.clone())]).await;
    assert!(said.contains("`applied`") && said.contains("`columns`"), "{said}");
    let mut named = claim_options(&world, "taken");
    named.columns = Some(vec!["a".into(), "v".into()]);
    let named = claim(&world, named, &[("a", text.clone()), ("v", text)]).await.unwrap();
    let keys = vec![("a", texts(&[Some("x")])), ("v", texts(&[Some("y")]))];
    assert_eq!(applied(&ask(&named, keys).await.unwrap()), [true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_cassandra_refuses_is_told_and_the_others_stand() {
    let Some(world) = world().await else { return };
    let claim = seen(&world).await;
    // A key has at most 65,535 bytes.
    let long = "x".repeat(70_000);
    let error = ask(&claim, of(&[("a", 1), (&long, 2), ("b", 3)])).await.unwrap_err();
    assert!(error.contains("65535"), "{error}");
    let found = ask(&claim, of(&[("a", 1), ("b", 3), ("a", 4)])).await.unwrap();
    assert_eq!(applied(&found), [true, true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_made_again_is_claimed_again_if_it_is_the_same() {
    let Some(world) = world().await else { return };
    let claim = seen(&world).await;
    let rows = [("a", 1), ("a", 2)];
    ask(&claim, of(&rows)).await.unwrap();
    world.cql("DROP TABLE KS.seen").await;
    let error = ask(&claim, of(&rows)).await.unwrap_err();
    assert!(error.contains("seen"), "{error}");
    world.cql("CREATE TABLE KS.seen (id text PRIMARY KEY, owner int, note text)").await;
    for _ in 0..2 {
        let error = ask(&claim, of(&rows)).await.unwrap_err();
        assert!(error.contains("`owner` is int now, and was bigint"), "{error}");
    }
    world.cql("DROP TABLE KS.seen").await;
    world.cql("CREATE TABLE KS.seen (id text PRIMARY KEY, owner bigint, note int)").await;
    let note = "INSERT INTO KS.seen (id, owner, note) VALUES ('a', 7, 1684234849)";
    world.cql(note).await;
    let error = ask(&claim, of(&rows)).await.unwrap_err();
    assert!(error.contains("`note` is int now, and was text"), "{error}");
    world.cql("DROP TABLE KS.seen").await;
    world.cql("CREATE TABLE KS.seen (id text PRIMARY KEY, owner bigint, note text)").await;
    let found = ask(&claim, of(&[("a", 2), ("a", 1)])).await.unwrap();
    assert_eq!(applied(&found), [true, false]);
}

/// Every request through a proxy that can keep answers to itself.
async fn behind_a_proxy(world: &mut World) -> CqlProxy {
    let node = world.cassandra.nodes()[0].parse().unwrap();
    let proxy = CqlProxy::start(node, 5).unwrap();
    let mut options = options(&world.cassandra);
    options.nodes = vec![proxy.address().to_string()];
    world.cluster = Cluster::connect(options, &Handle::current()).await.unwrap();
    proxy
}

fn late(share: f64, way: Way) -> Option<Hold> {
    Some(Hold { share, way, least: LATE, most: LATE })
}

fn impatient(world: &World, table: &str) -> Execution {
    Execution { timeout: TIMEOUT, ..world.options(table).execution }
}

const ROWS: [(&str, i64); 3] = [("a", 1), ("b", 2), ("a", 3)];

/// A claim on `KS.seen` whose INSERTs go astray.
async fn astray(proxy: &CqlProxy, world: &World, way: Way) -> CqlClaim {
    drop(seen(world).await);
    let mut options = claim_options(world, "seen");
    options.execution.timeout = Duration::from_secs(1);
    let claim = claim(world, options, &SEEN).await.unwrap();
    proxy.hold(Asked::Insert, never(way));
    claim
}

fn never(way: Way) -> Option<Hold> {
    let never = Duration::from_secs(60);
    Some(Hold { share: 1.0, way, least: never, most: never })
}

fn is_of_the_first(found: &Found) {
    assert_eq!(applied(found), [true, true, false]);
    assert_eq!(stored(found, "owner"), ["1", "2", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_row_whose_answer_never_came_is_read() {
    let Some(mut world) = world().await else { return };
    let proxy = behind_a_proxy(&mut world).await;
    let claim = astray(&proxy, &world, Way::Answer).await;
    is_of_the_first(&ask(&claim, of(&ROWS)).await.unwrap());
    let sent = proxy.seen(Asked::Insert);
    assert_eq!((sent.requests, sent.held), (3, 3), "none is inserted again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_never_arrived_is_inserted_again() {
    let Some(mut world) = world().await else { return };
    let proxy = behind_a_proxy(&mut world).await;
    let claim = astray(&proxy, &world, Way::Request).await;
    let heal = async {
        while proxy.seen(Asked::Insert).held < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        proxy.heal();
    };
    let (found, ()) = tokio::join!(ask(&claim, of(&ROWS)), heal);
    is_of_the_first(&found.unwrap());
    let (inserts, held) = (proxy.seen(Asked::Insert).requests, proxy.seen(Asked::Insert).held);
    assert_eq!((inserts, held), (5, 2), "of each key once more, and the other row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_inserted_is_known_when_it_cannot_be_read_either() {
    let Some(mut world) = world().await else { return };
    let proxy = behind_a_proxy(&mut world).await;
    let claim = astray(&proxy, &world, Way::Answer).await;
    proxy.hold(Asked::Select, never(Way::Answer));
    let error = ask(&claim, of(&ROWS)).await.unwrap_err();
    assert!(error.contains("looking what is in"), "{error}");
    proxy.heal();
    is_of_the_first(&ask(&claim, of(&ROWS)).await.unwrap());
}

/// A store that is in trouble for a while is not sent what it has settled before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_is_not_sent_again() {
    let Some(mut world) = world().await else { return };
    let proxy = behind_a_proxy(&mut world).await;
    drop(seen(&world).await);
    let options = CqlClaimOptions { concurrency: 1, ..claim_options(&world, "seen") };
    let claim = claim(&world, options, &SEEN).await.unwrap();
    let keys: Vec<String> = (0..300).map(|key| format!("key {key}")).collect();
    let rows: Vec<_> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    let trouble = async {
        let until = async |is_so: &dyn Fn() -> bool| {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        until(&|| proxy.seen(Asked::Insert).requests > 3).await;
        proxy.refuse(Asked::Insert, Some(Refusal::Overloaded));
        // A row is sent three times before it is said to have failed.
        until(&|| proxy.seen(Asked::Insert).refused >= 3).await;
        proxy.heal();
    };
    let (found, ()) = tokio::join!(ask(&claim, of(&rows)), trouble);
    let found = found.unwrap();
    assert_eq!(applied(&found), vec![true; 300]);
    let sent = proxy.seen(Asked::Insert);
    assert_eq!(sent.requests, 300 + sent.refused);
}

/// Requests that are late arrive after others were answered: they insert nothing then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_row_of_a_key_is_first_whatever_is_late() {
    let Some(mut world) = world().await else { return };
    let proxy = behind_a_proxy(&mut world).await;
    drop(seen(&world).await);
    let options =
        CqlClaimOptions { execution: impatient(&world, "seen"), ..claim_options(&world, "seen") };
    let claim = claim(&world, options, &SEEN).await.unwrap();
    proxy.hold(Asked::Insert, late(0.15, Way::Either));
    let keys: Vec<String> = (0..20).map(|key| format!("key {key}")).collect();
    let rows = |from: i64| -> Vec<(&str, i64)> {
        (from..from + 60).map(|row| (keys[row as usize % 20].as_str(), row)).collect()
    };
    for from in [0, 60] {
        let found = loop {
            match ask(&claim, of(&rows(from))).await {
                Ok(found) => break found,
                Err(error) => assert!(error.contains("inserting into"), "{error}"),
            }
        };
        let first: Vec<_> = (from..from + 60).map(|row| row < 20).collect();
        assert_eq!(applied(&found), first);
    }
    assert!(proxy.seen(Asked::Insert).held > 0);
}

/// What the sink inserts on a condition is there in the end, and what was there before stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_goes_on_until_the_store_has_said_what_is_there() {
    let Some(mut world) = world().await else { return };
    let proxy = behind_a_proxy(&mut world).await;
    drop(seen(&world).await);
    world.cql("INSERT INTO KS.seen (id, owner) VALUES ('key 3', 1000)").await;
    let keys: Vec<String> = (0..20).map(|key| format!("key {key}")).collect();
    let names: Vec<_> = (0..40).map(|row| Some(keys[row % 20].as_str())).collect();
    let owners: Vec<_> = (0..40).map(Some).collect();
    let columns = [("id", texts(&names)), ("owner", longs(&owners))];
    let rows = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true)));
    let batch = Batch::same(rows.unwrap());
    let options = CqlSinkOptions {
        keyspace: world.keyspace.clone(),
        table: "seen".into(),
        operation: Operation::InsertIfNotExists(SerialConsistency::Serial),
        columns: None,
        ttl: Ttl::Table,
        timestamp: None,
        nulls: Nulls::Unset,
        batch_rows: 20,
        batch_bytes: 10_000,
        concurrency: 16,
        retries: 2,
        execution: impatient(&world, "seen"),
    };
    let table = CqlTable::open(world.cluster.clone(), options, &batch.rows.schema()).await.unwrap();
    let mut sink = table.sink();
    proxy.hold(Asked::Insert, late(1.0, Way::Answer));
    let error = sink.write(&batch).await.err().unwrap();
    assert_eq!(error.kind(), "timeout", "{}", error.chain());
    proxy.hold(Asked::Insert, late(0.2, Way::Either));
    while let Err(error) = sink.write(&batch).await {
        assert_eq!(error.kind(), "timeout", "{}", error.chain());
    }
    proxy.heal();
    // Late requests, if there are any left, find the rows there.
    tokio::time::sleep(LATE).await;
    let text = format!("SELECT id, owner FROM {}.seen", world.keyspace);
    let rows = world.session.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
    let mut there: Vec<(String, i64)> = rows.rows().unwrap().map(Result::unwrap).collect();
    there.sort_by_key(|(_, owner)| *owner);
    let mut wanted: Vec<_> = keys.iter().cloned().zip(0..).filter(|(_, n)| *n != 3).collect();
    wanted.push(("key 3".into(), 1000));
    assert_eq!(there, wanted);
}
