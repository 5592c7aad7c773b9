//! One connection: its statements are prepared once, and none takes longer than its bound.

use crate::error;
use crate::server::{Access, ServerOptions};
use crate::tls::Tls;
use ahash::AHashMap;
use bytes::Bytes;
use futures::SinkExt;
use millstream_core::{Error, Result};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Connection, NoTls, SimpleQueryMessage, Socket, Statement};

/// The server ends a statement at its bound; the connection is given up so much later, or after
/// twice the time.
const GRACE: Duration = Duration::from_secs(5);

/// How long a connection that is not needed any more may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a piece of a COPY has at most.
const PIECE_BYTES: usize = 256 << 10;

pub(crate) struct Session {
    pub client: Client,
    /// The server's process.
    pub pid: i32,
    timeout: Duration,
    prepared: Mutex<AHashMap<String, Statement>>,
    /// The staging tables that it has.
    pub staged: Mutex<Vec<String>>,
    /// Dropped, it tells the driver that nobody asks any more.
    _alive: oneshot::Sender<()>,
}

/// Why a statement has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    Driver(tokio_postgres::Error),
    /// Nothing came within the time: what became of it is unknown.
    Silence(Duration),
}

impl Failure {
    pub fn of(&self, what: &str) -> Error {
        match self {
            Failure::Driver(error) => error::of(error, what),
            Failure::Silence(time) => {
                Error::retry("timeout", format!("{what}: no answer within {time:?}"))
            }
        }
    }

    pub fn is_stale(&self) -> bool {
        matches!(self, Failure::Driver(error) if error::is_stale(error))
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::Driver(error)
    }
}

