//! Keys that hit and miss, keys of several fields, documents of one key, and what goes wrong.

use crate::support::{ask, longs, lookup_options, open_lookup, shown, texts, world};
use arrow_schema::DataType;
use millstream_core::Lookup;
use millstream_mongo::Rows;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc, oid::ObjectId, spec::BinarySubtype};

fn sites(count: i64) -> impl Iterator<Item = Document> {
    (0..count).map(|id| doc! { "_id": id, "name": format!("site {id}"), "more": [1, 2] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_find_their_documents_in_their_own_order() {
    let Some(world) = world().await else { return };
    world.fill("sites", sites(150)).await;
    let lookup = world.lookup("sites", &[("name", "string")], &[("_id", DataType::Int64)]);
    // More than a request takes, backwards, with misses between.
    let keys: Vec<_> = (0..300).rev().map(|id| (id % 7 != 0).then_some(id)).collect();
    let found = ask(&lookup, vec![("_id", longs(&keys))]).await.unwrap();
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
    let nothing = ask(&lookup, vec![("_id", longs(&[None, Some(-1)]))]).await.unwrap();
    assert_eq!(nothing.ends, [0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_that_the_server_keeps_is_read() {
    let Some(world) = world().await else { return };
    let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
    let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
    let site = doc! { "id": 7, "tags": ["a", Bson::Null], "geo": { "lat": 1.5 } };
    world
        .fill("t", [
            doc! {
                "_id": id, "int": 1, "long": 1_i64 << 40, "double": 0.5, "whole": 7.0, "text": "grün",
                "yes": true, "at": DateTime::from_millis(-1), "uuid": uuid, "site": site,
                "blob": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] },
                "list": [1, 2], "counts": { "x": 1, "y": 2 }, "null": Bson::Null,
            },
            doc! { "_id": ObjectId::new() },
        ])
        .await;
    let columns = [
        ("_id", "object_id", "0123456789abcdef01234567"),
        ("int", "bigint", "1"),
        ("long", "bigint", "1099511627776"),
        ("double", "double", "0.5"),
        ("whole", "int", "7"),
        ("text", "string", "grün"),
        ("yes", "boolean", "true"),
        ("at", "timestamp", "1969-12-31T23:59:59.999Z"),
        ("uuid", "uuid", "07070707-0707-0707-0707-070707070707"),
        ("blob", "bytes", "00ff"),
        ("list", "bigint[]", "[1, 2]"),
        ("counts", "map<int>", "{x: 1, y: 2}"),
        (
            "site",
            "struct<id bigint, tags string[], geo struct<lat double>>",
            "{id: 7, tags: [a, ], geo: {lat: 1.5}}",
        ),
        ("site.geo.lat", "double", "1.5"),
        ("null", "string", ""),
        ("missing", "struct<a int>", ""),
    ];
    let declared: Vec<_> = columns.iter().map(|(name, of, _)| (*name, *of)).collect();
    let lookup = world.lookup("t", &declared, &[("_id", DataType::Utf8)]);
    let keys = texts(&[Some("no id"), Some("0123456789ABCDEF01234567"), None]);
    let found = ask(&lookup, vec![("_id", keys)]).await.unwrap();
    assert_eq!(found.ends, [0, 1, 1]);
    for (name, of, expected) in columns {
        assert_eq!(shown(&found.rows, name, 0), expected, "{name} {of}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_find_each_other_whatever_their_type() {
    let Some(world) = world().await else { return };
    world.fill("t", [doc! { "_id": "a", "k": 5 }, doc! { "_id": "b", "k": 5.0 }]).await;
    world.fill("t", [doc! { "_id": "c", "k": 5_i64 }, doc! { "_id": "d", "k": 5.5 }]).await;
    let mut options = lookup_options(&world.database, "t", &[("_id", "string")]);
    options.sort = vec![("_id".into(), true)];
    let key = [("k", DataType::Int32)];
    let lookup = open_lookup(&world.cluster, options, &key).unwrap();
    let keys = std::sync::Arc::new(arrow_array::Int32Array::from(vec![6, 5]));
    let found = ask(&lookup, vec![("k", keys)]).await.unwrap();
    assert_eq!(found.ends, [0, 3]);
    let ids: Vec<_> = (0..3).map(|row| shown(&found.rows, "_id", row)).collect();
    assert_eq!(ids, ["c", "b", "a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_several_fields_is_matched_in_each() {
    let Some(world) = world().await else { return };
    let documents = [("x", "yz", 1), ("xy", "z", 1), ("x", "yz", 2), ("x", "y", 3)]
        .map(|(a, b, c)| doc! { "s": { "a": a }, "b": b, "c": c, "v": format!("{a}/{b}/{c}") });
    world.fill("t", documents).await;
    let key = [("c", DataType::Int64), ("b", DataType::Utf8), ("s.a", DataType::Utf8)];
    let whole = world.lookup("t", &[("v", "string")], &key);
    let keys = vec![
        ("c", longs(&[Some(1), Some(1), Some(2), Some(2), Some(3)])),
        ("b", texts(&[Some("z"), Some("yz"), Some("yz"), Some("y"), Some("y")])),
        ("s.a", texts(&[Some("xy"), Some("x"), Some("x"), Some("x"), Some("x")])),
    ];
    let found = ask(&whole, keys).await.unwrap();
    assert_eq!(found.ends, [1, 2, 3, 3, 4]);
    let values: Vec<_> = (0..4).map(|row| shown(&found.rows, "v", row)).collect();
    assert_eq!(values, ["xy/z/1", "x/yz/1", "x/yz/2", "x/y/3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_found_by_each_element_of_an_array() {
    let Some(world) = world().await else { return };
    world.fill("t", [doc! { "_id": 1, "tags": ["a", "b"] }, doc! { "_id": 2, "tags": "b" }]).await;
    let mut options = lookup_options(&world.database, "t", &[("_id", "bigint")]);
    options.sort = vec![("_id".into(), false)];
    let lookup = open_lookup(&world.cluster, options, &[("tags", DataType::Utf8)]).unwrap();
    let keys = texts(&[Some("b"), Some("a"), Some("c")]);
    let found = ask(&lookup, vec![("tags", keys)]).await.unwrap();
    assert_eq!(found.ends, [2, 3, 3]);
    let ids: Vec<_> = (0..3).map(|row| shown(&found.rows, "_id", row)).collect();
    assert_eq!(ids, ["1", "2", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_one_key_are_ordered_and_bounded() {
    let Some(world) = world().await else { return };
    let of = |k: i64, count: i64| (0..count).map(move |n| doc! { "k": k, "n": n });
    world.fill("t", of(1, 3).chain(of(2, 5)).chain(of(3, 1))).await;
    let open = |rows, descending| {
        let mut options = lookup_options(&world.database, "t", &[("n", "int")]);
        options.rows = rows;
        options.sort = vec![("n".into(), descending)];
        open_lookup(&world.cluster, options, &[("k", DataType::Int64)]).unwrap()
    };
    let keys = |keys: &[i64]| {
        let keys: Vec<_> = keys.iter().map(|key| Some(*key)).collect();
        vec![("k", longs(&keys))]
    };
    let last = ask(&open(Rows::First, true), keys(&[3, 2, 1, 0])).await.unwrap();
    assert_eq!(last.ends, [1, 2, 3, 3]);
    let values: Vec<_> = (0..3).map(|row| shown(&last.rows, "n", row)).collect();
    assert_eq!(values, ["0", "4", "2"]);
    let alone = ask(&open(Rows::First, false), keys(&[2])).await.unwrap();
    assert_eq!((alone.ends.as_slice(), shown(&alone.rows, "n", 0)), (&[1][..], "0".into()));

    let all = ask(&open(Rows::All { max: 5 }, false), keys(&[1, 2, 3])).await.unwrap();
    assert_eq!(all.ends, [3, 8, 9]);
    let bounded = open(Rows::All { max: 3 }, false);
    let error = ask(&bounded, keys(&[1, 2, 3])).await.unwrap_err();
    assert!(error.contains("a key has more than 3 documents; see `max_rows`"), "{error}");
    // The others of the call are not to blame.
    assert_eq!(ask(&bounded, keys(&[1, 3])).await.unwrap().ends, [3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_does_not_fit_costs_its_key() {
    let Some(world) = world().await else { return };
    world.fill("t", [doc! { "_id": 1, "v": 1 }, doc! { "_id": 2, "v": "two" }]).await;
    let lookup = world.lookup("t", &[("v", "bigint")], &[("_id", DataType::Int64)]);
    let keys = |keys: &[Option<i64>]| vec![("_id", longs(keys))];
    let error = ask(&lookup, keys(&[Some(1), Some(2), Some(3)])).await.unwrap_err();
    assert!(error.contains("`v`: a string does not fit into bigint"), "{error}");
    assert_eq!(ask(&lookup, keys(&[Some(1), Some(3)])).await.unwrap().ends, [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_one_answer_is_read_to_its_end() {
    let Some(world) = world().await else { return };
    let long = "x".repeat(20_000);
    world.fill("t", (0..300).map(|n| doc! { "k": n % 2, "v": &long })).await;
    let mut options = lookup_options(&world.database, "t", &[("v", "string")]);
    options.rows = Rows::All { max: 1000 };
    let lookup = open_lookup(&world.cluster, options, &[("k", DataType::Int64)]).unwrap();
    let found = ask(&lookup, vec![("k", longs(&[Some(0), Some(1)]))]).await.unwrap();
    assert_eq!(found.ends, [150, 300]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_or_column_is_a_sentence() {
    let Some(world) = world().await else { return };
    let told = |of: &[(&str, &str)], key: &[(&str, DataType)]| {
        let options = lookup_options(&world.database, "t", of);
        open_lookup(&world.cluster, options, key).map(drop).unwrap_err()
    };
    let never = told(&[("_id", "object_id")], &[("_id", DataType::Int64)]);
    assert!(never.contains("bigint never equals object_id: CAST the key"), "{never}");
    let inexact = told(&[("v", "int")], &[("k", DataType::Float64)]);
    assert!(inexact.contains("cannot be looked up exactly"), "{inexact}");
    let twice = told(&[("v", "int"), ("v", "int")], &[("k", DataType::Int64)]);
    assert!(twice.contains("`v` is declared twice"), "{twice}");
    let path = told(&[("v..w", "int")], &[("k", DataType::Int64)]);
    assert!(path.contains("no path of a field"), "{path}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_odd_about_a_collection_is_told() {
    let Some(world) = world().await else { return };
    world.fill("t", [doc! { "k": 1, "v": 1 }, doc! { "k": 2, "v": "two" }, doc! { "k": 3 }]).await;
    let of = [("v", "bigint"), ("w", "string")];
    let findings = world.lookup("t", &of, &[("k", DataType::Int64)]).findings(100).await.unwrap();
    let all = findings.join("\n");
    assert!(all.contains("has no index that begins with k"), "{all}");
    assert!(all.contains("in 1 of 3 documents") && all.contains("a string does not fit"), "{all}");
    assert!(all.contains("none of 3 documents") && all.contains("has `w`"), "{all}");
    let wrong = world.lookup("t", &[("v", "boolean")], &[("_id", DataType::Int64)]);
    let error = wrong.findings(100).await.unwrap_err().chain();
    assert!(error.contains("declared as boolean, which it is in none of 3 documents"), "{error}");
    let well = world.lookup("t", &[("k", "bigint")], &[("_id", DataType::Int64)]);
    assert!(well.findings(100).await.unwrap().is_empty());
    // A collection that is not there yet finds nothing.
    let nothing = world.lookup("later", &[("v", "int")], &[("_id", DataType::Int64)]);
    assert!(nothing.findings(100).await.unwrap().is_empty());
    let found =
        nothing.get_many(&crate::support::rows(vec![("_id", longs(&[Some(1)]))]).rows).await;
    assert_eq!(found.unwrap().ends, [0]);
}
