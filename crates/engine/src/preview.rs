//! What a pipeline would write, without writing or committing anything.

use crate::dead_letters::Verdict;
use crate::flow::Flowed;
use crate::metrics::Metrics;
use crate::open;
use crate::plan::Plan;
use crate::positions::Positions;
use crate::waits::Waits;
use arrow_array::RecordBatch;
use millstream_config::Pipeline as PipelineFile;
use millstream_connectors::Home;
use millstream_core::Start;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for a source that has nothing to read now.
const PATIENCE: Duration = Duration::from_millis(500);

/// Up to `rows` rows for each sink, and the records that would become dead letters.
#[derive(Debug, Default)]
pub struct Preview {
    pub sinks: Vec<(String, Vec<RecordBatch>)>,
    pub dead: Vec<PreviewDead>,
    pub rows_read: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct PreviewDead {
    pub partition: u32,
    pub offset: i64,
    pub step: String,
    pub reason: String,
    /// The record's value as text, its beginning.
    pub value: String,
}

/// Reads from where the pipeline would go on.
pub async fn preview(
    plan: Plan,
    file: &PipelineFile,
    home: &Home,
    rows: usize,
) -> anyhow::Result<Preview> {
    let mut decoder = open::decoder(&plan)()?;
    let Plan { spec, decoded, positions, steps, sinks, .. } = plan;
    let opened = open::open_source(&spec, file, home).await?;
    let metrics = Arc::new(Metrics::new().pipeline(&spec.pipeline, None));
    let waits = Arc::new(Waits::default());
    let outputs = sinks.iter().map(|sink| sink.input).collect();
    let flow = open::open_steps(&spec, steps, outputs, file, home, &metrics, &waits)?;
    let positions = Positions::new(&decoded, positions);
    let committed =
        home.tables.offsets().get(&spec.pipeline).map(|c| c.offsets).unwrap_or_default();

    let decode: Arc<str> = "decode".into();
    let mut shown = Preview {
        sinks: sinks.iter().map(|sink| (sink.name.to_string(), Vec::new())).collect(),
        ..Preview::default()
    };
    for partition in 0..opened.source.partitions() {
        let start = committed.get(&partition).map_or(opened.start, |o| Start::Offset(*o));
        let place = opened.source.place_of(partition);
        let mut reader = opened.source.reader(partition, start).await?;
        while !shown.is_full(rows) {
            let Ok(records) = tokio::time::timeout(PATIENCE, reader.next()).await else { break };
            let Some(records) = records? else { break };
            decoder.prepare(&records).await?;
            let decoded = decoder.decode(&records)?;
            let input = positions.add(decoded.batch, &records, &place)?;
            let Flowed { outputs, verdicts } = flow.run(input, &metrics).await?;
            shown.rows_read += records.len() as u64;
            for ((_, batches), batch) in shown.sinks.iter_mut().zip(outputs) {
                let have: usize = batches.iter().map(RecordBatch::num_rows).sum();
                let take = batch.len().min(rows.saturating_sub(have));
                if take > 0 {
                    batches.push(batch.rows.slice(0, take));
                }
            }
            let rejected = decoded.rejected.into_iter().map(|r| Verdict::from((&decode, r)));
            for Verdict { source_row, step, reason, .. } in rejected.chain(verdicts) {
                if shown.dead.len() >= rows {
                    break;
                }
                let record = records.get(source_row as usize);
                let value = record.value.unwrap_or_default();
                let value = String::from_utf8_lossy(&value[..value.len().min(200)]).into_owned();
                let offset = record.offset;
                let step = step.to_string();
                shown.dead.push(PreviewDead { partition, offset, step, reason, value });
            }
        }
    }
    Ok(shown)
}

impl Preview {
    fn is_full(&self, rows: usize) -> bool {
        self.sinks
            .iter()
            .all(|(_, batches)| batches.iter().map(RecordBatch::num_rows).sum::<usize>() >= rows)
    }
}
