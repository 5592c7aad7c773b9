//! Tables that are made again with columns of other types.

use crate::support::{World, ask, longs, options, shown, texts, world};
use arrow_array::RecordBatch;
use arrow_schema::DataType;
use millstream_core::{Batch, Disposition, Sink};
use millstream_cql::{Cluster, CqlSinkOptions, CqlTable, Execution, Nulls, Operation, Ttl};
use millstream_testkit::cql_proxy::{Asked, CqlProxy, Hold, Way};
use std::time::Duration;
use tokio::runtime::Handle;

const TABLE: &str = "CREATE TABLE KS.t (id bigint PRIMARY KEY, v text)";
const OTHER: &str = "CREATE TABLE KS.t (id bigint PRIMARY KEY, v int)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_waits_until_the_columns_are_what_they_were() {
    let Some(world) = world().await else { return };
    world.cql(TABLE).await;
    let lookup = world.lookup(world.options("t"), &[("id", DataType::Int64)]).await.unwrap();
    let keys = || vec![("id", longs(&[Some(1)]))];
    world.cql("DROP TABLE KS.t").await;
    world.cql(OTHER).await;
    // Four bytes, which are a text too.
    world.cql("INSERT INTO KS.t (id, v) VALUES (1, 1684234849)").await;
    for _ in 0..3 {
        let error = ask(&lookup, keys()).await.unwrap_err();
        assert!(error.contains("`v` is int now, and was text"), "{error}");
    }
    world.cql("DROP TABLE KS.t").await;
    assert!(ask(&lookup, keys()).await.is_err());
    world.cql(TABLE).await;
    world.cql("INSERT INTO KS.t (id, v) VALUES (1, 'back')").await;
    let found = ask(&lookup, keys()).await.unwrap();
    assert_eq!(shown(&found.rows, "v", 0), "back");
}

fn row(text: &str) -> Batch {
    let columns = [("id", longs(&[Some(1)])), ("v", texts(&[Some(text)]))];
    let columns = columns.map(|(name, column)| (name, column, true));
    Batch::same(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

async fn opened(world: &World) -> Box<dyn Sink> {
    opened_with(world, world.options("t").execution).await
}

async fn opened_with(world: &World, execution: Execution) -> Box<dyn Sink> {
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
        concurrency: 4,
        retries: 0,
        execution,
    };
    world.cluster.refresh().await.unwrap();
    let rows = row("four").rows.schema();
    CqlTable::open(world.cluster.clone(), options, &rows).await.unwrap().sink()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_is_not_taken_for_a_number_for_long() {
    let Some(world) = world().await else { return };
    world.cql(TABLE).await;
    let mut sink = opened(&world).await;
    sink.write(&row("four")).await.unwrap();
    world.cql("DROP TABLE KS.t").await;
    world.cql(OTHER).await;
    // The driver prepares anew by itself, and takes the bytes for whatever the column is now; a look at
    // the table comes after a moment.
    let begun = std::time::Instant::now();
    while sink.write(&row("four")).await.is_ok() {
        assert!(begun.elapsed().as_secs() < 30, "nobody looks at the table");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for _ in 0..3 {
        let error = sink.write(&row("four")).await.err().unwrap();
        assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
        assert!(error.chain().contains("`v` is int now, and was text"), "{}", error.chain());
    }
    world.cql("DROP TABLE KS.t").await;
    assert!(sink.write(&row("four")).await.is_err());
    world.cql(TABLE).await;
    let receipt = sink.write(&row("four")).await.unwrap();
    assert_eq!(receipt.rejected, []);
}

/// What another client prepares has the same name at the server, and takes other bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_into_another_table_while_it_cannot_be_prepared() {
    let Some(mut world) = world().await else { return };
    let proxy = CqlProxy::start(world.cassandra.nodes()[0].parse().unwrap(), 3).unwrap();
    let mut to = options(&world.cassandra);
    to.nodes = vec![proxy.address().to_string()];
    world.cluster = Cluster::connect(to, &Handle::current()).await.unwrap();
    world.cql(TABLE).await;
    let patient = world.options("t").execution;
    let mut sink =
        opened_with(&world, Execution { timeout: Duration::from_secs(2), ..patient }).await;
    sink.write(&row("four")).await.unwrap();
    let statements = "SELECT query_string FROM system.prepared_statements";
    let found = world.session.query_unpaged(statements, ()).await.unwrap();
    let found = found.into_rows_result().unwrap();
    let mut texts = found.rows::<(String,)>().unwrap().map(|text| text.unwrap().0);
    let own = |text: &String| text.contains(&world.keyspace) && text.starts_with("INSERT");
    let text = texts.find(own).unwrap();

    world.cql("DROP TABLE KS.t").await;
    world.cql(OTHER).await;
    let late = Duration::from_secs(60);
    let hold = Hold { share: 1.0, way: Way::Request, least: late, most: late };
    proxy.hold(Asked::Prepare, Some(hold));
    world.session.prepare(text).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for _ in 0..3 {
        let error = sink.write(&row("four")).await.err().unwrap();
        assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
    }
    let found = world.session.query_unpaged(format!("SELECT v FROM {}.t", world.keyspace), ());
    assert_eq!(found.await.unwrap().into_rows_result().unwrap().rows_num(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_no_dead_letter_where_it_is_the_table_that_is_wrong() {
    let Some(world) = world().await else { return };
    world.cql(TABLE).await;
    let mut sink = opened(&world).await;
    sink.write(&row("three")).await.unwrap();
    world.cql("DROP TABLE KS.t").await;
    world.cql(OTHER).await;
    // A number has four bytes.
    for _ in 0..3 {
        let error = sink.write(&row("three")).await.err().unwrap();
        assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
    }
}
