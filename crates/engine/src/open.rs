//! From a plan to a pipeline that can run: makes the topics and tables it writes, registers its
//! schemas, opens its look-ups, binds its offsets.

use crate::budget::Budget;
use crate::commit::{Committer, ExactlyOnce};
use crate::cql::{self, Sessions};
use crate::dead_letters::DeadLetters;
use crate::flow::{Flow, FlowStep, Node};
use crate::gate::Gate;
use crate::kafka;
use crate::lookups::{CacheOptions, Guarded, KeyColumns, Policy, TableStore};
use crate::metrics::{Metrics, PipelineMetrics};
use crate::mongo;
use crate::pipeline::{Limits, OpenSink, Pipeline, PipelineSink, Target};
use crate::plan::{
    Plan, PlannedSink, PlannedSource, PlannedStep, SinkPlan, TopicSchema, encoder,
    open_file_lookup, schema_of,
};
use crate::positions::Positions;
use crate::postgres;
use crate::references;
use crate::status::OffsetUnit;
use crate::waits::Waits;
use crate::web;
use anyhow::{Context, anyhow, bail};
use millstream_config::{
    ChangesSpec, Compression, DecodeSpec, Framing, LookupFrom, LookupSpec, OnFailure,
    Pipeline as PipelineFile, PipelineSpec, SinkTo, SourceFrom, SourceSpec, StartAt, Tombstones,
};
use millstream_connectors::file::{FileSource, FileSourceOptions, Notes};
use millstream_connectors::kafka as kafka_connector;
use millstream_connectors::kafka::{
    Destinations, KafkaSink, KafkaSinkOptions, KafkaTopic, KafkaTransactions, Troubles,
};
use millstream_connectors::table::{TableSink, TableSinkOptions};
use millstream_connectors::topic::{TopicSink, TopicSinkOptions, TopicSource, TopicSourceOptions};
use millstream_connectors::{DiscardSink, Home};
use millstream_core::{Decoder, Error, Lookup, SchemaKind, Schemas, Source, Start};
use millstream_formats::{avro, csv, json, json_schema, protobuf, text};
use millstream_log::{Codec, Topic, TopicOptions};
use millstream_mongo::MongoCollection;
use millstream_sql::LookupUse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub type DecoderFactory = Box<dyn Fn() -> millstream_core::Result<Box<dyn Decoder>> + Send + Sync>;

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

/// Makes decoders for a plan's source.
pub fn decoder(plan: &Plan) -> DecoderFactory {
    let source = &plan.spec.source;
    let schemas = plan.source.registry.schemas();
    let factory = format_factory(source, &plan.source, schemas, plan.decoded.clone());
    match source.tombstones {
        Tombstones::DeadLetter => factory,
        Tombstones::Skip => {
            Box::new(move || Ok(millstream_formats::skipping_tombstones(factory()?)))
        }
    }
}

