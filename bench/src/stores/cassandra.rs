//! The real Cassandra that the project's own starter runs, and what the cases find in it.

use super::Work;
use crate::generate::{SITES, site, uid};
use crate::job::{Job, Measured};
use crate::services;
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::Credential;
use millstream_cql::{Cluster, ClusterOptions, Consistency, Execution};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};

pub const KEYSPACE: &str = "bench";
/// Rows of the table that is looked up in without a cache.
pub const USERS: u64 = 100_000;
/// Requests that everybody may have under way.
pub const CONCURRENCY: usize = 128;
/// How long a row of the pages lives.
pub const TTL_SECONDS: i32 = 30 * 24 * 3600;
const FRESH: &str = "cassandra-own";
/// What a node for one suite gets, as the one for all of them has.
const HEAP: &str = "768m";
const FLUSHED_WITHIN: Duration = Duration::from_secs(30);

const TABLES: [&str; 3] = [
    "users (uid text PRIMARY KEY, segment text, country text, score int)",
    "sites (id int PRIMARY KEY, name text, segment text)",
    "pages (uid text PRIMARY KEY, seen_at timestamp, url text, status int, segment text, \
     site_name text, owner text, record bigint)",
];

pub struct Cassandra {
    pub node: String,
    user: String,
    password: String,
    runtime: Runtime,
    session: Session,
    /// A service that ends with this.
    ends: Option<&'static str>,
}

impl Cassandra {
    /// One node, started if there is none, with empty tables.
    pub fn up() -> Result<Cassandra> {
        Self::of(&services::started("cassandra")?, "CASSANDRA_NODES=")
    }

    /// A node of its own that was just started: how fast it answers changes with all that it was asked.
    pub fn fresh() -> Result<Cassandra> {
        services::ended(FRESH)?;
        let text = services::started_with(FRESH, HEAP)?;
        let mut store = Self::of(&text, "CASSANDRA_OWN_NODES=")?;
        store.ends = Some(FRESH);
        Ok(store)
    }

