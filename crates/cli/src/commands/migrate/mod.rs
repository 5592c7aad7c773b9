//! `millstream migrate`: topics, schemas and offsets of a stopped directory to Kafka and a registry
//! elsewhere.

mod left;
mod plan;
mod record;

use crate::cli::Global;
use crate::failure::{Mistake, Result};
use crate::output::{self, JsonArg, Table};
use crate::session;
use anyhow::Context;
use clap::Args;
use millstream_config::{Pipeline as PipelineFile, ProcessEnv};
use millstream_connectors::kafka::{self, Span};
use millstream_connectors::{Home, HomeOptions};
use millstream_console::Client;
use millstream_core::Source;
use millstream_engine::SchemaRegistry;
use plan::{PipelineMove, Plan, TopicMove};
use record::{Group, Part, Record, Topic};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often a copy says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// Copy topics, schemas and offsets of a stopped directory to Kafka
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream migrate enrich.yaml\n\nThe files are those that the pipelines are to run with from now on, under the same names: what they\nread and write on Kafka and is a topic of this directory is copied there, with its schemas when\nthey name a registry; then the group is given the pipeline's offsets. Nothing is removed here.\nInterrupted, the same command goes on."
)]
pub struct MigrateArgs {
    /// The new pipeline files, which read or write Kafka
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Replicas of topics that are made; as many as the cluster makes by itself unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: Option<u16>,
    /// A topic to leave as it is over there; may be given several times
    #[arg(long, value_name = "TOPIC")]
    skip: Vec<String>,
    #[command(flatten)]
    json: JsonArg,
}

