//! A schema of one's own, and a connection to fill it with.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use millstream_core::{Batch, Credential, Found, Lookup, LookupKey, Receipt};
use millstream_postgres::{
    Conflict, Mode, Operation, PgLookup, PgLookupOptions, PgSinkOptions, PgTable, Server,
    ServerOptions,
};
use millstream_testkit::services::{self, Postgres};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub struct World {
    pub postgres: Postgres,
    pub schema: String,
    pub client: Client,
    pub server: Arc<Server>,
}

/// None where there is no PostgreSQL.
pub async fn world() -> Option<World> {
    let postgres = tokio::task::spawn_blocking(services::postgres).await.unwrap()?;
    let schema = services::unique("own").replace('-', "_");
    let options = ServerOptions { application: schema.clone(), ..options(&postgres) };
    let client = client(&postgres).await;
    let server = Server::new(options, Handle::current());
    let world = World { postgres, schema, client, server };
    world.sql("CREATE SCHEMA S").await;
    Some(world)
}

/// A connection beside the sink's.
pub async fn client(postgres: &Postgres) -> Client {
    let mut config = tokio_postgres::Config::new();
    let (address, files) = (postgres.address(), postgres.files());
    config.host(address.ip().to_string()).port(address.port());
    config.user(files.user).password(files.password).dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub fn options(postgres: &Postgres) -> ServerOptions {
    let files = postgres.files();
    ServerOptions {
        hosts: vec![postgres.address().to_string()],
        database: "postgres".into(),
        user: files.user,
        password: Some(Credential::given(files.password)),
        tls: None,
        application: "millstream-test".into(),
        connections: 2,
        connect_timeout: Duration::from_secs(10),
        timeout: Duration::from_secs(10),
    }
}

impl World {
    /// Executes statements; `S.` and `SCHEMA S` in them are the schema.
    pub async fn sql(&self, statements: &str) {
        let statements = self.named(statements);
        if let Err(error) = self.client.batch_execute(&statements).await {
            panic!("{statements}: {error:?}");
        }
    }

    /// The rows of a query, each as its columns in text.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        let answer = self.client.simple_query(&self.named(query)).await.unwrap();
        answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("null"));
                    Some(cells.collect::<Vec<_>>().join(" "))
                }
                _ => None,
            })
            .collect()
    }

    /// Ends the connections of `server` from the other side.
    pub async fn cut(&self) {
        let query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                     WHERE application_name = $1";
        self.client.query(query, &[&self.schema]).await.unwrap();
    }

    pub fn named(&self, text: &str) -> String {
        text.replace("S.", &format!("{}.", self.schema))
            .replace("SCHEMA S", &format!("SCHEMA {}", self.schema))
    }

    pub fn looking(&self, table: &str) -> PgLookupOptions {
        PgLookupOptions {
            schema: Some(self.schema.clone()),
            table: table.into(),
            columns: None,
            group: 3,
            concurrency: 4,
            rows_max: 100,
        }
    }

    pub async fn lookup(
        &self,
        options: PgLookupOptions,
        key: &[(&str, DataType)],
    ) -> Result<PgLookup, String> {
        let columns = key.iter().map(|(name, _)| (*name).to_owned()).collect();
        let types: Vec<_> = key.iter().map(|(_, t)| t.clone()).collect();
        let key = LookupKey::Equal(columns);
        let opened = PgLookup::open(self.server.clone(), options, &key, &types).await;
        opened.map_err(|error| error.chain())
    }

    pub fn writing(&self, table: &str) -> PgSinkOptions {
        PgSinkOptions {
            schema: Some(self.schema.clone()),
            table: table.into(),
            mode: Mode::Copy,
            operation: Operation::Insert,
            conflict: Conflict::Reject,
            key: None,
            columns: None,
            positions: None,
        }
    }

    /// Writes a batch, and waits until it is durable.
    pub async fn write(&self, options: PgSinkOptions, batch: &Batch) -> Result<Receipt, String> {
        let opened = PgTable::open(self.server.clone(), options, &batch.rows.schema()).await;
        let table = opened.map_err(|error| error.chain())?;
        let mut receipt = table.sink().write(batch).await.map_err(|error| error.chain())?;
        let durable = std::mem::replace(&mut receipt.durable, Box::pin(async { Ok(()) }));
        durable.await.map_err(|error| error.chain())?;
        Ok(receipt)
    }
}

pub fn rows(columns: Vec<(&str, ArrayRef)>) -> Batch {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Batch::same(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

pub fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

pub fn longs(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub async fn ask(lookup: &dyn Lookup, key: Vec<(&str, ArrayRef)>) -> Result<Found, String> {
    let keys = RecordBatch::try_from_iter_with_nullable(
        key.into_iter().map(|(name, column)| (name, column, true)),
    );
    lookup.get_many(&keys.unwrap()).await.map_err(|error| error.chain())
}

/// A column's value as text; empty for a null.
pub fn shown(rows: &RecordBatch, column: &str, row: usize) -> String {
    let column = rows.column_by_name(column).unwrap();
    arrow_cast::display::array_value_to_string(column, row).unwrap()
}
