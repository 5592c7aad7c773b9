//! The service: a listener for Kafka clients over a log.

use crate::connection::{self, Ends};
use crate::error::{Error, Result};
use crate::fetch::session::{self, Sessions};
use crate::groups::Groups;
use crate::options::Options;
use crate::out::Out;
use crate::stats::{Counters, Meter, Present, add};
use crate::store::Store;
use crate::tls::Tls;
use millstream_log::{Log, Topic};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The one broker that clients see.
pub const NODE: i32 = 1;
/// There is no other leader that an epoch could tell from this one.
pub const EPOCH: i32 = 0;

/// A bound address and everything opened, not answering yet.
pub struct Broker {
    listener: TcpListener,
    inner: Arc<Inner>,
}

/// What connections share.
pub struct Inner {
    pub log: Log,
    pub options: Options,
    pub store: Store,
    pub groups: Groups,
    pub sessions: Sessions,
    pub budgets: Budgets,
    /// Passwords are checked one after the other: that takes long.
    pub passwords: Semaphore,
    pub counters: Counters,
    users_of: OnceLock<UsersOf>,
    tls: Option<Tls>,
}

type UsersOf = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Memory, in KiB, and open files.
pub struct Budgets {
    pub ordinary: Arc<Semaphore>,
    pub large: Arc<Semaphore>,
    pub fetches: Arc<Semaphore>,
    pub files: Arc<Semaphore>,
}

impl Broker {
    /// Takes the address, before anything is opened.
    pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
        let listener = TcpListener::bind(address).await;
        listener.map_err(|source| Error::Bind { address, source })
    }

    /// Opens what is kept beside the log.
    pub fn open(listener: TcpListener, log: Log, options: Options) -> Result<Broker> {
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        let store = Store::open(&options.dir, options.files.clone())?;
        let budget = |bytes: usize| Arc::new(Semaphore::new(bytes.div_ceil(1024).max(1)));
        let limits = &options.limits;
        let budgets = Budgets {
            ordinary: budget(limits.requests_bytes.max(limits.ordinary_bytes)),
            large: budget(limits.requests_bytes.max(limits.request_bytes)),
            fetches: budget(limits.fetches_held_bytes.max(limits.fetch_held_bytes)),
            files: Arc::new(Semaphore::new(limits.fetches_files)),
        };
        let groups = Groups::new(options.groups.clone());
        let sessions = Sessions::new(session::Limits {
            sessions: limits.fetch_sessions,
            partitions: limits.fetch_session_partitions,
            partitions_each: limits.fetch_session_partitions / 10,
            idle: limits.fetch_session_idle,
        });
        let (counters, users_of) = (Counters::default(), OnceLock::new());
        let inner = Inner {
            log,
            options,
            store,
            groups,
            sessions,
            budgets,
            passwords: Semaphore::new(1),
            counters,
            users_of,
            tls,
        };
        Ok(Broker { listener, inner: Arc::new(inner) })
    }

    /// Lets no client delete a topic that somebody uses, as `users_of` says in words.
    /// The first word counts.
    pub fn keep_used(&self, users_of: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        let _ = self.inner.users_of.set(Box::new(users_of));
    }

    pub fn meter(&self) -> Meter {
        Meter::new(self.inner.clone())
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `stop`; then connections are closed, and what was appended stays.
    pub async fn serve(self, stop: CancellationToken) {
        let Broker { listener, inner } = self;
        let places = Arc::new(Semaphore::new(inner.options.limits.connections));
        let connections = TaskTracker::new();
        connections.spawn(crate::groups::tick(inner.clone(), stop.clone()));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a Kafka client could not be let in");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                add(&inner.counters.connections_refused, 1);
                tracing::warn!(%peer, "too many Kafka clients are connected: one was turned away");
                continue;
            };
            let (inner, stop) = (inner.clone(), stop.clone());
            connections.spawn(async move {
                serve(inner, stream, peer, stop).await;
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
    }
}

async fn serve(inner: Arc<Inner>, stream: TcpStream, peer: SocketAddr, stop: CancellationToken) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    if peer.ip().to_canonical().is_loopback() {
        do_not_pace(&stream);
    }
    let ends = Ends { peer, local, plain: inner.tls.is_none() };
    let _present = Present::new(inner.clone());
    let Some(tls) = &inner.tls else {
        let (reader, out) = stream.into_split();
        return connection::serve(inner.clone(), reader, Out::Plain(out), ends, stop).await;
    };
    let accepted = timeout(inner.options.limits.stalled, tls.accept(stream)).await;
    match accepted {
        Ok(Ok(stream)) => {
            let (reader, out) = tokio::io::split(stream);
            return connection::serve(inner.clone(), reader, Out::Tls(out), ends, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
    add(&inner.counters.handshake_errors, 1);
}

/// Within a machine there is no congestion to control, and where the system's default paces what it
/// sends, as BBR does, its timers cost a quarter of a large answer.
#[cfg(target_os = "linux")]
fn do_not_pace(stream: &TcpStream) {
    // Advice only: it works without.
    let _ = rustix::net::sockopt::set_tcp_congestion(stream, "reno");
}

#[cfg(not(target_os = "linux"))]
fn do_not_pace(_stream: &TcpStream) {}

impl Inner {
    /// Who uses a topic, in words, where somebody does.
    pub fn user_of(&self, topic: &str) -> Option<String> {
        self.users_of.get()?(topic)
    }

    /// The address that a client is told, by the one that it reached.
    pub fn advertised(&self, local: SocketAddr) -> (String, i32) {
        match &self.options.advertise {
            Some((host, port)) => (host.clone(), i32::from(*port)),
            None => (local.ip().to_string(), i32::from(local.port())),
        }
    }

    /// A topic by its id where there is one, else by its name.
    pub fn topic(&self, name: &str, id: Uuid) -> Option<Topic> {
        if id.is_nil() { self.log.topic(name) } else { self.log.topic_by_id(id) }
    }
}

/// Runs what waits for the disk where it holds nobody up.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is on its way out and nobody waits for the answer.
            Err(_) => std::future::pending().await,
        },
    }
}
