//! The suite that every look-up and sink passes.

use crate::support::world;
use arrow_schema::DataType;
use futures::FutureExt;
use millstream_cql::{CqlSinkOptions, CqlTable, Nulls, Operation, Ttl};
use millstream_testkit::conformance::{self, Again, Stage};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_does_what_all_do() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (key text PRIMARY KEY, number bigint)").await;
    for (key, number) in conformance::stored() {
        world.cql(&format!("INSERT INTO KS.t (key, number) VALUES ('{key}', {number})")).await;
    }
    let lookup = world.lookup(world.options("t"), &[("key", DataType::Utf8)]).await.unwrap();
    conformance::lookup(Arc::new(lookup)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_does_what_all_do() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (key text PRIMARY KEY, number bigint)").await;
    world.cluster.refresh().await.unwrap();
    let options = CqlSinkOptions {
        keyspace: world.keyspace.clone(),
        table: "t".into(),
        operation: Operation::Insert,
        columns: None,
        ttl: Ttl::Table,
        timestamp: None,
        nulls: Nulls::Unset,
        batch_rows: 20,
        batch_bytes: 16 << 10,
        concurrency: 16,
        retries: 3,
        execution: world.options("t").execution,
    };
    let table = CqlTable::open(world.cluster.clone(), options, &conformance::schema()).await;
    let table = table.unwrap();
    let world = Arc::new(world);
    let stage = Stage {
        open: Box::new(move || table.sink()),
        stored: Box::new(move || {
            let world = world.clone();
            async move {
                let all = format!("SELECT key, number FROM {}.t", world.keyspace);
                let rows = world.session.query_unpaged(all, ()).await.unwrap();
                let rows = rows.into_rows_result().unwrap();
                rows.rows::<(String, i64)>().unwrap().map(Result::unwrap).collect()
            }
            .boxed()
        }),
        again: Again::Once,
        by_key: true,
    };
    stage.run().await;
}