fn format_factory(
    source: &SourceSpec,
    planned: &PlannedSource,
    schemas: Arc<dyn Schemas>,
    decoded: arrow_schema::SchemaRef,
) -> DecoderFactory {
    let record_bytes_max = source.max_record_bytes.0 as usize;
    let reader_schema = planned.reader_schema.clone().unwrap_or_default();
    let (references, columns) = (planned.references.clone(), planned.columns.clone());
    match source.format.clone() {
        DecodeSpec::Avro(options) => Box::new(move || {
            let reader_schema = reader_schema.clone();
            Ok(Box::new(avro::AvroDecoder::new(
                avro::AvroOptions {
                    framing: framing(options.framing),
                    writer_schema: (options.framing == Framing::Bare)
                        .then(|| reader_schema.clone()),
                    reader_schema,
                    columns: columns.clone(),
                    record_bytes_max,
                },
                schemas.clone(),
            )?))
        }),
        DecodeSpec::Json(options) => Box::new(move || match &options.columns {
            Some(_) => {
                let options = json::JsonOptions { record_bytes_max };
                Ok(Box::new(json::JsonDecoder::new(decoded.clone(), options)?))
            }
            None => whole_text("value", decoded.clone(), record_bytes_max),
        }),
        DecodeSpec::JsonSchema(options) => Box::new(move || {
            let options = json_schema::JsonSchemaOptions {
                framing: framing(options.framing),
                reader_schema: reader_schema.clone(),
                references: references.clone(),
                columns: columns.clone(),
                record_bytes_max,
            };
            Ok(Box::new(json_schema::JsonSchemaDecoder::new(options, schemas.clone())?))
        }),
        DecodeSpec::Protobuf(options) => Box::new(move || {
            let options = protobuf::ProtobufOptions {
                framing: match options.framing {
                    Framing::Confluent => protobuf::Framing::Confluent,
                    Framing::Bare => protobuf::Framing::Bare,
                },
                reader_schema: reader_schema.clone(),
                references: references.clone(),
                message: options.message.clone(),
                columns: columns.clone(),
                record_bytes_max,
            };
            Ok(Box::new(protobuf::ProtobufDecoder::new(options, schemas.clone())?))
        }),
        DecodeSpec::Csv(options) => Box::new(move || {
            let csv_options = csv::CsvOptions {
                delimiter: options.delimiter.0,
                quote: Some(options.quote.0),
                record_bytes_max,
            };
            Ok(Box::new(csv::CsvDecoder::new(schema_of(&options.columns), csv_options)?))
        }),
        DecodeSpec::Text(options) => Box::new(move || match &options.pattern {
            Some(pattern) => {
                let options = text::TextOptions { record_bytes_max };
                Ok(Box::new(text::TextDecoder::new(pattern, decoded.clone(), options)?))
            }
            None => whole_text("line", decoded.clone(), record_bytes_max),
        }),
    }
}

fn framing(framing: Framing) -> avro::Framing {
    match framing {
        Framing::Confluent => avro::Framing::Confluent,
        Framing::Bare => avro::Framing::Bare,
    }
}

/// The record's text as one column.
fn whole_text(
    column: &str,
    columns: arrow_schema::SchemaRef,
    record_bytes_max: usize,
) -> millstream_core::Result<Box<dyn Decoder>> {
    let pattern = format!("(?s)^(?<{column}>.*)$");
    let options = text::TextOptions { record_bytes_max };
    Ok(Box::new(text::TextDecoder::new(&pattern, columns, options)?))
}

fn format_name(format: &DecodeSpec) -> &'static str {
    match format {
        DecodeSpec::Avro(_) => "avro",
        DecodeSpec::Protobuf(_) => "protobuf",
        DecodeSpec::Json(_) => "json",
        DecodeSpec::JsonSchema(_) => "json_schema",
        DecodeSpec::Csv(_) => "csv",
        DecodeSpec::Text(_) => "text",
    }
}

/// What the caches of a pipeline may hold together, where the file does not say.
const CACHE_BYTES: usize = 64 << 20;

/// How many bytes the cache of each use of a look-up may hold, by the look-up's name: its own bound,
/// divided by its uses, or an even part of the pipeline's.
fn cache_bytes(spec: &PipelineSpec, steps: &[PlannedStep]) -> BTreeMap<String, usize> {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for used in steps.iter().flat_map(|step| step.query.lookups()) {
        if is_cached(&spec.lookups[&used.name]) {
            *uses.entry(&used.name).or_default() += 1;
        }
    }
    let own = |name: &str| spec.lookups[name].cache.max_bytes.as_ref().map(|size| size.0 as usize);
    let sharing: usize =
        uses.iter().filter(|(name, _)| own(name).is_none()).map(|(_, uses)| uses).sum();
    uses.into_iter()
        .map(|(name, uses)| match own(name) {
            Some(bytes) => (name.to_owned(), bytes / uses),
            None => (name.to_owned(), CACHE_BYTES / sharing),
        })
        .collect()
}

