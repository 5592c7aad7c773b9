//! Sinks, with the topics, tables and schemas that they need.

use super::Stores;
use crate::connectors::cql;
use crate::connectors::kafka;
use crate::connectors::mongo;
use crate::connectors::postgres;
use crate::connectors::web;
use crate::metrics::PipelineMetrics;
use crate::pipeline::{OpenSink, PipelineSink, Target};
use crate::plan::{PlannedSink, SinkPlan, TopicSchema, encoder};
use crate::references;
use anyhow::{Context, anyhow, bail};
use millstream_config::{Compression, SinkTo};
use millstream_connectors::kafka as kafka_connector;
use millstream_connectors::kafka::{
    Destinations, KafkaSink, KafkaSinkOptions, KafkaTransactions, Troubles,
};
use millstream_connectors::table::{TableSink, TableSinkOptions};
use millstream_connectors::topic::{TopicSink, TopicSinkOptions};
use millstream_connectors::{DiscardSink, Home};
use millstream_core::{Error, SchemaKind};
use millstream_log::{Codec, Topic, TopicOptions};
use millstream_mongo::MongoCollection;
use std::sync::Arc;

pub(super) async fn open_sink(
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
            let cluster = cql.get(&to.cql.cluster, file, io).await?;
            let table = cql::table(cluster, &to.cql, &planned.schema).await?;
            Box::new(move || Ok(table.sink()))
        }
        (SinkPlan::Outside { .. }, SinkTo::Http(to)) => {
            let names = (pipeline, &*name);
            let target = web::http_sink(&to.http, file, names, &planned.schema, io);
            let target = target?;
            Box::new(move || target.sink())
        }
        (SinkPlan::Outside { .. }, SinkTo::Files(to)) => {
            let names = (pipeline, &*name);
            let files = web::files(&to.files, file, names, planned.schema, io)?;
            Box::new(move || files.sink())
        }
        (SinkPlan::Outside { .. }, SinkTo::Stdout(to)) => {
            let (shown, columns) = (to.stdout, planned.schema);
            Box::new(move || web::stdout(shown, columns.clone()))
        }
        (SinkPlan::Outside { .. }, SinkTo::Mongo(to)) => {
            let options = mongo::options(&to.mongodb).map_err(|why| anyhow!(why))?;
            let cluster = mongo::connect(&to.mongodb.cluster, file, io).await?;
            let collection = MongoCollection::open(cluster, options, &planned.schema);
            let collection = collection?;
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
            let table = table?;
            Box::new(move || Ok(table.sink()))
        }
        (SinkPlan::Discard, _) => Box::new(|| Ok(Box::new(DiscardSink))),
        _ => bail!("the plan of sink {name} does not fit its file"),
    };
    Ok(PipelineSink { name, target, open, aside, rows, bytes, seconds })
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

pub(super) fn topic(home: &Home, name: &str, options: TopicOptions) -> anyhow::Result<Topic> {
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
