//! What is measured against what. A suite is a function in the list below; a row is a job, its
//! peer, the ratio and the target.

use crate::decode::Columns;
use crate::job::{Job, Measured};
use crate::python::Peers;
use crate::report::{Row, Target, cpu_ratio, rate_ratio};
use anyhow::Result;
use millstream_log::Codec;

pub type Suite = fn(&Setup) -> Result<Vec<Row>>;

/// Every suite by its name, which is also that of its file of results.
pub const SUITES: [(&str, Suite); 4] =
    [("decode", decode), ("log", log), ("table", table), ("main_job", main_job)];

/// How much work a run does.
pub struct Setup {
    pub messages: u64,
    /// Records for the Python peers, which are slower by a factor.
    pub peer_messages: u64,
    pub python: bool,
}

/// Bare arrow-avro over all and over few columns, and bare fastavro.
fn decode(setup: &Setup) -> Result<Vec<Row>> {
    let messages = setup.messages;
    let all = Job::Decode { columns: Columns::All, messages }.measure()?;
    let five = Job::Decode { columns: Columns::Five, messages }.measure()?;
    // What ours must reach has to be there in what it is made of.
    let narrow = Row::against(&five, &all, cpu_ratio(&five, &all)).target(Target::AtMost(0.65));
    let mut rows = vec![Row::plain(&all), narrow];
    if let Some(peers) = setup.peers()? {
        let python = peers.decode()?;
        rows.push(Row::against(&python, &all, cpu_ratio(&python, &all)));
    }
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

/// Bare fjall, which the pipeline into a table is held against.
fn table(setup: &Setup) -> Result<Vec<Row>> {
    let bare = Job::FjallInserts { messages: setup.messages, value_bytes: 120 }.measure()?;
    Ok(vec![Row::plain(&bare)])
}

/// The main job in Python, which the pipeline is held against.
fn main_job(setup: &Setup) -> Result<Vec<Row>> {
    let Some(peers) = setup.peers()? else { return Ok(Vec::new()) };
    Ok(vec![Row::plain(&peers.main_job("avro")?), Row::plain(&peers.main_job("json")?)])
}

/// Raw writes of what the log wrote, with as many syncs.
fn raw_like(own: &Measured) -> Result<Measured> {
    let syncs = own.extra.get("fsyncs").map_or(0, |syncs| *syncs as u64);
    Job::RawWrites { messages: own.messages, bytes: own.bytes, syncs }.measure()
}

impl Setup {
    fn peers(&self) -> Result<Option<Peers>> {
        self.python.then(|| Peers::prepare(self.peer_messages)).transpose()
    }
}
