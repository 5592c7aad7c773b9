//! What is measured against what. A suite is a function in the list below; a row is a job, its
//! peer, the ratio and the target.

use crate::decode::Columns;
use crate::idle;
use crate::job::{Job, Measured};
use crate::pipeline::Output;
use crate::python::Peers;
use crate::report::{Row, Target, cpu_ratio, rate_ratio};
use anyhow::Result;
use millstream_log::Codec;

pub type Suite = fn(&Setup) -> Result<Vec<Row>>;

/// Every suite by its name, which is also that of its file of results.
pub const SUITES: [(&str, Suite); 5] =
    [("decode", decode), ("log", log), ("main_job", main_job), ("growth", growth), ("idle", idle)];

/// The most memory that any row of ours may have had.
pub const PEAK_RSS_MB: f64 = 150.0;
const IDLE_RSS_MB: f64 = 60.0;
const READY_MS: f64 = 200.0;
const IDLE_LOG_BYTES: u64 = 1 << 30;
/// How many times as many messages the growth suite sends.
const GROWTH: u64 = 10;

/// How much work a run does.
pub struct Setup {
    pub messages: u64,
    /// Records for the Python peers, which are slower by a factor.
    pub peer_messages: u64,
    pub python: bool,
    /// Also measure with ten times the messages.
    pub growth: bool,
}

/// The pipelines' decoder over all and over few columns, bare arrow-avro, and bare fastavro.
fn decode(setup: &Setup) -> Result<Vec<Row>> {
    let messages = setup.messages;
    let [all, five] = [Columns::All, Columns::Five];
    let bare = Job::Decode { columns: all, messages }.measure()?;
    let own = Job::OwnDecode { columns: all, messages }.measure()?;
    let own_five = Job::OwnDecode { columns: five, messages }.measure()?;
    let bare_five = Job::Decode { columns: five, messages }.measure()?;
    let mut rows = vec![
        Row::against(&own, &bare, cpu_ratio(&own, &bare)).target(Target::AtMost(1.3)),
        Row::against(&own_five, &own, cpu_ratio(&own_five, &own)).target(Target::AtMost(0.65)),
    ];
    if let Some(peers) = setup.peers()? {
        let python = peers.decode()?;
        let faster = cpu_ratio(&python, &own);
        rows.push(Row::against(&own, &python, faster).times_faster().target(Target::AtLeast(18.0)));
        rows.push(Row::plain(&python));
    }
    rows.push(Row::plain(&bare));
    rows.push(Row::against(&bare_five, &bare, cpu_ratio(&bare_five, &bare)));
    Ok(rows)
}

/// Appends with group commit, against raw writes of the same bytes with as many syncs.
fn log(setup: &Setup) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for codec in [Codec::None, Codec::Lz4] {
        let own = Job::LogAppend { messages: setup.messages, codec }.measure()?;
        let raw = raw_like(&own)?;
        let row = Row::against(&own, &raw, rate_ratio(&own, &raw));
        // Packing is the price of fewer bytes, so only the plain row has a target.
        rows.push(if codec == Codec::None { row.target(Target::AtLeast(0.7)) } else { row });
        rows.push(Row::plain(&raw));
    }
    Ok(rows)
}

