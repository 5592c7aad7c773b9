//! `millstream offsets`: how far pipelines have come.

use crate::cli::Global;
use crate::elsewhere::one_file;
use crate::failure::{Mistake, Result};
use crate::output::{self, JsonArg, Table};
use crate::session;
use crate::words;
use clap::{Args, Subcommand};
use millstream_console::answers::Offset;
use millstream_console::{Position, Request};
use std::path::PathBuf;

/// Show and reset how far pipelines have come
#[derive(Debug, Args)]
pub struct OffsetsArgs {
    #[command(subcommand)]
    command: OffsetsCommand,
}

#[derive(Debug, Subcommand)]
enum OffsetsCommand {
    /// Show committed offsets and what is left to read
    #[command(
        after_help = "Examples:\n  millstream offsets show enrich\n  millstream offsets show --file enrich.yaml"
    )]
    Show {
        /// The pipeline; all of them unless given
        pipeline: Option<String>,
        /// The file of a pipeline that reads Kafka: what its group has committed, run it or not
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Set where a pipeline goes on; one that runs is paused meanwhile
    #[command(
        after_help = "Examples:\n  millstream offsets reset enrich --to earliest\n  millstream offsets reset enrich --to 2026-01-31T12:00:00Z\n  millstream offsets reset enrich --to 1200 --partition 3\n  millstream offsets reset enrich --to earliest --file enrich.yaml"
    )]
    Reset {
        /// The pipeline
        pipeline: String,
        /// `earliest`, `latest`, an offset, a time, or how long ago
        #[arg(long, value_name = "PLACE", value_parser = words::reset_position, allow_hyphen_values = true)]
        to: Position,
        /// Only this partition
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
        /// The pipeline's file, when its source is another than before
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove what a stopped pipeline has committed: it begins anew, and topics keep nothing for it
    #[command(after_help = "Example:\n  millstream offsets forget enrich --yes")]
    Forget {
        /// The pipeline
        pipeline: String,
        /// Forget it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        json: JsonArg,
    },
}

impl OffsetsArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let (request, json) = match self.command {
            OffsetsCommand::Show { pipeline, file, json } => {
                let file = one_file(file.as_deref())?;
                (Request::Offsets { pipeline, file }, json)
            }
            OffsetsCommand::Reset { pipeline, to, partition, file, json } => {
                let file = one_file(file.as_deref())?;
                (Request::ResetOffsets { pipeline, to, partition, file }, json)
            }
            OffsetsCommand::Forget { pipeline, yes, json } => {
                return forget(global, pipeline, yes, json);
            }
        };
        let offsets: Vec<Offset> = session::rows(global, &request)?;
        if json.json {
            return output::json(&offsets);
        }
        let mut table = Table::new(
            &["PIPELINE", "SOURCE", ">PARTITION", ">COMMITTED", ">START", ">END", ">LAG"],
            "No pipeline has committed anything here yet.",
        );
        let number = |number: Option<i64>| number.map_or_else(|| "-".into(), |n| n.to_string());
        for offset in offsets {
            table.row([
                offset.pipeline,
                offset.source,
                offset.partition.to_string(),
                number(offset.committed),
                number(offset.start),
                number(offset.end),
                number(offset.lag),
            ]);
        }
        table.print()
    }
}

fn forget(global: &Global, pipeline: String, yes: bool, json: JsonArg) -> Result<()> {
    if !yes {
        // One that has committed nothing is named as such before --yes is asked for.
        let _: Vec<Offset> = session::rows(
            global,
            &Request::Offsets { pipeline: Some(pipeline.clone()), file: None },
        )?;
        return Err(Mistake::new(format!(
            "this forgets how far `{pipeline}` has come: add --yes to do so"
        )));
    }
    let request = Request::ForgetOffsets { pipeline: pipeline.clone() };
    let _: serde_json::Value = session::end(global, &request)?;
    if json.json {
        return output::json(&serde_json::json!({"pipeline": pipeline, "forgotten": true}));
    }
    output::line(format!("forgot {pipeline}"))
}
