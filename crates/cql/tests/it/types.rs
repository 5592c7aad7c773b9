//! Every CQL type, as Cassandra itself writes it.

use crate::sink;
use crate::support::{ask, longs, shown, world};
use arrow_schema::DataType;
use millstream_core::types::name;
use millstream_core::{Batch, Lookup};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_read() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TYPE KS.place (name text, spot frozen<tuple<double, double>>)").await;
    let types = [
        ("a_ascii", "ascii", "'abc'", "abc", "string"),
        ("a_bigint", "bigint", "-9223372036854775808", "-9223372036854775808", "bigint"),
        ("a_blob", "blob", "0x00ff", "00ff", "bytes"),
        ("a_boolean", "boolean", "true", "true", "boolean"),
        ("a_date", "date", "'1969-12-31'", "1969-12-31", "date"),
        ("a_decimal", "decimal", "-12.340", "-12.340", "string"),
        ("a_small_decimal", "decimal", "0.00007", "0.00007", "string"),
        ("a_double", "double", "-1.5e300", "-1.5e300", "double"),
        ("a_duration", "duration", "1y2mo3d4h", "14 mons 3 days 4 hours", "Interval(MonthDayNano)"),
        ("a_float", "float", "0.5", "0.5", "float"),
        ("a_inet", "inet", "'10.1.2.3'", "00000000000000000000ffff0a010203", "ip"),
        ("a_inet6", "inet", "'fe80::1'", "fe800000000000000000000000000001", "ip"),
        ("a_int", "int", "-2147483648", "-2147483648", "int"),
        ("a_smallint", "smallint", "-32768", "-32768", "int"),
        ("a_tinyint", "tinyint", "-128", "-128", "int"),
        ("a_text", "text", "'grün'", "grün", "string"),
        ("an_empty_text", "text", "''", "", "string"),
        ("a_time", "time", "'13:14:15.123456789'", "13:14:15.123456789", "Time64(ns)"),
        ("a_timestamp", "timestamp", "-1", "1969-12-31T23:59:59.999Z", "timestamp"),
        (
            "a_uuid",
            "uuid",
            "123e4567-e89b-12d3-a456-426614174000",
            "123e4567-e89b-12d3-a456-426614174000",
            "string",
        ),
        (
            "a_timeuuid",
            "timeuuid",
            "50554d6e-29bb-11e5-b345-feff819cdc9f",
            "50554d6e-29bb-11e5-b345-feff819cdc9f",
            "string",
        ),
        (
            "a_varint",
            "varint",
            "-123456789012345678901234567890",
            "-123456789012345678901234567890",
            "string",
        ),
        ("a_list", "list<int>", "[3, 1, 2]", "[3, 1, 2]", "int[]"),
        ("a_set", "set<text>", "{'b', 'a'}", "[a, b]", "string[]"),
        ("a_map", "map<text, int>", "{'k': 7}", "{k: 7}", "map<int>"),
        (
            "a_udt",
            "frozen<place>",
            "{name: 'x', spot: (1.5, null)}",
            "{name: x, spot: {_1: 1.5, _2: }}",
            "struct<name string, spot struct<_1 double, _2 double>>",
        ),
        (
            "a_tuple",
            "frozen<tuple<int, text>>",
            "(1, 'x')",
            "{_1: 1, _2: x}",
            "struct<_1 int, _2 string>",
        ),
        ("a_vector", "vector<float, 3>", "[1, 2.5, -3]", "[1.0, 2.5, -3.0]", "float[]"),
        ("a_text_vector", "vector<text, 2>", "['ab', 'c']", "[ab, c]", "string[]"),
        (
            "a_nested",
            "list<frozen<map<int, frozen<set<int>>>>>",
            "[{1: {2}}]",
            "[{1: [2]}]",
            "map<int[]>[]",
        ),
    ];
    let declared: Vec<_> = types.iter().map(|t| format!("{} {}", t.0, t.1)).collect();
    world
        .cql(
            &format!("CREATE TABLE KS.t (id bigint PRIMARY KEY, {})", declared.join(", "))
                .replace("<place>", &format!("<{}.place>", world.keyspace)),
        )
        .await;
    let names: Vec<_> = types.iter().map(|t| t.0).collect();
    let values: Vec<_> = types.iter().map(|t| t.2).collect();
    let (names, values) = (names.join(", "), values.join(", "));
    world.cql(&format!("INSERT INTO KS.t (id, {names}) VALUES (1, {values})")).await;
    world.cql("INSERT INTO KS.t (id) VALUES (2)").await;

    let lookup = world.lookup(world.options("t"), &[("id", DataType::Int64)]).await.unwrap();
    let found = ask(&lookup, vec![("id", longs(&[Some(2), Some(1)]))]).await.unwrap();
    assert_eq!(found.ends, [1, 2]);
    for (column, cql, _, expected, arrow) in types {
        assert_eq!(shown(&found.rows, column, 1), expected, "{cql}");
        assert!(found.rows.column_by_name(column).unwrap().is_null(0), "{cql}");
        let schema = lookup.schema();
        assert_eq!(name(schema.field_with_name(column).unwrap().data_type()), arrow, "{cql}");
    }

    // Written again, the rows are the same to Cassandra.
    world
        .cql(
            &format!("CREATE TABLE KS.u (id bigint PRIMARY KEY, {})", declared.join(", "))
                .replace("<place>", &format!("<{}.place>", world.keyspace)),
        )
        .await;
    let rows = Batch::same(found.rows);
    let receipt = sink::write(&world, sink::options(&world, "u"), &rows).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected), (2, vec![]));
    let read = sink::read(&world, "SELECT JSON * FROM KS.t").await;
    assert!(read.len() == 2 && read[0].contains("grün"), "{read:?}");
    assert_eq!(sink::read(&world, "SELECT JSON * FROM KS.u").await, read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_is_read() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.hits (id bigint PRIMARY KEY, n counter)").await;
    world.cql("UPDATE KS.hits SET n = n + 41 WHERE id = 1").await;
    let lookup = world.lookup(world.options("hits"), &[("id", DataType::Int64)]).await.unwrap();
    let found = ask(&lookup, vec![("id", longs(&[Some(1)]))]).await.unwrap();
    assert_eq!(shown(&found.rows, "n", 0), "41");
}
