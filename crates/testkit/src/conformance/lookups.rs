//! Keys in, their rows out: in the order of the keys, whoever else asks, and whoever gives up.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use futures::FutureExt;
use futures::future::join_all;
use millstream_core::{Found, Lookup};
use std::sync::Arc;
use std::time::Duration;

/// More than any store takes in one request.
const KEYS: i64 = 700;

fn is_stored(number: i64) -> bool {
    number % 7 != 3
}

fn key(number: i64) -> String {
    format!("k{number}")
}

/// The rows that the store has when the suite begins.
pub fn stored() -> impl Iterator<Item = (String, i64)> {
    (0..KEYS).filter(|number| is_stored(*number)).map(|number| (key(number), number))
}

/// The whole suite, on a look-up that is asked by a text and finds at least `number`.
pub async fn lookup(lookup: Arc<dyn Lookup>) {
    let all: Vec<i64> = (0..KEYS).rev().collect();
    for asked in [&all[..], &all[..1], &[], &[3, 10, 17], &[3, 0]] {
        holds(&*lookup, asked).await;
    }
    many_ask_at_once(&lookup, &all).await;
    one_gives_up(&lookup, &all).await;
}

async fn many_ask_at_once(lookup: &Arc<dyn Lookup>, all: &[i64]) {
    let parts = (0..8).map(|part| {
        let asked: Vec<_> = all.iter().copied().skip(part).step_by(8).collect();
        async move { holds(&**lookup, &asked).await }
    });
    join_all(parts).await;
}

/// A call that nobody waits for any more takes nothing from the next one.
async fn one_gives_up(lookup: &Arc<dyn Lookup>, all: &[i64]) {
    for millis in [0, 1, 3] {
        let keys = keys(all);
        let mut asked = lookup.get_many(&keys);
        if asked.as_mut().now_or_never().is_none() {
            let _ = tokio::time::timeout(Duration::from_millis(millis), asked).await;
        }
    }
    holds(&**lookup, all).await;
}

async fn holds(lookup: &dyn Lookup, asked: &[i64]) {
    let found = lookup.get_many(&keys(asked)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let Found { rows, ends } = &found;
    assert_eq!(rows.schema(), lookup.schema(), "rows are as the look-up said");
    assert_eq!(ends.len(), asked.len(), "each key has an end");
    assert!(ends.is_sorted(), "{ends:?}");
    assert_eq!(ends.last().copied().unwrap_or(0) as usize, rows.num_rows(), "no row is left over");
    let numbers = rows.column_by_name("number").expect("the column `number`");
    let numbers = numbers.as_primitive::<Int64Type>();
    for (at, number) in asked.iter().enumerate() {
        let its: Vec<_> = found.of(at).map(|row| numbers.value(row)).collect();
        let wanted: &[i64] = if is_stored(*number) { &[*number] } else { &[] };
        assert_eq!(its, wanted, "the rows of {}", key(*number));
    }
}

fn keys(asked: &[i64]) -> RecordBatch {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(asked.iter().map(|n| key(*n))));
    let schema = Schema::new(vec![Field::new("key", DataType::Utf8, true)]);
    RecordBatch::try_new(Arc::new(schema), vec![column]).expect("one column of text")
}
