//! One client of a MongoDB deployment, shared by everything that asks it.

use crate::error;
use crate::tls::Loaded;
use futures::StreamExt;
use millstream_core::{Credential, Error, Hidden, Result};
use millstream_tls::{TlsOptions, Watched};
use mongodb::bson::{Document, RawDocumentBuf};
use mongodb::options::{
    ClientOptions, Credential as Login, ReadPreference, RunCursorCommandOptions, SelectionCriteria,
    ServerAddress, Tls,
};
use mongodb::{Client, raw_batch_cursor::RawBatch};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Some servers as `host:port`; those of a replica set are learnt from them.
    pub hosts: Vec<String>,
    pub replica_set: Option<String>,
    /// A password in a file is read again when it changes.
    pub user: Option<(String, Credential)>,
    /// The database that knows the user; `admin` unless given.
    pub auth_database: Option<String>,
    /// Files that are read again when they change.
    pub tls: Option<TlsOptions>,
    /// To each server, at most.
    pub connections: NonZeroU32,
    pub connect_timeout: Duration,
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
    connected: Watched<Arc<Connected>>,
    /// The server refused whom the client logs in as: the password's file may be another one although
    /// it looks the same.
    is_refused: AtomicBool,
}

struct Connected {
    client: Client,
    /// What it logs in with.
    password: Option<Hidden>,
    /// What the client reads as long as it lives.
    _tls: Option<Loaded>,
}

impl Cluster {
    /// Connects; the driver's tasks run on `io`.
    pub async fn connect(options: ClusterOptions, io: &Handle) -> Result<Arc<Cluster>> {
        let what = format!("MongoDB at {} cannot be reached", options.hosts.join(", "));
        let timeout = options.connect_timeout;
        let connected = options.watched();
        let is_refused = AtomicBool::new(false);
        let cluster = Cluster { options, io: io.clone(), connected, is_refused };
        let connected = cluster.connected()?;
        let ping = io.spawn(async move {
            let mut ping = Document::new();
            ping.insert("ping", 1);
            connected.client.database("admin").run_command(ping).await
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

    /// The client; another one when its files changed, with connections of its own.
    fn connected(&self) -> Result<Arc<Connected>> {
        let now = || self.connected.now(|| Connected::new(&self.options, &self.io).map(Arc::new));
        let connected = now()?;
        let is_refused = self.is_refused.swap(false, Ordering::Relaxed);
        // The same once more would be refused again.
        if is_refused && self.options.password().is_ok_and(|now| now != connected.password) {
            self.connected.again();
            return now();
        }
        Ok(connected)
    }

    /// What a command ended with.
    fn noted<T>(&self, answer: Result<T>) -> Result<T> {
        if matches!(&answer, Err(error) if error.kind() == "unauthorized") {
            self.is_refused.store(true, Ordering::Relaxed);
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
        let connected = self.connected()?;
        let database = connected.client.database(database);
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
        let connected = self.connected()?;
        let database = connected.client.database(database);
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
    fn password_file(&self) -> Option<&Path> {
        self.user.as_ref().and_then(|(_, password)| password.file())
    }

    fn password(&self) -> Result<Option<Hidden>> {
        let current = |(_, password): &(_, Credential)| password.current("password");
        self.user.as_ref().map(current).transpose().map_err(|why| Error::stop("unauthorized", why))
    }

    /// A place for what is made of the files that are named here.
    fn watched<T: Clone>(&self) -> Watched<T> {
        let what = match (&self.tls, self.password_file()) {
            (Some(_), Some(_)) => "the files of TLS or of the password",
            (_, Some(_)) => "the password file",
            (_, None) => "the TLS files",
        };
        let tls = self.tls.iter().flat_map(TlsOptions::paths);
        Watched::new(what, tls.chain(self.password_file().map(Path::to_owned)))
    }
}

fn late(timeout: Duration, what: &str) -> Error {
    Error::retry("timeout", format!("{what}: no answer within {timeout:?}"))
}

impl Connected {
    fn new(options: &ClusterOptions, io: &Handle) -> Result<Connected> {
        let wrong = |error: &mongodb::error::Error| error::of_connect(error, "MongoDB");
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
            let mut credential = Login::default();
            credential.username = Some(user.clone());
            credential.password = password.as_ref().map(|hidden| hidden.0.clone());
            credential.source = options.auth_database.clone();
            client.credential = Some(credential);
        }
        let loaded = options.tls.as_ref().map(Loaded::new).transpose()?;
        if let Some(loaded) = &loaded {
            client.tls = Some(Tls::Enabled(loaded.options()));
        }
        let _runtime = io.enter();
        let client = Client::with_options(client).map_err(|error| wrong(&error))?;
        Ok(Connected { client, password, _tls: loaded })
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
