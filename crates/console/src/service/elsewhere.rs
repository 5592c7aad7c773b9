//! Which Kafka cluster and which schema registry a request is about: those of a pipeline file, or
//! those of its addresses; the data directory's own where neither is named.

use super::plans::load;
use super::{Service, unknown};
use crate::protocol::Elsewhere;
use crate::{Error, Result};
use millstream_config::{
    Isolation, KafkaCluster, KafkaFrom, Pipeline as PipelineFile, RegistrySpec, SinkTo, SourceFrom,
};
use millstream_connectors::kafka::{
    Cluster, ClusterOptions, GroupOptions, KafkaSource, KafkaSourceOptions, KafkaTopic,
    OnLostOffset, Topics,
};
use millstream_core::Error as CoreError;
use millstream_engine::{DeadLetters, Registries, SchemaRegistry};
use millstream_registry::client::{Client, Options};
use tokio::runtime::Handle;

/// What one read of a partition brings at most, so that a topic of many is not all in memory.
const READ_BYTES: usize = 256 << 10;
const READ_ROWS: usize = 1_000;

/// Where a topic and its schemas are.
pub struct Where {
    /// None: in the embedded log.
    pub cluster: Option<Cluster>,
    pub registry: SchemaRegistry,
    /// Records of transactions only when they were committed.
    pub committed_only: bool,
}

/// A topic that a file names.
struct Named<'a> {
    topics: Vec<&'a str>,
    pattern: Option<&'a str>,
    /// None: of the embedded log.
    cluster: Option<&'a KafkaCluster>,
    registry: Option<&'a RegistrySpec>,
    committed_only: bool,
}

impl Service {
    /// Where a topic is, and the schemas of its records.
    pub(super) fn place_of_topic(&self, elsewhere: &Elsewhere, topic: &str) -> Result<Where> {
        let Elsewhere { file, brokers, registry } = elsewhere;
        let mut place = Where {
            cluster: None,
            registry: SchemaRegistry::Embedded(self.home().registry.clone()),
            committed_only: true,
        };
        if let Some(file) = file {
            let file = load(file)?;
            let named = named_by(&file);
            let (cluster, spec, committed_only) = choose(&file, &named, topic)?;
            place.committed_only = committed_only;
            if let Some(options) = cluster {
                let cluster = millstream_engine::kafka_cluster(options, &file, &Handle::current());
                place.cluster = Some(cluster?);
            }
            if let Some(spec) = spec {
                place.registry = Registries::default().get(spec, &file)?;
            }
        }
        if !brokers.is_empty() {
            place.cluster = Some(cluster_at(brokers)?);
        }
        if let Some(url) = registry {
            place.registry = registry_at(url)?;
        }
        Ok(place)
    }

    /// The registry that is meant when no topic is.
    pub(super) fn registry_of(&self, elsewhere: &Elsewhere) -> Result<SchemaRegistry> {
        let Elsewhere { file, registry, .. } = elsewhere;
        if let Some(url) = registry {
            return registry_at(url);
        }
        let Some(file) = file else {
            return Ok(SchemaRegistry::Embedded(self.home().registry.clone()));
        };
        let file = load(file)?;
        let specs = registries_of(&file);
        match specs.as_slice() {
            [] => Ok(SchemaRegistry::Embedded(self.home().registry.clone())),
            [first, others @ ..] if others.iter().all(|other| other.url == first.url) => {
                Ok(Registries::default().get(first, &file)?)
            }
            many => {
                let mut urls: Vec<String> = many.iter().map(|spec| spec.url.join(", ")).collect();
                urls.dedup();
                Err(Error::mistake(format!(
                    "{} names several schema registries, {}: say which with --registry",
                    file.file().display(),
                    urls.join(" and ")
                )))
            }
        }
    }

    /// The topic of a file's dead letters; none in the embedded log where no row was one yet.
    pub(super) async fn letters_of_file(&self, file: &PipelineFile) -> Result<Option<DeadLetters>> {
        let name = file.spec.dead_letters_topic();
        match file.spec.dead_letters.as_ref().and_then(|given| given.kafka.as_ref()) {
            Some(options) => {
                let cluster = millstream_engine::kafka_cluster(options, file, &Handle::current())?;
                Ok(Some(DeadLetters::Kafka(KafkaTopic::open(cluster, &name).await?)))
            }
            None => Ok(self.home().log.topic(&name).map(DeadLetters::Log)),
        }
    }

    /// A topic that is not in the embedded log: says how one of Kafka is named.
    pub(super) fn no_topic(&self, name: &str) -> Error {
        let topics = self.home().log.topics();
        let known: Vec<&str> = topics.iter().map(|topic| topic.name()).collect();
        Error::mistake(format!(
            "{}. A topic of Kafka is reached with --file PIPELINE.yaml or --brokers HOST:PORT",
            unknown("topic", name, &known)
        ))
    }
}

/// Whether a topic is one of a cluster. What is wrong with a file is told by those who use it.
pub fn is_on_kafka(elsewhere: &Elsewhere, topic: &str) -> bool {
    let Elsewhere { file, brokers, .. } = elsewhere;
    let by_file = || {
        let file = load(file.as_ref()?).ok()?;
        choose(&file, &named_by(&file), topic).ok()?.0.map(drop)
    };
    !brokers.is_empty() || by_file().is_some()
}

