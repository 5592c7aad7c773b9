//! The pipelines of a directory: those that run here, and those that have committed here before.

use super::{Reply, Service, nothing};
use crate::Result;
use crate::answers;
use serde_json::Value;
use std::collections::HashSet;

impl Service {
    pub async fn pipelines(&self, reply: Reply) -> Result<Value> {
        let mut running = HashSet::new();
        if let Some(engine) = &self.0.engine {
            for report in engine.reports() {
                running.insert(report.name.clone());
                reply.row(report).await?;
            }
        }
        let offsets = self.home().tables.offsets();
        for name in offsets.pipelines() {
            let Some(committed) = offsets.get(&name) else { continue };
            if running.contains(&name) || !millstream_engine::is_pipeline(&name) {
                continue;
            }
            let partitions: Vec<_> = self
                .offset_rows(&name, &committed)
                .into_iter()
                .map(|row| answers::PipelinePartition {
                    source: row.source,
                    partition: row.partition,
                    state: "stopped".into(),
                    reason: None,
                    committed: row.committed,
                    end: row.end,
                    lag: row.lag,
                })
                .collect();
            reply
                .row(answers::Pipeline {
                    name,
                    state: "stopped".into(),
                    source: committed.source.name,
                    rows_in: None,
                    rows_out: None,
                    rows_filtered: None,
                    rows_dead: None,
                    lag: partitions.iter().map(|partition| partition.lag).sum(),
                    waits_for: Vec::new(),
                    p50_ms: None,
                    p99_ms: None,
                    lookups: Vec::new(),
                    partitions,
                })
                .await?;
        }
        nothing()
    }
}
