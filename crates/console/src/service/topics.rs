//! Topics: what there is, making and deleting them, reading them whole.

use super::{Reply, Service, blocking, end, nothing};
use crate::answers;
use crate::{Error, Result};
use millstream_engine::Target;
use millstream_log::{Codec, Topic, TopicOptions};
use serde_json::Value;

pub fn options(
    partitions: u32,
    codec: &str,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    hard: bool,
) -> Result<TopicOptions> {
    let codec = serde_json::from_value::<Codec>(Value::String(codec.to_owned())).map_err(|_| {
        Error::mistake(format!(
            "there is no codec `{codec}`; there is none, lz4, zstd, snappy, gzip"
        ))
    })?;
    Ok(TopicOptions {
        partitions,
        codec,
        retention_ms,
        retention_bytes,
        hard,
        ..TopicOptions::default()
    })
}

impl Service {
    pub async fn topics(&self, reply: Reply) -> Result<Value> {
        for topic in self.home().log.topics() {
            reply.row(row(&topic)).await?;
        }
        nothing()
    }

    pub async fn describe_topic(&self, name: &str, reply: Reply) -> Result<Value> {
        let topic = self.topic(name)?;
        for partition in partitions(&topic) {
            reply.row(partition).await?;
        }
        end(row(&topic))
    }

    pub async fn create_topic(&self, name: String, options: TopicOptions) -> Result<Value> {
        let log = self.home().log.clone();
        let topic = blocking(move || Ok(log.create_topic(&name, options)?)).await?;
        end(row(&topic))
    }

    pub async fn delete_topic(&self, name: String) -> Result<Value> {
        let topic = self.topic(&name)?;
        self.refuse_in_use(&name)?;
        let deleted = answers::DeletedTopic {
            topic: name.clone(),
            records: row(&topic).records,
            pipelines: self.pipelines_on(&topic),
        };
        let log = self.home().log.clone();
        blocking(move || Ok(log.delete_topic(&name)?)).await?;
        end(deleted)
    }

    /// The pipelines that have offsets in a topic.
    fn pipelines_on(&self, topic: &Topic) -> Vec<String> {
        let id = format!("topic:{}", topic.id());
        let offsets = self.home().tables.offsets();
        let mut names = offsets.pipelines();
        names.retain(|name| {
            millstream_engine::is_pipeline(name)
                && offsets.get(name).is_some_and(|known| known.source.id == id)
        });
        names
    }

    pub async fn verify_topics(&self, name: Option<String>, reply: Reply) -> Result<Value> {
        let log = self.home().log.clone();
        let topics: Vec<String> = match name {
            Some(name) => vec![self.topic(&name)?.name().to_owned()],
            None => log.topics().iter().map(|topic| topic.name().to_owned()).collect(),
        };
        blocking(move || {
            for topic in topics {
                for partition in log.verify(&topic)?.partitions {
                    reply.row_blocking(answers::Verified {
                        topic: topic.clone(),
                        partition: partition.partition,
                        start: partition.start_offset,
                        end: partition.end_offset,
                        segments: partition.segments,
                        batches: partition.batches,
                        records: partition.records,
                        bytes: partition.bytes,
                        damage: partition.damage.iter().map(ToString::to_string).collect(),
                    })?;
                }
            }
            Ok(())
        })
        .await?;
        nothing()
    }

    /// A running pipeline would find its topic gone and hold.
    fn refuse_in_use(&self, topic: &str) -> Result<()> {
        match self.pipeline_using(topic) {
            Some(pipeline) => Err(Error::mistake(format!(
                "the pipeline `{pipeline}` uses the topic `{topic}`: stop it before deleting the \
                 topic"
            ))),
            None => Ok(()),
        }
    }

    /// A running pipeline that reads or writes a topic.
    pub fn pipeline_using(&self, topic: &str) -> Option<String> {
        let engine = self.0.engine.as_ref()?;
        let uses = |name: &str| {
            engine.pipeline(name).is_some_and(|pipeline| {
                pipeline.dead_letters.name() == topic
                    || pipeline.writes(&Target::Topic(topic.to_owned()))
            })
        };
        let mut reports = engine.reports().into_iter();
        let using = reports.find(|report| report.source == topic || uses(&report.name))?;
        Some(using.name)
    }
}

pub(super) fn no_partition(topic: &Topic, partition: u32) -> Error {
    let there = millstream_engine::partitions_of(topic.name(), topic.partitions());
    Error::mistake(format!("{there}, not {partition}"))
}

fn row(topic: &Topic) -> answers::Topic {
    let options = topic.options();
    let partitions = partitions(topic);
    answers::Topic {
        name: topic.name().to_owned(),
        id: topic.id().to_string(),
        partitions: topic.partitions(),
        records: partitions.iter().map(|partition| partition.records).sum(),
        bytes: topic.bytes(),
        codec: match serde_json::to_value(options.codec) {
            Ok(Value::String(codec)) => codec,
            _ => format!("{:?}", options.codec),
        },
        retention_ms: options.retention_ms,
        retention_bytes: options.retention_bytes,
        hard: options.hard,
        refused: partitions.iter().filter(|partition| partition.refused.is_some()).count() as u32,
    }
}

fn partitions(topic: &Topic) -> Vec<answers::Partition> {
    (0..topic.partitions())
        .filter_map(|index| topic.partition(index))
        .map(|partition| {
            let (start, end) = (partition.start_offset(), partition.end_offset());
            answers::Partition {
                partition: partition.index(),
                start,
                end,
                records: end - start,
                bytes: partition.bytes(),
                refused: partition.refused().map(|error| Error::from(error.clone()).message),
            }
        })
        .collect()
}
