//! Rows that are stored, and rows that cannot be.

use crate::support::{World, longs, texts, world};
use arrow_array::{
    ArrayRef, Int32Array, RecordBatch, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use millstream_core::{Batch, Receipt};
use millstream_cql::SerialConsistency::LocalSerial;
use millstream_cql::{
    Cluster, CqlSinkOptions, CqlTable, Nulls, Operation, TTL_SECONDS_MAX, TlsOptions, Ttl,
};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

pub fn options(world: &World, table: &str) -> CqlSinkOptions {
    CqlSinkOptions {
        keyspace: world.keyspace.clone(),
        table: table.into(),
        operation: Operation::Insert,
        columns: None,
        ttl: Ttl::Table,
        timestamp: None,
        nulls: Nulls::Unset,
        batch_rows: 20,
        batch_bytes: 16 << 10,
        concurrency: 16,
        retries: 3,
        execution: world.options(table).execution,
    }
}

pub fn rows(columns: Vec<(&str, ArrayRef)>) -> Batch {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Batch::same(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

pub async fn write(
    world: &World,
    options: CqlSinkOptions,
    batch: &Batch,
) -> Result<Receipt, String> {
    world.cluster.refresh().await.unwrap();
    let opened = CqlTable::open(world.cluster.clone(), options, &batch.rows.schema()).await;
    let table = opened.map_err(|error| error.chain())?;
    table.sink().write(batch).await.map_err(|error| error.chain())
}

/// Writes rows with this number until some went without the driver, and then once more.
async fn write_directly(
    world: &World,
    cluster: Arc<Cluster>,
    operation: Operation,
    number: &mut i64,
) {
    cluster.refresh().await.unwrap();
    let ids: Vec<_> = (0..300).map(Some).collect();
    let batch = |number: i64| rows(vec![("id", longs(&ids)), ("n", longs(&[Some(number); 300]))]);
    let mut options = options(world, "t");
    options.operation = operation;
    let schema = batch(0).rows.schema();
    let table = CqlTable::open(cluster, options, &schema).await.unwrap();
    let mut sink = table.sink();
    for attempt in 0.. {
        let before = table.stored_directly();
        *number += 1;
        let receipt = sink.write(&batch(*number)).await.unwrap();
        assert_eq!((receipt.rows, receipt.rejected.len()), (300, 0));
        let query = format!("SELECT n FROM KS.t WHERE n = {number} ALLOW FILTERING");
        assert_eq!(read(world, &query).await.len(), 300);
        match table.stored_directly() - before {
            300 => return,
            _ if attempt > 50 => panic!("{operation:?} goes by the driver"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_done_twice_goes_without_the_driver_also_with_certificates() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, n bigint)").await;
    let files = world.cassandra.files();
    let mut secure = crate::support::options(&world.cassandra);
    secure.connections = NonZeroUsize::new(3).unwrap();
    secure.tls = Some(TlsOptions {
        ca: Some(files.ca.clone()),
        certificate: Some(files.client_cert),
        key: Some(files.client_key),
    });
    let secure = Cluster::connect(secure, &Handle::current()).await.unwrap();
    let mut number = 0;
    // What went one way is never older than what went the other way before.
    for cluster in [&world.cluster, &secure] {
        for operation in [Operation::Insert, Operation::Update] {
            write_directly(&world, cluster.clone(), operation, &mut number).await;
        }
    }
    let ids: Vec<_> = (0..300).map(Some).collect();
    let batch = rows(vec![("id", longs(&ids)), ("n", longs(&[Some(number + 1); 300]))]);
    world.cluster.refresh().await.unwrap();
    let mut impatient = options(&world, "t");
    impatient.execution.speculative_after = Some(Duration::from_secs(1));
    let mut conditional = options(&world, "t");
    conditional.operation = Operation::InsertIfNotExists(LocalSerial);
    for options in [impatient, conditional] {
        let schema = batch.rows.schema();
        let table = CqlTable::open(world.cluster.clone(), options, &schema).await.unwrap();
        table.sink().write(&batch).await.unwrap();
        assert_eq!(table.stored_directly(), 0);
    }
}

/// The rows of a query, each as its columns in text.
pub async fn read(world: &World, query: &str) -> Vec<String> {
    let query = query.replace("KS", &world.keyspace);
    let answer = world.session.query_unpaged(query.as_str(), ()).await.unwrap();
    let answer = answer.into_rows_result().unwrap();
    let mut rows: Vec<_> = answer
        .rows::<scylla::value::Row>()
        .unwrap()
        .map(|row| {
            let show = |cell: Option<scylla::value::CqlValue>| {
                cell.map_or_else(|| "null".into(), |cell| cell.to_string())
            };
            row.unwrap().columns.into_iter().map(show).collect::<Vec<_>>().join(" ")
        })
        .collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_stored_once_and_a_null_leaves_what_is_there() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (a text, c bigint, v text, w text, PRIMARY KEY (a, c))").await;
    world.cql("INSERT INTO KS.t (a, c, v, w) VALUES ('p0', 0, 'old', 'old')").await;
    let many = 500;
    let partitions: Vec<_> = (0..many).map(|n| format!("p{}", n % 7)).collect();
    let partitions: Vec<_> = partitions.iter().map(|p| Some(p.as_str())).collect();
    let values: Vec<_> = (0..many).map(|n| (n != 0).then_some("new")).collect();
    let clustering: Vec<_> = (0..many).map(Some).collect();
    let batch =
        rows(vec![("a", texts(&partitions)), ("c", longs(&clustering)), ("v", texts(&values))]);
    let receipt = write(&world, options(&world, "t"), &batch).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected.len()), (500, 0));
    receipt.durable.await.unwrap();
    assert_eq!(read(&world, "SELECT c FROM KS.t").await.len(), 500);
    let first = "SELECT v, w FROM KS.t WHERE a = 'p0' AND c = 0";
    assert_eq!(read(&world, first).await, ["'old' 'old'"]);

    let mut deleting = options(&world, "t");
    deleting.nulls = Nulls::Delete;
    write(&world, deleting, &batch).await.unwrap();
    assert_eq!(read(&world, first).await, ["null 'old'"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_a_key_wins_with_a_time_and_without() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, v text, w text)").await;
    // Without a rule the larger value of two equal times would win.
    let ids = longs(&[Some(1), Some(1), Some(1), Some(2)]);
    let values = texts(&[Some("z"), Some("y"), Some("x"), Some("q")]);
    let others = texts(&[Some("kept"), None, None, None]);
    let at = Arc::new(TimestampMillisecondArray::from(vec![5, 7, 7, 5]).with_timezone("UTC"));
    let columns = vec![("id", ids), ("v", values), ("w", others), ("at", at as ArrayRef)];
    let batch = rows(columns.clone());
    let mut timed = options(&world, "t");
    timed.timestamp = Some("at".into());
    let receipt = write(&world, timed.clone(), &batch).await.unwrap();
    assert_eq!(receipt.rows, 4);
    let stored = "SELECT id, v, w, writetime(v) FROM KS.t";
    let expected = ["1 'x' 'kept' 7000", "2 'q' null 5000"];
    assert_eq!(read(&world, stored).await, expected);
    // The same again changes nothing.
    write(&world, timed, &batch).await.unwrap();
    assert_eq!(read(&world, stored).await, expected);

    let batch = rows(columns[..3].to_vec());
    for _ in 0..20 {
        write(&world, options(&world, "t"), &batch).await.unwrap();
        assert_eq!(read(&world, "SELECT v, w FROM KS.t WHERE id = 1").await, ["'x' 'kept'"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_write_is_in_microseconds_whatever_its_unit() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, v text)").await;
    let units: [(ArrayRef, &str); 5] = [
        (Arc::new(TimestampSecondArray::from(vec![7])), "7000000"),
        (Arc::new(TimestampMillisecondArray::from(vec![7])), "7000"),
        (Arc::new(TimestampMicrosecondArray::from(vec![7])), "7"),
        (Arc::new(TimestampNanosecondArray::from(vec![7_999])), "7"),
        (longs(&[Some(7)]), "7"),
    ];
    for (id, (at, micros)) in (0..).zip(units) {
        let batch = rows(vec![("id", longs(&[Some(id)])), ("v", texts(&[Some("v")])), ("at", at)]);
        let mut timed = options(&world, "t");
        timed.timestamp = Some("at".into());
        write(&world, timed, &batch).await.unwrap();
        let query = format!("SELECT writetime(v) FROM KS.t WHERE id = {id}");
        assert_eq!(read(&world, &query).await, [micros]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_is_checked_row_by_row() {
    let Some(world) = world().await else { return };
    world
        .cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, v text) WITH default_time_to_live = 500")
        .await;
    let over = TTL_SECONDS_MAX + 1;
    let lives = longs(&[Some(0), Some(-1), Some(over), Some(1000), None]);
    let batch = rows(vec![
        ("id", longs(&[Some(1), Some(2), Some(3), Some(4), Some(5)])),
        ("v", texts(&[Some("a"); 5])),
        ("lives", lives),
    ]);
    let mut living = options(&world, "t");
    living.ttl = Ttl::Column("lives".into());
    let receipt = write(&world, living, &batch).await.unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((rejected.as_slice(), receipt.rows), ([1, 2].as_slice(), 3));
    assert!(receipt.rejected[1].1.contains("over 20 years"), "{:?}", receipt.rejected);
    let lives = read(&world, "SELECT id, ttl(v) FROM KS.t").await;
    assert_eq!(lives[0], "1 null", "0 is for ever, against the table's own");
    assert!(lives[1] == "4 1000" || lives[1].starts_with("4 9"), "{lives:?}");
    assert!(lives[2].starts_with("5 4") || lives[2] == "5 500", "{lives:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_poison_row_of_500_costs_itself() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (a text, c text, v int, PRIMARY KEY (a, c))").await;
    let long = "x".repeat(70_000);
    let names: Vec<_> = (0..500).map(|n| format!("{n:03}")).collect();
    let mut clustering: Vec<_> = names.iter().map(|name| Some(name.as_str())).collect();
    clustering[321] = Some(&long);
    let mut partitions = vec![Some("p"); 500];
    partitions[17] = None;
    let values: ArrayRef = Arc::new(Int32Array::from_iter_values(0..500));
    let batch = rows(vec![("a", texts(&partitions)), ("c", texts(&clustering)), ("v", values)]);
    let receipt = write(&world, options(&world, "t"), &batch).await.unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!(rejected, [17, 321]);
    assert!(receipt.rejected[0].1.contains("null") && receipt.rejected[1].1.contains("65535"));
    assert_eq!(receipt.rows, 498);
    assert_eq!(read(&world, "SELECT c FROM KS.t").await.len(), 498);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_larger_than_cassandra_takes_costs_its_row() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (a bigint, c bigint, v text, PRIMARY KEY (a, c))").await;
    // The first is too large for a mutation, the second for a frame.
    for bytes in [15 << 20, 20 << 20] {
        let large = "x".repeat(bytes);
        let values: Vec<_> = (0..50).map(|n| Some(if n == 33 { &*large } else { "v" })).collect();
        let ids: Vec<_> = (0..50).map(Some).collect();
        for partitions in [ids.clone(), vec![Some(-1); 50]] {
            let batch =
                rows(vec![("a", longs(&partitions)), ("c", longs(&ids)), ("v", texts(&values))]);
            let receipt = write(&world, options(&world, "t"), &batch).await.unwrap();
            let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
            assert_eq!((receipt.rows, rejected), (49, vec![33]), "{:?}", receipt.rejected);
        }
        assert_eq!(read(&world, "SELECT c FROM KS.t").await.len(), 98);
        world.cql("TRUNCATE KS.t").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_updated_deleted_and_kept() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, v text)").await;
    world.cql("CREATE TABLE KS.hits (id bigint PRIMARY KEY, n counter)").await;
    let batch = |value| rows(vec![("id", longs(&[Some(1), Some(2)])), ("v", texts(&[value; 2]))]);
    let with = |operation| CqlSinkOptions { operation, ..options(&world, "t") };
    write(&world, with(Operation::Update), &batch(Some("a"))).await.unwrap();
    write(&world, with(Operation::InsertIfNotExists(LocalSerial)), &batch(Some("b")))
        .await
        .unwrap();
    assert_eq!(read(&world, "SELECT id, v FROM KS.t").await, ["1 'a'", "2 'a'"]);
    let one = rows(vec![("id", longs(&[Some(2)]))]);
    write(&world, with(Operation::Delete), &one).await.unwrap();
    assert_eq!(read(&world, "SELECT id, v FROM KS.t").await, ["1 'a'"]);

    let counted = rows(vec![("id", longs(&[Some(1); 3])), ("n", longs(&[Some(2); 3]))]);
    let hits = CqlSinkOptions { operation: Operation::Update, ..options(&world, "hits") };
    write(&world, hits, &counted).await.unwrap();
    let n = read(&world, "SELECT n FROM KS.hits").await;
    assert!(n[0].contains('6'), "{n:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_there_keeps_none_of_its_partition_away() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (a text, c bigint, v text, PRIMARY KEY (a, c))").await;
    world.cql("INSERT INTO KS.t (a, c, v) VALUES ('p', 3, 'there')").await;
    let batch = rows(vec![
        ("a", texts(&[Some("p"); 6])),
        ("c", longs(&[Some(1), Some(2), Some(3), Some(4), Some(4), Some(5)])),
        ("v", texts(&[Some("x"), Some("x"), Some("x"), Some("first"), Some("second"), Some("x")])),
    ]);
    let operation = Operation::InsertIfNotExists(LocalSerial);
    let conditional = CqlSinkOptions { operation, ..options(&world, "t") };
    let receipt = write(&world, conditional, &batch).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected.len()), (6, 0));
    let expected = ["1 'x'", "2 'x'", "3 'there'", "4 'first'", "5 'x'"];
    assert_eq!(read(&world, "SELECT c, v FROM KS.t").await, expected);
}

/// Rows of one partition go in one request, also those that count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_of_one_partition_are_added_to() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.hits (a text, c bigint, n counter, PRIMARY KEY (a, c))").await;
    let batch = rows(vec![
        ("a", texts(&[Some("p"); 4])),
        ("c", longs(&[Some(1), Some(2), Some(1), Some(3)])),
        ("n", longs(&[Some(5), Some(7), Some(10), Some(-1)])),
    ]);
    let hits = CqlSinkOptions { operation: Operation::Update, ..options(&world, "hits") };
    let receipt = write(&world, hits, &batch).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected), (4, Vec::new()));
    let counts = read(&world, "SELECT c, n FROM KS.hits").await;
    assert_eq!(counts.len(), 3);
    for (count, n) in counts.iter().zip(["15", "7", "-1"]) {
        assert!(count.contains(n), "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_mapping_is_a_sentence() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (a text, c bigint, v inet, PRIMARY KEY (a, c))").await;
    let part = rows(vec![("a", texts(&[Some("x")]))]);
    let told = write(&world, options(&world, "t"), &part).await.err().unwrap();
    assert!(told.contains("is a, c: the rows have no `c`"), "{told}");
    let typed =
        rows(vec![("a", texts(&[Some("x")])), ("c", longs(&[Some(1)])), ("v", longs(&[Some(1)]))]);
    let told = write(&world, options(&world, "t"), &typed).await.err().unwrap();
    assert!(told.contains("column `v`: bigint cannot be written as inet; CAST it to ip"), "{told}");
    let mut both = options(&world, "t");
    both.operation = Operation::InsertIfNotExists(LocalSerial);
    both.timestamp = Some("c".into());
    let told = write(&world, both, &rows(vec![("a", texts(&[None])), ("c", longs(&[None]))])).await;
    assert!(told.err().unwrap().contains("cannot be together"));
}
