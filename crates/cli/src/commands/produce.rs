//! `millstream produce`: lines of a file or of standard input become records.

use crate::cli::Global;
use crate::elsewhere::ElsewhereArgs;
use crate::failure::{Mistake, Result};
use crate::output::{self, JsonArg};
use crate::session::Session;
use crate::words;
use anyhow::Context;
use clap::{Args, ValueEnum};
use millstream_console::answers::Produced;
use millstream_console::{Encode, NewRecord, Request};
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

const BATCH_RECORDS: usize = 2_000;
const BATCH_BYTES: usize = 4 << 20;
/// A longer line is refused before it fills the memory.
const LINE_BYTES_MAX: usize = 32 << 20;

/// Append lines to a topic, here or of Kafka
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  printf 'hello\\nworld\\n' | millstream produce greetings --partitions 4\n  millstream produce visits visits.txt --key-separator '\\t'\n  echo '{\"key\":\"u1\",\"value\":{\"uid\":\"u1\"}}' | millstream produce visits --format jsonl --subject visits-value\n  millstream produce orders orders.jsonl --format jsonl --subject orders-value --file enrich.yaml\n  echo '{\"key\":\"u1\",\"value\":null}' | millstream produce users --format jsonl --brokers kafka-1:9092"
)]
pub struct ProduceArgs {
    /// The topic
    topic: String,
    /// The file to read; standard input unless given
    #[arg(value_name = "FILE")]
    lines: Option<PathBuf>,
    /// What a line is
    #[arg(long, value_enum, default_value = "line")]
    format: Format,
    /// What stands between key and value in a line (`\t` for a tab)
    #[arg(long, value_name = "TEXT", value_parser = words::separator)]
    key_separator: Option<String>,
    /// Append to this partition; by the key unless given
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Make the topic with so many partitions where it is missing
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Encode the values, JSON objects, as Avro with the newest schema of this subject
    #[arg(long, conflicts_with = "schema")]
    subject: Option<String>,
    /// The same with the Avro schema in this file, registered as TOPIC-value
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    #[command(flatten)]
    elsewhere: ElsewhereArgs,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The line is the value, after the key where there is a separator
    Line,
    /// An object with `value` and, if wanted, `key`, `timestamp` (ms) and `headers`
    Jsonl,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord {
    key: Option<String>,
    value: Value,
    timestamp: Option<i64>,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
}

impl ProduceArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        if self.format == Format::Jsonl && self.key_separator.is_some() {
            return Err(Mistake::new(
                "--key-separator is for --format line: a line of jsonl has its own `key`",
            ));
        }
        let encode = match (&self.subject, &self.schema) {
            (Some(subject), _) => Some(Encode::Subject(subject.clone())),
            (None, Some(path)) => Some(Encode::Schema(read_text(path)?)),
            (None, None) => None,
        };
        let input: Box<dyn Read> = match &self.lines {
            Some(path) => {
                let file = File::open(path).map_err(|error| {
                    Mistake::new(format!("cannot read {}: {error}", path.display()))
                })?;
                if file.metadata()?.is_dir() {
                    return Err(Mistake::new(format!(
                        "{} is a directory: name a file of lines",
                        path.display()
                    )));
                }
                Box::new(file)
            }
            None => Box::new(io::stdin()),
        };
        let mut lines = BufReader::with_capacity(256 << 10, input);
        let mut total = Produced::default();
        let mut session = None;
        let (mut batch, mut bytes, mut number) = (Vec::new(), 0, 0u64);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut lines)
                .take(LINE_BYTES_MAX as u64 + 1)
                .read_until(b'\n', &mut line)
                .context("reading the lines")?;
            if read > LINE_BYTES_MAX {
                return Err(Mistake::new(format!(
                    "line {} is longer than {}; {} records before it were appended",
                    number + 1,
                    output::bytes(LINE_BYTES_MAX as u64),
                    output::count(total.records)
                )));
            }
            if read > 0 {
                number += 1;
                bytes += read;
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                batch.push(self.record(&line, number)?);
            }
            let full = batch.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES;
            // With nothing more at hand the records so far are not kept waiting for company.
            if !batch.is_empty() && (full || read == 0 || lines.buffer().is_empty()) {
                let records = std::mem::take(&mut batch);
                bytes = 0;
                self.send(global, &mut session, encode.clone(), records, &mut total)?;
            }
            if read == 0 {
                break;
            }
        }
        if session.is_none() {
            // An empty input still makes the topic that was asked for, and finds a wrong name.
            self.send(global, &mut session, encode, Vec::new(), &mut total)?;
        }
        if self.json.json {
            return output::json(&total);
        }
        let created = if total.created { ", which was created" } else { "" };
        output::line(format!(
            "appended {} to {}{created}",
            output::counted(total.records, "record"),
            self.topic
        ))
    }

    fn send(
        &self,
        global: &Global,
        session: &mut Option<Session>,
        encode: Option<Encode>,
        records: Vec<NewRecord>,
        total: &mut Produced,
    ) -> Result<()> {
        let request = Request::Produce {
            topic: self.topic.clone(),
            partitions: self.partitions,
            partition: self.partition,
            encode,
            records,
            elsewhere: self.elsewhere.place()?,
        };
        let session = match session {
            Some(session) => session,
            None => session.insert(Session::open(global, &request)?),
        };
        let produced: Produced = session.end(&request)?;
        total.records += produced.records;
        total.created |= produced.created;
        total.last = produced.last.or(total.last);
        Ok(())
    }

    fn record(&self, line: &[u8], number: u64) -> Result<NewRecord> {
        let wrong = |what: String| Mistake::new(format!("line {number}: {what}"));
        let text = std::str::from_utf8(line)
            .map_err(|error| wrong(format!("byte {} is not UTF-8", error.valid_up_to() + 1)))?;
        if self.format == Format::Jsonl {
            let record: JsonRecord =
                serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            return Ok(NewRecord {
                key: record.key,
                value: match record.value {
                    Value::Null => None,
                    Value::String(text) => Some(text),
                    value => Some(value.to_string()),
                },
                timestamp: record.timestamp,
                headers: record
                    .headers
                    .into_iter()
                    .map(|(name, value)| match value {
                        Value::String(text) => (name, text),
                        value => (name, value.to_string()),
                    })
                    .collect(),
                line: number,
            });
        }
        let (key, value) = match &self.key_separator {
            None => (None, text),
            Some(separator) => match text.split_once(separator.as_str()) {
                Some((key, value)) => (Some(key.to_owned()), value),
                None => return Err(wrong(format!("it has no key: there is no `{separator}`"))),
            },
        };
        Ok(NewRecord { key, value: Some(value.to_owned()), line: number, ..NewRecord::default() })
    }
}

/// The text of a schema's file.
pub fn read_text(path: &PathBuf) -> Result<String> {
    const BYTES_MAX: u64 = 16 << 20;
    let shown = path.display();
    let failed = |error| Mistake::new(format!("cannot read {shown}: {error}"));
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "a directory" } else { "a pipe or a device" };
        return Err(Mistake::new(format!("{shown} is {what}, not a file")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > BYTES_MAX {
        let most = BYTES_MAX >> 20;
        return Err(Mistake::new(format!(
            "{shown} is larger than {most} MiB, too large for a schema"
        )));
    }
    Ok(text)
}
