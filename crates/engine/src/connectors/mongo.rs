//! From the options of MongoDB to a connector.

use super::{credential, tls};
use anyhow::anyhow;
use millstream_config::{
    MongoCluster, MongoFrom, MongoNulls, MongoOperation, MongoOrder, MongoReadFrom, MongoRows,
    MongoTo, MongoType, Pipeline as PipelineFile,
};
use millstream_core::{Lookup, Result};
use millstream_mongo::{
    Acknowledged, Cluster, ClusterOptions, ColumnType, Columns, MongoLookup, MongoLookupOptions,
    MongoSinkOptions, Nulls, Operation, ReadFrom, Rows, Stored, Template, WriteConcern,
};
use millstream_sql::LookupUse;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The deployment as its options say, connected. Connections live on `io`.
pub async fn connect(
    options: &MongoCluster,
    file: &PipelineFile,
    io: &Handle,
) -> Result<Arc<Cluster>> {
    let options = ClusterOptions {
        hosts: options.hosts.clone(),
        replica_set: options.replica_set.clone(),
        user: options
            .username
            .clone()
            .map(|name| (name, credential::or_empty(options.password.as_ref()))),
        auth_database: options.auth_database.clone(),
        tls: options.tls.as_ref().map(|tls| tls::options(tls, file)),
        connections: NonZeroU32::new(options.connections).unwrap_or(NonZeroU32::MIN),
        connect_timeout: options.connect_timeout.0,
    };
    Cluster::connect(options, io).await
}

/// A look-up bound to what the SQL joins it by.
pub async fn lookup(
    cluster: Arc<Cluster>,
    name: &str,
    from: &MongoFrom,
    timeout: Duration,
    used: &LookupUse,
) -> anyhow::Result<Arc<dyn Lookup>> {
    let options = MongoLookupOptions {
        database: from.cluster.database.clone(),
        collection: from.collection.clone(),
        columns: columns(from).map_err(|(column, why)| anyhow!("`{column}`: {why}"))?,
        group: from.group as usize,
        concurrency: from.concurrency as usize,
        rows: match from.rows {
            MongoRows::First => Rows::First,
            MongoRows::All => Rows::All { max: from.max_rows as usize },
        },
        sort: {
            let sort = from.sort.iter().flatten();
            sort.map(|(field, order)| (field.clone(), *order == MongoOrder::Desc)).collect()
        },
        read_from: read_from(from),
        read_concern: from.read_concern.clone(),
        timeout,
    };
    let opened = MongoLookup::open(cluster, options, &used.key, &used.key_types);
    let opened = opened.map_err(|error| anyhow!(error.chain()))?;
    // What cannot be asked now is asked again with the first rows.
    for finding in opened.findings(from.sample as usize).await.unwrap_or_default() {
        tracing::warn!("look-up {name}: {finding}");
    }
    Ok(Arc::new(opened))
}

/// The columns as they are declared; the error is a column and what is wrong with it.
pub fn columns(from: &MongoFrom) -> Result<Columns, (String, String)> {
    let declared = from.columns.iter().flatten();
    let parse = |(name, of): (&String, &String)| match ColumnType::parse(of) {
        Ok(of) => Ok((name.clone(), of)),
        Err(why) => Err((name.clone(), why)),
    };
    declared.map(parse).collect()
}

pub fn read_from(from: &MongoFrom) -> ReadFrom {
    match from.read_from {
        MongoReadFrom::Primary => ReadFrom::Primary,
        MongoReadFrom::PrimaryPreferred => ReadFrom::PrimaryPreferred,
        MongoReadFrom::Secondary => ReadFrom::Secondary,
        MongoReadFrom::SecondaryPreferred => ReadFrom::SecondaryPreferred,
        MongoReadFrom::Nearest => ReadFrom::Nearest,
    }
}

/// What a sink does; the error is a sentence about its `update`.
pub fn options(to: &MongoTo) -> Result<MongoSinkOptions, String> {
    Ok(MongoSinkOptions {
        database: to.cluster.database.clone(),
        collection: to.collection.clone(),
        operation: match to.operation {
            MongoOperation::Insert => Operation::Insert,
            MongoOperation::Upsert => Operation::Upsert,
            MongoOperation::Delete => Operation::Delete,
            MongoOperation::Update => Operation::Update {
                template: Template::parse(serde_json::json!(to.update))?,
                upsert: to.upsert.unwrap_or(true),
            },
        },
        columns: to.columns.as_ref().map(|columns| {
            columns.iter().map(|(field, row)| (row.clone(), field.clone())).collect()
        }),
        types: to.types.iter().flatten().map(|(name, of)| (name.clone(), stored(*of))).collect(),
        key: to.key.clone().unwrap_or_default(),
        nulls: match to.nulls {
            MongoNulls::Skip => Nulls::Skip,
            MongoNulls::Write => Nulls::Write,
        },
        batch_rows: to.batch_rows as usize,
        batch_bytes: usize::try_from(to.batch_bytes.0).unwrap_or(usize::MAX),
        concurrency: to.concurrency as usize,
        retries: to.retries,
        write_concern: WriteConcern {
            acknowledged: match (to.write_concern.as_str(), to.write_concern.parse()) {
                ("majority", _) => Acknowledged::Majority,
                (_, Ok(nodes)) => Acknowledged::Nodes(nodes),
                (name, Err(_)) => Acknowledged::Named(name.to_owned()),
            },
            journal: to.journal,
        },
        timeout: to.timeout.0,
    })
}

fn stored(of: MongoType) -> Stored {
    match of {
        MongoType::ObjectId => Stored::ObjectId,
        MongoType::Uuid => Stored::Uuid,
        MongoType::Decimal128 => Stored::Decimal128,
    }
}
