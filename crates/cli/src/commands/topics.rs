//! `millstream topics`: what the log holds.

use crate::cli::Global;
use crate::failure::{Mistake, Result, Said};
use crate::output::{self, JsonArg, Table};
use crate::session::{self, Session};
use crate::words;
use clap::{Args, Subcommand, ValueEnum};
use millstream_console::Request;
use millstream_console::answers::{DeletedTopic, Partition, Topic, Verified};

/// List, create, describe, delete and verify topics
#[derive(Debug, Args)]
pub struct TopicsArgs {
    #[command(subcommand)]
    command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// List all topics
    #[command(after_help = "Example:\n  millstream topics list --json")]
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Create a topic
    #[command(
        after_help = "Example:\n  millstream topics create navigation --partitions 20 --retention 7d"
    )]
    Create(CreateArgs),
    /// Show a topic's partitions
    #[command(after_help = "Example:\n  millstream topics describe navigation")]
    Describe {
        /// The topic's name
        topic: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Delete a topic with all its records
    #[command(after_help = "Example:\n  millstream topics delete navigation --yes")]
    Delete {
        /// The topic's name
        topic: String,
        /// Delete it, records and all
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Read everything and say what is not as it was written
    #[command(
        after_help = "Example:\n  millstream topics verify navigation\n\nThe exit code is 1 when something is damaged."
    )]
    Verify {
        /// The topic's name; all of them unless given
        topic: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The topic's name
    topic: String,
    /// How many partitions
    #[arg(long, value_name = "N", default_value_t = 1)]
    partitions: u32,
    /// How writers compress batches
    #[arg(long, value_enum, default_value = "none")]
    compression: Compression,
    /// Delete records so long after they were appended
    #[arg(long, value_name = "TIME", value_parser = words::duration_ms)]
    retention: Option<u64>,
    /// Delete the oldest records of a partition above this size
    #[arg(long, value_name = "SIZE", value_parser = words::size_bytes)]
    retention_bytes: Option<u64>,
    /// Delete even what a known pipeline has not read yet
    #[arg(long)]
    hard: bool,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compression {
    None,
    Lz4,
    Zstd,
    Snappy,
    Gzip,
}

impl TopicsArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        match self.command {
            TopicsCommand::List { json } => list(global, json),
            TopicsCommand::Create(args) => create(global, args),
            TopicsCommand::Describe { topic, json } => describe(global, topic, json),
            TopicsCommand::Delete { topic, yes, json } => delete(global, topic, yes, json),
            TopicsCommand::Verify { topic, json } => verify(global, topic, json),
        }
    }
}

fn list(global: &Global, json: JsonArg) -> Result<()> {
    let topics: Vec<Topic> = session::rows(global, &Request::Topics)?;
    if json.json {
        return output::json(&topics);
    }
    let mut table = Table::new(
        &["TOPIC", ">PARTITIONS", ">RECORDS", ">BYTES", "CODEC", "RETENTION", "STATE"],
        "There are no topics yet: `millstream topics create NAME` makes one.",
    );
    for topic in topics {
        let retention = retention(&topic);
        table.row([
            topic.name,
            topic.partitions.to_string(),
            output::count(topic.records),
            output::bytes(topic.bytes),
            topic.codec,
            retention,
            match topic.refused {
                0 => "ok".into(),
                refused => format!("{refused} damaged"),
            },
        ]);
    }
    table.print()
}

fn create(global: &Global, args: CreateArgs) -> Result<()> {
    let request = Request::CreateTopic {
        topic: args.topic,
        partitions: args.partitions,
        codec: args
            .compression
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default(),
        retention_ms: args.retention,
        retention_bytes: args.retention_bytes,
        hard: args.hard,
    };
    let topic: Topic = session::end(global, &request)?;
    if args.json.json {
        return output::json(&serde_json::json!({"created": true, "topic": topic}));
    }
    output::line(format!(
        "created {} with {}",
        topic.name,
        output::counted(topic.partitions.into(), "partition")
    ))
}