/// The main job into a topic and into a table, against what it is made of and against Python.
fn main_job(setup: &Setup) -> Result<Vec<Row>> {
    let messages = setup.messages;
    let bare = Job::Decode { columns: Columns::All, messages }.measure()?;
    let topic = run_main_job(Output::Topic, messages, Codec::None)?;
    let lz4 = run_main_job(Output::Topic, messages, Codec::Lz4)?;
    let by_url = run_main_job(Output::TopicByUrl, messages, Codec::None)?;
    let table = run_main_job(Output::Table, messages, Codec::None)?;
    let fjall = fjall_like(&table)?;
    let parts = Measured {
        name: "bare fjall + the main job to a topic".into(),
        cpu_seconds: fjall.cpu_seconds + topic.cpu_seconds,
        ..topic.clone()
    };
    let mut rows = vec![
        Row::against(&topic, &bare, cpu_ratio(&topic, &bare)).target(Target::AtMost(2.5)),
        Row::rate(&topic).target(Target::AtLeast(500_000.0)),
    ];
    let python = match setup.peers()? {
        Some(peers) => vec![peers.main_job("json")?, peers.main_job("avro")?],
        None => Vec::new(),
    };
    for python in &python {
        let faster = cpu_ratio(python, &topic);
        let row = Row::against(&topic, python, faster).times_faster();
        rows.push(row.target(Target::AtLeast(12.0)));
    }
    // Packing is the price of fewer bytes, and a key of its own that of 20 appends a batch.
    rows.push(Row::against(&lz4, &bare, cpu_ratio(&lz4, &bare)));
    rows.push(Row::against(&by_url, &bare, cpu_ratio(&by_url, &bare)));
    rows.push(Row::against(&table, &parts, cpu_ratio(&table, &parts)).target(Target::AtMost(1.3)));
    rows.push(Row::peak_rss(&[&topic, &lz4, &by_url, &table]).target(Target::AtMost(PEAK_RSS_MB)));
    rows.extend([&bare, &fjall].into_iter().chain(&python).map(Row::plain));
    Ok(rows)
}

/// Ten times the messages, at what they cost one by one.
fn growth(setup: &Setup) -> Result<Vec<Row>> {
    if !setup.growth {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for (output, target) in
        [(Output::Topic, Target::Between(0.9, 1.1)), (Output::Table, Target::AtMost(1.5))]
    {
        let few = run_main_job(output, setup.messages, Codec::None)?;
        let many = run_main_job(output, setup.messages * GROWTH, Codec::None)?;
        rows.push(Row::against(&many, &few, cpu_ratio(&many, &few)).target(target));
        rows.push(Row::plain(&few));
        if output == Output::Table {
            // What the store below grows by, with none of ours above it.
            let [bare_few, bare_many] = [fjall_like(&few)?, fjall_like(&many)?];
            rows.push(Row::against(&bare_many, &bare_few, cpu_ratio(&bare_many, &bare_few)));
            rows.push(Row::plain(&bare_few));
        }
        all.extend([few, many]);
    }
    let all: Vec<_> = all.iter().collect();
    rows.push(Row::peak_rss(&all).target(Target::AtMost(PEAK_RSS_MB)));
    Ok(rows)
}

/// The real binary on a full log with nothing to do.
fn idle(_: &Setup) -> Result<Vec<Row>> {
    let idle = idle::measure(IDLE_LOG_BYTES)?;
    let ready = idle.extra.get("ready_ms").copied().unwrap_or(f64::NAN);
    let rss = idle.extra.get("idle_rss_mb").copied().unwrap_or(f64::NAN);
    let killed = idle.extra.get("ready_after_kill_ms").copied().unwrap_or(f64::NAN);
    Ok(vec![
        Row::number(&idle, "ready after start, ms", ready).target(Target::AtMost(READY_MS)),
        Row::number(&idle, "ready after SIGKILL, ms", killed),
        Row::number(&idle, "idle, RSS MB", rss).target(Target::AtMost(IDLE_RSS_MB)),
    ])
}

fn run_main_job(output: Output, messages: u64, codec: Codec) -> Result<Measured> {
    Job::Pipeline { output, messages, codec }.measure()
}

/// Bare inserts of as many rows as the pipeline wrote into its table, with as many bytes.
fn fjall_like(own: &Measured) -> Result<Measured> {
    let count = |name| own.extra.get(name).map_or(0, |count| *count as u64);
    let (rows, bytes) = (count("table_rows"), count("table_bytes"));
    Job::FjallInserts { messages: rows, bytes_each: (bytes / rows.max(1)) as usize }.measure()
}

/// Raw writes of what the log wrote, with as many syncs.
fn raw_like(own: &Measured) -> Result<Measured> {
    let syncs = own.extra.get("fsyncs").map_or(0, |syncs| *syncs as u64);
    Job::RawWrites { messages: own.messages, bytes: own.bytes, syncs }.measure()
}

impl Setup {
    pub fn peers(&self) -> Result<Option<Peers>> {
        self.python.then(|| Peers::prepare(self.peer_messages)).transpose()
    }
}
