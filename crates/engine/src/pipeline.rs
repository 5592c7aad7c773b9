//! A planned pipeline, ready to run: what its partition tasks share.

use crate::budget::Budget;
use crate::commit::{Committer, ExactlyOnce};
use crate::dead_letters::{DeadLetters, LetterWriter};
use crate::engine::LookupReport;
use crate::flow::Flow;
use crate::metrics::{LookupMetrics, PipelineMetrics};
use crate::positions::Positions;
use crate::status::OffsetUnit;
use crate::waits::Waits;
use millstream_connectors::Home;
use millstream_core::{Decoder, Error, Partition, Result, Sink, Source, Start};
use prometheus::{Histogram, IntCounter};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

pub struct Pipeline {
    pub name: Arc<str>,
    pub home: Home,
    pub source: Box<dyn Source>,
    /// The topic of the embedded log that the source reads, when it does: its retention waits for us.
    pub source_topic: Option<Arc<str>>,
    pub offset_unit: OffsetUnit,
    /// A group shares the source's partitions out, and keeps the commits.
    pub grouped: bool,
    pub commit_interval: Duration,
    /// Where a partition without a commit begins.
    pub start: Start,
    pub decoder: Box<dyn Fn() -> Result<Box<dyn Decoder>> + Send + Sync>,
    /// The name that the decoder's dead letters give as their step.
    pub decode_step: Arc<str>,
    pub positions: Positions,
    pub flow: Flow,
    pub lookups: Vec<(String, LookupMetrics)>,
    /// The tables that its look-ups ask.
    pub tables_read: Vec<String>,
    pub sinks: Vec<PipelineSink>,
    pub dead_letters: DeadLetters,
    pub may_be_oversized: bool,
    pub limits: Limits,
    /// What all partitions may have under way together.
    pub budget: Arc<Budget>,
    /// With `parallelism`: as many batches are in the steps at the same time.
    pub workers: Option<Semaphore>,
    pub committer: Committer,
    /// What is written becomes visible with its offsets.
    pub exactly_once: Option<ExactlyOnce>,
    pub metrics: Arc<PipelineMetrics>,
    pub waits: Arc<Waits>,
}

pub type OpenSink = Box<dyn Fn() -> Result<Box<dyn Sink>> + Send + Sync>;

pub struct PipelineSink {
    pub name: Arc<str>,
    pub target: Target,
    /// Opens one for a partition task.
    pub open: OpenSink,
    /// Where the pipeline writes in transactions: opens one that does not.
    pub aside: Option<OpenSink>,
    pub rows: IntCounter,
    pub bytes: IntCounter,
    /// From giving it a batch until that is durable.
    pub seconds: Histogram,
}

/// What a sink writes, for those who ask whether it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Topic(String),
    Table(String),
    Other,
}

#[derive(Debug, Clone)]
pub struct Limits {
    pub in_flight_batches: usize,
    pub in_flight_bytes: usize,
    pub record_bytes_max: usize,
    pub max_dead_ratio: f64,
}

impl Pipeline {
    /// Where a partition begins: at its last commit, or as the file says when it has none.
    pub fn start_of(&self, partition: u32) -> Result<Start> {
        if self.grouped {
            let start = self.source.group().and_then(|group| group.start_of(partition));
            let not_ours = || Error::retry("not_ours", "the group gave the partition away");
            return start.map(Start::Offset).ok_or_else(not_ours);
        }
        let known = self.home.tables.offsets().get(&self.name);
        let committed = known.and_then(|known| known.offsets.get(&partition).copied());
        Ok(committed.map_or(self.start, Start::Offset))
    }

    /// The offset at which a partition of the log ends now; a task that waits or holds cannot say.
    pub fn end_of(&self, partition: u32) -> Option<i64> {
        let Some(topic) = &self.source_topic else { return self.source.end_of(partition) };
        let topic = self.home.log.topic(topic)?;
        topic.partition(partition).map(|partition| partition.end_offset())
    }

    /// Whether one of its sinks writes this.
    pub fn writes(&self, target: &Target) -> bool {
        self.sinks.iter().any(|sink| sink.target == *target)
    }

    pub fn writes_tables(&self) -> bool {
        self.sinks.iter().any(|sink| matches!(sink.target, Target::Table(_)))
    }

    /// Waits for its turn, where the file bounds how many work at the same time. Cancel safe.
    pub async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        match &self.workers {
            Some(workers) => workers.acquire().await.ok(),
            None => None,
        }
    }

    /// What the pipeline's offsets count in.
    pub fn offsets_source(&self) -> millstream_tables::Source {
        millstream_tables::Source {
            id: self.source.identity(),
            name: self.source.name().to_owned(),
        }
    }

    pub fn lookup_reports(&self) -> Vec<LookupReport> {
        self.lookups
            .iter()
            .map(|(name, metrics)| LookupReport {
                name: name.clone(),
                asked: metrics.rows.get(),
                found: metrics.found.get(),
            })
            .collect()
    }

    pub fn letter_writer(&self, place: Partition) -> LetterWriter {
        self.writer_of(&self.dead_letters, place)
    }

    /// One that is no part of the pipeline's transactions.
    pub fn letter_writer_aside(&self, place: Partition) -> LetterWriter {
        match &self.dead_letters {
            DeadLetters::Kafka(topic) => self.writer_of(&DeadLetters::Kafka(topic.aside()), place),
            other => self.writer_of(other, place),
        }
    }

    fn writer_of(&self, letters: &DeadLetters, place: Partition) -> LetterWriter {
        LetterWriter::new(
            letters,
            self.name.clone(),
            place.source,
            place.index,
            self.limits.record_bytes_max,
            self.may_be_oversized,
            self.metrics.clone(),
        )
    }
}
