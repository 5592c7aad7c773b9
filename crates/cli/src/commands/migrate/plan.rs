//! What the files ask to have moved: the topics that they name on a cluster and that are here, the
//! schemas, and the pipelines' offsets. Everything that speaks against it is found here, before
//! anything is changed.

use super::left::{Left, left};
use super::record::{Group, Part, Record};
use crate::failure::{Mistake, Result};
use anyhow::anyhow;
use millstream_config::{KafkaCluster, KafkaFrom, Pipeline as PipelineFile, SinkTo, SourceFrom};
use millstream_connectors::Home;
use millstream_connectors::kafka::{Cluster, TopicState};
use millstream_engine::{Registries, SchemaRegistry};
use millstream_log::Topic;
use std::collections::BTreeMap;
use tokio::runtime::Handle;

pub struct Plan {
    pub registries: Vec<SchemaRegistry>,
    pub topics: Vec<TopicMove>,
    pub pipelines: Vec<PipelineMove>,
    pub notes: Vec<String>,
}

pub struct TopicMove {
    pub cluster: Cluster,
    /// Over there.
    pub name: String,
    pub from: Topic,
    /// As it is over there; none when it is to be made.
    pub state: Option<TopicState>,
    pub left: Vec<Left>,
    /// An earlier command began with it.
    pub copied_before: bool,
    /// It is known that nothing is left, and how far that goes.
    pub finished: bool,
}

pub struct PipelineMove {
    pub file: PipelineFile,
    pub source: KafkaFrom,
    pub group: String,
    /// Which of the plan's topics it reads.
    pub topic: usize,
    pub committed: BTreeMap<u32, i64>,
    pub moved_before: bool,
}

impl Plan {
    pub async fn of(
        files: Vec<PipelineFile>,
        home: &Home,
        record: &Record,
        skip: &[String],
    ) -> Result<Plan> {
        let mut plan = Plan {
            registries: Vec::new(),
            topics: Vec::new(),
            pipelines: Vec::new(),
            notes: Vec::new(),
        };
        let mut registries = Registries::default();
        let named: Vec<String> = files.iter().map(|file| file.spec.pipeline.clone()).collect();
        for file in files {
            plan.add_registries(&file, &mut registries)?;
            plan.add_sinks(&file, home, record, skip).await?;
            plan.add_source(file, home, record, skip).await?;
        }
        plan.note_other_readers(home, &named);
        Ok(plan)
    }

    async fn add_source(
        &mut self,
        file: PipelineFile,
        home: &Home,
        record: &Record,
        skip: &[String],
    ) -> Result<()> {
        let name = &file.spec.pipeline;
        let committed = home.tables.offsets().get(name);
        let source = match &file.spec.source.from {
            SourceFrom::Kafka(source) => source.kafka.clone(),
            from => {
                if let SourceFrom::Topic(from) = from
                    && self.topics.is_empty()
                {
                    return Err(reads_here(&file, &from.topic));
                }
                self.notes.push(format!("{name} goes on reading here: its source is not Kafka"));
                return Ok(());
            }
        };
        let topic = match (&source.topic, source.topics.as_deref()) {
            (Some(topic), _) => topic.clone(),
            (None, Some([topic])) => topic.clone(),
            _ => {
                return Err(Mistake::new(format!(
                    "{}: `{name}` reads several topics or a pattern, and had one topic here: name \
                     the one that its offsets are of as `topic`",
                    file.file().display()
                )));
            }
        };
        if skip.contains(&topic) {
            self.notes.push(format!("{name}: `{topic}` is skipped, and so are its offsets"));
            return Ok(());
        }
        let from = match &committed {
            Some(committed) => {
                let id = committed.source.id.strip_prefix("topic:");
                let topics = home.log.topics();
                let found = id.and_then(|id| topics.into_iter().find(|t| t.id().to_string() == id));
                found.ok_or_else(|| {
                    Mistake::new(format!(
                        "`{name}` has offsets of `{}`, which is no topic of this directory: there \
                         is nothing to move; `millstream run` begins with `{topic}` over there",
                        committed.source.name
                    ))
                })?
            }
            None => home.log.topic(&topic).ok_or_else(|| {
                Mistake::new(format!(
                    "neither the pipeline `{name}` nor a topic `{topic}` is in this directory: \
                     name the one that they are in with --data"
                ))
            })?,
        };
        let index = self.add_topic(&source.cluster, &file, &topic, from, home, record).await?;
        let group = source.group.clone().unwrap_or_else(|| name.clone());
        let committed = committed.map(|committed| committed.offsets).unwrap_or_default();
        let state = self.topics[index].state.as_ref();
        let known = state.and_then(|state| record.group(&group, &state.id.to_string()));
        if let Some(Group { committed: before, .. }) = known
            && *before != committed
        {
            return Err(Mistake::new(format!(
                "`{name}` has gone on here since its offsets were given to group `{group}`: let \
                 one of the two go on, and set the group's by `millstream offsets reset {name} \
                 --file {} --to OFFSET --partition N`",
                file.file().display()
            )));
        }
        let moved_before = known.is_some();
        let moved = PipelineMove { file, source, group, topic: index, committed, moved_before };
        self.pipelines.push(moved);
        Ok(())
    }