impl MigrateArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let files = millstream_config::load_many(&self.files, &ProcessEnv)?;
        let dir = &global.data;
        millstream_console::check_directory(dir)?;
        if !dir.join("log/format").exists() {
            return Err(Mistake::new(format!(
                "nothing has been kept in {} yet: name the data directory with --data",
                dir.display()
            )));
        }
        let runtime = session::runtime()?;
        if runtime.block_on(Client::connect(dir)).is_ok() {
            return Err(Mistake::new(format!(
                "a process runs on {}: stop it first, so that nothing comes in while its topics are \
                 copied",
                dir.display()
            )));
        }
        let home = Home::open(dir, HomeOptions::default())
            .map_err(|error| millstream_console::opening(dir, error))?;
        let result = runtime.block_on(self.migrate(files, &home));
        home.log.close();
        result
    }

    async fn migrate(&self, files: Vec<PipelineFile>, home: &Home) -> Result<()> {
        let mut record = Record::open(&home.dir)?;
        let plan = Plan::of(files, home, &record, &self.skip).await?;
        let schemas = self.schemas(&plan.registries, home).await?;
        let mut topics = Vec::new();
        let mut ids = Vec::new();
        for topic in &plan.topics {
            let (id, told) = self.topic(topic, &mut record).await?;
            ids.push(id);
            topics.push(told);
        }
        let mut pipelines = Vec::new();
        for pipeline in &plan.pipelines {
            let topic = &plan.topics[pipeline.topic];
            pipelines.push(self.offsets(pipeline, topic, &ids[pipeline.topic], &mut record).await?);
        }
        if self.json.json {
            return output::json(&json!({
                "dry_run": self.dry_run,
                "schemas": schemas,
                "topics": topics,
                "pipelines": pipelines,
                "notes": plan.notes,
            }));
        }
        self.say(&plan, &schemas, &topics, &pipelines)
    }

    /// Before the records: whoever reads them first finds their schemas.
    async fn schemas(&self, registries: &[SchemaRegistry], home: &Home) -> Result<Vec<Value>> {
        let mut told = Vec::new();
        for registry in registries {
            let SchemaRegistry::Elsewhere { client, place, .. } = registry else { continue };
            let doing = || format!("copying schemas to {place}");
            let found = client.missing_of(&home.registry).await;
            let found = found.map_err(|error| match error.kind() {
                "schema_conflict" => Mistake::new(format!("{}: {}", doing(), error.chain())),
                _ => anyhow::Error::new(error).context(doing()),
            })?;
            if !self.dry_run {
                client.import(&home.registry, &found.missing).await.with_context(doing)?;
            }
            let copied = found.missing.len();
            told.push(json!({"registry": &**place, "copied": copied, "there": found.there}));
        }
        Ok(told)
    }

    /// The topic's id over there, and what was done.
    async fn topic(&self, topic: &TopicMove, record: &mut Record) -> Result<(String, Value)> {
        let TopicMove { cluster, name, from, left, .. } = topic;
        let records: i64 = left.iter().map(|part| part.records.end - part.records.start).sum();
        let told = json!({
            "topic": name,
            "from": from.name(),
            "brokers": cluster.brokers(),
            "partitions": from.partitions(),
            "created": topic.state.is_none(),
            "copied": records,
            "continued": topic.copied_before,
            "offsets": match left.iter().all(|part| part.base == 0) {
                true => "same",
                false => "shifted",
            },
        });
        let id = topic.state.as_ref().map(|state| state.id.to_string()).unwrap_or_default();
        if self.dry_run {
            return Ok((id, told));
        }
        let id = match &topic.state {
            Some(_) => id,
            None => {
                // Records may be older than what a cluster keeps by default, which counts from their
                // own times: whoever is behind must find them.
                let settings = [
                    ("cleanup.policy", "delete".to_owned()),
                    ("retention.ms", "-1".to_owned()),
                    ("retention.bytes", "-1".to_owned()),
                    ("message.timestamp.type", "CreateTime".to_owned()),
                ];
                let replicas = self.replicas;
                let made =
                    cluster.create_topic(name, from.partitions(), replicas, &settings).await?;
                made.id.to_string()
            }
        };
        let part = |upto: bool| {
            let parts = left.iter();
            let part = parts
                .map(move |left| Part { base: left.base, upto: upto.then_some(left.records.end) });
            part.collect::<Vec<_>>()
        };
        let of = |partitions| Topic {
            name: name.clone(),
            id: id.clone(),
            from: from.id().to_string(),
            partitions,
        };
        if !topic.finished {
            record.set_topic(of(part(false)))?;
            self.copy(topic, records as u64).await?;
            self.check_ends(topic).await?;
            record.set_topic(of(part(true)))?;
        }
        Ok((id, told))
    }

    async fn copy(&self, topic: &TopicMove, records: u64) -> Result<()> {
        let spans = topic.left.iter().enumerate().filter_map(|(index, left)| {
            let log = topic.from.partition(index as u32)?;
            Some(Span { log, from: left.records.start, upto: left.records.end })
        });
        let done = AtomicU64::new(0);
        let copied = |records| {
            done.fetch_add(records, Ordering::Relaxed);
        };
        let copy = kafka::copy(topic.cluster.clone(), &topic.name, spans.collect(), &copied);
        tokio::pin!(copy);
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        tick.tick().await;
        loop {
            tokio::select! {
                copied = &mut copy => return Ok(copied?),
                _ = tick.tick() => output::note(format!(
                    "{}: {} of {} records",
                    topic.name,
                    output::count(done.load(Ordering::Relaxed)),
                    output::count(records)
                )),
            }
        }
    }

    /// Offsets are only right when nobody else has written meanwhile.
    async fn check_ends(&self, topic: &TopicMove) -> Result<()> {
        let TopicMove { cluster, name, left, .. } = topic;
        let state = cluster.topic_state(name).await?;
        let ends = state.map(|state| state.partitions).unwrap_or_default();
        for (index, part) in left.iter().enumerate() {
            let (end, due) = (ends.get(index).map(|end| end.1), part.records.end - part.base);
            if end != Some(due) {
                return Err(Mistake::new(format!(
                    "partition {index} of topic `{name}` on {} ends at {} and not at {due}: \
                     somebody else writes to it; stop that, delete the topic and begin again",
                    cluster.brokers(),
                    end.map_or_else(|| "nothing".to_owned(), |end| end.to_string())
                )));
            }
        }
        Ok(())
    }

    async fn offsets(
        &self,
        pipeline: &PipelineMove,
        topic: &TopicMove,
        id: &str,
        record: &mut Record,
    ) -> Result<Value> {
        let PipelineMove { file, source, group, committed, .. } = pipeline;
        let name = &file.spec.pipeline;
        let mut offsets = Vec::new();
        for (index, left) in topic.left.iter().enumerate() {
            let index = index as u32;
            let start = topic.from.partition(index).map_or(0, |log| log.start_offset());
            // Not a record that it has not seen is passed over, wherever the file says to begin.
            let next = committed.get(&index).copied().unwrap_or(start).max(start);
            offsets.push((index, next - left.base));
        }
        let set = !committed.is_empty() && !pipeline.moved_before;
        if set && !self.dry_run {
            let doing = || format!("giving group `{group}` the offsets of `{name}`");
            let cluster = topic.cluster.clone();
            let source = millstream_engine::kafka_source(&file.spec, source, cluster);
            let source = source.await.with_context(doing)?;
            source.set_offsets(&offsets).await.with_context(doing)?;
            record.set_group(Group {
                name: group.clone(),
                pipeline: name.clone(),
                topic: id.to_owned(),
                committed: committed.clone(),
            })?;
        }
        let offsets: Vec<Value> = match committed.is_empty() {
            true => Vec::new(),
            false => {
                let row = |(partition, offset): &(u32, i64)| json!({"partition": partition, "offset": offset});
                offsets.iter().map(row).collect()
            }
        };
        Ok(json!({
            "pipeline": name,
            "group": group,
            "topic": topic.name,
            "file": file.file(),
            "set": set,
            "offsets": offsets,
        }))
    }

    fn say(
        &self,
        plan: &Plan,
        schemas: &[Value],
        topics: &[Value],
        pipelines: &[Value],
    ) -> Result<()> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let number = |value: &Value| output::count(value.as_u64().unwrap_or_default());
        let mut table = Table::new(
            &["TOPIC", "FROM", ">PARTITIONS", ">COPIED", "OFFSETS", "TOPIC WAS"],
            "No topic of this directory is named over there.",
        );
        for topic in topics {
            table.row([
                word(&topic["topic"]),
                word(&topic["from"]),
                number(&topic["partitions"]),
                number(&topic["copied"]),
                match word(&topic["offsets"]).as_str() {
                    "same" => "as here".to_owned(),
                    _ => "counted from the first record kept".to_owned(),
                },
                match (&topic["created"], &topic["continued"]) {
                    (Value::Bool(true), _) if self.dry_run => "not there yet",
                    (Value::Bool(true), _) => "made",
                    (_, Value::Bool(true)) => "copied before",
                    _ => "there, empty",
                }
                .to_owned(),
            ]);
        }
        table.print()?;
        for registry in schemas {
            let copied = output::counted(registry["copied"].as_u64().unwrap_or_default(), "schema");
            let (place, there) = (word(&registry["registry"]), number(&registry["there"]));
            output::line(format!("{copied} copied to {place}, {there} there already"))?;
        }
        if schemas.is_empty() {
            output::line("No file names a registry: schemas stay in this directory.")?;
        }
        for pipeline in pipelines {
            let (name, group) = (word(&pipeline["pipeline"]), word(&pipeline["group"]));
            let none = pipeline["offsets"].as_array().is_none_or(Vec::is_empty);
            output::line(match (none, pipeline["set"].as_bool()) {
                (true, _) => format!("{name} had committed nothing: it begins as its file says"),
                (_, Some(true)) => format!("{name} goes on where it was, as group {group}"),
                _ => format!("{name}: group {group} was given its offsets before"),
            })?;
        }
        for note in &plan.notes {
            output::line(format!("Note: {note}."))?;
        }
        if self.dry_run {
            return output::line("Nothing was done: this was --dry-run.");
        }
        let made = plan.topics.iter().filter(|topic| topic.state.is_none());
        let made: Vec<&str> = made.map(|topic| topic.name.as_str()).collect();
        if !made.is_empty() {
            output::line(format!(
                "Topics that were made keep everything: set `retention.ms` of {} when their readers \
                 have caught up.",
                made.join(", ")
            ))?;
        }
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        output::line(format!("Next: millstream run {}", files.join(" ")))
    }
}
