//! What a pipeline would write, without writing or committing anything.

use crate::connectors::cql::Sessions;
use crate::connectors::kafka;
use crate::dead_letters::Verdict;
use crate::flow::Flowed;
use crate::metrics::Metrics;
use crate::open::{self, OpenedSource, Stores};
use crate::plan::Plan;
use crate::positions::Positions;
use crate::waits::Waits;
use anyhow::{anyhow, bail};
use arrow_array::RecordBatch;
use millstream_config::{Pipeline as PipelineFile, PipelineSpec, SourceFrom};
use millstream_connectors::Home;
use millstream_core::{Partition, Place, Source, Start};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long to wait for a source that has nothing to read now.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same for one that is known to have something.
const REMOTE_PATIENCE: Duration = Duration::from_secs(30);

/// Up to `rows` rows for each sink, and the records that would become dead letters.
#[derive(Debug, Default)]
pub struct Preview {
    pub sinks: Vec<(String, Vec<RecordBatch>)>,
    pub dead: Vec<PreviewDead>,
    pub rows_read: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct PreviewDead {
    /// Where the source reads several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    pub partition: u32,
    pub offset: i64,
    pub step: String,
    pub reason: String,
    /// The record's value as text, its beginning.
    pub value: String,
}

/// Reads from where the pipeline would go on. A group is not joined, and nothing is committed.
pub async fn preview(
    plan: Plan,
    file: &PipelineFile,
    home: &Home,
    rows: usize,
) -> anyhow::Result<Preview> {
    let mut decoder = open::decoder(&plan)()?;
    let Plan { spec, decoded, positions, steps, sinks, .. } = plan;
    let (source, starts) = open_source(&spec, file, home).await?;
    let metrics = Arc::new(Metrics::new().pipeline(&spec.pipeline, None));
    let waits = Arc::new(Waits::default());
    let outputs = sinks.iter().map(|sink| sink.input).collect();
    let io = Handle::current();
    let mut stores = Stores { file, home, io: &io, cql: Sessions::default(), read_only: true };
    let flow = open::open_steps(&spec, steps, outputs, &mut stores, &metrics, &waits).await?;
    let positions = Positions::new(&decoded, positions);
    let decode: Arc<str> = "decode".into();
    let mut shown = Preview {
        sinks: sinks.iter().map(|sink| (sink.name.to_string(), Vec::new())).collect(),
        ..Preview::default()
    };
    for (partition, Span { start, upto }) in starts {
        if shown.is_full(rows) {
            break;
        }
        let place = source.place_of(partition);
        let topic = (*place.source != *source.name()).then(|| place.source.to_string());
        let (mut reader, mut next) = (source.reader(partition, start).await?, i64::MIN);
        while !shown.is_full(rows) && upto.is_none_or(|upto| next < upto) {
            let patience = if upto.is_some() { REMOTE_PATIENCE } else { PATIENCE };
            let records = match (tokio::time::timeout(patience, reader.next()).await, upto) {
                (Ok(records), _) => records?,
                (Err(_), None) => break,
                (Err(_), Some(_)) => {
                    let Partition { source, index } = &place;
                    bail!("nothing came of partition {index} of `{source}`: is its broker well?");
                }
            };
            let Some(records) = records else { break };
            next = records.next_offset();
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
                let (topic, partition) = (topic.clone(), place.index);
                shown.dead.push(PreviewDead { topic, partition, offset, step, reason, value });
            }
        }
    }
    Ok(shown)
}

/// What is read of a partition.
struct Span {
    start: Start,
    /// Where it ends now, when that is known.
    upto: Option<i64>,
}

async fn open_source(
    spec: &PipelineSpec,
    file: &PipelineFile,
    home: &Home,
) -> anyhow::Result<(Box<dyn Source>, Vec<(u32, Span)>)> {
    let SourceFrom::Kafka(from) = &spec.source.from else {
        let OpenedSource { source, start, .. } = open::open_source(spec, file, home).await?;
        let committed = home.tables.offsets().get(&spec.pipeline).map(|known| known.offsets);
        let committed = committed.unwrap_or_default();
        let span = |partition| {
            let start = committed.get(&partition).map_or(start, |at| Start::Offset(*at));
            (partition, Span { start, upto: None })
        };
        let spans = (0..source.partitions()).map(span).collect();
        return Ok((source, spans));
    };
    let cluster = kafka::cluster(&from.kafka.cluster, file, &Handle::current())?;
    let source = kafka::source(spec, &from.kafka, cluster).await?;
    let mut spans = Vec::new();
    for (partition, start) in source.beginnings().await? {
        let start = start.map_err(|why| anyhow!(why))?;
        let upto = source.offset_of(partition, Place::Latest).await?;
        if start < upto {
            spans.push((partition, Span { start: Start::Offset(start), upto: Some(upto) }));
        }
    }
    Ok((Box::new(source), spans))
}

impl Preview {
    fn is_full(&self, rows: usize) -> bool {
        self.sinks
            .iter()
            .all(|(_, batches)| batches.iter().map(RecordBatch::num_rows).sum::<usize>() >= rows)
    }
}
