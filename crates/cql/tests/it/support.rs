//! A keyspace of one's own, and a session to fill it with.

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use millstream_core::{Credential, Found, Lookup, LookupKey};
use millstream_cql::{
    Cluster, ClusterOptions, Consistency, CqlLookup, CqlLookupOptions, Execution, Rows,
};
use millstream_testkit::services::{self, Cassandra};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

pub struct World {
    pub cassandra: Cassandra,
    pub keyspace: String,
    pub session: Session,
    pub cluster: Arc<Cluster>,
}

/// None where there is no Cassandra.
pub async fn world() -> Option<World> {
    let cassandra = tokio::task::spawn_blocking(services::cassandra).await.unwrap()?;
    Some(world_of(cassandra, 1).await)
}

/// A keyspace whose rows are on so many nodes.
pub async fn world_of(cassandra: Cassandra, copies: usize) -> World {
    let files = cassandra.files();
    let session = SessionBuilder::new()
        .known_nodes(cassandra.nodes())
        .user(&files.user, &files.password)
        .build()
        .await
        .unwrap();
    let keyspace = services::unique("cql").replace('-', "_");
    let world = World {
        cluster: Cluster::connect(options(&cassandra), &Handle::current()).await.unwrap(),
        cassandra,
        keyspace,
        session,
    };
    let replication = format!("{{'class': 'SimpleStrategy', 'replication_factor': {copies}}}");
    world.cql(&format!("CREATE KEYSPACE KS WITH replication = {replication}")).await;
    world
}

pub fn options(cassandra: &Cassandra) -> ClusterOptions {
    let files = cassandra.files();
    ClusterOptions {
        nodes: cassandra.nodes(),
        datacenter: None,
        rack: None,
        user: Some((files.user, Credential::given(files.password))),
        tls: None,
        connections: NonZeroUsize::MIN,
        connect_timeout: Duration::from_secs(10),
    }
}

impl World {
    /// Executes a statement; `KS` in it is the keyspace.
    pub async fn cql(&self, statement: &str) {
        let statement = statement.replace("KS", &self.keyspace);
        self.session.query_unpaged(statement.as_str(), ()).await.unwrap_or_else(|error| {
            panic!("{statement}: {error}");
        });
    }

    pub fn options(&self, table: &str) -> CqlLookupOptions {
        CqlLookupOptions {
            keyspace: self.keyspace.clone(),
            table: table.into(),
            columns: None,
            group: 64,
            concurrency: 8,
            rows: Rows::All { max: 100 },
            execution: Execution {
                consistency: Consistency::LocalQuorum,
                timeout: Duration::from_secs(10),
                speculative_after: None,
            },
        }
    }

    /// A look-up in a table that was just made.
    pub async fn lookup(
        &self,
        options: CqlLookupOptions,
        key: &[(&str, DataType)],
    ) -> Result<CqlLookup, String> {
        self.refresh().await;
        let columns = key.iter().map(|(name, _)| (*name).to_owned()).collect();
        let types: Vec<_> = key.iter().map(|(_, t)| t.clone()).collect();
        let key = LookupKey::Equal(columns);
        let opened = CqlLookup::open(self.cluster.clone(), options, &key, &types).await;
        opened.map_err(|error| error.chain())
    }

    /// Lets the driver see tables that are new.
    async fn refresh(&self) {
        self.cluster.refresh().await.unwrap();
    }
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
