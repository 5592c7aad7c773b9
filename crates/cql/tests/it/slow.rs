//! A store of which some answers are slow: what is written and found is the same, in the same order.

use crate::support::{World, ask, longs, options, shown, texts, world};
use arrow_array::RecordBatch;
use arrow_schema::DataType;
use millstream_core::{Batch, Disposition};
use millstream_cql::{Cluster, CqlSinkOptions, CqlTable, Execution, Nulls, Operation, Ttl};
use millstream_testkit::cql_proxy::{Asked, CqlProxy, Hold, Refusal, Way};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A cluster behind a proxy that makes a third of the requests slow.
async fn behind_a_proxy(world: &World) -> (CqlProxy, Arc<Cluster>) {
    let node = world.cassandra.nodes()[0].parse().unwrap();
    let proxy = CqlProxy::start(node, 11).unwrap();
    let [least, most] = [5, 25].map(Duration::from_millis);
    let hold = Hold { share: 0.3, way: Way::Either, least, most };
    proxy.hold(Asked::Select, Some(hold));
    proxy.hold(Asked::Insert, Some(hold));
    let mut options = options(&world.cassandra);
    options.nodes = vec![proxy.address().to_string()];
    let cluster = Cluster::connect(options, &Handle::current()).await.unwrap();
    (proxy, cluster)
}

fn sink_options(world: &World, concurrency: usize) -> CqlSinkOptions {
    CqlSinkOptions {
        keyspace: world.keyspace.clone(),
        table: "counted".into(),
        operation: Operation::Insert,
        columns: None,
        ttl: Ttl::Table,
        timestamp: None,
        nulls: Nulls::Unset,
        batch_rows: 1,
        batch_bytes: 10_000,
        concurrency,
        retries: 0,
        execution: Execution {
            consistency: millstream_cql::Consistency::LocalQuorum,
            timeout: Duration::from_secs(10),
            speculative_after: None,
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_change_nothing_but_time() {
    let Some(mut world) = world().await else { return };
    world.cql("CREATE TABLE KS.counted (id text PRIMARY KEY, n bigint)").await;
    let (proxy, cluster) = behind_a_proxy(&world).await;
    world.cluster = cluster;
    world.cluster.refresh().await.unwrap();
    let sink = sink_options(&world, 64);
    let keys: Vec<String> = (0..50).map(|key| format!("key {key}")).collect();
    let names: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
    let rows = |n: i64| {
        let columns = [("id", texts(&names)), ("n", longs(&vec![Some(n); names.len()]))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, of)| (name, of, true)))
    };
    let schema = rows(0).unwrap().schema();
    let table = CqlTable::open(world.cluster.clone(), sink, &schema).await.unwrap();
    let mut sink = table.sink();
    // The same keys each time: a write that overtook the one before would be the one that is read.
    let mut durable = Vec::new();
    for n in 0..10 {
        let receipt = sink.write(&Batch::same(rows(n).unwrap())).await.unwrap();
        assert!(receipt.rejected.is_empty());
        durable.push(receipt.durable);
    }
    for durable in durable {
        durable.await.unwrap();
    }
    let mut options = world.options("counted");
    options.group = 4;
    let lookup = world.lookup(options, &[("id", DataType::Utf8)]).await.unwrap();
    let found = ask(&lookup, vec![("id", texts(&names))]).await.unwrap();
    for (at, key) in keys.iter().enumerate() {
        let row = found.of(at);
        assert_eq!(row.len(), 1, "{key}");
        assert_eq!(shown(&found.rows, "id", row.start), *key);
        assert_eq!(shown(&found.rows, "n", row.start), "9", "{key}");
    }
    let (selects, inserts) = (proxy.seen(Asked::Select), proxy.seen(Asked::Insert));
    assert_eq!(inserts.requests, 500);
    assert!((100..200).contains(&inserts.held), "{inserts:?}");
    assert!(selects.requests >= 13 && selects.held > 0, "{selects:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_nobody_waits_for_is_sent_no_further() {
    let Some(mut world) = world().await else { return };
    world.cql("CREATE TABLE KS.counted (id text PRIMARY KEY, n bigint)").await;
    let (proxy, cluster) = behind_a_proxy(&world).await;
    world.cluster = cluster;
    world.cluster.refresh().await.unwrap();
    let late = Duration::from_millis(200);
    let hold = Hold { share: 1.0, way: Way::Answer, least: late, most: late };
    proxy.hold(Asked::Insert, Some(hold));
    let keys: Vec<String> = (0..50).map(|key| format!("key {key}")).collect();
    let names: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
    let columns = [("id", texts(&names)), ("n", longs(&vec![Some(1); names.len()]))];
    let rows = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, of)| (name, of, true)));
    let rows = rows.unwrap();
    let options = sink_options(&world, 4);
    let table = CqlTable::open(world.cluster.clone(), options, &rows.schema()).await.unwrap();
    let mut sink = table.sink();
    let batch = Batch::same(rows);
    let writing = sink.write(&batch);
    // It takes many times as long as this.
    let given_up = tokio::time::timeout(late / 2, writing).await;
    assert!(given_up.is_err());
    let sent = proxy.seen(Asked::Insert).requests;
    assert!((1..=4).contains(&sent), "{sent}");
    tokio::time::sleep(late * 3).await;
    assert_eq!(proxy.seen(Asked::Insert).requests, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_are_asked_at_a_time_while_the_store_has_too_much_to_do() {
    let Some(mut world) = world().await else { return };
    world.cql("CREATE TABLE KS.counted (id text PRIMARY KEY, n bigint)").await;
    let (proxy, cluster) = behind_a_proxy(&world).await;
    proxy.heal();
    world.cluster = cluster;
    world.cluster.refresh().await.unwrap();
    let keys: Vec<String> = (0..200).map(|key| format!("key {key}")).collect();
    let names: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
    let columns = [("id", texts(&names)), ("n", longs(&vec![Some(1); names.len()]))];
    let rows = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, of)| (name, of, true)));
    let batch = Batch::same(rows.unwrap());
    let options = sink_options(&world, 32);
    let schema = batch.rows.schema();
    let table = CqlTable::open(world.cluster.clone(), options, &schema).await.unwrap();
    let mut sink = table.sink();
    while table.stored_directly() < 400 || table.requests_at_once() < 20 {
        assert_eq!(sink.write(&batch).await.unwrap().rows, 200);
    }
    let before = table.requests_at_once();
    proxy.refuse(Asked::Insert, Some(Refusal::Overloaded));
    for _ in 0..3 {
        let error = sink.write(&batch).await.err().unwrap();
        assert_eq!((error.kind(), error.disposition()), ("overloaded", Disposition::Retry));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let after = table.requests_at_once();
    assert!(after <= before / 4, "{before} to {after}");
    proxy.heal();
    while table.requests_at_once() < after * 2 {
        assert_eq!(sink.write(&batch).await.unwrap().rows, 200);
    }
}
