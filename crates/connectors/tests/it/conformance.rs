//! The suite that every look-up and sink passes.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use futures::FutureExt;
use millstream_connectors::file::{FileLookup, FileLookupOptions};
use millstream_connectors::table::{TableSink, TableSinkOptions};
use millstream_connectors::topic::{TopicSink, TopicSinkOptions};
use millstream_connectors::{Home, HomeOptions, RecordColumns};
use millstream_core::{Batch, LookupKey, Sink};
use millstream_formats::json::JsonEncoder;
use millstream_log::{Reader, TopicOptions};
use millstream_tables::{Table, TableLookup, TableSpec};
use millstream_testkit::conformance::{self, Again, Stage};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn key() -> LookupKey {
    LookupKey::Equal(vec!["key".into()])
}

/// A row that was written as JSON.
pub fn row(value: &[u8]) -> (String, i64) {
    let row: Value = serde_json::from_slice(value).unwrap();
    (row["key"].as_str().unwrap().to_owned(), row["number"].as_i64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_in_a_file_does_what_all_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    let mut text = "key,number\n".to_owned();
    for (key, number) in conformance::stored() {
        writeln!(text, "{key},{number}").unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let reload = Duration::from_secs(5);
    let options =
        FileLookupOptions { path, columns: Some(conformance::schema()), delimiter: b',', reload };
    conformance::lookup(Arc::new(FileLookup::open(options, &key()).unwrap())).await;
}

fn table(dir: &Path) -> (Home, Table) {
    let home = Home::open(dir, HomeOptions::default()).unwrap();
    let spec = TableSpec {
        name: "t".into(),
        columns: conformance::schema(),
        partition_key: vec!["key".into()],
        clustering: Vec::new(),
        ttl: None,
        grace: TableSpec::GRACE,
    };
    let table = home.tables.create_table(spec).unwrap();
    (home, table)
}

fn sink_of(table: &Table) -> Box<dyn Sink> {
    let options = TableSinkOptions { table: table.clone(), ttl: None, timestamp: None };
    Box::new(TableSink::new(options))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_in_a_table_does_what_all_do() {
    let dir = tempfile::tempdir().unwrap();
    let (_home, table) = table(dir.path());
    let (keys, numbers): (Vec<_>, Vec<_>) = conformance::stored().unzip();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(keys)), Arc::new(Int64Array::from(numbers))];
    let rows = RecordBatch::try_new(conformance::schema(), columns).unwrap();
    let receipt = sink_of(&table).write(&Batch::same(rows)).await.unwrap();
    receipt.durable.await.unwrap();
    conformance::lookup(TableLookup::bind(&table, &key(), None).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_does_what_all_do() {
    let dir = tempfile::tempdir().unwrap();
    let (_home, table) = table(dir.path());
    let written = table.clone();
    let stage = Stage {
        open: Box::new(move || sink_of(&written)),
        stored: Box::new(move || {
            let table = table.clone();
            async move {
                let mut all = Vec::new();
                for rows in table.scan(Default::default()).unwrap() {
                    let rows = rows.unwrap();
                    let keys = rows.column(0).as_string::<i32>();
                    let numbers = rows.column(1).as_primitive::<Int64Type>();
                    let row = |at| (keys.value(at).to_owned(), numbers.value(at));
                    all.extend((0..rows.num_rows()).map(row));
                }
                all
            }
            .boxed()
        }),
        again: Again::Once,
        by_key: true,
    };
    stage.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_does_what_all_do() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path(), HomeOptions::default()).unwrap();
    let options = TopicOptions { partitions: 3, ..TopicOptions::default() };
    let topic = home.log.create_topic("out", options).unwrap();
    let written = topic.clone();
    let stage = Stage {
        open: Box::new(move || {
            Box::new(TopicSink::new(TopicSinkOptions {
                topic: written.clone(),
                encoder: Box::new(JsonEncoder::new(conformance::schema()).unwrap()),
                columns: RecordColumns { key: Some("key".into()), ..RecordColumns::default() },
            }))
        }),
        stored: Box::new(move || {
            let topic = topic.clone();
            async move {
                let mut all = Vec::new();
                for partition in 0..topic.partitions() {
                    let partition = topic.partition(partition).unwrap();
                    let mut reader = Reader::new(&partition, 0, 1 << 20).unwrap();
                    while let Some(records) = reader.try_next().unwrap() {
                        all.extend(records.iter().map(|record| row(record.value.unwrap())));
                    }
                }
                all
            }
            .boxed()
        }),
        again: Again::Repeats,
        by_key: false,
    };
    stage.run().await;
}
