//! Every type: as PostgreSQL itself writes it, and back into it.

use crate::support::{ask, longs, shown, world};
use arrow_schema::DataType;
use millstream_core::types::name;
use millstream_core::{Batch, Lookup};
use millstream_postgres::Mode;

/// Column, type, value in SQL, as shown, Arrow's type.
const TYPES: [(&str, &str, &str, &str, &str); 43] = [
    ("a_bool", "boolean", "true", "true", "boolean"),
    ("a_small", "smallint", "-32768", "-32768", "int"),
    ("an_int", "integer", "-2147483648", "-2147483648", "int"),
    ("a_big", "bigint", "-9223372036854775808", "-9223372036854775808", "bigint"),
    ("an_oid", "oid", "4294967295", "4294967295", "bigint"),
    ("a_real", "real", "0.5", "0.5", "float"),
    ("a_double", "double precision", "-1.5e300", "-1.5e300", "double"),
    ("a_decimal", "numeric(20, 4)", "-12345.6789", "-12345.6789", "decimal(20, 4)"),
    (
        "a_whole",
        "numeric(38)",
        "99999999999999999999999999999999999999",
        "99999999999999999999999999999999999999",
        "decimal(38, 0)",
    ),
    ("a_numeric", "numeric", "-0.00012300", "-0.00012300", "string"),
    ("a_large", "numeric", "1e50", "100000000000000000000000000000000000000000000000000", "string"),
    ("a_nan", "numeric", "'NaN'", "NaN", "string"),
    ("a_text", "text", "'grün'", "grün", "string"),
    ("an_empty", "text", "''", "", "string"),
    ("a_varchar", "varchar(10)", "'abc'", "abc", "string"),
    ("a_char", "char(5)", "'ab'", "ab   ", "string"),
    ("a_name", "name", "'n'", "n", "string"),
    ("an_enum", "S.mood", "'happy'", "happy", "string"),
    ("a_domain", "S.posint", "7", "7", "int"),
    ("a_bytea", "bytea", "'\\x00ff'", "00ff", "bytes"),
    ("a_date", "date", "'1969-12-31'", "1969-12-31", "date"),
    ("a_last_date", "date", "'infinity'", "9999-12-31", "date"),
    ("a_time", "time", "'13:14:15.123456'", "13:14:15.123456", "time"),
    (
        "a_timestamp",
        "timestamp",
        "'1969-12-31 23:59:59.999999'",
        "1969-12-31T23:59:59.999999Z",
        "timestamp_us",
    ),
    (
        "a_timestamptz",
        "timestamptz",
        "'2024-02-29 12:00+02'",
        "2024-02-29T10:00:00Z",
        "timestamp_us",
    ),
    ("a_beginning", "timestamptz", "'-infinity'", "0001-01-01T00:00:00Z", "timestamp_us"),
    (
        "an_interval",
        "interval",
        "'1 year 2 mons 3 days 4 hours'",
        "14 mons 3 days 4 hours",
        "Interval(MonthDayNano)",
    ),
    (
        "a_uuid",
        "uuid",
        "'123e4567-e89b-12d3-a456-426614174000'",
        "123e4567-e89b-12d3-a456-426614174000",
        "string",
    ),
    ("a_json", "json", "'{\"a\":  1}'", "{\"a\":  1}", "string"),
    ("a_jsonb", "jsonb", "'{\"a\":  1}'", "{\"a\": 1}", "string"),
    ("an_inet", "inet", "'10.1.2.3'", "00000000000000000000ffff0a010203", "ip"),
    ("an_inet6", "inet", "'fe80::1'", "fe800000000000000000000000000001", "ip"),
    ("a_cidr", "cidr", "'10.0.0.0/8'", "10.0.0.0/8", "string"),
    ("a_mac", "macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03", "string"),
    ("a_timetz", "timetz", "'13:14:15+02'", "13:14:15+02", "string"),
    ("a_bit", "bit varying(8)", "B'101'", "101", "string"),
    ("a_range", "int4range", "'[1,5)'", "[1,5)", "string"),
    ("a_point", "point", "'(1,2)'", "(1,2)", "string"),
    ("a_pair", "S.pair", "'(1,x)'", "(1,x)", "string"),
    ("some_ints", "int[]", "'{3,NULL,1}'", "[3, , 1]", "int[]"),
    ("some_texts", "text[]", "'{a,\"b c\"}'", "[a, b c]", "string[]"),
    ("some_decimals", "numeric(10,2)[]", "'{1.50}'", "[1.50]", "decimal(10, 2)[]"),
    ("nothing", "int[]", "'{}'", "[]", "int[]"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_read_and_written_back() {
    let Some(world) = world().await else { return };
    world
        .sql(
            "CREATE TYPE S.mood AS ENUM ('sad', 'happy'); CREATE TYPE S.pair AS (a int, b text); \
              CREATE DOMAIN S.posint AS int CHECK (value > 0)",
        )
        .await;
    let declared: Vec<_> = TYPES.iter().map(|t| format!("{} {}", t.0, t.1)).collect();
    let declared = format!("(id bigint PRIMARY KEY, {})", declared.join(", "));
    world.sql(&format!("CREATE TABLE S.t {declared}; CREATE TABLE S.u {declared}")).await;
    let names: Vec<_> = TYPES.iter().map(|t| t.0).collect();
    let values: Vec<_> = TYPES.iter().map(|t| t.2).collect();
    let (names, values) = (names.join(", "), values.join(", "));
    world
        .sql(
            &format!("INSERT INTO S.t (id, {names}) VALUES (1, {values}), (2, DEFAULT)")
                .replace(", (2, DEFAULT)", ""),
        )
        .await;
    world.sql("INSERT INTO S.t (id) VALUES (2)").await;

    let lookup = world.lookup(world.looking("t"), &[("id", DataType::Int64)]).await.unwrap();
    let found = ask(&lookup, vec![("id", longs(&[Some(2), Some(3), Some(1)]))]).await.unwrap();
    assert_eq!(found.ends, [1, 1, 2]);
    for (column, sql, _, expected, arrow) in TYPES {
        assert_eq!(shown(&found.rows, column, 1), expected, "{sql}");
        assert!(found.rows.column_by_name(column).unwrap().is_null(0), "{sql}");
        let schema = lookup.schema();
        assert_eq!(name(schema.field_with_name(column).unwrap().data_type()), arrow, "{sql}");
    }

    let rows = Batch::same(found.rows);
    let receipt = world.write(world.writing("u"), &rows).await.unwrap();
    assert_eq!((receipt.rejected, receipt.rows), (vec![], 2));
    let differing = "SELECT * FROM S.t WHERE t::text NOT IN (SELECT u::text FROM S.u)";
    assert_eq!(
        world
            .rows(&differing.replace("t::text", "t.*::text").replace("u::text", "u.*::text"))
            .await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrays_carry_every_type_but_arrays() {
    let Some(world) = world().await else { return };
    world
        .sql(
            "CREATE TYPE S.mood AS ENUM ('sad', 'happy'); CREATE TYPE S.pair AS (a int, b text); \
              CREATE DOMAIN S.posint AS int CHECK (value > 0)",
        )
        .await;
    let plain: Vec<_> = TYPES.iter().filter(|t| !t.1.ends_with("[]")).collect();
    let declared: Vec<_> = plain.iter().map(|t| format!("{} {}", t.0, t.1)).collect();
    let declared = format!("(id bigint PRIMARY KEY, {})", declared.join(", "));
    world.sql(&format!("CREATE TABLE S.t {declared}; CREATE TABLE S.u {declared}")).await;
    let names: Vec<_> = plain.iter().map(|t| t.0).collect();
    let values: Vec<_> = plain.iter().map(|t| t.2).collect();
    let (names, values) = (names.join(", "), values.join(", "));
    world.sql(&format!("INSERT INTO S.t (id, {names}) VALUES (1, {values})")).await;
    world.sql("INSERT INTO S.t (id) VALUES (2)").await;
    let lookup = world.lookup(world.looking("t"), &[("id", DataType::Int64)]).await.unwrap();
    let found = ask(&lookup, vec![("id", longs(&[Some(1), Some(2)]))]).await.unwrap();
    let mut writing = world.writing("u");
    writing.mode = Mode::Insert;
    let receipt = world.write(writing, &Batch::same(found.rows)).await.unwrap();
    assert_eq!((receipt.rejected, receipt.rows), (vec![], 2));
    let differing = "SELECT * FROM S.t WHERE t.*::text NOT IN (SELECT u.*::text FROM S.u)";
    assert_eq!(world.rows(differing).await, Vec::<String>::new());
}
