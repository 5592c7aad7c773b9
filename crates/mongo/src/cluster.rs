//! One client of a MongoDB deployment, shared by everything that asks it.

use crate::error;
use crate::tls::{Loaded, Times, time};
use futures::StreamExt;
use millstream_core::{Error, Result};
use mongodb::bson::{Document, RawDocumentBuf};
use mongodb::options::{
    ClientOptions, Credential, ReadPreference, RunCursorCommandOptions, SelectionCriteria,
    ServerAddress, Tls,
};
use mongodb::{Client, raw_batch_cursor::RawBatch};
use parking_lot::Mutex;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    Given(Hidden),
    /// A file that holds it, read again when it changes.
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Some servers as `host:port`; those of a replica set are learnt from them.
    pub hosts: Vec<String>,
    pub replica_set: Option<String>,
    pub user: Option<(String, Password)>,
    /// The database that knows the user; `admin` unless given.
    pub auth_database: Option<String>,
    pub tls: Option<TlsOptions>,
    /// To each server, at most.
    pub connections: NonZeroU32,
    pub connect_timeout: Duration,
}

/// Files in PEM, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Which members of a replica set are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadFrom {
    #[default]
    Primary,
    PrimaryPreferred,
    Secondary,
    SecondaryPreferred,
    Nearest,
}

/// When a write counts as durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteConcern {
    pub acknowledged: Acknowledged,
    /// Wait for the journal on disk too.
    pub journal: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Acknowledged {
    #[default]
    Majority,
    Nodes(NonZeroU32),
    /// A rule of the replica set by its name.
    Named(String),
}

pub struct Cluster {
    options: ClusterOptions,
    io: Handle,
    current: Mutex<Current>,
}

struct Current {
    connected: Connected,
    /// The files as they could not be used, and why: both have been told.
    unusable: Option<(Times, String)>,
    /// The server refused whom the client logs in as: the password's file may be another one although
    /// it looks the same.
    is_refused: bool,
}

struct Connected {
    client: Client,
    /// What it logs in with.
    password: Option<Hidden>,
    /// The files of certificates and of the password, as they were read.
    times: Times,
    /// What the client reads as long as it lives.
    _tls: Option<Arc<Loaded>>,
}

impl Cluster {
    /// Connects; the driver's tasks run on `io`.
    pub async fn connect(options: ClusterOptions, io: &Handle) -> Result<Arc<Cluster>> {
        let what = format!("MongoDB at {} cannot be reached", options.hosts.join(", "));
        let connected = Connected::new(&options, io)?;
        let client = connected.client.clone();
        let timeout = options.connect_timeout;
        let current = Current { connected, unusable: None, is_refused: false };
        let cluster = Cluster { options, io: io.clone(), current: Mutex::new(current) };
        let ping = io.spawn(async move {
            let mut ping = Document::new();
            ping.insert("ping", 1);
            client.database("admin").run_command(ping).await
        });
        match tokio::time::timeout(timeout * 2, ping).await {
            Ok(Ok(Ok(_))) => Ok(Arc::new(cluster)),
            Ok(Ok(Err(error))) => Err(error::of_connect(&error, &what)),
            Ok(Err(panic)) => Err(Error::stop("mongodb", what).because(panic)),
            Err(_) => Err(Error::retry("unreachable", what)),
        }
    }

    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The client; another one when its files changed, with connections of its own. Files that cannot
    /// be used are looked at again when they change, or when the server refuses the user.
    fn client(&self) -> Client {
        let mut current = self.current.lock();
        let times = self.options.times();
        let Current { connected, unusable, is_refused } = &mut *current;
        unusable.take_if(|(known, _)| *known != times);
        let is_refused = std::mem::take(is_refused);
        let is_known = connected.times == times;
        if !is_refused && (is_known || unusable.is_some()) {
            return connected.client.clone();
        }
        // Nothing to log in with but what was refused, or what another command has read since.
        if is_known && self.options.password().is_ok_and(|now| now == connected.password) {
            return connected.client.clone();
        }
        let files = self.options.files();
        match Connected::new(&self.options, &self.io) {
            Ok(new) => {
                tracing::info!("{files} changed: new connections use them");
                (*connected, *unusable) = (new, None);
            }
            // A file that is just being replaced must not end what works.
            Err(error) => {
                let why = error.chain();
                if unusable.as_ref().is_none_or(|(_, told)| *told != why) {
                    tracing::warn!("{files} changed and cannot be used yet: {why}");
                }
                *unusable = Some((times, why));
            }
        }
        connected.client.clone()
    }

    /// What a command ended with.
    fn noted<T>(&self, answer: Result<T>) -> Result<T> {
        if matches!(&answer, Err(error) if error.kind() == "unauthorized") {
            self.current.lock().is_refused = true;
        }
        answer
    }

