//! The admin service: one answer to each request, whoever asks and however it came.

mod dead_letters;
mod elsewhere;
mod offsets;
mod pipelines;
pub(crate) mod plans;
mod produce;
mod rows;
mod schemas;
mod tables;
mod tap;
mod topics;

pub(crate) use elsewhere::{has_registry, is_on_kafka};

use crate::answers;
use crate::protocol::Request;
use crate::{Error, Result};
use millstream_connectors::Home;
use millstream_engine::Engine;
use serde::Serialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Rows that may wait for a slow reader.
const ROWS_AHEAD: usize = 64;

/// Answers requests about one data directory. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    home: Home,
    /// The pipelines that run in this process, if any do.
    engine: Option<Engine>,
    listen: Option<SocketAddr>,
    started: Instant,
}

/// Where the rows of an answer go. Waits while the reader is behind.
#[derive(Clone)]
pub struct Reply(mpsc::Sender<Value>);

/// The other end of a [`Reply`].
pub(crate) struct Rows(mpsc::Receiver<Value>);

impl Service {
    /// For a directory on which nothing runs.
    pub fn stopped(home: Home) -> Self {
        Self::new(home, None, None)
    }

    /// For the process that runs the pipelines.
    pub fn running(home: Home, engine: Engine, listen: Option<SocketAddr>) -> Self {
        Self::new(home, Some(engine), listen)
    }

    fn new(home: Home, engine: Option<Engine>, listen: Option<SocketAddr>) -> Self {
        Self(Arc::new(Inner { home, engine, listen, started: Instant::now() }))
    }

    /// Answers one request: rows into `reply`, the end as the result.
    ///
    /// Cancel safe in that a dropped call leaves nothing half done that a second call does not
    /// mend; orders that were given to the log or the tables are carried out.
    pub async fn handle(&self, request: Request, reply: Reply) -> Result<Value> {
        match request {
            Request::Process => end(self.process()),
            Request::Check { files } => self.check(files, reply).await,
            Request::Explain { files } => self.explain(files, reply).await,
            Request::Preview { files, rows } => self.preview(files, rows, reply).await,
            Request::Test { files } => self.test(files, reply).await,
            Request::Pipelines => self.pipelines(reply).await,
            Request::Offsets { pipeline, file } => match file {
                Some(file) => self.offsets_of_group(pipeline, &file, reply).await,
                None => self.offsets(pipeline, reply).await,
            },
            Request::ResetOffsets { pipeline, to, partition, file } => {
                let order = offsets::Reset { pipeline, to, partition, file };
                self.reset_offsets(order, reply).await
            }
            Request::ForgetOffsets { pipeline } => self.forget_offsets(pipeline).await,
            Request::Topics => self.topics(reply).await,
            Request::DescribeTopic { topic } => self.describe_topic(&topic, reply).await,
            Request::CreateTopic {
                topic,
                partitions,
                codec,
                retention_ms,
                retention_bytes,
                hard,
            } => {
                let options =
                    topics::options(partitions, &codec, retention_ms, retention_bytes, hard)?;
                self.create_topic(topic, options).await
            }
            Request::DeleteTopic { topic } => self.delete_topic(topic).await,
            Request::VerifyTopic { topic } => self.verify_topics(topic, reply).await,
            Request::Produce { topic, partitions, partition, encode, records, elsewhere } => {
                let order = produce::Order { topic, partitions, partition, encode, records };
                self.produce(order, &elsewhere).await
            }
            Request::Tap { topic, from, partition, filter, limit, follow, format, elsewhere } => {
                let order = tap::Order { topic, from, partition, filter, limit, follow, format };
                self.tap(order, &elsewhere, reply).await
            }
            Request::Tables => self.tables(reply).await,
            Request::CreateTable { table, shape } => self.create_table(table, shape).await,
            Request::DropTable { table } => self.drop_table(table).await,
            Request::LoadTable { table, file, delimiter, shape, timestamp } => {
                self.load_table(tables::Load { table, file, delimiter, shape, timestamp }).await
            }
            Request::GetRow { table, key } => self.get_row(table, key, reply).await,
            Request::ScanTable { table, prefix, from, to, limit } => {
                let range = tables::Range { prefix, from, to, limit };
                self.scan_table(table, range, reply).await
            }
            Request::Schemas { elsewhere } => self.schemas(&elsewhere, reply).await,
            Request::ShowSchema { subject, version, id, elsewhere } => {
                self.show_schema(subject, version, id, &elsewhere, reply).await
            }
            Request::RegisterSchema { subject, schema, elsewhere } => {
                self.register_schema(subject, schema, &elsewhere).await
            }
            Request::CompatibleSchema { subject, version, schema, elsewhere } => {
                self.compatible_schema(subject, version, schema, &elsewhere).await
            }
            Request::SetLevel { subject, level, elsewhere } => {
                self.set_level(subject, level, &elsewhere).await
            }
            Request::DeadLetters { pipeline, topic, limit, elsewhere } => {
                let wanted = dead_letters::Wanted { pipeline, topic, limit };
                self.dead_letters(wanted, &elsewhere, reply).await
            }
            Request::ShowDeadLetter { of, partition, offset, elsewhere } => {
                self.show_dead_letter(of, partition, offset, &elsewhere).await
            }
            Request::ReplayDeadLetters { pipeline, choice, file } => {
                self.replay_dead_letters(pipeline, choice, file).await
            }
        }
    }

