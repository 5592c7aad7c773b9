//! Batches in, a receipt for each: what is durable is there, what was given again is there, and the
//! last row of a key is the last.

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::future::{BoxFuture, join_all};
use millstream_core::{
    Batch, Beginning, Headers, Partition, Receipt, Record, Records, RecordsBuilder, Sink,
};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

const ROWS: i64 = 100;

/// What becomes of a row that is given again after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The store has it once: by its key, or by the source's position.
    Once,
    /// It may be there twice.
    Repeats,
}

/// Keys and numbers, as they are read back.
pub type Stored = BoxFuture<'static, Vec<(String, i64)>>;

/// A place to write to, empty when the suite begins.
pub struct Stage {
    /// The sink of another task each time.
    pub open: Box<dyn Fn() -> Box<dyn Sink> + Send + Sync>,
    /// What is there now, the rows of a key in their order.
    pub stored: Box<dyn Fn() -> Stored + Send + Sync>,
    pub again: Again,
    /// Whether a row replaces the one of its key.
    pub by_key: bool,
}

/// The columns of the rows.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("number", DataType::Int64, true),
    ]))
}

impl Stage {
    /// The whole suite. Each case has keys and a partition of its own.
    pub async fn run(self) {
        self.what_is_durable_is_there().await;
        self.receipts_are_awaited_in_any_order().await;
        self.tasks_write_at_the_same_time().await;
        self.the_last_of_a_key_is_the_last().await;
        self.what_is_given_up_is_given_again().await;
    }

    async fn what_is_durable_is_there(&self) {
        let case = Case { name: "durable", partition: 0 };
        let mut sink = self.begun(&case, 0);
        for at in 0..3 {
            let receipt = case.write(&mut *sink, at, |n| n).await;
            assert_eq!((receipt.rows, receipt.rejected.len()), (ROWS as u64, 0), "of a good batch");
            sink.flush();
            receipt.durable.await.expect("it becomes durable");
            sink.settled((at + 1) * ROWS);
            self.has(&case, 0..(at + 1) * ROWS, Again::Once).await;
        }
    }

    async fn receipts_are_awaited_in_any_order(&self) {
        let case = Case { name: "order", partition: 1 };
        let mut sink = self.begun(&case, 0);
        let mut receipts = Vec::new();
        for at in 0..4 {
            receipts.push(case.write(&mut *sink, at, |n| n).await.durable);
        }
        sink.flush();
        for durable in join_all(receipts.into_iter().rev()).await {
            durable.expect("it becomes durable");
        }
        self.has(&case, 0..4 * ROWS, Again::Once).await;
    }

    async fn tasks_write_at_the_same_time(&self) {
        let cases = [2, 3, 4].map(|partition| Case { name: "tasks", partition });
        let tasks = cases.iter().map(|case| async move {
            let mut sink = self.begun(case, 0);
            for at in 0..3 {
                let receipt = case.write(&mut *sink, at, |n| n).await;
                sink.flush();
                receipt.durable.await.expect("it becomes durable");
            }
        });
        join_all(tasks).await;
        for case in &cases {
            self.has(case, 0..3 * ROWS, Again::Once).await;
        }
    }

    async fn the_last_of_a_key_is_the_last(&self) {
        let case = Case { name: "last", partition: 5 };
        let mut sink = self.begun(&case, 0);
        let mut receipts = Vec::new();
        for at in 0..3 {
            receipts.push(case.write(&mut *sink, at, |n| n % 7).await.durable);
        }
        sink.flush();
        for durable in join_all(receipts).await {
            durable.expect("it becomes durable");
        }
        let stored = self.of(&case).await;
        let last: HashMap<_, _> = stored.iter().cloned().collect();
        for key in 0..7 {
            let wanted = (0..3 * ROWS).rev().find(|n| n % 7 == key).expect("each has some");
            assert_eq!(last.get(&case.key(key)), Some(&wanted), "the last of {}", case.key(key));
        }
        let rows = if self.by_key { 7 } else { 3 * ROWS as usize };
        assert_eq!(stored.len(), rows, "rows of seven keys");
    }

    /// A task that ends without having heard that its rows are durable: the next one begins where the
    /// last commit was.
    async fn what_is_given_up_is_given_again(&self) {
        let case = Case { name: "again", partition: 6 };
        let mut sink = self.begun(&case, 0);
        let receipt = case.write(&mut *sink, 0, |n| n).await;
        sink.flush();
        receipt.durable.await.expect("it becomes durable");
        sink.settled(ROWS);
        let unheard = case.write(&mut *sink, 1, |n| n).await;
        drop((unheard, sink));
        let mut sink = self.begun(&case, ROWS);
        for at in 1..3 {
            let receipt = case.write(&mut *sink, at, |n| n).await;
            sink.flush();
            receipt.durable.await.expect("it becomes durable");
        }
        self.has(&case, 0..3 * ROWS, self.again).await;
    }

    fn begun(&self, case: &Case, from: i64) -> Box<dyn Sink> {
        let mut sink = (self.open)();
        let place = Partition { source: "conformance".into(), index: case.partition };
        sink.begin(&Beginning { place, identity: "conformance:1".into(), from });
        sink
    }

    async fn of(&self, case: &Case) -> Vec<(String, i64)> {
        let mut stored = (self.stored)().await;
        let its = case.key(0).trim_end_matches('0').to_owned();
        stored.retain(|(key, _)| key.starts_with(&its));
        stored
    }

    async fn has(&self, case: &Case, numbers: Range<i64>, again: Again) {
        let mut stored = self.of(case).await;
        stored.sort();
        if again == Again::Repeats {
            stored.dedup();
        }
        let mut wanted: Vec<_> = numbers.map(|n| (case.key(n), n)).collect();
        wanted.sort();
        assert_eq!(stored, wanted, "what is stored of `{}`", case.name);
    }
}

struct Case {
    name: &'static str,
    partition: u32,
}

impl Case {
    fn key(&self, number: i64) -> String {
        format!("{}-{}-{number}", self.name, self.partition)
    }

    /// Writes the batch of this number; `key` tells whose row a number is.
    async fn write(&self, sink: &mut dyn Sink, at: i64, key: impl Fn(i64) -> i64) -> Receipt {
        let numbers = at * ROWS..(at + 1) * ROWS;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| self.key(key(n))))),
            Arc::new(Int64Array::from_iter_values(numbers.clone())),
        ];
        let rows = RecordBatch::try_new(schema(), columns).expect("two columns");
        sink.stems_from(&records(numbers), &[]);
        let written = sink.write(&Batch::same(rows)).await;
        written.unwrap_or_else(|error| panic!("{}: {}", self.name, error.chain()))
    }
}

fn records(offsets: Range<i64>) -> Arc<Records> {
    let mut builder = RecordsBuilder::new();
    let next = offsets.end;
    for offset in offsets {
        let headers = Headers::default();
        builder.push(Record { offset, timestamp: 0, key: None, value: Some(b"r"), headers });
    }
    Arc::new(builder.finish(next))
}
