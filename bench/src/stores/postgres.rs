//! The same rows into PostgreSQL: our sink, which upserts what it copied.

use super::sink::{BATCH_ROWS, rows};
use crate::job::{Job, Measured, Meter};
use crate::pipeline::runtime;
use crate::services;
use crate::store::FILES;
use anyhow::{Context, Result, ensure};
use millstream_core::{Batch, Credential};
use millstream_postgres::{
    Conflict, Mode, Operation, PgSinkOptions, PgTable, Server, ServerOptions,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

const TABLE: &str = "bench_pages";
/// Connections of a sink, as many as a pipeline has unless its file says otherwise.
const CONNECTIONS: usize = 4;

/// The real server that the project's own starter runs.
pub struct Postgres {
    address: String,
    user: String,
    password: String,
    runtime: Runtime,
    client: Client,
}

impl Postgres {
    pub fn up() -> Result<Postgres> {
        let text = services::started("postgres")?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::to_owned).with_context(|| format!("the starter says {name}"))
        };
        let (address, user) = (value("POSTGRES_ADDRESS=")?, value("SERVICES_USER=")?);
        let password = value("SERVICES_PASSWORD=")?;
        let runtime = runtime("store", 1)?;
        let (host, port) = address.split_once(':').context("a host and a port")?;
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(port.parse()?).user(&user).password(&password).dbname("postgres");
        let client = runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(connection);
            anyhow::Ok(client)
        })?;
        Ok(Postgres { address, user, password, runtime, client })
    }

    /// An empty table.
    pub fn empty(&self) -> Result<()> {
        let statements = format!(
            "DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (uid text PRIMARY KEY, url text, \
             status integer, segment text, seen_at timestamptz)"
        );
        Ok(self.runtime.block_on(self.client.batch_execute(&statements))?)
    }

    pub fn has(&self, count: u64) -> Result<()> {
        let count_of = format!("SELECT count(*) FROM {TABLE}");
        let row = self.runtime.block_on(self.client.query_one(&count_of, &[]))?;
        let counted: i64 = row.get(0);
        ensure!(counted as u64 == count, "{count} rows were written, {counted} are there");
        Ok(())
    }

    pub fn measure(&self, count: u64) -> Result<Measured> {
        let [address, user, password, count] = self.arguments(count);
        let env = [
            ("BENCH_PG", address.as_str()),
            ("BENCH_PG_USER", user.as_str()),
            ("BENCH_PG_PASSWORD", password.as_str()),
        ];
        Job::Store { work: super::Work::Copy, count: count.parse()? }.measure_in(&[], &env)
    }

    /// What a peer in Python is told.
    pub fn arguments(&self, count: u64) -> [String; 4] {
        let Postgres { address, user, password, .. } = self;
        [address.clone(), user.clone(), password.clone(), count.to_string()]
    }
}

pub fn own(count: u64) -> Result<Measured> {
    let [tasks, io] = [runtime("pipelines", 1)?, runtime("io", 1)?];
    let var = |name: &str| std::env::var(name).with_context(|| name.to_owned());
    let options = ServerOptions {
        hosts: vec![var("BENCH_PG")?],
        database: "postgres".into(),
        user: var("BENCH_PG_USER")?,
        password: Some(Credential::given(var("BENCH_PG_PASSWORD")?)),
        tls: None,
        application: "millstream-bench".into(),
        connections: CONNECTIONS,
        connect_timeout: Duration::from_secs(10),
        timeout: Duration::from_secs(30),
    };
    let server = Server::new(options, io.handle().clone());
    let batches = (0..count / BATCH_ROWS).map(|batch| {
        let rows = rows(batch * BATCH_ROWS)?;
        // What only Cassandra is told stands last.
        anyhow::Ok(rows.project(&[0, 1, 2, 3, 4])?)
    });
    let batches = Arc::new(batches.collect::<Result<Vec<_>>>()?);
    let schema = batches.first().context("there are rows to write")?.schema();
    tasks.block_on(tasks.spawn(async move {
        let options = PgSinkOptions {
            schema: None,
            table: TABLE.into(),
            mode: Mode::Copy,
            operation: Operation::Upsert,
            conflict: Conflict::Reject,
            key: None,
            columns: None,
            positions: None,
        };
        let table = PgTable::open(server, options, &schema).await?;
        let mut meter = Meter::paused();
        meter.resume();
        let partitions = (0..FILES as usize).map(|partition| {
            let (mut sink, batches) = (table.sink(), batches.clone());
            tokio::spawn(async move {
                let mut stored = 0;
                for rows in batches.iter().skip(partition).step_by(FILES as usize) {
                    let receipt = sink.write(&Batch::same(rows.clone())).await?;
                    ensure!(receipt.rejected.is_empty(), "nothing is refused");
                    receipt.durable.await?;
                    stored += receipt.rows;
                }
                anyhow::Ok(stored)
            })
        });
        // All of them run at once.
        let partitions: Vec<_> = partitions.collect();
        let mut stored = 0;
        for partition in partitions {
            stored += partition.await??;
        }
        meter.pause();
        let given = batches.len() as u64 * BATCH_ROWS;
        ensure!(stored == given, "{stored} of {given} rows are stored");
        meter.measured("PostgreSQL sink, COPY and upsert", given, 0)
    }))?
}
