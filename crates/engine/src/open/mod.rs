//! From a plan to a pipeline that can run: makes the topics and tables it writes, registers its
//! schemas, opens its look-ups, binds its offsets.

mod decoders;
mod lookups;
mod sinks;

pub use decoders::decoder;

use crate::budget::Budget;
use crate::commit::{Committer, ExactlyOnce};
use crate::connectors::cql::Sessions;
use crate::connectors::kafka;
use crate::dead_letters::DeadLetters;
use crate::flow::{Flow, FlowStep, Node};
use crate::gate::Gate;
use crate::metrics::{Metrics, PipelineMetrics};
use crate::pipeline::{Limits, Pipeline};
use crate::plan::{Plan, PlannedStep};
use crate::positions::Positions;
use crate::status::OffsetUnit;
use crate::waits::Waits;
use anyhow::{Context, anyhow};
use decoders::format_name;
use lookups::{cache_bytes, inserts, open_lookup};
use millstream_config::{LookupFrom, Pipeline as PipelineFile, PipelineSpec, SourceFrom, StartAt};
use millstream_connectors::Home;
use millstream_connectors::file::{FileSource, FileSourceOptions, Notes};
use millstream_connectors::kafka::{KafkaTopic, KafkaTransactions, Troubles};
use millstream_connectors::topic::{TopicSource, TopicSourceOptions};
use millstream_core::{Disposition, Error, Lookup, Source, Start, fault};
use millstream_log::TopicOptions;
use millstream_sql::LookupUse;
use sinks::{open_sink, topic};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Opens a planned pipeline. What it makes stays when a later step fails.
pub async fn open(
    plan: Plan,
    file: &PipelineFile,
    home: &Home,
    committer: Committer,
    metrics: &Metrics,
) -> anyhow::Result<Pipeline> {
    let decoder = decoder(&plan);
    let Plan { spec, decoded, positions, steps, sinks, .. } = plan;
    let name: Arc<str> = spec.pipeline.as_str().into();
    let buckets = spec.metrics.buckets.as_deref();
    let metrics = Arc::new(metrics.pipeline(&name, buckets));
    let waits = Arc::new(Waits::default());

    let record_bytes_max = spec.source.max_record_bytes.0 as usize;
    let io = committer.io();
    let transactions =
        kafka::transactions(&spec, file, home, io, &waits.troubles).await?.map(Arc::new);
    let to = Use::Run(transactions.as_ref());
    let OpenedSource { source, topic: source_topic, start } =
        open_source_to(&spec, file, home, io, to, &waits.troubles).await?;

    // A decoder that cannot be made is a mistake of the file, not of a record.
    decoder().context("opening the source's format")?;

    let mut lookups: Vec<(String, _)> = Vec::new();
    for used in steps.iter().flat_map(|step| step.query.lookups()) {
        if !lookups.iter().any(|(name, _)| *name == used.name) {
            lookups.push((used.name.clone(), metrics.lookup_of(&used.name)));
        }
    }
    let outputs = sinks.iter().map(|sink| sink.input).collect();
    let mut stores = Stores { file, home, io, cql: Sessions::default(), read_only: false };
    let flow = open_steps(&spec, steps, outputs, &mut stores, &metrics, &waits).await?;
    let mut ready = Vec::new();
    for (at, sink) in sinks.into_iter().enumerate() {
        let to = &spec.sinks[at].to;
        ready.push(
            open_sink(
                sink,
                to,
                &name,
                &mut stores,
                &waits.troubles,
                &metrics,
                transactions.as_ref(),
            )
            .await?,
        );
    }
    let letters = spec.dead_letters_topic();
    let dead_letters = match spec.dead_letters.as_ref().and_then(|given| given.kafka.as_ref()) {
        Some(options) => {
            let cluster = kafka::watched_cluster(options, file, io, &waits.troubles)?;
            DeadLetters::Kafka(match &transactions {
                Some(transactions) => KafkaTopic::in_transactions(transactions, &letters).await?,
                None => KafkaTopic::open(cluster, &letters).await?,
            })
        }
        None => DeadLetters::Log(topic(home, &letters, TopicOptions::default())?),
    };

    let asked = lookups.iter().filter_map(|(name, _)| match &spec.lookups[name].from {
        LookupFrom::Table(from) => Some(from.table.clone()),
        _ => None,
    });
    let tables_read = asked.collect();
    let consistent = spec.lookups.values().any(|lookup| lookup.consistent || inserts(lookup));
    let pipeline = Pipeline {
        decode_step: format!("decode {}", format_name(&spec.source.format)).into(),
        positions: Positions::new(&decoded, positions),
        offset_unit: match spec.source.from {
            SourceFrom::File(_) => OffsetUnit::Bytes,
            SourceFrom::Topic(_) | SourceFrom::Kafka(_) => OffsetUnit::Records,
        },
        may_be_oversized: matches!(spec.source.from, SourceFrom::File(_)),
        grouped: matches!(spec.source.from, SourceFrom::Kafka(_)),
        commit_interval: spec.commit_interval.0,
        limits: Limits {
            in_flight_batches: if consistent { 1 } else { spec.in_flight.batches as usize },
            in_flight_bytes: spec.in_flight.bytes.0 as usize,
            record_bytes_max,
            max_dead_ratio: spec.max_dead_ratio.0,
        },
        budget: Budget::new(spec.in_flight_bytes.0 as usize),
        workers: spec.parallelism.map(|n| Semaphore::new(n as usize)),
        flow,
        home: home.clone(),
        sinks: ready,
        name,
        source,
        source_topic,
        start,
        decoder,
        lookups,
        tables_read,
        dead_letters,
        committer,
        exactly_once: transactions
            .map(|transactions| ExactlyOnce { gate: Arc::new(Gate::default()), transactions }),
        metrics,
        waits,
    };
    if fault::stores_are_away() {
        return Err(Error::retry("unreachable", "the stores are away").into());
    }
    bind_offsets(&pipeline)?;
    Ok(pipeline)
}

