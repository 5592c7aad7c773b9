//! `millstream dead-letters`: rows that could not be processed.

use crate::cli::Global;
use crate::elsewhere::{LettersArgs, one_file};
use crate::failure::{Mistake, Result, Said};
use crate::output::{self, JsonArg, Table};
use crate::session;
use crate::words;
use clap::{Args, Subcommand};
use millstream_console::answers::{Letter, Replayed};
use millstream_console::{ReplayChoice, Request};
use std::path::PathBuf;

/// List, show and replay rows that could not be processed
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// List the newest letters, oldest first
    #[command(
        after_help = "Examples:\n  millstream dead-letters list --pipeline access --limit 20\n  millstream dead-letters list --file enrich.yaml\n\nThose of pipelines that run are listed wherever they are; --file names a pipeline that does not run\nand has its dead letters on Kafka."
    )]
    List {
        /// Only those of this pipeline
        #[arg(long)]
        pipeline: Option<String>,
        /// Only those in this topic
        #[arg(long)]
        topic: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
        #[command(flatten)]
        letters: LettersArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show one letter whole: the record, its position, the reason
    #[command(
        after_help = "Examples:\n  millstream dead-letters show enrich 0:0\n  millstream dead-letters show navigation.dead 0:0\n  millstream dead-letters show enrich 0:0 --file enrich.yaml"
    )]
    Show {
        /// The pipeline of the letter, or the topic that it is in
        #[arg(value_name = "PIPELINE|TOPIC")]
        of: String,
        /// Its place in the topic of the letters
        #[arg(value_name = "PARTITION:OFFSET", value_parser = words::letter)]
        letter: (u32, i64),
        #[command(flatten)]
        letters: LettersArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Send letters through their pipeline again, from the raw record on
    #[command(
        after_help = "Examples:\n  millstream dead-letters replay access --all\n  millstream dead-letters replay access 0:0 0:3\n  millstream dead-letters replay access --all --file examples/demo/access.yaml\n\nA letter is replayed once; one that fails again is a new letter. The exit code is 1 when all do."
    )]
    Replay {
        /// The pipeline that the letters belong to
        pipeline: String,
        /// Which letters
        #[arg(value_name = "PARTITION:OFFSET", value_parser = words::letter, conflicts_with_all = ["all", "kind"])]
        letters: Vec<(u32, i64)>,
        /// All that were not replayed yet
        #[arg(long)]
        all: bool,
        /// Those with this kind of reason
        #[arg(long, conflicts_with = "all")]
        kind: Option<String>,
        /// The pipeline's file, when it does not run
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        json: JsonArg,
    },
}

impl DeadLettersArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        match self.command {
            DeadLettersCommand::List { pipeline, topic, limit, letters, json } => {
                let (limit, elsewhere) = (Some(limit), letters.place()?);
                list(global, &Request::DeadLetters { pipeline, topic, limit, elsewhere }, json)
            }
            DeadLettersCommand::Show { of, letter: (partition, offset), letters, json } => {
                let elsewhere = letters.place()?;
                show(global, &Request::ShowDeadLetter { of, partition, offset, elsewhere }, json)
            }
            DeadLettersCommand::Replay { pipeline, letters, all, kind, file, json } => {
                let choice = match (letters.is_empty(), all, kind) {
                    (false, _, _) => ReplayChoice::These(letters),
                    (_, true, _) => ReplayChoice::All,
                    (_, _, Some(kind)) => ReplayChoice::Kind(kind),
                    _ => {
                        return Err(Mistake::new(
                            "say which letters: PARTITION:OFFSET…, --kind or --all",
                        ));
                    }
                };
                let file = one_file(file.as_deref())?;
                replay(global, &Request::ReplayDeadLetters { pipeline, choice, file }, json)
            }
        }
    }
}

fn list(global: &Global, request: &Request, json: JsonArg) -> Result<()> {
    let letters: Vec<Letter> = session::rows(global, request)?;
    if json.json {
        return output::json(&letters);
    }
    let mut table = Table::new(
        &["TOPIC", "LETTER", "TIME", "PIPELINE", "STEP", "KIND", "FROM", "REPLAYED", "REASON"],
        "There are no dead letters.",
    );
    for letter in letters {
        table.row([
            letter.topic,
            format!("{}:{}", letter.partition, letter.offset),
            output::time(letter.rejected_at),
            letter.pipeline,
            letter.step,
            letter.kind,
            format!("{} {}:{}", letter.source, letter.source_partition, letter.source_offset),
            if letter.replayed { "yes" } else { "-" }.into(),
            letter.reason,
        ]);
    }
    table.print()
}

fn show(global: &Global, request: &Request, json: JsonArg) -> Result<()> {
    let letter: Letter = session::end(global, request)?;
    if json.json {
        return output::json(&letter);
    }
    output::out(describe(&letter))
}

/// A letter for people.
pub fn describe(letter: &Letter) -> String {
    let mut lines = vec![
        ("letter", format!("{} {}:{}", letter.topic, letter.partition, letter.offset)),
        ("pipeline", letter.pipeline.clone()),
        ("step", letter.step.clone()),
        ("reason", format!("{} ({})", letter.reason, letter.kind)),
        ("attempt", letter.attempt.to_string()),
        ("rejected", output::time(letter.rejected_at)),
        (
            "record",
            format!(
                "{} partition {} offset {}, of {}",
                letter.source,
                letter.source_partition,
                letter.source_offset,
                output::time(letter.timestamp)
            ),
        ),
    ];
    lines.extend(letter.schema_id.map(|id| ("schema id", id.to_string())));
    if letter.replayed {
        lines.push(("replayed", "yes".into()));
    }
    if let Some(truncated) = &letter.truncated {
        lines.push(("kept", format!("only its beginning; length and checksum were {truncated}")));
    }
    lines.extend(letter.key.clone().map(|key| ("key", key)));
    lines.extend(letter.headers.iter().map(|(name, value)| ("header", format!("{name}: {value}"))));
    let kind = if letter.value_is_base64 { "value in base64" } else { "value" };
    lines.push((kind, letter.value.clone().unwrap_or_else(|| "(none)".into())));
    lines.iter().map(|(name, text)| format!("{name:<16} {text}\n")).collect()
}

fn replay(global: &Global, request: &Request, json: JsonArg) -> Result<()> {
    let replayed: Replayed = session::end(global, request)?;
    match json.json {
        true => output::json(&replayed)?,
        false => output::line(format!(
            "replayed {}: {} out, {} filtered, {} dead again; {} skipped",
            output::count(replayed.replayed),
            output::count(replayed.out),
            output::count(replayed.filtered),
            output::count(replayed.dead),
            output::count(replayed.skipped)
        ))?,
    }
    // A script must see that what was wrong with them still is.
    let is_all_dead = replayed.dead > 0 && replayed.dead == replayed.replayed;
    if is_all_dead { Err(Said(1).into()) } else { Ok(()) }
}