fn describe(global: &Global, topic: String, json: JsonArg) -> Result<()> {
    let request = Request::DescribeTopic { topic };
    let mut session = Session::open(global, &request)?;
    let mut partitions: Vec<Partition> = Vec::new();
    let end = session.each(&request, |row| {
        partitions.push(serde_json::from_value(row)?);
        Ok(())
    })?;
    let topic: Topic = serde_json::from_value(end)?;
    if json.json {
        return output::json(&serde_json::json!({"topic": topic, "partitions": partitions}));
    }
    output::line(format!(
        "{}: {} records, {}, codec {}, {}, id {}",
        topic.name,
        output::count(topic.records),
        output::bytes(topic.bytes),
        topic.codec,
        retention(&topic),
        topic.id
    ))?;
    let mut table =
        Table::new(&[">PARTITION", ">START", ">END", ">RECORDS", ">BYTES", "STATE"], "");
    for partition in partitions {
        table.row([
            partition.partition.to_string(),
            partition.start.to_string(),
            partition.end.to_string(),
            output::count(partition.records),
            output::bytes(partition.bytes),
            partition.refused.unwrap_or_else(|| "ok".into()),
        ]);
    }
    table.print()
}

fn delete(global: &Global, topic: String, yes: bool, json: JsonArg) -> Result<()> {
    if !yes {
        let request = Request::DescribeTopic { topic: topic.clone() };
        let found: Topic = session::end(global, &request)?;
        return Err(Mistake::new(format!(
            "this deletes {} records of `{topic}` for good: add --yes to do so",
            output::count(found.records)
        )));
    }
    let deleted: DeletedTopic = session::end(global, &Request::DeleteTopic { topic })?;
    if json.json {
        return output::json(&serde_json::json!({
            "deleted": true,
            "topic": deleted.topic,
            "records": deleted.records,
            "pipelines": deleted.pipelines,
        }));
    }
    output::line(format!(
        "deleted {} with {}",
        deleted.topic,
        output::counted(deleted.records.unsigned_abs(), "record")
    ))?;
    for pipeline in &deleted.pipelines {
        output::line(format!(
            "pipeline {pipeline} had offsets in it: `millstream offsets forget {pipeline} --yes` \
             lets it begin anew"
        ))?;
    }
    Ok(())
}

fn verify(global: &Global, topic: Option<String>, json: JsonArg) -> Result<()> {
    let reports: Vec<Verified> = session::rows(global, &Request::VerifyTopic { topic })?;
    let damaged: usize = reports.iter().map(|report| report.damage.len()).sum();
    if json.json {
        output::json(&reports)?;
    } else {
        let mut table = Table::new(
            &[
                "TOPIC",
                ">PARTITION",
                ">START",
                ">END",
                ">SEGMENTS",
                ">BATCHES",
                ">RECORDS",
                ">BYTES",
                "STATE",
            ],
            "There are no topics yet.",
        );
        for report in &reports {
            table.row([
                report.topic.clone(),
                report.partition.to_string(),
                report.start.to_string(),
                report.end.to_string(),
                report.segments.to_string(),
                output::count(report.batches),
                output::count(report.records),
                output::bytes(report.bytes),
                match report.damage.len() {
                    0 => "ok".into(),
                    places => format!("{places} damaged"),
                },
            ]);
        }
        table.print()?;
        for damage in reports.iter().flat_map(|report| &report.damage) {
            output::line(damage)?;
        }
    }
    if damaged > 0 {
        return Err(Said(1).into());
    }
    Ok(())
}

fn retention(topic: &Topic) -> String {
    let mut parts = Vec::new();
    parts.extend(topic.retention_ms.map(|ms| output::ms(ms as f64)));
    parts.extend(topic.retention_bytes.map(output::bytes));
    if parts.is_empty() {
        return "for ever".into();
    }
    if topic.hard {
        parts.push("hard".into());
    }
    parts.join(", ")
}