/// Whether a registry elsewhere is meant.
pub fn has_registry(elsewhere: &Elsewhere) -> bool {
    let Elsewhere { file, registry, .. } = elsewhere;
    let by_file = |file| load(file).is_ok_and(|file| !registries_of(&file).is_empty());
    registry.is_some() || file.as_ref().is_some_and(by_file)
}

fn registries_of(file: &PipelineFile) -> Vec<&RegistrySpec> {
    let spec = &file.spec;
    let sinks = (0..spec.sinks.len()).map(|sink| spec.sink_registry(sink));
    let all = [spec.registry.as_ref(), spec.source_registry()].into_iter().chain(sinks);
    let mut specs: Vec<&RegistrySpec> = all.flatten().collect();
    specs.dedup();
    specs
}

/// Reads a topic as a member of no group.
pub async fn read_topic(
    cluster: Cluster,
    topic: &str,
    committed_only: bool,
) -> Result<KafkaSource> {
    let options = KafkaSourceOptions {
        topics: Topics::Named(vec![topic.into()]),
        group: GroupOptions::new(""),
        committed_only,
        on_lost_offset: OnLostOffset::Earliest,
        batch_rows: READ_ROWS,
        batch_bytes: READ_BYTES,
    };
    Ok(KafkaSource::open(cluster, options).await?)
}

fn cluster_at(brokers: &[String]) -> Result<Cluster> {
    let options = ClusterOptions::new(brokers.to_vec(), "millstream");
    Cluster::new(options, Handle::current()).map_err(refused)
}

fn registry_at(url: &str) -> Result<SchemaRegistry> {
    let client = Client::new(Options::new(url)).map_err(refused)?;
    // A name and a password in it are nobody's to read.
    let place = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    };
    Ok(SchemaRegistry::Elsewhere { client, place: place.into(), auto_register: true })
}

fn refused(error: CoreError) -> Error {
    Error::mistake(error.chain())
}

fn named_by(file: &PipelineFile) -> Vec<Named<'_>> {
    let spec = &file.spec;
    let mut named = Vec::new();
    let registry = spec.source_registry();
    match &spec.source.from {
        SourceFrom::Kafka(from) => {
            let KafkaFrom { cluster, topic, topics, pattern, isolation, .. } = &from.kafka;
            named.push(Named {
                topics: topic.iter().chain(topics.iter().flatten()).map(String::as_str).collect(),
                pattern: pattern.as_deref(),
                cluster: Some(cluster),
                registry,
                committed_only: *isolation == Isolation::ReadCommitted,
            });
        }
        SourceFrom::Topic(from) => named.push(embedded(&from.topic, registry)),
        SourceFrom::File(_) => {}
    }
    for (at, sink) in spec.sinks.iter().enumerate() {
        let registry = spec.sink_registry(at);
        match &sink.to {
            SinkTo::Kafka(to) => named.push(Named {
                topics: to.kafka.topic.iter().map(String::as_str).collect(),
                pattern: None,
                cluster: Some(&to.kafka.cluster),
                registry,
                committed_only: true,
            }),
            SinkTo::Topic(to) => named.push(embedded(&to.topic, registry)),
            SinkTo::Table(_)
            | SinkTo::Cql(_)
            | SinkTo::Postgres(_)
            | SinkTo::Mongo(_)
            | SinkTo::Http(_)
            | SinkTo::Files(_)
            | SinkTo::Stdout(_)
            | SinkTo::Discard(_) => {}
        }
    }
    if let Some(dead) = &spec.dead_letters {
        named.push(Named {
            topics: vec![&dead.topic],
            pattern: None,
            cluster: dead.kafka.as_ref(),
            registry,
            committed_only: true,
        });
    }
    named
}

fn embedded<'a>(topic: &'a str, registry: Option<&'a RegistrySpec>) -> Named<'a> {
    Named { topics: vec![topic], pattern: None, cluster: None, registry, committed_only: true }
}

impl Named<'_> {
    fn is(&self, topic: &str) -> bool {
        self.topics.contains(&topic)
            || self.pattern.is_some_and(|pattern| match Topics::matching(pattern) {
                Ok(Topics::Matching(pattern)) => pattern.is_match(topic),
                _ => false,
            })
    }
}

/// The cluster that the file names for this topic, or its only one.
fn choose<'a>(
    file: &PipelineFile,
    named: &[Named<'a>],
    topic: &str,
) -> Result<(Option<&'a KafkaCluster>, Option<&'a RegistrySpec>, bool)> {
    if let Some(found) = named.iter().find(|named| named.is(topic)) {
        return Ok((found.cluster, found.registry, found.committed_only));
    }
    let mut on_kafka = named.iter().filter(|named| named.cluster.is_some());
    let Some(first) = on_kafka.next() else {
        let registry = named.iter().find_map(|named| named.registry);
        return Ok((None, registry, true));
    };
    match on_kafka
        .find(|other| other.cluster.map(|c| &c.brokers) != first.cluster.map(|c| &c.brokers))
    {
        None => Ok((first.cluster, first.registry, first.committed_only)),
        Some(_) => Err(Error::mistake(format!(
            "{} names several Kafka clusters, and `{topic}` on none of them: say which with \
             --brokers HOST:PORT",
            file.file().display()
        ))),
    }
}
