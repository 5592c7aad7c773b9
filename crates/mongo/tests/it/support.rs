//! A database of one's own, and a client to fill it with.

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use millstream_core::{Batch, Found, Lookup, LookupKey, Receipt};
use millstream_mongo::{
    Acknowledged, Cluster, ClusterOptions, ColumnType, Columns, MongoCollection, MongoLookup,
    MongoLookupOptions, MongoSinkOptions, Nulls, Operation, ReadFrom, Rows, WriteConcern,
};
use millstream_testkit::services::{self, Mongo};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

pub struct World {
    pub mongo: Mongo,
    pub database: String,
    pub client: Client,
    pub cluster: Arc<Cluster>,
}

/// None where there is no such server.
pub async fn world() -> Option<World> {
    let mongo = tokio::task::spawn_blocking(services::mongo).await.unwrap()?;
    let client = Client::with_uri_str(format!("mongodb://{}/", mongo.address())).await.unwrap();
    let cluster = Cluster::connect(options(mongo.address()), &Handle::current()).await.unwrap();
    let database = services::unique("mongo").replace('-', "_");
    Some(World { mongo, database, client, cluster })
}

pub fn options(address: SocketAddr) -> ClusterOptions {
    ClusterOptions {
        hosts: vec![address.to_string()],
        replica_set: None,
        user: None,
        auth_database: None,
        tls: None,
        connections: NonZeroU32::new(8).unwrap(),
        connect_timeout: Duration::from_secs(10),
    }
}

pub fn columns(columns: &[(&str, &str)]) -> Columns {
    let parse = |of| ColumnType::parse(of).unwrap();
    columns.iter().map(|(name, of)| ((*name).to_owned(), parse(of))).collect()
}

pub fn lookup_options(database: &str, collection: &str, of: &[(&str, &str)]) -> MongoLookupOptions {
    MongoLookupOptions {
        database: database.into(),
        collection: collection.into(),
        columns: columns(of),
        group: 64,
        concurrency: 4,
        rows: Rows::All { max: 100 },
        sort: Vec::new(),
        read_from: ReadFrom::Primary,
        read_concern: None,
        timeout: Duration::from_secs(10),
    }
}

pub fn sink_options(database: &str, collection: &str, operation: Operation) -> MongoSinkOptions {
    MongoSinkOptions {
        database: database.into(),
        collection: collection.into(),
        operation,
        columns: None,
        types: Vec::new(),
        key: Vec::new(),
        nulls: Nulls::Skip,
        batch_rows: 200,
        batch_bytes: 1 << 20,
        concurrency: 4,
        retries: 3,
        write_concern: WriteConcern { acknowledged: Acknowledged::Majority, journal: None },
        timeout: Duration::from_secs(30),
    }
}

pub fn open_lookup(
    cluster: &Arc<Cluster>,
    options: MongoLookupOptions,
    key: &[(&str, DataType)],
) -> Result<MongoLookup, String> {
    let names = key.iter().map(|(name, _)| (*name).to_owned()).collect();
    let types: Vec<_> = key.iter().map(|(_, t)| t.clone()).collect();
    let opened = MongoLookup::open(cluster.clone(), options, &LookupKey::Equal(names), &types);
    opened.map_err(|error| error.chain())
}

impl World {
    pub fn collection(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.database).collection(name)
    }

    pub async fn fill(&self, name: &str, documents: impl IntoIterator<Item = Document>) {
        self.collection(name).insert_many(documents).await.unwrap();
    }

    /// All documents by their `_id`.
    pub async fn stored(&self, name: &str) -> Vec<Document> {
        let cursor = self.collection(name).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
        futures::TryStreamExt::try_collect(cursor).await.unwrap()
    }

    pub fn lookup(
        &self,
        collection: &str,
        of: &[(&str, &str)],
        key: &[(&str, DataType)],
    ) -> MongoLookup {
        let options = lookup_options(&self.database, collection, of);
        open_lookup(&self.cluster, options, key).unwrap()
    }

    pub fn sink(&self, collection: &str, operation: Operation) -> MongoSinkOptions {
        sink_options(&self.database, collection, operation)
    }

    pub async fn write(&self, options: MongoSinkOptions, batch: &Batch) -> Result<Receipt, String> {
        write(&self.cluster, options, batch).await
    }
}

pub async fn write(
    cluster: &Arc<Cluster>,
    options: MongoSinkOptions,
    batch: &Batch,
) -> Result<Receipt, String> {
    let opened = MongoCollection::open(cluster.clone(), options, &batch.rows.schema());
    let collection = opened.map_err(|error| error.chain())?;
    collection.sink().write(batch).await.map_err(|error| error.chain())
}

pub fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

pub fn longs(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub fn rows(columns: Vec<(&str, ArrayRef)>) -> Batch {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Batch::same(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

pub async fn ask(lookup: &dyn Lookup, key: Vec<(&str, ArrayRef)>) -> Result<Found, String> {
    lookup.get_many(&rows(key).rows).await.map_err(|error| error.chain())
}

/// A column's value as text; empty for a null.
pub fn shown(rows: &RecordBatch, column: &str, row: usize) -> String {
    let column = rows.column_by_name(column).unwrap();
    arrow_cast::display::array_value_to_string(column, row).unwrap()
}
