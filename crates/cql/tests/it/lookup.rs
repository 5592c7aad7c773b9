//! Keys that hit and miss, keys of several columns, rows of one key, and what goes wrong.

use crate::sink;
use crate::support::{World, ask, longs, shown, texts, world};
use arrow_schema::DataType;
use millstream_cql::Rows;

async fn sites(world: &World, rows: i64) {
    world.cql("CREATE TABLE KS.sites (id bigint PRIMARY KEY, name text)").await;
    for id in 0..rows {
        world.cql(&format!("INSERT INTO KS.sites (id, name) VALUES ({id}, 'site {id}')")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_find_their_rows_in_their_own_order() {
    let Some(world) = world().await else { return };
    sites(&world, 150).await;
    let mut options = world.options("sites");
    options.columns = Some(vec!["name".into()]);
    let lookup = world.lookup(options, &[("id", DataType::Int64)]).await.unwrap();
    // More than a request takes, backwards, with misses between.
    let keys: Vec<_> = (0..300).rev().map(|id| (id % 7 != 0).then_some(id)).collect();
    let found = ask(&lookup, vec![("id", longs(&keys))]).await.unwrap();
    assert_eq!(found.rows.num_columns(), 1);
    for (at, key) in keys.iter().enumerate() {
        let rows = found.of(at);
        match key {
            Some(id) if *id < 150 => {
                assert_eq!(rows.len(), 1, "{id}");
                assert_eq!(shown(&found.rows, "name", rows.start), format!("site {id}"));
            }
            _ => assert!(rows.is_empty(), "{key:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_more_than_a_page_are_found_and_too_many_are_told() {
    const MANY: i64 = 12_000;
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (a bigint, c bigint, PRIMARY KEY (a, c))").await;
    let clustering: Vec<_> = (0..MANY).map(Some).collect();
    let batch =
        sink::rows(vec![("a", longs(&vec![Some(1); MANY as usize])), ("c", longs(&clustering))]);
    sink::write(&world, sink::options(&world, "t"), &batch).await.unwrap();
    let key = [("a", DataType::Int64)];
    let mut options = world.options("t");
    options.rows = Rows::All { max: MANY as usize };
    let lookup = world.lookup(options.clone(), &key).await.unwrap();
    let found = ask(&lookup, vec![("a", longs(&[Some(1)]))]).await.unwrap();
    assert_eq!(found.ends, [MANY as u32]);
    for row in [0, 5_000, MANY as usize - 1] {
        assert_eq!(shown(&found.rows, "c", row), row.to_string());
    }
    options.rows = Rows::All { max: MANY as usize - 1 };
    let lookup = world.lookup(options, &key).await.unwrap();
    assert!(ask(&lookup, vec![("a", longs(&[Some(1)]))]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_the_column_cannot_hold_is_a_miss() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.by_uuid (id uuid PRIMARY KEY, n int)").await;
    let uuid = "123e4567-e89b-12d3-a456-426614174000";
    world.cql(&format!("INSERT INTO KS.by_uuid (id, n) VALUES ({uuid}, 1)")).await;
    let lookup = world.lookup(world.options("by_uuid"), &[("id", DataType::Utf8)]).await.unwrap();
    let keys = texts(&[Some("no uuid"), Some(&uuid.to_uppercase()), None]);
    let found = ask(&lookup, vec![("id", keys)]).await.unwrap();
    assert_eq!(found.ends, [0, 1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_several_columns_is_asked_by_its_last() {
    let Some(world) = world().await else { return };
    world
        .cql("CREATE TABLE KS.t (a text, b text, c bigint, v text, PRIMARY KEY ((a, b), c))")
        .await;
    for (a, b, c) in [("x", "yz", 1), ("xy", "z", 1), ("x", "yz", 2), ("x", "y", 3)] {
        let v = format!("{a}/{b}/{c}");
        world
            .cql(&format!("INSERT INTO KS.t (a, b, c, v) VALUES ('{a}', '{b}', {c}, '{v}')"))
            .await;
    }
    let key = [("c", DataType::Int64), ("b", DataType::Utf8), ("a", DataType::Utf8)];
    let whole = world.lookup(world.options("t"), &key).await.unwrap();
    let keys = vec![
        ("c", longs(&[Some(1), Some(1), Some(2), Some(2), Some(3)])),
        ("b", texts(&[Some("z"), Some("yz"), Some("yz"), Some("y"), Some("y")])),
        ("a", texts(&[Some("xy"), Some("x"), Some("x"), Some("x"), Some("x")])),
    ];
    let found = ask(&whole, keys).await.unwrap();
    assert_eq!(found.ends, [1, 2, 3, 3, 4]);
    let values: Vec<_> = (0..4).map(|row| shown(&found.rows, "v", row)).collect();
    assert_eq!(values, ["xy/z/1", "x/yz/1", "x/yz/2", "x/y/3"]);

    // The partition alone has several rows, in clustering order.
    let key = [("a", DataType::Utf8), ("b", DataType::Utf8)];
    let keys =
        || vec![("a", texts(&[Some("x"), Some("x")])), ("b", texts(&[Some("y"), Some("yz")]))];
    let part = world.lookup(world.options("t"), &key).await.unwrap();
    let found = ask(&part, keys()).await.unwrap();
    assert_eq!(found.ends, [1, 3]);
    assert_eq!(shown(&found.rows, "c", 1), "1");

    let mut options = world.options("t");
    options.rows = Rows::First;
    let first = world.lookup(options, &key).await.unwrap();
    assert_eq!(ask(&first, keys()).await.unwrap().ends, [1, 2]);

    let mut options = world.options("t");
    options.rows = Rows::All { max: 1 };
    let bounded = world.lookup(options, &key).await.unwrap();
    let error = ask(&bounded, keys()).await.unwrap_err();
    assert!(error.contains("more than 1 rows"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_or_column_is_a_sentence() {
    let Some(world) = world().await else { return };
    world
        .cql("CREATE TABLE KS.t (a text, b text, c bigint, v text, PRIMARY KEY ((a, b), c))")
        .await;
    let told = |what: Result<_, String>| what.err().unwrap();
    let by_a = world.lookup(world.options("t"), &[("a", DataType::Utf8)]).await.map(drop);
    assert!(told(by_a).contains("cannot be asked by a: a key has a, b, and may go on with c"));
    let typed = [("a", DataType::Utf8), ("b", DataType::Int64)];
    let typed = told(world.lookup(world.options("t"), &typed).await.map(drop));
    assert!(typed.contains("bigint cannot be written as text; CAST it to string"), "{typed}");
    let mut options = world.options("t");
    options.columns = Some(vec!["w".into()]);
    let key = [("a", DataType::Utf8), ("b", DataType::Utf8)];
    let column = told(world.lookup(options, &key).await.map(drop));
    assert!(column.contains("has no column `w`; it has a, b, c, v"), "{column}");
    let table = told(world.lookup(world.options("nowhere"), &key).await.map(drop));
    assert!(table.contains("there is no table `nowhere`"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_cassandra_refuses_costs_only_itself() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id text PRIMARY KEY, v text)").await;
    world.cql("INSERT INTO KS.t (id, v) VALUES ('good', 'here')").await;
    let lookup = world.lookup(world.options("t"), &[("id", DataType::Utf8)]).await.unwrap();
    // A key has at most 65,535 bytes.
    let long = "x".repeat(70_000);
    let error = ask(&lookup, vec![("id", texts(&[Some("good"), Some(&long)]))]).await.unwrap_err();
    assert!(error.contains("65535"), "{error}");
    let good = ask(&lookup, vec![("id", texts(&[Some("good")]))]).await.unwrap();
    assert_eq!(good.ends, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_dropped_and_made_again_is_read_again() {
    let Some(world) = world().await else { return };
    sites(&world, 3).await;
    let lookup = world.lookup(world.options("sites"), &[("id", DataType::Int64)]).await.unwrap();
    let keys = || vec![("id", longs(&[Some(1)]))];
    assert_eq!(ask(&lookup, keys()).await.unwrap().ends, [1]);
    world.cql("DROP TABLE KS.sites").await;
    let error = ask(&lookup, keys()).await.unwrap_err();
    assert!(error.contains("sites"), "{error}");
    sites(&world, 2).await;
    assert_eq!(ask(&lookup, keys()).await.unwrap().ends, [1]);
}