fn is_cached(spec: &LookupSpec) -> bool {
    // A file is in memory already.
    let in_memory = matches!(spec.from, LookupFrom::File(_));
    !in_memory && !spec.consistent && !inserts(spec) && spec.cache.max_entries > 0
}

/// Whether what it is asked for is inserted: the earlier batch must be answered before the later asks.
fn inserts(spec: &LookupSpec) -> bool {
    matches!(&spec.from, LookupFrom::Cql(from) if from.cql.insert_if_not_exists)
}

async fn open_lookup(
    used: &LookupUse,
    spec: &LookupSpec,
    cache_bytes: usize,
    stores: &mut Stores<'_>,
    metrics: &Arc<PipelineMetrics>,
    waits: &Arc<Waits>,
) -> anyhow::Result<Arc<dyn Lookup>> {
    let store: Arc<dyn Lookup> = match &spec.from {
        LookupFrom::Table(from) => {
            Arc::new(TableStore::open(&stores.home.tables, &from.table, &used.key)?)
        }
        LookupFrom::File(from) => {
            let path = stores.file.resolve(&from.file);
            Arc::new(open_file_lookup(from, path, &used.key).map_err(|e| anyhow!(e))?)
        }
        LookupFrom::Http(from) => {
            web::http_lookup(&from.http, stores.file, spec.timeout.0, used, stores.io)?
        }
        LookupFrom::Cql(from) => {
            let Stores { file, io, cql, read_only, .. } = stores;
            let cluster = cql.get(&from.cql.cluster, file, io).await.map_err(unreached)?;
            cql::lookup(cluster, &from.cql, spec.timeout.0, used, *read_only).await?
        }
        LookupFrom::Mongo(from) => {
            let from = &from.mongodb;
            let cluster = mongo::connect(&from.cluster, stores.file, stores.io).await;
            let cluster = cluster.map_err(unreached)?;
            mongo::lookup(cluster, &used.name, from, spec.timeout.0, used).await?
        }
        LookupFrom::Postgres(from) => {
            let from = &from.postgres;
            let server = postgres::server(&from.server, spec.timeout.0, stores.file, stores.io);
            postgres::lookup(server, from, used).await?
        }
    };
    let policy = Policy {
        cache: is_cached(spec).then_some(CacheOptions {
            entries_max: spec.cache.max_entries as usize,
            bytes_max: cache_bytes,
            ttl: spec.cache.ttl.0,
            negative_ttl: spec.cache.negative_ttl.0,
            stale: spec.cache.stale.0,
        }),
        dead_letter: spec.on_failure == OnFailure::DeadLetter,
        retries: spec.retries,
        // Of a store that is asked in several requests each has its time.
        timeout: (!matches!(
            spec.from,
            LookupFrom::Cql(_)
                | LookupFrom::Postgres(_)
                | LookupFrom::Mongo(_)
                | LookupFrom::Http(_)
        ))
        .then_some(spec.timeout.0),
    };
    let mut guarded =
        Guarded::new(&used.name, store, &used.key_types, policy, metrics.clone(), waits.clone())?;
    if let Some(changes) = &spec.cache.changes
        && let Some(key) = KeyColumns::of(&used.key, &used.key_types)
    {
        let source = changes_source(changes, stores, waits).await?;
        guarded.follow(source, key, stores.io);
    }
    Ok(Arc::new(guarded))
}

/// What tells a look-up's cache which rows changed. It is read, and nothing is committed.
async fn changes_source(
    changes: &ChangesSpec,
    stores: &Stores<'_>,
    waits: &Waits,
) -> anyhow::Result<Arc<dyn Source>> {
    let Stores { file, home, io, .. } = stores;
    if let Some(cluster) = &changes.kafka {
        let cluster = kafka::watched_cluster(cluster, file, io, &waits.troubles)?;
        return Ok(Arc::new(kafka::topic(&changes.topic, cluster).await?));
    }
    let topic = home
        .log
        .topic(&changes.topic)
        .ok_or_else(|| anyhow!("there is no topic `{}` any more", changes.topic))?;
    let options = TopicSourceOptions { batch_rows: 1024, batch_bytes: 1 << 20 };
    Ok(Arc::new(TopicSource::new(topic, options)))
}