    fn process(&self) -> answers::Process {
        let reports = self.0.engine.as_ref().map(Engine::reports).unwrap_or_default();
        answers::Process {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            up_s: self.0.started.elapsed().as_secs(),
            listen: self.0.listen.map(|address| address.to_string()),
            pipelines: reports.into_iter().map(|report| report.name).collect(),
        }
    }

    fn home(&self) -> &Home {
        &self.0.home
    }

    fn topic(&self, name: &str) -> Result<millstream_log::Topic> {
        if let Some(topic) = self.home().log.topic(name) {
            return Ok(topic);
        }
        let topics = self.home().log.topics();
        let known: Vec<&str> = topics.iter().map(|topic| topic.name()).collect();
        Err(Error::mistake(unknown("topic", name, &known)))
    }

    fn table(&self, name: &str) -> Result<millstream_tables::Table> {
        if let Some(table) = self.home().tables.table(name) {
            return Ok(table);
        }
        let tables = self.home().tables.tables();
        let known: Vec<&str> = tables.iter().map(|table| table.name()).collect();
        Err(Error::mistake(unknown("table", name, &known)))
    }
}

impl Reply {
    pub(crate) fn pair() -> (Reply, Rows) {
        let (sender, receiver) = mpsc::channel(ROWS_AHEAD);
        (Reply(sender), Rows(receiver))
    }

    /// Cancel safe. An error when nobody reads any more.
    async fn row(&self, row: impl Serialize) -> Result<()> {
        let row = value(row)?;
        self.0.send(row).await.map_err(|_| Error::gone())
    }

    /// The same from a thread that may block.
    fn row_blocking(&self, row: impl Serialize) -> Result<()> {
        let row = value(row)?;
        self.0.blocking_send(row).map_err(|_| Error::gone())
    }
}

impl Rows {
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Value> {
        self.0.recv().await
    }
}

fn value(row: impl Serialize) -> Result<Value> {
    serde_json::to_value(row)
        .map_err(|error| Error::failure(format!("cannot write an answer: {error}")))
}

fn end(end: impl Serialize) -> Result<Value> {
    value(end)
}

fn nothing() -> Result<Value> {
    Ok(json!({}))
}

/// Does work that blocks on the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failure(format!("internal: {error}"))),
    }
}

/// Names what is not there, and what is.
fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut sentence = format!("there is no {what} `{name}`");
    if known.is_empty() {
        sentence.push_str(&format!(": there are no {what}s yet"));
        return sentence;
    }
    sentence.push_str("; there is ");
    sentence.push_str(&known[..known.len().min(SHOWN)].join(", "));
    if known.len() > SHOWN {
        sentence.push_str(&format!(" and {} more", known.len() - SHOWN));
    }
    sentence
}
