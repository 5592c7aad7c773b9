//! Every type goes in and comes out; rows that cannot be kept are rejected one by one.

use crate::support::*;
use arrow_array::builder::{Int32Builder, ListBuilder, MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampSecondArray,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, TimeUnit};
use millstream_core::types;
use millstream_tables::{Error, canonical};
use std::sync::Arc;

const TYPES: [(&str, &str); 16] = [
    ("boolean", "boolean"),
    ("int", "int"),
    ("bigint", "bigint"),
    ("float", "float"),
    ("double", "double"),
    ("decimal", "decimal(10, 2)"),
    ("string", "string"),
    ("bytes", "bytes"),
    ("date", "date"),
    ("time", "time"),
    ("timestamp", "timestamp"),
    ("timestamp_us", "timestamp_us"),
    ("ip", "ip"),
    ("list", "string[]"),
    ("map", "map<int>"),
    ("struct", "struct<a int, b string[]>"),
];

/// Three rows of every type: some values, extreme values, and nulls.
fn every_type() -> Vec<ArrayRef> {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value([Some("a"), None, Some("")]);
    list.append_value([None::<&str>; 0]);
    list.append_null();

    let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("one");
    map.values().append_value(1);
    map.keys().append_value("none");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(true).unwrap();
    map.append(false).unwrap();

    let DataType::Struct(fields) = types::parse("struct<a int, b string[]>").unwrap() else {
        unreachable!()
    };
    let mut b = ListBuilder::new(StringBuilder::new());
    b.append_value([Some("x")]);
    b.append_null();
    b.append_null();
    let a = Int32Array::from(vec![Some(-5), None, None]);
    let present = NullBuffer::from(vec![true, true, false]);
    let record = StructArray::new(fields, vec![Arc::new(a), Arc::new(b.finish())], Some(present));

    let utc = "UTC";
    vec![
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
        Arc::new(Float32Array::from(vec![Some(f32::MIN), Some(f32::INFINITY), None])),
        Arc::new(Float64Array::from(vec![Some(-1e-300), Some(f64::NEG_INFINITY), None])),
        Arc::new(
            Decimal128Array::from(vec![Some(-9_999_999_999), Some(9_999_999_999), None])
                .with_precision_and_scale(10, 2)
                .unwrap(),
        ),
        Arc::new(StringArray::from(vec![Some("Grüße\0!"), Some(""), None])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 255, 0]), Some(b""), None])),
        Arc::new(Date32Array::from(vec![Some(-1), Some(20_000), None])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
        Arc::new(
            TimestampMillisecondArray::from(vec![Some(-1), Some(START_MS), None])
                .with_timezone(utc),
        ),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(1), None]).with_timezone(utc)),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                [Some([7u8; 16]), Some([0; 16]), None].into_iter(),
                16,
            )
            .unwrap(),
        ),
        Arc::new(list.finish()),
        Arc::new(map.finish()),
        Arc::new(record),
    ]
}

#[test]
fn every_type_comes_back_after_a_reopen_and_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let mut columns = vec![("id", "int")];
    columns.extend(TYPES);
    let table = db.create_table(spec("all", &columns, &["id"], &[])).unwrap();
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![1, 2, 3]))];
    arrays.extend(every_type());
    let rows = RecordBatch::try_new(table.schema(), arrays).unwrap();
    let written = table.write(&rows, None, None).unwrap();
    assert_eq!((written.rows, written.rejected.len()), (3, 0));

    let read = |table: &millstream_tables::Table| {
        let found = table.get_many(&rows.project(&[0]).unwrap(), None).unwrap();
        assert_eq!(found.ends, [1, 2, 3]);
        found.rows
    };
    assert_eq!(read(&table), rows);
    table.compact().unwrap();
    assert_eq!(read(&table), rows);
    drop((table, db));
    let table = open(dir.path()).table("all").unwrap();
    assert_eq!(read(&table), rows);
    // Any one column alone, which skips all before it.
    for (at, (name, _)) in TYPES.iter().enumerate() {
        let found =
            table.get_many(&rows.project(&[0]).unwrap(), Some(&[(*name).to_owned()])).unwrap();
        assert_eq!(found.rows, rows.project(&[at + 1]).unwrap(), "{name}");
    }
}

#[test]
fn every_flat_type_can_be_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    for ((name, kind), array) in TYPES.iter().zip(every_type()) {
        let result = db.create_table(spec(name, &[(name, kind), ("v", "int")], &[name], &[]));
        if matches!(*name, "list" | "map" | "struct") {
            assert!(result.unwrap_err().to_string().contains("cannot be a key"));
            continue;
        }
        let table = result.unwrap();
        let v: ArrayRef = Arc::new(Int32Array::from(vec![0, 1, 2]));
        let rows = RecordBatch::try_new(
            Arc::new(arrow_schema::Schema::new(vec![
                Field::new(*name, array.data_type().clone(), true),
                Field::new("v", DataType::Int32, true),
            ])),
            vec![array, v],
        )
        .unwrap();
        let written = table.write(&rows, None, None).unwrap();
        assert_eq!(written.rows, 2, "{name}");
        assert_eq!(written.rejected, [(2, format!("the key column `{name}` is null"))]);
        let found = table.get_many(&rows.project(&[0]).unwrap(), None).unwrap();
        assert_eq!(found.ends, [1, 2, 2], "{name}");
        assert_eq!(text(&[found.rows]), text(&[rows.slice(0, 2)]), "{name}");
    }
}

