//! The steps of a pipeline as a graph, run over one decoded batch.
//!
//! ```text
//! source ─► step 1 ─► step 2 ─► sink a
//!              └────────────► sink b         (`from:` branches)
//! ```

use crate::dead_letters::Verdict;
use crate::metrics::{PipelineMetrics, Timer};
use millstream_core::{Batch, Disposition, Error, Origin, Result};
use std::sync::Arc;

/// Where a step or sink takes its rows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    Source,
    Step(usize),
}

pub struct FlowStep {
    pub name: Arc<str>,
    pub input: Node,
    pub step: millstream_sql::Step,
}

/// The part of a pipeline between decoding and sinks. Steps come after their inputs.
pub struct Flow {
    pub steps: Vec<FlowStep>,
    /// One a sink.
    pub outputs: Vec<Node>,
}

/// What became of a batch: one batch a sink, and the rows that failed on the way.
#[derive(Debug)]
pub struct Flowed {
    pub outputs: Vec<Batch>,
    pub verdicts: Vec<Verdict>,
}

impl Flow {
    /// Not cancel safe, but without effect outside: a cancelled batch may be run again.
    pub async fn run(&self, input: Batch, metrics: &PipelineMetrics) -> Result<Flowed> {
        let mut verdicts = Vec::new();
        let mut results: Vec<Batch> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let batch = match step.input {
                Node::Source => input.clone(),
                Node::Step(at) => results[at].clone(),
            };
            if batch.is_empty() {
                results.push(Batch::new(
                    arrow_array::RecordBatch::new_empty(step.step.schema()),
                    batch.origin.slice(0, 0),
                ));
                continue;
            }
            results.push(run_step(step, batch, metrics, &mut verdicts).await?);
        }
        let outputs = self
            .outputs
            .iter()
            .map(|node| match node {
                Node::Source => input.clone(),
                Node::Step(at) => results[*at].clone(),
            })
            .collect();
        Ok(Flowed { outputs, verdicts })
    }
}

/// Runs one step. Rows that a look-up refuses (its store stays away, and the file says
/// `on_failure: dead_letter`) are found by halving: those that need no answer of it go on.
async fn run_step(
    step: &FlowStep,
    batch: Batch,
    metrics: &PipelineMetrics,
    verdicts: &mut Vec<Verdict>,
) -> Result<Batch> {
    let mut due = vec![batch];
    let mut parts = Vec::new();
    while let Some(batch) = due.pop() {
        let timer = Timer::start(&metrics.sql);
        match step.step.run(batch.clone()).await {
            Ok(ran) => {
                timer.stop();
                verdicts.extend(ran.rejected.into_iter().map(|r| (&step.name, r).into()));
                parts.push(ran.batch);
            }
            Err(error) if error.disposition() == Disposition::Reject => match middle(&batch) {
                Some(at) => {
                    due.push(batch.slice(at, batch.len() - at));
                    due.push(batch.slice(0, at));
                    tokio::task::yield_now().await;
                }
                None => verdicts.push(Verdict {
                    source_row: batch.origin.of(0),
                    step: step.name.clone(),
                    kind: error.kind(),
                    reason: error.chain(),
                }),
            },
            Err(error) => return Err(error),
        }
    }
    if let [_] = parts.as_slice() {
        return Ok(parts.remove(0));
    }
    let rows = arrow_select::concat::concat_batches(
        &step.step.schema(),
        parts.iter().map(|part| &part.rows),
    )
    .map_err(|e| Error::stop("sql", "putting a batch together").because(e))?;
    let origin = parts.iter().flat_map(|part| part.origin.iter()).collect();
    Ok(Batch::new(rows, Origin::Rows(origin)))
}

/// Where to halve a batch so that no source row is on both sides. `None` when it is only one.
fn middle(batch: &Batch) -> Option<usize> {
    let half = batch.len() / 2;
    let begins = |at: &usize| batch.origin.of(*at) != batch.origin.of(*at - 1);
    (half.max(1)..batch.len()).find(begins).or_else(|| (1..half).rev().find(begins))
}
