//! The table sink's write timestamps.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow_schema::{DataType, Field, Schema};
use millstream_connectors::table::{TableSink, TableSinkOptions};
use millstream_connectors::{Home, HomeOptions};
use millstream_core::{Batch, Sink};
use millstream_tables::TableSpec;
use std::sync::Arc;

/// The rows 0, 1, … with these timestamps: why some are refused, and which are in the table then.
async fn write(stamps: ArrayRef) -> (Vec<(u32, String)>, Vec<i64>) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path(), HomeOptions::default()).unwrap();
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("at", stamps.data_type().clone(), true),
    ];
    let schema = Arc::new(Schema::new(fields));
    let spec = TableSpec {
        name: "t".into(),
        columns: schema.clone(),
        partition_key: vec!["id".into()],
        clustering: Vec::new(),
        ttl: None,
        grace: TableSpec::GRACE,
    };
    let table = home.tables.create_table(spec).unwrap();
    let options =
        TableSinkOptions { table: table.clone(), ttl: None, timestamp: Some("at".into()) };
    let ids = Arc::new(Int64Array::from_iter_values(0..stamps.len() as i64));
    let rows = RecordBatch::try_new(schema, vec![ids, stamps]).unwrap();
    let receipt = TableSink::new(options).write(&Batch::same(rows)).await.unwrap();
    let mut kept = Vec::new();
    for batch in table.scan(Default::default()).unwrap() {
        let batch = batch.unwrap();
        let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        kept.extend(ids.values());
    }
    (receipt.rejected, kept)
}

const FIRST_S: i64 = -62_135_596_800;
const LAST_S: i64 = 253_402_300_799;

#[tokio::test]
async fn a_write_timestamp_out_of_range_costs_its_row_and_says_so() {
    let around = |second: i64| [Some(FIRST_S * second), Some(LAST_S * second + (second - 1))];
    let beyond = |second: i64| {
        [Some(FIRST_S * second - 1), Some((LAST_S + 1) * second), Some(i64::MAX), Some(i64::MIN)]
    };
    let rows = |second: i64| [&around(second)[..], &beyond(second)[..], &[None]].concat();
    let cases: [(&str, i64, ArrayRef); 3] = [
        ("seconds", 1, Arc::new(TimestampSecondArray::from(rows(1)))),
        ("milliseconds", 1_000, Arc::new(TimestampMillisecondArray::from(rows(1_000)))),
        (
            "microseconds",
            1_000_000,
            Arc::new(TimestampMicrosecondArray::from(rows(1_000_000)).with_timezone("UTC")),
        ),
    ];
    for (unit, second, stamps) in cases {
        let (refused, kept) = write(stamps).await;
        assert_eq!(kept, [0, 1], "{unit}");
        let mut want: Vec<_> = (2..)
            .zip(beyond(second))
            .map(|(row, value)| {
                let why = format!(
                    "the write timestamp `at` is out of range: {} {unit} since 1970 are not from \
                     0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z",
                    value.unwrap()
                );
                (row, why)
            })
            .collect();
        want.push((6, "the write timestamp is null".to_owned()));
        assert_eq!(refused, want);
    }
    // All that 64 bits of nanoseconds express is in range.
    let nanos = TimestampNanosecondArray::from(vec![i64::MIN, i64::MAX]);
    assert_eq!(write(Arc::new(nanos)).await, (Vec::new(), vec![0, 1]));
    // A bigint is a number of the user's own.
    let numbers = Int64Array::from(vec![i64::MIN, -1, i64::MAX]);
    assert_eq!(write(Arc::new(numbers)).await, (Vec::new(), vec![0, 1, 2]));
}