#[test]
fn columns_of_a_fitting_type_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let columns = [("k", "string"), ("n", "bigint"), ("t", "timestamp"), ("d", "string")];
    let table = db.create_table(spec("t", &columns, &["k"], &[])).unwrap();
    let dictionary: DictionaryArray<Int8Type> = [Some("red"), None].into_iter().collect();
    let rows = RecordBatch::try_from_iter([
        ("d", Arc::new(dictionary) as ArrayRef),
        ("n", Arc::new(Int32Array::from(vec![1, 2])) as _),
        ("k", Arc::new(StringViewArray::from(vec!["a", "b"])) as _),
        ("t", Arc::new(TimestampSecondArray::from(vec![60, i64::MAX])) as _),
    ])
    .unwrap();
    let written = table.write(&rows, None, None).unwrap();
    assert_eq!(
        written.rejected,
        [(1, "the value of `t` is out of the range of its column".to_owned())]
    );
    assert_eq!(all(&table), ["a|1|1970-01-01T00:01:00Z|red"]);

    let wrong = RecordBatch::try_from_iter([
        ("k", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
        ("n", Arc::new(StringArray::from(vec!["1"])) as _),
    ])
    .unwrap();
    let error = table.write(&wrong, None, None).unwrap_err().to_string();
    assert_eq!(error, "column `n` is bigint and was given string; CAST it in the SQL");
}

#[test]
fn what_a_table_cannot_hold_is_said() {
    assert!(canonical(&DataType::Duration(TimeUnit::Second)).unwrap_err().contains("cannot hold"));
    assert!(canonical(&DataType::Null).is_err());
    let mut deep = DataType::Int32;
    for _ in 0..40 {
        deep = DataType::List(Arc::new(Field::new("item", deep, true)));
    }
    assert!(canonical(&deep).unwrap_err().contains("at most"));
    assert_eq!(canonical(&DataType::UInt64), Ok(DataType::Decimal128(20, 0)));
}

#[test]
fn rows_that_cannot_be_kept_leave_their_neighbours_alone() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    let long_key = "k".repeat(70_000);
    let long_row = "v".repeat(17 << 20);
    let batch = rows(&[
        ("a", 1, Some("good")),
        (&long_key, 1, None),
        ("b", 1, Some(&long_row)),
        ("c", 1, None),
        ("d", 1, Some("last")),
    ]);
    let stamps = Int64Array::from(vec![Some(1), Some(1), Some(1), None, Some(1)]);
    let written = table.write(&batch, Some(&stamps), None).unwrap();
    let why: Vec<_> = written.rejected.iter().map(|(row, why)| (*row, why.as_str())).collect();
    assert_eq!(why[0].0, 1);
    assert!(why[0].1.starts_with("the key has 70010 bytes"), "{}", why[0].1);
    assert_eq!(why[1].0, 2);
    assert!(why[1].1.starts_with("the row has "), "{}", why[1].1);
    assert_eq!(why[2], (3, "the write timestamp is null"));
    assert_eq!(all(&table), ["a|1|good", "d|1|last"]);
}

#[test]
fn columns_that_do_not_belong_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    let good = row("a", 1, "v");
    let error = table.write(&good.project(&[0, 2]).unwrap(), None, None).unwrap_err();
    assert!(error.to_string().contains("no column `n`, which is in the key"), "{error}");
    let other = RecordBatch::try_from_iter([("x", good.column(0).clone())]).unwrap();
    let error = table.write(&other, None, None).unwrap_err();
    assert_eq!(error.to_string(), "table `people` has no column `x`; it has `k`, `n`, `v`");
    let error = table.write(&good, Some(&at(&[1, 2])), None).unwrap_err();
    assert!(matches!(error, Error::Refused(_)));
    assert_eq!(all(&table), [""; 0]);
}

#[test]
fn an_added_column_is_null_in_older_rows() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let before = people(&db);
    before.write(&row("a", 1, "old"), None, None).unwrap();
    // The new column comes first in the new description and last in the table.
    let columns = [("extra", "int[]"), ("k", "string"), ("n", "bigint"), ("v", "string")];
    let after = db.create_table(spec("people", &columns, &["k"], &["n"])).unwrap();
    assert_eq!(after.schema().field(3).name(), "extra");
    let mut list = ListBuilder::new(Int32Builder::new());
    list.append_value([Some(7)]);
    let mut columns: Vec<(&str, ArrayRef)> = vec![("extra", Arc::new(list.finish()))];
    let new = row("b", 1, "new");
    columns.extend(["k", "n", "v"].iter().zip(new.columns()).map(|(n, c)| (*n, c.clone())));
    after.write(&RecordBatch::try_from_iter(columns).unwrap(), None, None).unwrap();
    // A handle from before writes on, without the column that it does not know.
    before.write(&row("c", 1, "late"), None, None).unwrap();
    assert_eq!(all(&after), ["a|1|old|", "b|1|new|[7]", "c|1|late|"]);
    assert_eq!(all(&before), ["a|1|old", "b|1|new", "c|1|late"]);
    drop((before, after, db));
    let table = open(dir.path()).table("people").unwrap();
    assert_eq!(all(&table), ["a|1|old|", "b|1|new|[7]", "c|1|late|"]);
}