async fn open_sink(
    planned: PlannedSink,
    to: &SinkTo,
    pipeline: &str,
    stores: &mut Stores<'_>,
    troubles: &Troubles,
    metrics: &PipelineMetrics,
    transactions: Option<&Arc<KafkaTransactions>>,
) -> anyhow::Result<PipelineSink> {
    let Stores { file, home, io, cql, .. } = stores;
    let name = planned.name.clone();
    let (rows, bytes, seconds) = metrics.sink(&name);
    let target = match to {
        SinkTo::Topic(to) => Target::Topic(to.topic.clone()),
        SinkTo::Table(to) => Target::Table(to.table.clone()),
        SinkTo::Kafka(_)
        | SinkTo::Cql(_)
        | SinkTo::Postgres(_)
        | SinkTo::Mongo(_)
        | SinkTo::Http(_)
        | SinkTo::Files(_)
        | SinkTo::Stdout(_)
        | SinkTo::Discard(_) => Target::Other,
    };
    let mut aside = None;
    let open: OpenSink = match (planned.to, to) {
        (SinkPlan::Table(spec), SinkTo::Table(to)) => {
            let (tables, name) = (home.tables.clone(), spec.name.clone());
            tables.create_table(spec)?;
            let ttl = to.ttl.map(|p| p.0);
            let timestamp = to.timestamp.clone();
            // Each task opens it anew: a handle from before the tables were reopened is over.
            Box::new(move || {
                let table = tables.table(&name).ok_or_else(|| {
                    Error::stop(
                        "no_table",
                        format!("there is no table `{name}` any more; start again to make it"),
                    )
                })?;
                Ok(Box::new(TableSink::new(TableSinkOptions {
                    table,
                    ttl,
                    timestamp: timestamp.clone(),
                })))
            })
        }
        (SinkPlan::Topic { partitions, schema, .. }, SinkTo::Topic(to)) => {
            let retention = to.retention.clone().unwrap_or_default();
            let options = TopicOptions {
                partitions,
                codec: codec(to.compression),
                retention_ms: retention.time.map(|p| p.0.as_millis() as u64),
                retention_bytes: retention.bytes.map(|b| b.0),
                hard: retention.hard,
                ..TopicOptions::default()
            };
            let topic = topic(home, &to.topic, options)?;
            let id = registered(schema.as_ref()).await?;
            let columns = kafka::topic_columns(to);
            let input = columns.value_schema(&planned.schema);
            Box::new(move || {
                Ok(Box::new(TopicSink::new(TopicSinkOptions {
                    topic: topic.clone(),
                    encoder: encoder(schema.as_ref(), id, input.clone())?,
                    columns: columns.clone(),
                })))
            })
        }
        (SinkPlan::Kafka { schema, .. }, SinkTo::Kafka(to)) => {
            let cluster = kafka::watched_cluster(&to.kafka.cluster, file, io, troubles)?;
            let destinations = Destinations::new(cluster.clone());
            let target = kafka::target(to);
            if let kafka_connector::Target::Topic(topic) = &target {
                destinations.check(topic).await?;
            }
            let id = registered(schema.as_ref()).await?;
            let (codec, columns) = (codec(to.compression), kafka::columns(to));
            let input = columns.value_schema(&planned.schema);
            let options = move || {
                Ok::<_, Error>(KafkaSinkOptions {
                    target: target.clone(),
                    columns: columns.clone(),
                    codec,
                    encoder: encoder(schema.as_ref(), id, input.clone())?,
                })
            };
            let options = Arc::new(options);
            let alone: OpenSink = Box::new({
                let options = options.clone();
                move || {
                    Ok(Box::new(KafkaSink::new(options()?, cluster.clone(), destinations.clone())))
                }
            });
            match transactions.cloned() {
                None => alone,
                Some(transactions) => {
                    aside = Some(alone);
                    Box::new(move || {
                        Ok(Box::new(KafkaSink::in_transactions(options()?, &transactions)))
                    })
                }
            }
        }
        (SinkPlan::Cql { .. }, SinkTo::Cql(to)) => {
            let cluster = cql.get(&to.cql.cluster, file, io).await.map_err(unreached)?;
            let table = cql::table(cluster, &to.cql, &planned.schema).await.map_err(unreached)?;
            Box::new(move || Ok(table.sink()))
        }
        (SinkPlan::Outside { .. }, SinkTo::Http(to)) => {
            let names = (pipeline, &*name);
            let target = web::http_sink(&to.http, file, names, &planned.schema, io);
            let target = target.map_err(unreached)?;
            Box::new(move || target.sink())
        }
        (SinkPlan::Outside { .. }, SinkTo::Files(to)) => {
            let names = (pipeline, &*name);
            let files =
                web::files(&to.files, file, names, planned.schema, io).map_err(unreached)?;
            Box::new(move || files.sink())
        }
        (SinkPlan::Outside { .. }, SinkTo::Stdout(to)) => {
            let (shown, columns) = (to.stdout, planned.schema);
            Box::new(move || web::stdout(shown, columns.clone()))
        }
        (SinkPlan::Outside { .. }, SinkTo::Mongo(to)) => {
            let options = mongo::options(&to.mongodb).map_err(|why| anyhow!(why))?;
            let cluster = mongo::connect(&to.mongodb.cluster, file, io).await.map_err(unreached)?;
            let collection = MongoCollection::open(cluster, options, &planned.schema);
            let collection = collection.map_err(unreached)?;
            // What cannot be asked now does not keep rows from being stored.
            for finding in collection.findings().await.unwrap_or_default() {
                tracing::warn!("sink {name}: {finding}");
            }
            Box::new(move || Ok(collection.sink()))
        }
        (SinkPlan::Postgres { .. }, SinkTo::Postgres(to)) => {
            let to = &to.postgres;
            let server = postgres::server(&to.server, to.timeout.0, file, io);
            let options = postgres::options(to, &file.spec.pipeline, &name);
            let table = postgres::table(server, options, &planned.schema).await;
            let table = table.map_err(unreached)?;
            Box::new(move || Ok(table.sink()))
        }
        (SinkPlan::Discard, _) => Box::new(|| Ok(Box::new(DiscardSink))),
        _ => bail!("the plan of sink {name} does not fit its file"),
    };
    Ok(PipelineSink { name, target, open, aside, rows, bytes, seconds })
}

