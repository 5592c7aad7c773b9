//! How to reach a server, and connections that are kept for the next who needs one.

use crate::session::Session;
use millstream_core::{Credential, Error, Result};
use millstream_tls::TlsOptions;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// `host:port`, tried in this order.
    pub hosts: Vec<String>,
    pub database: String,
    pub user: String,
    /// In a file it is read for each connection.
    pub password: Option<Credential>,
    /// Files that are read for each connection.
    pub tls: Option<TlsOptions>,
    /// What the server's lists of connections call us.
    pub application: String,
    /// Connections at most: of a look-up all its requests share them, of a sink each is one
    /// transaction's at a time.
    pub connections: usize,
    pub connect_timeout: Duration,
    /// How long one statement may take.
    pub timeout: Duration,
}

/// Where rows go, or whom keys are asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A server, and the connections to it. They live on the runtime that it was made with.
pub struct Server {
    pub(crate) options: ServerOptions,
    io: Handle,
    idle: Mutex<Vec<Session>>,
    /// The server's processes behind connections that were given up in a transaction. One that
    /// hears of nothing keeps its locks.
    given_up: Mutex<Vec<i32>>,
    leases: Arc<Semaphore>,
    shared: Vec<Mutex<Option<Arc<Session>>>>,
    next: AtomicUsize,
    /// One connects at a time: a server that comes back is not run over.
    connecting: Semaphore,
}

impl Server {
    /// Nothing is connected yet.
    pub fn new(options: ServerOptions, io: Handle) -> Arc<Server> {
        let connections = options.connections.max(1);
        Arc::new(Server {
            options,
            io,
            idle: Mutex::default(),
            given_up: Mutex::default(),
            leases: Arc::new(Semaphore::new(connections)),
            shared: (0..connections).map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            connecting: Semaphore::new(1),
        })
    }

    pub(crate) fn what(&self) -> String {
        let ServerOptions { hosts, database, .. } = &self.options;
        format!("PostgreSQL at {}, database {database}", hosts.join(", "))
    }

    pub(crate) fn io(&self) -> &Handle {
        &self.io
    }

    /// A connection of one's own; waits until one is free. Cancel safe.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease> {
        let permit = self.leases.clone().acquire_owned().await;
        let permit = permit.map_err(|closed| Error::stop("closed", self.what()).because(closed))?;
        let kept = loop {
            match self.idle.lock().pop() {
                Some(session) if session.is_closed() => {}
                kept => break kept,
            }
        };
        let session = match kept {
            Some(session) => session,
            None => self.connect(Access::Write).await?,
        };
        self.end_given_up(&session).await?;
        Ok(Lease { session: Some(session), server: self.clone(), _permit: permit })
    }

    /// Ends what is left of connections that were given up. Cancel safe.
    async fn end_given_up(&self, session: &Session) -> Result<()> {
        let due = self.given_up.lock().clone();
        if due.is_empty() {
            return Ok(());
        }
        let pids: Vec<_> = due.iter().map(i32::to_string).collect();
        let script = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ({}) AND \
             usename = current_user AND application_name = current_setting('application_name')",
            pids.join(", ")
        );
        let what = || format!("ending connections that were given up: {}", self.what());
        session.script(&script).await.map_err(|failure| failure.of(&what()))?;
        self.given_up.lock().retain(|pid| !due.contains(pid));
        Ok(())
    }

    /// One of the connections that many ask on, in turn. Cancel safe.
    pub(crate) async fn shared(&self) -> Result<Arc<Session>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.shared.len();
        let slot = &self.shared[turn];
        let there = || slot.lock().clone().filter(|session| !session.is_closed());
        if let Some(session) = there() {
            return Ok(session);
        }
        let _turn = self.connecting.acquire().await;
        if let Some(session) = there() {
            return Ok(session);
        }
        let session = Arc::new(self.connect(Access::Read).await?);
        *slot.lock() = Some(session.clone());
        Ok(session)
    }

    /// Nobody else is to ask on this connection.
    pub(crate) fn retire(&self, session: &Arc<Session>) {
        for slot in &self.shared {
            let mut slot = slot.lock();
            if slot.as_ref().is_some_and(|one| Arc::ptr_eq(one, session)) {
                *slot = None;
            }
        }
    }

    pub(crate) async fn connect(&self, access: Access) -> Result<Session> {
        Session::connect(&self.options, access, &self.io).await
    }
}

/// A connection that is one's own. Dropped, it is closed, and what was not committed is taken back.
pub(crate) struct Lease {
    session: Option<Session>,
    server: Arc<Server>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    pub fn session(&self) -> &Session {
        self.session.as_ref().expect("it is there until it is given back")
    }

    /// The connection is outside a transaction: whoever comes next may have it.
    pub fn give_back(mut self) {
        if let Some(session) = self.session.take()
            && !session.is_closed()
        {
            self.server.idle.lock().push(session);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.server.given_up.lock().push(session.pid);
        }
    }
}
