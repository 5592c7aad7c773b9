//! From the options of PostgreSQL to a connector.

use super::{credential, tls};
use anyhow::anyhow;
use arrow_schema::SchemaRef;
use millstream_config::{
    Pipeline as PipelineFile, PostgresConflict, PostgresFrom, PostgresMode, PostgresOperation,
    PostgresServer, PostgresTo,
};
use millstream_core::{Credential, Lookup, Result};
use millstream_postgres::{
    Conflict, Mode, Operation, PgLookup, PgLookupOptions, PgSinkOptions, PgTable, Positions,
    Server, ServerOptions,
};
use millstream_sql::LookupUse;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The server as its options say; nothing is connected yet. Connections live on `io`.
pub fn server(
    options: &PostgresServer,
    timeout: Duration,
    file: &PipelineFile,
    io: &Handle,
) -> Arc<Server> {
    let password = match (&options.password_file, &options.password) {
        (Some(path), _) => Some(Credential::File(file.resolve(path))),
        (None, secret) => secret.as_ref().map(credential::of),
    };
    let options = ServerOptions {
        hosts: options.hosts.clone(),
        database: options.database.clone(),
        user: options.username.clone(),
        password,
        tls: options.tls.as_ref().map(|tls| tls::options(tls, file)),
        application: format!("millstream-{}", file.spec.pipeline),
        connections: options.connections as usize,
        connect_timeout: options.connect_timeout.0,
        timeout,
    };
    Server::new(options, io.clone())
}

/// A look-up bound to what the SQL joins it by.
pub async fn lookup(
    server: Arc<Server>,
    from: &PostgresFrom,
    used: &LookupUse,
) -> anyhow::Result<Arc<dyn Lookup>> {
    let options = PgLookupOptions {
        schema: from.schema.clone(),
        table: from.table.clone(),
        columns: names(from),
        group: from.group as usize,
        concurrency: from.concurrency as usize,
        rows_max: from.max_rows as usize,
    };
    let opened = PgLookup::open(server, options, &used.key, &used.key_types).await;
    Ok(Arc::new(opened.map_err(|error| anyhow!(error.chain()))?))
}

/// The columns to fetch; all of them when none are named.
pub fn names(from: &PostgresFrom) -> Option<Vec<String>> {
    from.columns.as_ref().map(|columns| columns.0.keys().cloned().collect())
}

/// What a sink does, of which pipeline and by which name.
pub fn options(to: &PostgresTo, pipeline: &str, sink: &str) -> PgSinkOptions {
    PgSinkOptions {
        schema: to.schema.clone(),
        table: to.table.clone(),
        mode: match to.mode {
            PostgresMode::Copy => Mode::Copy,
            PostgresMode::Insert => Mode::Insert,
        },
        operation: match to.operation {
            PostgresOperation::Insert => Operation::Insert,
            PostgresOperation::Upsert => Operation::Upsert,
            PostgresOperation::Delete => Operation::Delete,
        },
        conflict: match to.on_conflict {
            PostgresConflict::DeadLetter => Conflict::Reject,
            PostgresConflict::Nothing => Conflict::Nothing,
        },
        key: to.key.clone(),
        columns: to.columns.as_ref().map(|columns| {
            columns.iter().map(|(table, row)| (row.clone(), table.clone())).collect()
        }),
        positions: to
            .exactly_once
            .then(|| Positions { pipeline: pipeline.to_owned(), sink: sink.to_owned() }),
    }
}

/// A table bound to the columns of the rows.
pub async fn table(
    server: Arc<Server>,
    options: PgSinkOptions,
    rows: &SchemaRef,
) -> Result<Arc<PgTable>> {
    PgTable::open(server, options, rows).await
}