fn unreached(error: Error) -> anyhow::Error {
    anyhow!(error.chain())
}

/// The id of a sink's schema.
async fn registered(schema: Option<&TopicSchema>) -> anyhow::Result<Option<u32>> {
    let Some(TopicSchema { kind, registry, subject, text, is_there, .. }) = schema else {
        return Ok(None);
    };
    if !is_there {
        return Ok(Some(registry.register(subject, *kind, text).await?));
    }
    let latest = registry.latest(subject).await?.filter(|latest| latest.kind == *kind);
    let whole = match &latest {
        Some(latest) if *kind == SchemaKind::Avro => Some(references::inline(latest)?),
        Some(latest) => Some(latest.text.to_string()),
        None => None,
    };
    if whole.as_ref() != Some(text) {
        bail!("the newest schema of subject {subject} has just changed; start again");
    }
    Ok(latest.map(|latest| latest.id))
}

fn topic(home: &Home, name: &str, options: TopicOptions) -> anyhow::Result<Topic> {
    match home.log.topic(name) {
        Some(topic) => Ok(topic),
        None => {
            home.log.create_topic(name, options).with_context(|| format!("making topic {name}"))
        }
    }
}

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::None => Codec::None,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
        Compression::Snappy => Codec::Snappy,
        Compression::Gzip => Codec::Gzip,
    }
}
