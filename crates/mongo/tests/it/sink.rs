//! Rows that are stored, and rows that cannot be.

use crate::support::{World, longs, options, rows, sink_options, texts, world, write};
use arrow_array::{ArrayRef, Float64Array};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use millstream_mongo::{Cluster, MongoCollection, Nulls, Operation, Stored, Template};
use millstream_testkit::proxy::{Direction, Fault, Proxy};
use mongodb::IndexModel;
use mongodb::bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use mongodb::options::IndexOptions;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

fn update(template: serde_json::Value, upsert: bool) -> Operation {
    Operation::Update { template: Template::parse(template).unwrap(), upsert }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_become_documents() {
    let Some(world) = world().await else { return };
    let hex = "0123456789abcdef01234567";
    let at = cast(&longs(&[Some(-1), None]), &DataType::Timestamp(TimeUnit::Millisecond, None));
    let batch = rows(vec![
        ("id", texts(&[Some(hex), Some("fedcba9876543210fedcba98")])),
        ("v", texts(&[Some("grün"), None])),
        ("at", at.unwrap()),
    ]);
    let mut options = world.sink("t", Operation::Insert);
    options.columns = Some(
        [("id", "_id"), ("v", "text"), ("at", "at")].map(|(a, b)| (a.into(), b.into())).into(),
    );
    options.types = vec![("id".into(), Stored::ObjectId)];
    let receipt = world.write(options, &batch).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected.len()), (2, 0));
    let id = ObjectId::parse_str(hex).unwrap();
    let stored = world.stored("t").await;
    assert_eq!(stored[0], doc! { "_id": id, "text": "grün", "at": DateTime::from_millis(-1) });
    assert_eq!(stored[1].len(), 1, "{:?}", stored[1]);

    let mut null = world.sink("n", Operation::Upsert);
    null.nulls = Nulls::Write;
    let batch = rows(vec![("_id", longs(&[Some(1)])), ("v", texts(&[None]))]);
    world.write(null, &batch).await.unwrap();
    assert_eq!(world.stored("n").await, [doc! { "_id": 1_i64, "v": Bson::Null }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_row_of_a_key_wins() {
    let Some(world) = world().await else { return };
    let batch = |values: &[Option<&str>]| {
        let ids: Vec<_> = (0..values.len()).map(|n| Some(n as i64 % 3)).collect();
        rows(vec![("_id", longs(&ids)), ("v", texts(values))])
    };
    let seven = ["a", "b", "c", "d", "e", "f", "g"].map(Some);
    let receipt = world.write(world.sink("t", Operation::Upsert), &batch(&seven)).await.unwrap();
    assert_eq!(receipt.rows, 7);
    let last = [(0_i64, "g"), (1, "e"), (2, "f")].map(|(id, v)| doc! { "_id": id, "v": v });
    assert_eq!(world.stored("t").await, last);
    // The whole document is replaced, also by one that lacks a field.
    world.write(world.sink("t", Operation::Upsert), &batch(&[None])).await.unwrap();
    assert_eq!(world.stored("t").await[0], doc! { "_id": 0_i64 });

    let one = rows(vec![("_id", longs(&[Some(0), Some(1), Some(1), Some(9)]))]);
    world.write(world.sink("t", Operation::Delete), &one).await.unwrap();
    assert_eq!(world.stored("t").await, [doc! { "_id": 2_i64, "v": "f" }]);
}

/// Rows of which FerretDB refuses some: it takes no infinity.
fn poisoned(count: usize, bad: &[usize], key: impl Fn(usize) -> i64) -> millstream_core::Batch {
    let ids: Vec<_> = (0..count).map(|row| Some(key(row))).collect();
    let value = |row| if bad.contains(&row) { f64::INFINITY } else { row as f64 };
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values((0..count).map(value)));
    rows(vec![("_id", longs(&ids)), ("v", values)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_poison_row_of_500_costs_itself() {
    let Some(world) = world().await else { return };
    let set = update(serde_json::json!({ "$set": { "v": "$v" } }), true);
    // FerretDB reads the whole collection for each row that it seeks: there are fewer of them.
    for (name, operation, count, bad) in [
        ("insert", Operation::Insert, 500, 321),
        ("upsert", Operation::Upsert, 40, 27),
        ("update", set, 40, 27),
    ] {
        let batch = poisoned(count, &[bad], |row| row as i64);
        let kept = count - 1;
        let mut options = world.sink(name, operation);
        if name == "update" {
            options.key = vec!["_id".into()];
        }
        let receipt = world.write(options.clone(), &batch).await.unwrap();
        let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
        assert_eq!(rejected, [bad as u32], "{name}");
        assert!(receipt.rejected[0].1.contains("infinity"), "{:?}", receipt.rejected);
        assert_eq!(receipt.rows, kept as u64, "{name}");
        let stored = world.stored(name).await;
        assert_eq!(stored.len(), kept, "{name}");
        assert!(stored.iter().all(|d| d.get_i64("_id").unwrap() as f64 == d.get_f64("v").unwrap()));
        // The same again, as after a restart.
        let again = world.write(options, &batch).await.unwrap();
        assert_eq!((again.rows, again.rejected.len()), (kept as u64, 1), "{name}");
        assert_eq!(world.stored(name).await, stored, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_row_before_stands_where_the_last_of_its_key_is_refused() {
    let Some(world) = world().await else { return };
    // Rows 0, 2, 4 are of key 0, the others of key 1.
    let batch = poisoned(6, &[4, 2], |row| row as i64 % 2);
    let receipt = world.write(world.sink("t", Operation::Upsert), &batch).await.unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((rejected.as_slice(), receipt.rows), (&[2, 4][..], 4));
    let kept = [doc! { "_id": 0_i64, "v": 0.0 }, doc! { "_id": 1_i64, "v": 5.0 }];
    assert_eq!(world.stored("t").await, kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_is_done_when_it_is_the_same() {
    let Some(world) = world().await else { return };
    world
        .fill("t", [doc! { "_id": 1_i64, "v": "same" }, doc! { "_id": 2_i64, "v": "other" }])
        .await;
    world.fill("t", [doc! { "_id": 3_i64, "v": "same", "more": true }]).await;
    let ids = longs(&[Some(1), Some(2), Some(3), Some(4), Some(4), Some(4)]);
    let values =
        texts(&[Some("same"), Some("v"), Some("same"), Some("new"), Some("new"), Some("x")]);
    let batch = rows(vec![("_id", ids), ("v", values)]);
    let receipt = world.write(world.sink("t", Operation::Insert), &batch).await.unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((rejected.as_slice(), receipt.rows), (&[1, 2, 5][..], 3));
    let why = &receipt.rejected[0].1;
    assert!(
        why.contains("another document of this key is there") && why.contains("E11000"),
        "{why}"
    );
    let stored = world.stored("t").await;
    assert_eq!(stored[1], doc! { "_id": 2_i64, "v": "other" });
    assert_eq!(stored[3], doc! { "_id": 4_i64, "v": "new" });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_an_id_get_one_and_keep_it() {
    let Some(world) = world().await else { return };
    let proxy = Proxy::start(world.mongo.address(), 7).unwrap();
    let mut slow = options(proxy.address());
    slow.connect_timeout = Duration::from_secs(2);
    let cluster = Cluster::connect(slow, &Handle::current()).await.unwrap();
    let mut options = world.sink("t", Operation::Insert);
    options.retries = 0;
    options.timeout = Duration::from_secs(2);
    let batch = rows(vec![("v", texts(&[Some("a"), Some("a"), Some("b")]))]);
    let opened = MongoCollection::open(cluster, options, &batch.rows.schema()).unwrap();
    let mut sink = opened.sink();
    // The rows are stored, and nobody hears of it: the batch is given again.
    proxy.set(Direction::ToClient, Fault::BlackHole);
    let error = sink.write(&batch).await.err().unwrap();
    assert_eq!(error.disposition(), millstream_core::Disposition::Retry);
    assert_eq!(world.stored("t").await.len(), 3);
    proxy.heal();
    proxy.reset();
    let receipt = retried(&mut *sink, &batch).await;
    assert_eq!((receipt.rows, receipt.rejected.len()), (3, 0));
    let mut values: Vec<_> =
        world.stored("t").await.iter().map(|d| d.get_str("v").unwrap().to_owned()).collect();
    values.sort();
    assert_eq!(values, ["a", "a", "b"]);
    // Another batch has other ids.
    sink.write(&rows(vec![("v", texts(&[Some("c")]))])).await.unwrap();
    assert_eq!(world.stored("t").await.len(), 4);
}

/// As the engine does: the same batch until it is taken.
async fn retried(
    sink: &mut dyn millstream_core::Sink,
    batch: &millstream_core::Batch,
) -> millstream_core::Receipt {
    for _ in 0..100 {
        match sink.write(batch).await {
            Ok(receipt) => return receipt,
            Err(error) => {
                assert_eq!(error.disposition(), millstream_core::Disposition::Retry, "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    panic!("the batch is never taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_in_the_middle_loses_nothing() {
    let Some(world) = world().await else { return };
    for (name, operation, count) in
        [("insert", Operation::Insert, 500), ("upsert", Operation::Upsert, 50)]
    {
        let long = "x".repeat(1_000_000 / count);
        let ids: Vec<_> = (0..count as i64).map(Some).collect();
        let values = vec![Some(long.as_str()); count];
        let batch = rows(vec![("_id", longs(&ids)), ("v", texts(&values))]);
        let proxy = Proxy::start(world.mongo.address(), 11).unwrap();
        let cluster = Cluster::connect(options(proxy.address()), &Handle::current()).await.unwrap();
        let mut options = sink_options(&world.database, name, operation);
        options.batch_rows = count / 5;
        options.retries = 0;
        // What a busy machine needs for 200 KB, and no more.
        options.timeout = Duration::from_secs(5);
        let opened = MongoCollection::open(cluster, options, &batch.rows.schema()).unwrap();
        let mut sink = opened.sink();
        // Requests of 200 KB: some come through, some are cut, some answers are lost.
        for fault in [Fault::ResetAfter(450_000), Fault::CutAfter(90_000)] {
            proxy.set(Direction::ToServer, fault);
            let _ = sink.write(&batch).await;
        }
        proxy.set(Direction::ToServer, Fault::None);
        proxy.set(Direction::ToClient, Fault::ResetAfter(120));
        let _ = sink.write(&batch).await;
        proxy.heal();
        proxy.reset();
        let receipt = retried(&mut *sink, &batch).await;
        assert_eq!((receipt.rows, receipt.rejected.len()), (count as u64, 0), "{name}");
        assert_eq!(world.stored(name).await.len(), count, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_follow_their_template_in_the_order_of_the_rows() {
    let Some(world) = world().await else { return };
    world.fill("t", [doc! { "_id": 1_i64, "kept": true, "v": "old" }]).await;
    let template = serde_json::json!({
        "$set": { "v": "$v", "site.name": "$w", "by": "web" }, "$inc": { "count": 1 },
    });
    let batch = rows(vec![
        ("id", longs(&[Some(1), Some(2), Some(1), Some(1)])),
        ("v", texts(&[Some("a"), Some("b"), None, Some("c")])),
        ("w", texts(&[Some("x"), None, Some("y"), None])),
    ]);
    let with = |upsert| {
        let mut options = world.sink("t", update(template.clone(), upsert));
        options.columns = Some(vec![("id".into(), "_id".into())]);
        options.key = vec!["id".into()];
        options
    };
    world.write(with(false), &batch).await.unwrap();
    let site = doc! { "name": "y" };
    let first: Document =
        doc! { "_id": 1_i64, "kept": true, "v": "c", "site": site, "by": "web", "count": 3 };
    assert_eq!(sorted(world.stored("t").await), [sorted_one(first.clone())]);
    world.write(with(true), &batch).await.unwrap();
    let stored = world.stored("t").await;
    assert_eq!(stored[0].get_i32("count").unwrap(), 6);
    let second = doc! { "_id": 2_i64, "v": "b", "by": "web", "count": 1 };
    assert_eq!(sorted_one(stored[1].clone()), sorted_one(second));
}

fn sorted(documents: Vec<Document>) -> Vec<Vec<(String, Bson)>> {
    documents.into_iter().map(sorted_one).collect()
}

fn sorted_one(document: Document) -> Vec<(String, Bson)> {
    let mut fields: Vec<_> = document.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_than_the_id_names_documents_too() {
    let Some(world) = world().await else { return };
    let options = |world: &World| {
        let mut options = world.sink("t", Operation::Upsert);
        options.key = vec!["a".into(), "b".into()];
        options
    };
    let batch = |v: &str| {
        rows(vec![
            ("a", longs(&[Some(1), Some(1), None])),
            ("b", texts(&[Some("x"), Some("y"), Some("z")])),
            ("v", texts(&[Some(v); 3])),
        ])
    };
    let opened =
        MongoCollection::open(world.cluster.clone(), options(&world), &batch("").rows.schema());
    let findings = opened.unwrap().findings().await.unwrap();
    assert!(findings[0].contains("has no unique index on a, b"), "{findings:?}");
    let unique = IndexOptions::builder().unique(true).build();
    let index = IndexModel::builder().keys(doc! { "a": 1, "b": 1 }).options(unique).build();
    world.collection("t").create_index(index).await.unwrap();
    let opened =
        MongoCollection::open(world.cluster.clone(), options(&world), &batch("").rows.schema());
    assert!(opened.unwrap().findings().await.unwrap().is_empty());

    world.write(options(&world), &batch("one")).await.unwrap();
    let receipt = world.write(options(&world), &batch("two")).await.unwrap();
    assert_eq!(receipt.rejected, [(2, "the key `a` is null".to_owned())]);
    let stored = world.stored("t").await;
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|document| document.get_str("v").unwrap() == "two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_mapping_is_a_sentence() {
    let Some(world) = world().await else { return };
    let batch = rows(vec![("a", longs(&[Some(1)])), ("t", texts(&[Some("x")]))]);
    let told = async |change: fn(&mut millstream_mongo::MongoSinkOptions), operation: Operation| {
        let mut options = world.sink("t", operation);
        change(&mut options);
        write(&world.cluster, options, &batch).await.err().unwrap()
    };
    let set = || update(serde_json::json!({ "$set": { "v": "$t" } }), true);
    for (error, expected) in [
        (told(|_| {}, Operation::Upsert).await, "none is written to `_id`"),
        (
            told(|o| o.key = vec!["b".into()], Operation::Upsert).await,
            "the rows have no column `b`",
        ),
        (told(|o| o.key = vec!["a".into()], Operation::Insert).await, "an insert has no `key`"),
        (
            told(|o| o.types = vec![("a".into(), Stored::ObjectId)], Operation::Insert).await,
            "field `a`: bigint cannot be written as an ObjectId",
        ),
        (
            told(|o| o.columns = Some(vec![("a".into(), "x.y".into())]), Operation::Insert).await,
            "`x.y` cannot be the name of a field",
        ),
        (told(|_| {}, set()).await, "none is written to `_id`"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
}
