//! The user's own cases beside a pipeline: rows in, look-ups stubbed, and what must come out.

use crate::flow::Flowed;
use crate::metrics::Metrics;
use crate::open;
use crate::plan::Plan;
use crate::positions::{self, Positions};
use anyhow::{Context, anyhow, bail};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use millstream_config::{ExpectedRows, Row, TestCase, TestInput};
use millstream_connectors::file::RowsLookup;
use millstream_core::{
    Batch, Decoder, Encoder, Headers, Lookup, Partition, Record, Records, RecordsBuilder,
};
use millstream_formats::json::{JsonDecoder, JsonEncoder, JsonOptions};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;

/// How a case went: it passed when there are no differences.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    pub name: String,
    pub differences: Vec<String>,
}

impl CaseReport {
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Runs a case. The plan is used up: make one a case.
pub async fn run_case(plan: Plan, case: &TestCase) -> anyhow::Result<CaseReport> {
    let decoder = open::decoder(&plan);
    let Plan { spec, source: planned, decoded, positions: named, steps, sinks, lookups, .. } = plan;
    let names: Vec<(String, crate::flow::Node)> = steps
        .iter()
        .enumerate()
        .map(|(at, step)| (step.name.to_string(), crate::flow::Node::Step(at)))
        .chain(sinks.iter().map(|sink| (sink.name.to_string(), sink.input)))
        .collect();
    let last = match steps.len() {
        0 => crate::flow::Node::Source,
        n => crate::flow::Node::Step(n - 1),
    };
    let outputs = names.iter().map(|(_, node)| *node).chain([last]).collect();
    let mut flow = open::open_flow(steps, outputs, |used| {
        let schema = lookups
            .get(&used.name)
            .ok_or_else(|| anyhow!("there is no lookup {}", used.name))?
            .clone();
        let rows = case.lookups.get(&used.name).map(Vec::as_slice).unwrap_or_default();
        let rows = batch_of(schema, rows).with_context(|| format!("lookup {}", used.name))?;
        let stub = RowsLookup::new(rows, &used.key).map_err(|e| anyhow!(e))?;
        Ok(Arc::new(stub) as Arc<dyn Lookup>)
    })?;
    if let Some(now) = case.now {
        for step in &mut flow.steps {
            step.step.set_clock(move || now.0);
        }
    }

    let mut dead: Vec<(u32, String)> = Vec::new();
    let records = records_of(&case.input);
    let raw = case.input.iter().any(|input| matches!(input, TestInput::Raw(_)));
    let columns = Positions::new(&decoded, named.clone());
    let place = Partition { source: planned.name.as_str().into(), index: 0 };
    let input = if raw {
        if case.input.iter().any(|input| matches!(input, TestInput::Row(_))) {
            bail!("case `{}` mixes raw records and rows: use one kind in a case", case.name);
        }
        let mut decoder = decoder()?;
        decoder.prepare(&records).await?;
        let decoded = decoder.decode(&records)?;
        dead.extend(decoded.rejected.into_iter().map(|r| (r.source_row, r.reason)));
        columns.add(decoded.batch, &records, &place)?
    } else {
        let rows: Vec<Row> = case
            .input
            .iter()
            .filter_map(|input| match input {
                TestInput::Row(row) => Some(row.clone()),
                TestInput::Raw(_) => None,
            })
            .collect();
        for row in &rows {
            for name in row.keys() {
                let known = decoded.field_with_name(name).is_ok()
                    || positions::NAMES.contains(&name.as_str())
                    || planned.columns.is_some();
                if !known {
                    bail!("case `{}`: the source has no column `{name}`", case.name);
                }
            }
        }
        let batch = batch_of(decoded.clone(), &rows)?;
        columns.add(Batch::same(batch), &records, &place)?
    };
    let source_rows = records.len();
    let metrics = Metrics::new().pipeline(&spec.pipeline, None);
    let Flowed { outputs, verdicts } = flow.run(input, &metrics).await?;
    dead.extend(verdicts.into_iter().map(|v| (v.source_row, v.reason)));
    dead.sort_by_key(|(row, _)| *row);
    dead.dedup_by_key(|(row, _)| *row);

    let mut differences = Vec::new();
    match &case.expect.rows {
        Some(ExpectedRows::Last(rows)) => {
            let actual = outputs.last().context("there is always the last step")?;
            compare("rows", rows, &rows_of(&actual.rows)?, &mut differences);
        }
        Some(ExpectedRows::Named(named)) => {
            for (name, rows) in named {
                let Some(at) = names.iter().position(|(known, _)| known == name) else {
                    differences.push(format!("there is no step or sink `{name}`"));
                    continue;
                };
                compare(name, rows, &rows_of(&outputs[at].rows)?, &mut differences);
            }
        }
        None => {}
    }
    if let Some(expected) = &case.expect.dead {
        let count = expected.len().max(dead.len());
        for at in 0..count {
            match (expected.get(at), dead.get(at)) {
                (Some(want), Some((_, reason))) if reason.contains(&want.reason) => {}
                (Some(want), Some((row, reason))) => differences.push(format!(
                    "dead letter {}: expected a reason with `{}`, record {} has `{reason}`",
                    at + 1,
                    want.reason,
                    row + 1
                )),
                (Some(want), None) => {
                    differences.push(format!(
                        "dead letter {}: `{}` is missing",
                        at + 1,
                        want.reason
                    ));
                }
                (None, Some((row, reason))) => {
                    differences.push(format!("record {} is a dead letter: {reason}", row + 1));
                }
                (None, None) => {}
            }
        }
    } else if !dead.is_empty() {
        for (row, reason) in &dead {
            differences.push(format!("record {} is a dead letter: {reason}", row + 1));
        }
    }
    if let Some(expected) = case.expect.filtered {
        let sinks = &outputs[names.len() - sinks.len()..names.len()];
        let out: HashSet<u32> = sinks.iter().flat_map(|b| b.origin.iter()).collect();
        let gone: HashSet<u32> = dead.iter().map(|(row, _)| *row).collect();
        let filtered = source_rows - out.union(&gone).count();
        if filtered as u64 != expected {
            differences.push(format!("expected {expected} filtered rows, there are {filtered}"));
        }
    }
    Ok(CaseReport { name: case.name.clone(), differences })
}

fn records_of(inputs: &[TestInput]) -> Records {
    let mut builder = RecordsBuilder::new();
    for (at, input) in inputs.iter().enumerate() {
        let value = match input {
            TestInput::Raw(raw) => raw.raw.clone().into_bytes(),
            TestInput::Row(row) => Value::Object(row.clone()).to_string().into_bytes(),
        };
        builder.push(Record {
            offset: at as i64,
            timestamp: 0,
            key: None,
            value: Some(&value),
            headers: Headers(&[]),
        });
    }
    builder.finish(inputs.len() as i64)
}

fn batch_of(schema: SchemaRef, rows: &[Row]) -> anyhow::Result<RecordBatch> {
    let inputs: Vec<_> = rows.iter().map(|row| TestInput::Row(row.clone())).collect();
    let mut decoder = JsonDecoder::new(schema, JsonOptions { record_bytes_max: 1 << 30 })?;
    let decoded = decoder.decode(&records_of(&inputs))?;
    if let Some(rejected) = decoded.rejected.first() {
        bail!("row {}: {}", rejected.source_row + 1, rejected.reason);
    }
    Ok(decoded.batch.rows)
}

fn rows_of(batch: &RecordBatch) -> anyhow::Result<Vec<Row>> {
    let mut encoder = JsonEncoder::new(batch.schema())?;
    let encoded = encoder.encode(batch)?;
    (0..encoded.len())
        .map(|row| match serde_json::from_slice(encoded.row(row)) {
            Ok(Value::Object(row)) => Ok(row),
            Ok(other) => Err(anyhow!("a row is not an object: {other}")),
            Err(error) => Err(error.into()),
        })
        .collect()
}

fn compare(what: &str, expected: &[Row], actual: &[Row], differences: &mut Vec<String>) {
    for at in 0..expected.len().max(actual.len()) {
        match (expected.get(at), actual.get(at)) {
            (Some(want), Some(have)) => {
                for (column, value) in want {
                    let found = have.get(column).unwrap_or(&Value::Null);
                    if !same(value, found) {
                        differences.push(format!(
                            "{what}, row {}, `{column}`: expected {value}, there is {found}",
                            at + 1
                        ));
                    }
                }
            }
            (Some(want), None) => differences.push(format!(
                "{what}, row {}: expected {}, there is no such row",
                at + 1,
                Value::Object(want.clone())
            )),
            (None, Some(have)) => differences.push(format!(
                "{what}, row {}: not expected: {}",
                at + 1,
                Value::Object(have.clone())
            )),
            (None, None) => {}
        }
    }
}

/// Numbers compare by value; a field that an expected object does not name is not compared.
fn same(want: &Value, have: &Value) -> bool {
    match (want, have) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&Value::Null)))
        }
        _ => want == have,
    }
}
