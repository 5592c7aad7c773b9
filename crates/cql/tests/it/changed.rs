//! Tables that are made again with columns of other types.

use crate::support::{World, ask, longs, shown, texts, world};
use arrow_array::RecordBatch;
use arrow_schema::DataType;
use millstream_core::{Batch, Disposition, Sink};
use millstream_cql::{CqlSinkOptions, CqlTable, Nulls, Operation, Ttl};

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
        execution: world.options("t").execution,
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