pub struct OpenedSource {
    pub source: Box<dyn Source>,
    /// The topic of the embedded log, when it is one.
    pub topic: Option<Arc<str>>,
    /// Where to begin without a commit.
    pub start: Start,
}

/// To look at, without noting anything.
pub async fn open_source(
    spec: &PipelineSpec,
    file: &PipelineFile,
    home: &Home,
) -> anyhow::Result<OpenedSource> {
    let troubles = Troubles::default();
    open_source_to(spec, file, home, &Handle::current(), Use::Look, &troubles).await
}

/// What a source is opened for.
enum Use<'a> {
    /// Nothing is noted.
    Look,
    /// Its offsets are committed in these transactions, where there are some.
    Run(Option<&'a Arc<KafkaTransactions>>),
}

async fn open_source_to(
    spec: &PipelineSpec,
    file: &PipelineFile,
    home: &Home,
    io: &Handle,
    to: Use<'_>,
    troubles: &Troubles,
) -> anyhow::Result<OpenedSource> {
    let batch_rows = spec.batch.max_rows as usize;
    let batch_bytes = spec.batch.max_bytes.0 as usize;
    let record_bytes_max = spec.source.max_record_bytes.0 as usize;
    let (source, topic, start): (Box<dyn Source>, _, _) = match &spec.source.from {
        SourceFrom::Topic(from) => {
            let topic = home
                .log
                .topic(&from.topic)
                .ok_or_else(|| anyhow!("there is no topic `{}` any more", from.topic))?;
            let start = match from.start {
                StartAt::Earliest => Start::Earliest,
                StartAt::Latest => Start::Latest,
            };
            let options = TopicSourceOptions { batch_rows, batch_bytes };
            let topic_name: Arc<str> = from.topic.as_str().into();
            (Box::new(TopicSource::new(topic, options)), Some(topic_name), start)
        }
        SourceFrom::File(from) => {
            let source = FileSource::open(FileSourceOptions {
                path: file.resolve(&from.file),
                follow: from.follow,
                notes: Some(Notes {
                    path: home.file_notes(&spec.pipeline),
                    read_only: matches!(to, Use::Look),
                }),
                header: from.header,
                line_bytes_max: record_bytes_max,
                batch_rows,
                batch_bytes,
            })
            .map_err(|e| anyhow!(e))?;
            (Box::new(source), None, Start::Earliest)
        }
        SourceFrom::Kafka(from) => {
            let cluster = kafka::watched_cluster(&from.kafka.cluster, file, io, troubles)?;
            let mut source = kafka::source(spec, &from.kafka, cluster).await?;
            if let Use::Run(Some(transactions)) = to {
                source.commit_in(transactions.clone());
            }
            (Box::new(source), None, Start::Earliest)
        }
    };
    Ok(OpenedSource { source, topic, start })
}