impl Session {
    pub async fn connect(options: &ServerOptions, access: Access, io: &Handle) -> Result<Session> {
        let what = format!("connecting to PostgreSQL at {}", options.hosts.join(", "));
        let mut config = config(options, access)?;
        let password = String::from_utf8_lossy(config.get_password().unwrap_or_default());
        let password = password.into_owned();
        let patience = options.connect_timeout * options.hosts.len().max(1) as u32;
        let (alive, gone) = oneshot::channel();
        let driver = io.clone();
        let connected = match &options.tls {
            None => {
                config.ssl_mode(SslMode::Disable);
                io.spawn(async move {
                    let (client, connection) = config.connect(NoTls).await?;
                    driver.spawn(drive(connection, gone));
                    Ok::<_, tokio_postgres::Error>(client)
                })
            }
            Some(tls) => {
                config.ssl_mode(SslMode::Require);
                let tls = Tls::new(tls)?;
                io.spawn(async move {
                    let (client, connection) = config.connect(tls).await?;
                    driver.spawn(drive(connection, gone));
                    Ok(client)
                })
            }
        };
        let stop = AbortOnDrop(connected.abort_handle());
        let client = match tokio::time::timeout(patience, connected).await {
            Ok(Ok(client)) => client.map_err(|e| error::of(&e, &what).without([&*password]))?,
            Ok(Err(panic)) => return Err(Error::stop("postgres", what).because(panic)),
            Err(_) => {
                let told = format!("{what}: nothing within {patience:?}");
                return Err(Error::retry("unreachable", told));
            }
        };
        drop(stop);
        let mut session = Session {
            client,
            pid: 0,
            timeout: options.timeout,
            prepared: Mutex::default(),
            staged: Mutex::default(),
            _alive: alive,
        };
        session.script(&settings(options.timeout)).await.map_err(|failure| failure.of(&what))?;
        let pid = session.client.query_one("SELECT pg_backend_pid()", &[]);
        let pid = session.within(pid).await.map_err(|failure| failure.of(&what))?;
        session.pid = pid.try_get(0).map_err(|e| error::of(&e, &what))?;
        Ok(session)
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// How long an answer is waited for.
    pub fn patience(&self) -> Duration {
        patience(self.timeout)
    }

    /// Waits for an answer, but not for ever: the server may be gone without a word.
    pub async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        let patience = self.patience();
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.map_err(Failure::Driver),
            Err(_) => Err(Failure::Silence(patience)),
        }
    }

    /// Statements without parameters, in one round trip; gives how many rows each was about.
    pub async fn script(&self, statements: &str) -> Result<Vec<u64>, Failure> {
        let answers = self.within(self.client.simple_query(statements)).await?;
        let counts = answers.iter().filter_map(|answer| match answer {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        Ok(counts.collect())
    }

    pub async fn prepare(&self, text: &str) -> Result<Statement, Failure> {
        if let Some(known) = self.prepared.lock().get(text) {
            return Ok(known.clone());
        }
        let prepared = self.within(self.client.prepare(text)).await?;
        self.prepared.lock().insert(text.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// Prepares it anew the next time.
    pub fn forget(&self, text: &str) {
        self.prepared.lock().remove(text);
    }

    /// Sends rows in COPY's binary format, header and trailer included.
    pub async fn copy(&self, statement: &Statement, parts: Vec<Bytes>) -> Result<(), Failure> {
        let sink = self.within(self.client.copy_in::<_, Bytes>(statement)).await?;
        let mut sink = pin!(sink);
        for mut part in parts {
            while !part.is_empty() {
                let piece = part.split_to(part.len().min(PIECE_BYTES));
                self.within(sink.send(piece)).await?;
            }
        }
        self.within(sink.finish()).await?;
        Ok(())
    }
}

fn patience(timeout: Duration) -> Duration {
    timeout + timeout.min(GRACE)
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn drive<T>(connection: Connection<Socket, T>, gone: oneshot::Receiver<()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!("a connection to PostgreSQL ended: {error}");
            }
            return;
        }
        _ = gone => {}
    }
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

fn config(options: &ServerOptions, access: Access) -> Result<Config> {
    let mut config = Config::new();
    config
        .dbname(&options.database)
        .user(&options.user)
        .application_name(&options.application)
        .connect_timeout(options.connect_timeout)
        .keepalives_idle(Duration::from_secs(30))
        .tcp_user_timeout(patience(options.timeout));
    for host in &options.hosts {
        let (name, port) = address(host).map_err(|why| Error::stop("postgres", why))?;
        config.host(name).port(port);
    }
    if access == Access::Write && options.hosts.len() > 1 {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if let Some(password) = &options.password {
        let password = password.current("password");
        let password = password.map_err(|why| Error::stop("authentication", why))?;
        config.password(password.0);
    }
    Ok(config)
}

/// `host`, `host:port` or `[v6]:port`.
pub(crate) fn address(host: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("`{host}` is no address: write host:port");
    let (name, port) = match host.rsplit_once(':') {
        Some((name, _)) if name.contains(':') && !name.starts_with('[') => (host, None),
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| wrong())?,
        None => 5432,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() { Err(wrong()) } else { Ok((name, port)) }
}

/// What our statements and the forms of values take for granted. A transaction whose client is gone
/// without a word does not keep its locks. A commit that is acknowledged is
/// on the disk, whatever the role's settings say.
fn settings(timeout: Duration) -> String {
    format!(
        "SET statement_timeout = {}; SET standard_conforming_strings = on; SET TimeZone = 'UTC'; \
         SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; \
         SET idle_in_transaction_session_timeout = {}; SET tcp_keepalives_idle = 30; \
         SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; \
         SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') = 'off'",
        timeout.as_millis().max(1),
        patience(timeout).as_millis().max(1),
    )
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_has_a_host_and_may_have_a_port() {
        assert_eq!(address("db"), Ok(("db", 5432)));
        assert_eq!(address("db:1"), Ok(("db", 1)));
        assert_eq!(address("[::1]:6432"), Ok(("::1", 6432)));
        assert_eq!(address("::1"), Ok(("::1", 5432)));
        assert!(address("db:x").is_err());
        assert!(address(":5432").is_err());
    }
}
