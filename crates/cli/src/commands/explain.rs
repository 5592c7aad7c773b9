//! `millstream explain`: what a pipeline will do.

use crate::cli::Global;
use crate::failure::Result;
use crate::output::{self, JsonArg};
use crate::plan_files::plan_files;
use crate::session;
use clap::Args;
use millstream_console::Request;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;

/// Explain a pipeline: source, look-ups and their keys, SQL per step, types, parallelism
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  millstream explain examples/first/first.yaml")]
pub struct ExplainArgs {
    /// The pipeline files; those before may make what the others read
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

/// The engine's explanation, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Explain {
    pipeline: String,
    source: Source,
    steps: Vec<Step>,
    sinks: Vec<Sink>,
    dead_letters: String,
    dead_letters_on: Option<String>,
    parallelism: u32,
}

#[derive(Debug, Deserialize)]
struct Source {
    name: String,
    partitions: u32,
    columns: Vec<Column>,
    columns_there: usize,
    reader_schema: Option<String>,
    registry: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Step {
    name: String,
    from: String,
    lookups: Vec<Lookup>,
    stages: String,
    columns: Vec<Column>,
}

#[derive(Debug, Deserialize)]
struct Lookup {
    name: String,
    key: String,
    join: String,
}

#[derive(Debug, Deserialize)]
struct Sink {
    name: String,
    from: String,
    to: String,
    schema_kind: Option<String>,
    subject: Option<String>,
    registry: Option<String>,
    columns: Vec<Column>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    nullable: bool,
}

impl ExplainArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let request = Request::Explain { files: plan_files(&self.files)? };
        let explained: Vec<Value> = session::rows(global, &request)?;
        if self.json.json {
            return output::json(&explained);
        }
        for (at, value) in explained.into_iter().enumerate() {
            if at > 0 {
                output::line("")?;
            }
            output::out(render(&serde_json::from_value(value)?))?;
        }
        Ok(())
    }
}

fn render(explain: &Explain) -> String {
    let mut text = String::new();
    let source = &explain.source;
    let _ = writeln!(text, "pipeline {}", explain.pipeline);
    let _ = writeln!(
        text,
        "\nsource {}: {}, {} side by side",
        source.name,
        output::counted(source.partitions.into(), "partition"),
        output::counted(explain.parallelism.into(), "partition task")
    );
    let _ =
        writeln!(text, "  decodes {} of {} columns", source.columns.len(), source.columns_there);
    if source.reader_schema.is_some() {
        let _ = writeln!(text, "  reader schema pinned (--json shows it)");
    }
    if let Some(registry) = &source.registry {
        let _ = writeln!(text, "  schemas of {registry}");
    }
    columns(&mut text, &source.columns);
    for step in &explain.steps {
        let _ = writeln!(text, "\n{} from {}", step.name, step.from);
        for lookup in &step.lookups {
            let _ = writeln!(text, "  {} {} by {}", lookup.join, lookup.name, lookup.key);
        }
        for line in step.stages.lines() {
            let _ = writeln!(text, "  {line}");
        }
        columns(&mut text, &step.columns);
    }
    for sink in &explain.sinks {
        let _ = write!(text, "\nsink {} from {}: {}", sink.name, sink.from, sink.to);
        if let (Some(kind), Some(subject)) = (&sink.schema_kind, &sink.subject) {
            let _ = write!(text, ", {kind} of subject {subject}");
        }
        if let Some(registry) = &sink.registry {
            let _ = write!(text, " of {registry}");
        }
        text.push('\n');
        columns(&mut text, &sink.columns);
    }
    let on = explain.dead_letters_on.as_ref().map(|brokers| format!(" of Kafka at {brokers}"));
    let on = on.unwrap_or_default();
    let _ = writeln!(text, "\ndead letters to topic {}{on}", explain.dead_letters);
    text
}

fn columns(text: &mut String, columns: &[Column]) {
    let width = columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0);
    for column in columns {
        let null = if column.nullable { "" } else { " not null" };
        let _ = writeln!(text, "    {:<width$}  {}{null}", column.name, column.data_type);
    }
}