/// What the look-ups and sinks of a pipeline are opened with. Connections live on `io`.
pub struct Stores<'a> {
    pub file: &'a PipelineFile,
    pub home: &'a Home,
    pub io: &'a Handle,
    pub cql: Sessions,
    /// Nothing is written to any of them.
    pub read_only: bool,
}

/// The steps with their look-ups opened.
pub async fn open_steps(
    spec: &PipelineSpec,
    steps: Vec<PlannedStep>,
    outputs: Vec<Node>,
    stores: &mut Stores<'_>,
    metrics: &Arc<PipelineMetrics>,
    waits: &Arc<Waits>,
) -> anyhow::Result<Flow> {
    let cache_bytes = cache_bytes(spec, &steps);
    let mut opened = VecDeque::new();
    for used in steps.iter().flat_map(|step| step.query.lookups()) {
        let bytes = cache_bytes.get(&used.name).copied().unwrap_or_default();
        let lookup = &spec.lookups[&used.name];
        opened.push_back(open_lookup(used, lookup, bytes, stores, metrics, waits).await?);
    }
    open_flow(steps, outputs, |used| {
        opened.pop_front().ok_or_else(|| anyhow!("look-up {} was not opened", used.name))
    })
}

/// Binds every step's look-ups, which are asked for in order.
pub fn open_flow(
    steps: Vec<PlannedStep>,
    outputs: Vec<Node>,
    mut lookup: impl FnMut(&LookupUse) -> anyhow::Result<Arc<dyn Lookup>>,
) -> anyhow::Result<Flow> {
    let mut ready = Vec::new();
    for step in steps {
        let bound =
            step.query.lookups().iter().map(&mut lookup).collect::<anyhow::Result<Vec<_>>>()?;
        let bound = step.query.bind(bound)?;
        ready.push(FlowStep { name: step.name, input: step.input, step: bound });
    }
    Ok(Flow { steps: ready, outputs })
}

/// Offsets belong to the pipeline's name; a changed source needs a reset first.
fn bind_offsets(pipeline: &Pipeline) -> anyhow::Result<()> {
    if pipeline.grouped {
        return Ok(());
    }
    let source = pipeline.offsets_source();
    let known =
        pipeline.home.tables.offsets().bind(&pipeline.name, &source).with_context(|| {
            format!(
                "the source of pipeline {} changed; `millstream offsets reset {0} --to earliest \
                 --file FILE` begins anew with this file",
                pipeline.name
            )
        })?;
    if let Some(topic) = &pipeline.source_topic {
        for partition in 0..pipeline.source.partitions() {
            // Retention waits from now on, also for partitions that were never committed.
            let offset = known.offsets.get(&partition).copied().unwrap_or(0);
            pipeline.home.log.set_low_commit(topic, partition, &pipeline.name, offset)?;
        }
    }
    Ok(())
}

/// Whether what kept a pipeline from being opened passes by itself: what it names is away.
pub fn may_pass(error: &anyhow::Error) -> bool {
    let asks = |cause: &Error| cause.disposition() == Disposition::Retry;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(asks)
}