    /// Runs a command and gives its answer. Cancel safe: a connection whose answer is not awaited is
    /// closed, and what the command did is unknown.
    pub(crate) async fn run(
        &self,
        database: &str,
        command: RawDocumentBuf,
        timeout: Duration,
        what: &str,
    ) -> Result<Document> {
        let database = self.client().database(database);
        match tokio::time::timeout(timeout, database.run_raw_command(command)).await {
            Ok(answer) => self.noted(answer.map_err(|error| error::of_command(&error, what))),
            Err(_) => Err(late(timeout, what)),
        }
    }

    /// Runs a command that finds documents; `take` gets each batch of them and says whether to go on.
    /// Cancel safe.
    pub(crate) async fn find(
        &self,
        database: &str,
        command: RawDocumentBuf,
        from: ReadFrom,
        timeout: Duration,
        what: &str,
        mut take: impl FnMut(RawBatch) -> Result<bool>,
    ) -> Result<()> {
        let database = self.client().database(database);
        let mut options = RunCursorCommandOptions::default();
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(from.preference()));
        let asked = async {
            let cursor = database.run_raw_cursor_command(command).with_options(options).batch();
            let mut cursor = cursor.await.map_err(|error| error::of_command(&error, what))?;
            while let Some(batch) = cursor.next().await {
                if !take(batch.map_err(|error| error::of_command(&error, what))?)? {
                    break;
                }
            }
            Ok(())
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => self.noted(answer),
            Err(_) => Err(late(timeout, what)),
        }
    }
}

impl ClusterOptions {
    fn password_file(&self) -> Option<&PathBuf> {
        match &self.user {
            Some((_, Password::File(path))) => Some(path),
            _ => None,
        }
    }

    fn password(&self) -> Result<Option<Hidden>> {
        self.user.as_ref().map(|(_, password)| password.current()).transpose()
    }

    /// The files that are named here, as they were written last.
    fn times(&self) -> Times {
        let mut times = self.tls.as_ref().map(TlsOptions::times).unwrap_or_default();
        if let Some(path) = self.password_file() {
            times.push(time(path));
        }
        times
    }

    /// Those files in a sentence.
    fn files(&self) -> &'static str {
        match (&self.tls, self.password_file()) {
            (Some(_), Some(_)) => "the files of TLS or of the password",
            (_, Some(_)) => "the password file",
            (_, None) => "the TLS files",
        }
    }
}

impl Password {
    fn current(&self) -> Result<Hidden> {
        match self {
            Password::Given(hidden) => Ok(hidden.clone()),
            Password::File(path) => {
                let wrong = |why: &str| {
                    let told = format!("the password file {} {why}", path.display());
                    Error::stop("unauthorized", told)
                };
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| wrong("cannot be read").because(error))?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                match text.strip_suffix('\r').unwrap_or(text) {
                    "" => Err(wrong("is empty: write the password into it")),
                    password => Ok(Hidden(password.to_owned())),
                }
            }
        }
    }
}

fn late(timeout: Duration, what: &str) -> Error {
    Error::retry("timeout", format!("{what}: no answer within {timeout:?}"))
}

impl Connected {
    fn new(options: &ClusterOptions, io: &Handle) -> Result<Connected> {
        let wrong = |error: &mongodb::error::Error| error::of_connect(error, "MongoDB");
        // The times before the content: a change in between is seen again.
        let times = options.times();
        let password = options.password()?;
        let mut client = ClientOptions::default();
        let hosts = options.hosts.iter().map(ServerAddress::parse);
        client.hosts = hosts.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
        client.app_name = Some("millstream".into());
        client.repl_set_name = options.replica_set.clone();
        client.connect_timeout = Some(options.connect_timeout);
        client.server_selection_timeout = Some(options.connect_timeout);
        client.max_pool_size = Some(options.connections.get());
        // Commands are tried again by whoever sends them, who knows what may be sent twice.
        client.retry_reads = Some(false);
        client.retry_writes = Some(false);
        if let Some((user, _)) = &options.user {
            let mut credential = Credential::default();
            credential.username = Some(user.clone());
            credential.password = password.as_ref().map(|hidden| hidden.0.clone());
            credential.source = options.auth_database.clone();
            client.credential = Some(credential);
        }
        let loaded = options.tls.as_ref().map(Loaded::new).transpose()?.map(Arc::new);
        if let Some(loaded) = &loaded {
            client.tls = Some(Tls::Enabled(loaded.options()));
        }
        let _runtime = io.enter();
        let client = Client::with_options(client).map_err(|error| wrong(&error))?;
        Ok(Connected { client, password, times, _tls: loaded })
    }
}

impl ReadFrom {
    fn preference(self) -> ReadPreference {
        match self {
            ReadFrom::Primary => ReadPreference::Primary,
            ReadFrom::PrimaryPreferred => ReadPreference::PrimaryPreferred { options: None },
            ReadFrom::Secondary => ReadPreference::Secondary { options: None },
            ReadFrom::SecondaryPreferred => ReadPreference::SecondaryPreferred { options: None },
            ReadFrom::Nearest => ReadPreference::Nearest { options: None },
        }
    }
}
