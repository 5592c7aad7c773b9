//! What a cluster of Cassandra or ScyllaDB has of what a file names: asked when it is planned, so
//! that what `check` accepts runs.

use super::lookups::declared;
use super::{Planner, SinkPlan, schema_of};
use crate::connectors::cql;
use arrow_schema::{Schema, SchemaRef};
use millstream_config::{CqlCluster, CqlFrom, CqlTo, Period};
use millstream_core::{Disposition, Error, LookupKey, types};
use millstream_cql::{APPLIED, Cluster, STORED, Table, can_be_claimed, claim_columns};
use millstream_sql::KEY_COLUMNS;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What CQL takes.
const TTL_SECONDS_MAX: u64 = millstream_cql::TTL_SECONDS_MAX as u64;

impl Planner<'_> {
    /// The columns of a look-up; what is declared where the cluster is not asked.
    pub(super) async fn cql_lookup(&mut self, name: &str, from: &CqlFrom) -> Option<SchemaRef> {
        let path = format!("/lookups/{name}/cql");
        if !self.cql_ttl(from.ttl, &path) {
            return None;
        }
        let written = from.columns.as_ref().map(schema_of);
        if !self.catalog.asks_elsewhere() {
            if written.is_none() {
                let message = format!("the columns of `{name}` are not known");
                let hint = "declare its `columns:` with their types: this runs without the cluster";
                self.mistake(&path, message, Some(hint.into()));
            }
            return match from.insert_if_not_exists {
                true => self.cql_claim(&*written?, &path),
                false => written,
            };
        }
        let cluster = self.cql_cluster(&from.cluster, &path).await?;
        let table = self.cql_table(&cluster, &from.keyspace, &from.table, &path)?;
        let there = match table.schema(cql::names(from).as_deref()) {
            Ok(there) => there,
            Err(why) => {
                self.mistake(&format!("{path}/columns"), why, None);
                return None;
            }
        };
        for (field, wanted) in there.fields().iter().zip(written.iter().flat_map(|w| w.fields())) {
            if field.data_type() != wanted.data_type() {
                let column = field.name();
                let message = format!(
                    "`{column}` of {}.{} is {}, not {}",
                    from.keyspace,
                    from.table,
                    types::name(field.data_type()),
                    types::name(wanted.data_type())
                );
                let hint = format!("write `{column}: {}`", types::name(field.data_type()));
                self.mistake(&format!("{path}/columns/{column}"), message, Some(hint));
            }
        }
        if from.insert_if_not_exists {
            if let Err(why) = can_be_claimed(&cluster, &from.keyspace, &from.table) {
                self.mistake(&format!("{path}/table"), why, None);
                return None;
            }
            self.cql_tables.insert(name.to_owned(), table);
            return self.cql_claim(&there, &path);
        }
        let key = table.partition_key.iter().chain(&table.clustering);
        let key = key.map(String::as_str).collect::<Vec<_>>().join(",");
        self.cql_tables.insert(name.to_owned(), table);
        Some(declared(&there, KEY_COLUMNS, key))
    }

    /// The columns of a look-up that inserts.
    fn cql_claim(&mut self, columns: &Schema, path: &str) -> Option<SchemaRef> {
        claim_columns(columns).map_err(|why| self.mistake(path, why, None)).ok()
    }

    fn cql_ttl(&mut self, ttl: Option<Period>, path: &str) -> bool {
        let fits = ttl.is_none_or(|ttl| (1..=TTL_SECONDS_MAX).contains(&ttl.0.as_secs()));
        if !fits {
            let message = "CQL keeps rows for one second at least, and for 20 years at most";
            let hint = "leave `ttl` out for rows that stay";
            self.mistake(&format!("{path}/ttl"), message, Some(hint.into()));
        }
        fits
    }

    /// Whether the table can be asked by these columns of these types, or take them.
    pub(super) fn check_cql_key(
        &self,
        name: &str,
        from: &CqlFrom,
        key: &LookupKey,
        key_types: &[arrow_schema::DataType],
    ) -> Result<(), (String, String)> {
        if from.insert_if_not_exists {
            if let Some(outcome) = key.columns().iter().find(|c| [APPLIED, STORED].contains(*c)) {
                let message = format!("`{outcome}` of `{name}` is not known before it was asked");
                return Err((message, "compare it in WHERE".into()));
            }
            let Some(table) = self.cql_tables.get(name) else { return Ok(()) };
            return table.takes_claim(key, key_types).map_err(|why| {
                (why, "name its whole key and the values in the ON; CAST what does not fit".into())
            });
        }
        let Some(table) = self.cql_tables.get(name) else { return Ok(()) };
        table.takes_key(key, key_types).map_err(|why| {
            (why, "join by its whole partition key; CAST what is of another type".into())
        })
    }

    pub(super) async fn cql_sink(
        &mut self,
        at: usize,
        to: &CqlTo,
        schema: &SchemaRef,
    ) -> Option<SinkPlan> {
        let path = format!("/sinks/{at}/cql");
        if !self.cql_ttl(to.ttl, &path) {
            return None;
        }
        if self.catalog.asks_elsewhere() {
            let cluster = self.cql_cluster(&to.cluster, &path).await?;
            self.cql_table(&cluster, &to.keyspace, &to.table, &path)?;
            if let Err(error) = cql::table(cluster, to, schema).await {
                self.refusal(&path, &error, None);
                return None;
            }
        }
        Some(SinkPlan::Cql { to: format!("{}.{}", to.keyspace, to.table) })
    }

    /// The cluster, when it is not known to be away.
    async fn cql_cluster(&mut self, options: &CqlCluster, path: &str) -> Option<Arc<Cluster>> {
        if self.away.contains(&options.nodes) {
            return None;
        }
        match self.cql.get(options, self.file, &Handle::current()).await {
            Ok(cluster) => self.cql_has_nodes(&cluster, options, path).then_some(cluster),
            Err(error) => {
                self.away.push(options.nodes.clone());
                let is_away = error.disposition() == Disposition::Retry;
                self.refusal(path, &error, is_away.then(|| "start it, or correct `nodes`".into()));
                None
            }
        }
    }

    /// Whether the cluster has nodes where the file says that they are near.
    fn cql_has_nodes(&mut self, cluster: &Cluster, options: &CqlCluster, path: &str) -> bool {
        let Some(datacenter) = &options.datacenter else { return true };
        let nodes = cluster.places();
        let racks = nodes.iter().filter(|(of, _)| of.as_ref() == Some(datacenter));
        let racks: BTreeSet<_> = racks.filter_map(|(_, rack)| rack.clone()).collect();
        let centres: BTreeSet<_> = nodes.into_iter().filter_map(|(of, _)| of).collect();
        let (field, name, there) = match &options.rack {
            _ if !centres.contains(datacenter) => ("datacenter", datacenter, centres),
            Some(rack) if !racks.contains(rack) => ("rack", rack, racks),
            _ => return true,
        };
        let there = there.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("no node is in the {field} `{name}`; there is {there}");
        self.mistake(&format!("{path}/{field}"), message, None);
        false
    }

    fn cql_table(
        &mut self,
        cluster: &Cluster,
        keyspace: &str,
        table: &str,
        path: &str,
    ) -> Option<Table> {
        let found: Result<Table, Error> = Table::of(cluster, keyspace, table);
        match found {
            Ok(table) => Some(table),
            Err(error) => {
                self.refusal(&format!("{path}/table"), &error, None);
                None
            }
        }
    }
}
