//! `millstream tap`: the rows of a topic, decoded, as they come.

use crate::cli::Global;
use crate::elsewhere::ElsewhereArgs;
use crate::failure::Result;
use crate::output::{self, JsonArg};
use crate::session::Session;
use crate::words;
use clap::{Args, ValueEnum};
use millstream_console::answers::{Record, Tapped};
use millstream_console::{Position, Request, RowFormat};
use serde_json::Value;

/// Follow the decoded rows of a topic, here or of Kafka
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millstream tap enriched --from earliest --limit 5\n  millstream tap enriched --where \"country = 'DE' AND status >= 400\"\n  millstream tap navigation --from 15m --json | head\n  millstream tap enriched --file enrich.yaml\n  millstream tap orders --brokers kafka-1:9092 --registry http://registry:8081 --from -10"
)]
pub struct TapArgs {
    /// The topic
    topic: String,
    /// Where to begin: `earliest`, `latest`, an offset, a time, how long ago, or -N for the last N
    /// records of all partitions together, by their timestamps
    #[arg(long, value_name = "PLACE", default_value = "latest", allow_negative_numbers = true, value_parser = words::position)]
    from: Position,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Only rows for which this SQL condition holds
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// End after so many rows
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// End where the topic ends now
    #[arg(long)]
    no_follow: bool,
    /// How values are read
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "raw")]
    format: Format,
    /// Show values as they are, in base64
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    elsewhere: ElsewhereArgs,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// By its schema where a value has the id of one, else JSON, else text
    Auto,
    Avro,
    Json,
    Text,
}

impl TapArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let format = match (self.raw, self.format) {
            (true, _) => RowFormat::Raw,
            (false, Format::Auto) => RowFormat::Auto,
            (false, Format::Avro) => RowFormat::Avro,
            (false, Format::Json) => RowFormat::Json,
            (false, Format::Text) => RowFormat::Text,
        };
        let request = Request::Tap {
            topic: self.topic,
            from: self.from,
            partition: self.partition,
            filter: self.filter,
            limit: self.limit,
            follow: !self.no_follow,
            format,
            elsewhere: self.elsewhere.place()?,
        };
        let mut session = Session::open(global, &request)?;
        let mut is_due = !self.no_follow && !session.is_remote() && !self.elsewhere.is_kafka();
        // Not before the topic is known to be there.
        let mut say_once = || {
            if std::mem::take(&mut is_due) {
                output::note(format!(
                    "Nothing runs on {}: this is what the topic holds.",
                    global.data.display()
                ));
            }
        };
        let end = session.each(&request, |row| {
            say_once();
            if self.json.json {
                return output::json_line(&row);
            }
            show(&serde_json::from_value(row)?)
        })?;
        say_once();
        let tapped: Tapped = serde_json::from_value(end)?;
        if tapped.failed > 0 {
            let failure = tapped.failure.unwrap_or_default();
            let rows = output::counted(tapped.failed, "row");
            output::note(format!("The condition failed on {rows}, not shown here: {failure}"));
        }
        if tapped.undecoded > 0 {
            let records = output::counted(tapped.undecoded, "record");
            output::note(format!("{records} without columns to ask about were left out."));
        }
        Ok(())
    }
}

fn show(record: &Record) -> Result<()> {
    let place = format!("{}:{}", record.partition, record.offset);
    let (dim, plain) = if output::colours() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let value = match &record.value {
        Value::String(text) => text.clone(),
        Value::Null => "(no value)".into(),
        value => value.to_string(),
    };
    let key = record.key.as_deref().unwrap_or("-");
    output::line(format!(
        "{dim}{place:<10} {} {key}{plain} {value}",
        output::time(record.timestamp)
    ))?;
    match &record.undecoded {
        Some(why) => output::line(format!("{:<10} cannot be decoded: {why}", "")),
        None => Ok(()),
    }
}
