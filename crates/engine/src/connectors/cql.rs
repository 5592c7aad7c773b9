//! From the options of Cassandra and ScyllaDB to a connector.

use super::{credential, tls};
use anyhow::anyhow;
use millstream_config::{
    CqlCluster, CqlConsistency, CqlFrom, CqlNulls, CqlOperation, CqlRows, CqlSerialConsistency,
    CqlTo, Pipeline as PipelineFile,
};
use millstream_core::{Lookup, Result};
use millstream_cql::{
    Cluster, ClusterOptions, Consistency, CqlClaim, CqlClaimOptions, CqlLookup, CqlLookupOptions,
    CqlSinkOptions, CqlTable, Execution, Nulls, Operation, Rows, SerialConsistency, Ttl,
};
use millstream_sql::LookupUse;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The sessions of a pipeline: one for each cluster, for all that its file names there.
#[derive(Default)]
pub struct Sessions(Vec<Arc<Cluster>>);

impl Sessions {
    /// The cluster as its options say, connected. Connections live on `io`.
    pub async fn get(
        &mut self,
        options: &CqlCluster,
        file: &PipelineFile,
        io: &Handle,
    ) -> Result<Arc<Cluster>> {
        let wanted = cluster(options, file);
        if let Some(cluster) = self.0.iter().find(|cluster| *cluster.options() == wanted) {
            return Ok(cluster.clone());
        }
        let cluster = Cluster::connect(wanted, io).await?;
        self.0.push(cluster.clone());
        Ok(cluster)
    }
}

fn cluster(options: &CqlCluster, file: &PipelineFile) -> ClusterOptions {
    let connections = NonZeroUsize::new(options.connections as usize);
    ClusterOptions {
        nodes: options.nodes.clone(),
        datacenter: options.datacenter.clone(),
        rack: options.rack.clone(),
        user: options
            .username
            .clone()
            .map(|name| (name, credential::or_empty(options.password.as_ref()))),
        tls: options.tls.as_ref().map(|tls| tls::options(tls, file)),
        connections: connections.unwrap_or(NonZeroUsize::MIN),
        connect_timeout: options.connect_timeout.0,
    }
}

/// A look-up bound to what the SQL joins it by. One that inserts only looks, where it is `read_only`.
pub async fn lookup(
    cluster: Arc<Cluster>,
    from: &CqlFrom,
    timeout: Duration,
    used: &LookupUse,
    read_only: bool,
) -> anyhow::Result<Arc<dyn Lookup>> {
    if from.insert_if_not_exists {
        let options = CqlClaimOptions {
            keyspace: from.keyspace.clone(),
            table: from.table.clone(),
            columns: names(from),
            ttl_seconds: from.ttl.map(|ttl| ttl.0.as_secs() as u32),
            concurrency: from.concurrency as usize,
            serial: serial(from.serial_consistency),
            execution: Execution {
                consistency: consistency(from.consistency.unwrap_or(CqlConsistency::LocalQuorum)),
                timeout,
                speculative_after: None,
            },
            read_only,
        };
        let opened = CqlClaim::open(cluster, options, &used.key, &used.key_types).await;
        return Ok(Arc::new(opened.map_err(|error| anyhow!(error.chain()))?));
    }
    let options = CqlLookupOptions {
        keyspace: from.keyspace.clone(),
        table: from.table.clone(),
        columns: names(from),
        group: from.group as usize,
        concurrency: from.concurrency as usize,
        rows: match from.rows {
            CqlRows::First => Rows::First,
            CqlRows::All => Rows::All { max: from.max_rows as usize },
        },
        execution: Execution {
            consistency: consistency(from.consistency.unwrap_or(CqlConsistency::LocalOne)),
            timeout,
            speculative_after: from.speculative_after.map(|period| period.0),
        },
    };
    let opened = CqlLookup::open(cluster, options, &used.key, &used.key_types).await;
    Ok(Arc::new(opened.map_err(|error| anyhow!(error.chain()))?))
}

/// The columns to fetch; all of them when none are named.
pub fn names(from: &CqlFrom) -> Option<Vec<String>> {
    from.columns.as_ref().map(|columns| columns.0.keys().cloned().collect())
}

/// A table bound to the columns of the rows.
pub async fn table(
    cluster: Arc<Cluster>,
    to: &CqlTo,
    rows: &arrow_schema::Schema,
) -> Result<Arc<CqlTable>> {
    let options = CqlSinkOptions {
        keyspace: to.keyspace.clone(),
        table: to.table.clone(),
        operation: match to.operation {
            CqlOperation::Insert => Operation::Insert,
            CqlOperation::InsertIfNotExists => {
                Operation::InsertIfNotExists(serial(to.serial_consistency))
            }
            CqlOperation::Update => Operation::Update,
            CqlOperation::Delete => Operation::Delete,
        },
        columns: to.columns.as_ref().map(|columns| {
            columns.iter().map(|(table, row)| (row.clone(), table.clone())).collect()
        }),
        ttl: match (&to.ttl, &to.ttl_column) {
            (Some(ttl), _) => Ttl::Seconds(ttl.0.as_secs() as u32),
            (None, Some(column)) => Ttl::Column(column.clone()),
            (None, None) => Ttl::Table,
        },
        timestamp: to.timestamp.clone(),
        nulls: match to.nulls {
            CqlNulls::Unset => Nulls::Unset,
            CqlNulls::Delete => Nulls::Delete,
        },
        batch_rows: to.batch_rows as usize,
        batch_bytes: to.batch_bytes.0 as usize,
        concurrency: to.concurrency as usize,
        retries: to.retries,
        execution: Execution {
            consistency: consistency(to.consistency),
            timeout: to.timeout.0,
            speculative_after: None,
        },
    };
    CqlTable::open(cluster, options, rows).await
}

fn serial(given: Option<CqlSerialConsistency>) -> SerialConsistency {
    match given {
        Some(CqlSerialConsistency::Serial) => SerialConsistency::Serial,
        Some(CqlSerialConsistency::LocalSerial) | None => SerialConsistency::LocalSerial,
    }
}

fn consistency(given: CqlConsistency) -> Consistency {
    match given {
        CqlConsistency::Any => Consistency::Any,
        CqlConsistency::One => Consistency::One,
        CqlConsistency::Two => Consistency::Two,
        CqlConsistency::Three => Consistency::Three,
        CqlConsistency::Quorum => Consistency::Quorum,
        CqlConsistency::All => Consistency::All,
        CqlConsistency::LocalQuorum => Consistency::LocalQuorum,
        CqlConsistency::EachQuorum => Consistency::EachQuorum,
        CqlConsistency::LocalOne => Consistency::LocalOne,
    }
}