    fn of(text: &str, nodes: &str) -> Result<Cassandra> {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::to_owned).with_context(|| format!("the starter says {name}"))
        };
        let (node, user) = (value(nodes)?, value("SERVICES_USER=")?);
        let password = value("SERVICES_PASSWORD=")?;
        let runtime = crate::pipeline::runtime("store", 1)?;
        let session = runtime.block_on(session(&node, &user, &password))?;
        let ends = None;
        let store = Cassandra { node, user, password, runtime, session, ends };
        store.cql(&format!(
            "CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = \
             {{'class': 'SimpleStrategy', 'replication_factor': 1}} AND durable_writes = true"
        ))?;
        for table in TABLES {
            store.cql(&format!("CREATE TABLE IF NOT EXISTS {KEYSPACE}.{table}"))?;
        }
        Ok(store)
    }

    /// The table of users, all of it in memory.
    pub fn load_users(&self) -> Result<()> {
        self.cql("TRUNCATE bench.users")?;
        self.load(
            "INSERT INTO bench.users (uid, segment, country, score) VALUES (?, ?, ?, ?)",
            (0..USERS).map(|user| {
                let user_id = uid(user);
                (user_id, segment(user), "FR", (user % 1000) as i32)
            }),
        )?;
        let on_disk = self.users_on_disk()?;
        ensure!(on_disk == 0, "{on_disk} MiB of the users were flushed while they were loaded");
        Ok(())
    }

    /// Has the users written to disk, and nothing of them in a memtable.
    pub fn flush_users(&self) -> Result<()> {
        let flush_every = |milliseconds: u32| {
            self.cql(&format!(
                "ALTER TABLE bench.users WITH memtable_flush_period_in_ms = {milliseconds}"
            ))
        };
        flush_every(500)?;
        let deadline = Instant::now() + FLUSHED_WITHIN;
        let flushed = loop {
            let flushed = self.users_on_disk()? > 0;
            if flushed || Instant::now() > deadline {
                break flushed;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        flush_every(0)?;
        ensure!(flushed, "the users were not flushed within {FLUSHED_WITHIN:?}");
        Ok(())
    }

    /// Mebibytes.
    fn users_on_disk(&self) -> Result<i64> {
        let asked = "SELECT mebibytes FROM system_views.disk_usage \
                     WHERE keyspace_name = 'bench' AND table_name = 'users'";
        let rows = self.runtime.block_on(self.session.query_unpaged(asked, ()))?;
        Ok(rows.into_rows_result()?.single_row::<(i64,)>()?.0)
    }

    pub fn load_sites(&self) -> Result<()> {
        self.load(
            "INSERT INTO bench.sites (id, name, segment) VALUES (?, ?, ?)",
            (0..SITES).filter_map(site).map(|site| (site.id as i32, site.name, site.segment)),
        )
    }

    pub fn empty_pages(&self) -> Result<()> {
        self.cql("TRUNCATE bench.pages")
    }

    /// Holds the number of rows in `pages` to what was written.
    pub fn has_pages(&self, count: u64) -> Result<()> {
        let counted = self.pages()?.len() as u64;
        ensure!(counted == count, "{count} rows were written, {counted} are there");
        Ok(())
    }

    /// The key of each row of `pages`, and the number of the record that it was written for.
    pub fn pages(&self) -> Result<Vec<(String, Option<i64>)>> {
        let rows = async {
            let rows = self.session.query_iter("SELECT uid, record FROM bench.pages", ()).await?;
            anyhow::Ok(rows.rows_stream()?.try_collect().await?)
        };
        self.runtime.block_on(rows)
    }

    pub fn measure(&self, work: Work, count: u64, env: &[(&str, String)]) -> Result<Measured> {
        self.measure_behind(&[], work, count, env)
    }

    pub fn measure_behind(
        &self,
        behind: &[&str],
        work: Work,
        count: u64,
        env: &[(&str, String)],
    ) -> Result<Measured> {
        let own = [
            ("BENCH_CQL", self.node.clone()),
            ("BENCH_CQL_USER", self.user.clone()),
            ("BENCH_CQL_PASSWORD", self.password.clone()),
        ];
        // What was given comes last: it may name another way to the store.
        let all: Vec<_> = own.iter().chain(env).map(|(k, v)| (*k, v.as_str())).collect();
        Job::Store { work, count }.measure_in(behind, &all)
    }

    /// What a peer in Python is told.
    pub fn arguments(&self, count: u64) -> Vec<String> {
        vec![self.node.clone(), self.user.clone(), self.password.clone(), count.to_string()]
    }

    fn cql(&self, statement: &str) -> Result<()> {
        let answer = self.runtime.block_on(self.session.query_unpaged(statement, ()));
        answer.map(drop).with_context(|| statement.to_owned())
    }

    fn load<R: scylla::serialize::row::SerializeRow>(
        &self,
        statement: &str,
        rows: impl Iterator<Item = R>,
    ) -> Result<()> {
        self.runtime.block_on(async {
            let insert = self.session.prepare(statement).await?;
            let written = rows.map(|row| {
                let insert = &insert;
                async move { self.session.execute_unpaged(insert, row).await.map(drop) }
            });
            Ok(stream::iter(written).buffer_unordered(CONCURRENCY).try_collect::<()>().await?)
        })
    }
}

impl Drop for Cassandra {
    fn drop(&mut self) {
        if let Some(service) = self.ends
            && let Err(error) = services::ended(service)
        {
            eprintln!("{error:#}");
        }
    }
}

/// A session of the driver by itself, as the environment says.
pub async fn bare_session() -> Result<Session> {
    let [node, user, password] = told()?;
    session(&node, &user, &password).await
}

/// A statement as it is best for the driver: safe to send again, and at the sink's consistency.
pub async fn prepare(session: &Session, statement: &str) -> Result<PreparedStatement> {
    let mut prepared = session.prepare(statement).await?;
    prepared.set_is_idempotent(true);
    prepared.set_consistency(Consistency::LocalQuorum);
    Ok(prepared)
}

/// Our cluster, as the environment says.
pub async fn cluster(io: &Handle) -> Result<Arc<Cluster>> {
    let [node, user, password] = told()?;
    let options = ClusterOptions {
        nodes: vec![node],
        datacenter: None,
        rack: None,
        user: Some((user, Credential::given(password))),
        tls: None,
        connections: NonZeroUsize::MIN,
        connect_timeout: Duration::from_secs(10),
    };
    Ok(Cluster::connect(options, io).await?)
}

pub fn execution() -> Execution {
    Execution {
        consistency: Consistency::LocalQuorum,
        timeout: Duration::from_secs(10),
        speculative_after: None,
    }
}

fn told() -> Result<[String; 3]> {
    let var = |name: &str| std::env::var(name).with_context(|| name.to_owned());
    Ok([var("BENCH_CQL")?, var("BENCH_CQL_USER")?, var("BENCH_CQL_PASSWORD")?])
}

async fn session(node: &str, user: &str, password: &str) -> Result<Session> {
    let builder = SessionBuilder::new().known_node(node).user(user, password).tcp_nodelay(true);
    Ok(builder.build().await?)
}

pub fn segment(user: u64) -> &'static str {
    ["press", "retail", "public", "sport", "finance"][(user % 5) as usize]
}
