//! What a broker may be told.

use crate::users::Users;
use millstream_log::files::{Files, RealFiles};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Options {
    /// What clients are told to connect to; unless given, the address that they reached.
    pub advertise: Option<(String, u16)>,
    /// Where committed offsets and the ids of producers are kept.
    pub dir: PathBuf,
    pub files: Arc<dyn Files>,
    /// Clients must show who they are.
    pub users: Option<Users>,
    pub tls: Option<TlsOptions>,
    pub limits: Limits,
    pub groups: GroupOptions,
    /// Partitions of a topic that is made because a client asked for it; `None`: none is made.
    pub auto_create: Option<u32>,
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    pub certificates: PathBuf,
    pub key: PathBuf,
    /// Clients must have a certificate that one of these signed.
    pub client_ca: Option<PathBuf>,
}

/// What one client, and all of them, may take.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    /// The largest request.
    pub request_bytes: usize,
    /// The largest batch that a producer may send.
    pub batch_bytes: usize,
    /// Requests of one connection that are not answered yet.
    pub in_flight: usize,
    /// And the bytes of these, but for one request that is larger.
    pub connection_bytes: usize,
    /// All requests up to `ordinary_bytes` large, together; and as much again for larger ones.
    pub requests_bytes: usize,
    pub ordinary_bytes: usize,
    /// One answer to a fetch, but for a single batch that is larger.
    pub fetch_bytes: usize,
    /// What of it is held in memory, and of all of them together. The kernel sends the rest.
    pub fetch_held_bytes: usize,
    pub fetches_held_bytes: usize,
    /// The files that all of them together keep open; what lies in others is read.
    pub fetches_files: usize,
    /// Sessions of fetches, of all clients together, and the partitions in them; a tenth of these may
    /// be in one. A session that was not used for so long makes room for another.
    pub fetch_sessions: usize,
    pub fetch_session_partitions: usize,
    pub fetch_session_idle: Duration,
    /// A connection that asks nothing for so long is closed.
    pub idle: Duration,
    /// A connection that begins a request, or is given an answer, and does not move is closed.
    pub stalled: Duration,
}

/// How groups of consumers are run.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// How long the first members of a group wait for others.
    pub initial_delay: Duration,
    pub session_min: Duration,
    pub session_max: Duration,
    /// For members whose assignment is made here.
    pub session: Duration,
    pub heartbeat: Duration,
    pub members_max: usize,
    pub groups_max: usize,
    /// What members say of themselves, and leaders of them, in all groups together.
    pub groups_bytes: usize,
    /// Committed offsets of a group that nobody uses are forgotten after this.
    pub retention: Duration,
}

impl Options {
    pub fn new(dir: PathBuf) -> Options {
        Options {
            advertise: None,
            dir,
            files: Arc::new(RealFiles),
            users: None,
            tls: None,
            limits: Limits::default(),
            groups: GroupOptions::default(),
            auto_create: Some(1),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_000,
            request_bytes: 32 << 20,
            batch_bytes: 16 << 20,
            in_flight: 32,
            connection_bytes: 4 << 20,
            requests_bytes: 64 << 20,
            ordinary_bytes: 2 << 20,
            fetch_bytes: 32 << 20,
            fetch_held_bytes: 8 << 20,
            fetches_held_bytes: 64 << 20,
            fetches_files: 256,
            fetch_sessions: 1_000,
            fetch_session_partitions: 100_000,
            fetch_session_idle: Duration::from_secs(120),
            idle: Duration::from_secs(600),
            stalled: Duration::from_secs(30),
        }
    }
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            initial_delay: Duration::from_millis(20),
            session_min: Duration::from_secs(6),
            session_max: Duration::from_secs(1_800),
            session: Duration::from_secs(45),
            heartbeat: Duration::from_secs(3),
            members_max: 1_000,
            groups_max: 10_000,
            groups_bytes: 64 << 20,
            retention: Duration::from_secs(7 * 24 * 3_600),
        }
    }
}
