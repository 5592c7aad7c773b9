//! The steps of a pipeline as a graph, run over one decoded batch.
//!
//! ```text
//! source ─► step 1 ─► step 2 ─► sink a
//!              └────────────► sink b         (`from:` branches)
//! ```

use crate::dead_letters::Verdict;
use crate::metrics::{PipelineMetrics, Timer};
use millstream_core::{Batch, Disposition, Result};
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
            let timer = Timer::start(&metrics.sql);
            let origin = batch.origin.clone();
            match step.step.run(batch).await {
                Ok(ran) => {
                    timer.stop();
                    verdicts.extend(ran.rejected.into_iter().map(|r| Verdict {
                        source_row: r.source_row,
                        step: step.name.clone(),
                        kind: r.kind,
                        reason: r.reason,
                    }));
                    results.push(ran.batch);
                }
                // A look-up that stays away and whose pipeline said `on_failure: dead_letter`.
                Err(error) if error.disposition() == Disposition::Reject => {
                    let reason = error.chain();
                    let mut rows: Vec<u32> = origin.iter().collect();
                    rows.dedup();
                    verdicts.extend(rows.into_iter().map(|source_row| Verdict {
                        source_row,
                        step: step.name.clone(),
                        kind: error.kind(),
                        reason: reason.clone(),
                    }));
                    results.push(Batch::new(
                        arrow_array::RecordBatch::new_empty(step.step.schema()),
                        origin.slice(0, 0),
                    ));
                }
                Err(error) => return Err(error),
            }
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