    /// What is here of the topics that sinks and dead letters name over there.
    async fn add_sinks(
        &mut self,
        file: &PipelineFile,
        home: &Home,
        record: &Record,
        skip: &[String],
    ) -> Result<()> {
        let mut named: Vec<(&KafkaCluster, String)> = Vec::new();
        for sink in &file.spec.sinks {
            if let SinkTo::Kafka(to) = &sink.to
                && let Some(topic) = &to.kafka.topic
            {
                named.push((&to.kafka.cluster, topic.clone()));
            }
        }
        if let Some(dead) = &file.spec.dead_letters
            && let Some(cluster) = &dead.kafka
        {
            named.push((cluster, dead.topic.clone()));
        }
        for (cluster, topic) in named {
            if let Some(from) = home.log.topic(&topic)
                && !skip.contains(&topic)
            {
                self.add_topic(cluster, file, &topic, from, home, record).await?;
            }
        }
        Ok(())
    }

    async fn add_topic(
        &mut self,
        options: &KafkaCluster,
        file: &PipelineFile,
        name: &str,
        from: Topic,
        home: &Home,
        record: &Record,
    ) -> Result<usize> {
        let cluster = millstream_engine::kafka_cluster(options, file, &Handle::current())?;
        let same =
            |known: &TopicMove| known.name == name && known.cluster.brokers() == cluster.brokers();
        if let Some(known) = self.topics.iter().position(same) {
            if self.topics[known].from.id() == from.id() {
                return Ok(known);
            }
            return Err(Mistake::new(format!(
                "two topics of this directory, `{}` and `{}`, are to become `{name}`: give each a \
                 topic of its own",
                self.topics[known].from.name(),
                from.name()
            )));
        }
        if let Some((topic, index, error)) =
            home.log.refused().into_iter().find(|(topic, ..)| **topic == *from.name())
        {
            return Err(anyhow!(error).context(format!("{topic}/{index} cannot be copied")));
        }
        let state = cluster.topic_state(name).await?;
        let there = |sentence: String| {
            Mistake::new(format!("topic `{name}` on {} {sentence}", cluster.brokers()))
        };
        if let Some(state) = &state
            && state.partitions.len() != from.partitions() as usize
        {
            return Err(there(format!(
                "has {} partitions and `{}` has {}: records of one key would change theirs; delete \
                 it, or name another",
                state.partitions.len(),
                from.name(),
                from.partitions()
            )));
        }
        let known = state.as_ref().and_then(|state| record.topic(name, &state.id.to_string()));
        let known = known.filter(|known| known.from == from.id().to_string());
        let mut parts = Vec::new();
        for index in 0..from.partitions() {
            let here = from.partition(index);
            let here = here.map_or(0..0, |here| here.start_offset()..here.end_offset());
            let at = index as usize;
            let end = state.as_ref().map_or((0, 0), |state| state.partitions[at]);
            let known: Option<Part> = known.and_then(|known| known.partitions.get(at).copied());
            let part = left(here, end.0..end.1, known);
            parts.push(part.map_err(|why| there(format!("partition {index} {why}")))?);
        }
        let copied_before = known.is_some();
        let finished = known.is_some_and(|known| {
            let mut each = known.partitions.iter().zip(&parts);
            each.all(|(known, part)| known.upto == Some(part.records.end))
        });
        let (name, left) = (name.to_owned(), parts);
        let moved = TopicMove { cluster, name, from, state, left, copied_before, finished };
        self.topics.push(moved);
        Ok(self.topics.len() - 1)
    }

    fn add_registries(&mut self, file: &PipelineFile, known: &mut Registries) -> Result<()> {
        let spec = &file.spec;
        let sinks = (0..spec.sinks.len()).map(|sink| spec.sink_registry(sink));
        for registry in sinks.chain([spec.source_registry()]).flatten() {
            let registry = known.get(registry, file)?;
            if !self.registries.iter().any(|known| known.place() == registry.place()) {
                self.registries.push(registry);
            }
        }
        Ok(())
    }

    /// Pipelines that go on reading here what is written over there from now on.
    fn note_other_readers(&mut self, home: &Home, named: &[String]) {
        let offsets = home.tables.offsets();
        for name in offsets.pipelines() {
            if named.contains(&name) || !millstream_engine::is_pipeline(&name) {
                continue;
            }
            let Some(source) = offsets.get(&name).map(|committed| committed.source) else {
                continue;
            };
            let reads = |topic: &&TopicMove| source.id == format!("topic:{}", topic.from.id());
            if let Some(topic) = self.topics.iter().find(reads) {
                self.notes.push(format!(
                    "{name} reads `{}` here too: name its new file as well, or it sees nothing of \
                     what is written over there",
                    topic.from.name()
                ));
            }
        }
    }
}

fn reads_here(file: &PipelineFile, topic: &str) -> anyhow::Error {
    Mistake::new(format!(
        "{}: `{}` reads the topic `{topic}` of this directory: name the file that it is to run \
         with from now on, in which\n\n  topic: {topic}\n\nhas become\n\n  kafka: {{ brokers: \
         [HOST:9092], topic: {topic} }}\n",
        file.file().display(),
        file.spec.pipeline
    ))
}
