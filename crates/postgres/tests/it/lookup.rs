//! Keys in, their rows out.

use crate::support::{ask, longs, options, shown, texts, world};
use arrow_array::{ArrayRef, Int32Array, RecordBatch};
use arrow_schema::DataType;
use millstream_core::{Disposition, Lookup, LookupKey};
use millstream_postgres::{PgLookup, Server};
use millstream_testkit::proxy::Proxy;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_gets_its_rows() {
    let Some(world) = world().await else { return };
    world
        .sql(
            "CREATE TABLE S.t (id int, v text); CREATE INDEX ON S.t (id); \
             INSERT INTO S.t SELECT n / 2, 'v' || n FROM generate_series(0, 39) n",
        )
        .await;
    let lookup = world.lookup(world.looking("t"), &[("id", DataType::Int64)]).await.unwrap();
    // One that is out of the column's range is a miss, and costs nobody else anything.
    let keys = [Some(7), Some(99), Some(i64::MAX), Some(0), Some(19), Some(3)];
    let found = ask(&lookup, vec![("id", longs(&keys))]).await.unwrap();
    assert_eq!(found.ends, [2, 2, 2, 4, 6, 8]);
    for (key, id) in [(0, 7), (3, 0), (4, 19), (5, 3)] {
        let mut values: Vec<_> = found.of(key).map(|row| shown(&found.rows, "v", row)).collect();
        values.sort();
        let mut expected = [format!("v{}", id * 2), format!("v{}", id * 2 + 1)];
        expected.sort();
        assert_eq!(values, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_several_columns_and_one_the_server_compares_in_its_own_way() {
    let Some(world) = world().await else { return };
    world
        .sql(
            "CREATE TABLE S.t (a text, b bigint, price numeric, code char(4), mac macaddr, v text, \
             PRIMARY KEY (a, b)); INSERT INTO S.t VALUES \
             ('x', 1, 1.50, 'ab', '08:00:2b:01:02:03', 'one'), ('x', 2, 2, 'cd', null, 'two')",
        )
        .await;
    let both = [("b", DataType::Int64), ("a", DataType::Utf8)];
    let lookup = world.lookup(world.looking("t"), &both).await.unwrap();
    let found = ask(
        &lookup,
        vec![
            ("b", longs(&[Some(2), Some(1), Some(1)])),
            ("a", texts(&[Some("x"), Some("x\0"), Some("x")])),
        ],
    )
    .await
    .unwrap();
    assert_eq!(found.ends, [1, 1, 2]);
    assert_eq!(
        (shown(&found.rows, "v", 0), shown(&found.rows, "v", 1)),
        ("two".into(), "one".into())
    );

    for (column, key) in [("price", "1.5"), ("code", "ab"), ("mac", "08-00-2b-01-02-03")] {
        let by = [(column, DataType::Utf8)];
        let lookup = world.lookup(world.looking("t"), &by).await.unwrap();
        let found = ask(&lookup, vec![(column, texts(&[Some(key)]))]).await.unwrap();
        assert_eq!(found.ends, [1], "{column}");
        assert_eq!(shown(&found.rows, "v", 0), "one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rows_than_the_bound_are_an_error() {
    let Some(world) = world().await else { return };
    world.sql("CREATE TABLE S.t (id bigint, v int)").await;
    world.sql("INSERT INTO S.t SELECT 1, n FROM generate_series(1, 5) n").await;
    let mut options = world.looking("t");
    options.rows_max = 5;
    let lookup = world.lookup(options.clone(), &[("id", DataType::Int64)]).await.unwrap();
    let found = ask(&lookup, vec![("id", longs(&[Some(1), Some(2)]))]).await.unwrap();
    assert_eq!(found.ends, [5, 5]);
    options.rows_max = 4;
    let lookup = world.lookup(options, &[("id", DataType::Int64)]).await.unwrap();
    let told = ask(&lookup, vec![("id", longs(&[Some(1), Some(2)]))]).await.unwrap_err();
    assert!(told.contains("more than 4 rows; see `max_rows`"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_is_asked_on() {
    let Some(world) = world().await else { return };
    let make = "CREATE TABLE S.t (id bigint PRIMARY KEY, v varchar(4)); \
                INSERT INTO S.t VALUES (1, 'a')";
    world.sql(make).await;
    let lookup = world.lookup(world.looking("t"), &[("id", DataType::Int64)]).await.unwrap();
    let one = || vec![("id", longs(&[Some(1)]))];
    ask(&lookup, one()).await.unwrap();
    world.sql("ALTER TABLE S.t ADD COLUMN w int, ALTER COLUMN v TYPE text").await;
    assert_eq!(ask(&lookup, one()).await.unwrap().ends, [1]);

    world.sql("DROP TABLE S.t").await;
    let told = ask(&lookup, one()).await.unwrap_err();
    assert!(told.contains("does not exist"), "{told}");
    world.sql(make).await;
    assert_eq!(ask(&lookup, one()).await.unwrap().ends, [1]);

    world.sql("ALTER TABLE S.t ALTER COLUMN v TYPE int USING 5").await;
    let told = ask(&lookup, one()).await.unwrap_err();
    assert!(told.contains("`v` is not of the type that it had; give it back"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_is_a_sentence() {
    let Some(world) = world().await else { return };
    world.sql("CREATE TABLE S.t (id bigint, tags text[])").await;
    let told = world.lookup(world.looking("none"), &[("id", DataType::Int64)]).await.err().unwrap();
    assert!(told.contains("there is no table"), "{told}");
    let told = world.lookup(world.looking("t"), &[("x", DataType::Int64)]).await.err().unwrap();
    assert!(told.contains("has no column `x`; it has id, tags"), "{told}");
    let told = world.lookup(world.looking("t"), &[("id", DataType::Utf8)]).await.err().unwrap();
    assert!(told.contains("string cannot be written as bigint; CAST it to bigint"), "{told}");
    let told = world.lookup(world.looking("t"), &[("tags", DataType::Utf8)]).await.err().unwrap();
    assert!(told.contains("by an array"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ask_at_once_on_few_connections() {
    let Some(world) = world().await else { return };
    world.sql("CREATE TABLE S.t (id int PRIMARY KEY, v int)").await;
    world.sql("INSERT INTO S.t SELECT n, n * 7 FROM generate_series(0, 999) n").await;
    let lookup =
        Arc::new(world.lookup(world.looking("t"), &[("id", DataType::Int32)]).await.unwrap());
    let asked = (0..20).map(|part| {
        let lookup = lookup.clone();
        tokio::spawn(async move {
            let ids: ArrayRef = Arc::new(Int32Array::from_iter_values(part * 50..part * 50 + 50));
            let found = ask(&*lookup, vec![("id", ids)]).await.unwrap();
            assert_eq!(found.ends, (1..=50).collect::<Vec<u32>>());
            for row in 0..50 {
                assert_eq!(
                    shown(&found.rows, "v", row),
                    ((part * 50 + row as i32) * 7).to_string()
                );
            }
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    assert_eq!(lookup.schema().fields().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_slow_or_gone_is_asked_again() {
    let Some(world) = world().await else { return };
    world
        .sql("CREATE TABLE S.t (id bigint PRIMARY KEY, v text); INSERT INTO S.t VALUES (1, 'a')")
        .await;
    world
        .sql("CREATE VIEW S.slow AS SELECT id, v, pg_sleep(CASE v WHEN 'a' THEN 0 ELSE 60 END)::text AS w FROM S.t")
        .await;
    let proxy = Proxy::start(world.postgres.address(), 5).unwrap();
    let mut behind = options(&world.postgres);
    behind.hosts = vec![proxy.address().to_string()];
    behind.timeout = Duration::from_millis(200);
    let server = Server::new(behind, Handle::current());
    let key = LookupKey::Equal(vec!["id".into()]);
    let lookup = PgLookup::open(server, world.looking("slow"), &key, &[DataType::Int64]);
    let lookup = lookup.await.unwrap();
    let one = || {
        let keys = RecordBatch::try_from_iter([("id", longs(&[Some(1)]))]).unwrap();
        let lookup = &lookup;
        async move { lookup.get_many(&keys).await }
    };
    assert_eq!(one().await.unwrap().ends, [1]);

    world.sql("UPDATE S.t SET v = 'b'").await;
    let error = one().await.err().unwrap();
    assert_eq!((error.kind(), error.disposition()), ("timeout", Disposition::Retry));
    world.sql("UPDATE S.t SET v = 'a'").await;
    assert_eq!(one().await.unwrap().ends, [1]);

    for trouble in [Proxy::cut, Proxy::reset, Proxy::vanish] {
        trouble(&proxy);
        // Each of the two connections fails at most once.
        for _ in 0..2 {
            if let Err(error) = one().await {
                assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
            }
        }
        assert_eq!(one().await.unwrap().ends, [1]);
    }
    proxy.refuse(true);
    proxy.cut();
    let error = one().await.err().unwrap();
    assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
    proxy.heal();
    assert_eq!(one().await.unwrap().ends, [1]);
}
