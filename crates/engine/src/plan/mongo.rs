//! What a MongoDB deployment has of what a file names: asked when it is planned, so that what `check`
//! accepts runs.

use super::{Planner, SinkPlan};
use crate::connectors::mongo;
use arrow_schema::{DataType, SchemaRef};
use millstream_config::{LookupFrom, MongoCluster, MongoFrom, MongoTo, PipelineSpec};
use millstream_core::{Disposition, LookupKey};
use millstream_mongo::{Cluster, held_against, sample, schema, takes_key};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long the deployment may take to show some documents.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

impl Planner<'_> {
    /// The columns of a look-up: what is declared, or what documents look like.
    pub(super) async fn mongo_lookup(&mut self, name: &str, from: &MongoFrom) -> Option<SchemaRef> {
        let path = format!("/lookups/{name}/mongodb");
        let columns = match mongo::columns(from) {
            Ok(columns) => columns,
            Err((column, why)) => {
                self.mistake(&format!("{path}/columns/{column}"), why, None);
                return None;
            }
        };
        if !self.catalog.asks_elsewhere() {
            if columns.is_empty() {
                let message = format!("the columns of `{name}` are not known");
                let hint = "declare its `columns:` with their types: this runs without the store";
                self.mistake(&path, message, Some(hint.into()));
                return None;
            }
            return Some(schema(&columns));
        }
        let cluster = self.mongo_cluster(&from.cluster, &path).await?;
        let (database, documents) = (&from.cluster.database, from.sample as usize);
        let read_from = mongo::read_from(from);
        if !columns.is_empty() {
            let held = held_against(
                &cluster,
                (database, &from.collection),
                &columns,
                documents,
                read_from,
                SHOWN_WITHIN,
            );
            if let Err(error) = held.await {
                self.refusal(&format!("{path}/columns"), &error, None);
                return None;
            }
            return Some(schema(&columns));
        }
        let sampled =
            sample(&cluster, database, &from.collection, documents, read_from, SHOWN_WITHIN);
        match sampled.await {
            Ok(sampled) => {
                tracing::info!(
                    "look-up {name}: {} documents of {database}.{} look like {}",
                    sampled.documents,
                    from.collection,
                    sampled.declaration()
                );
                let columns = schema(&sampled.columns);
                self.sampled.insert(name.to_owned(), sampled.columns);
                Some(columns)
            }
            Err(error) => {
                self.refusal(&path, &error, None);
                None
            }
        }
    }

    /// Declares what was learnt, so that what runs is what was checked.
    pub(super) fn declare_sampled(&mut self, spec: &mut PipelineSpec) {
        for (name, columns) in &self.sampled {
            let Some(lookup) = spec.lookups.get_mut(name) else { continue };
            if let LookupFrom::Mongo(from) = &mut lookup.from {
                let columns = columns.iter().map(|(name, of)| (name.clone(), of.name()));
                from.mongodb.columns = Some(columns.collect());
            }
        }
    }

    /// Whether the collection can be asked by these fields of these types.
    pub(super) fn check_mongo_key(
        &self,
        name: &str,
        from: &MongoFrom,
        key: &LookupKey,
        key_types: &[DataType],
    ) -> Result<(), (String, String)> {
        let declared = mongo::columns(from).unwrap_or_default();
        let columns = self.sampled.get(name).unwrap_or(&declared);
        let taken = takes_key(columns, key, key_types);
        taken.map_err(|why| (why, "join by fields with an index, CAST to their types".into()))
    }

    pub(super) async fn mongo_sink(
        &mut self,
        at: usize,
        to: &MongoTo,
        rows: &SchemaRef,
    ) -> Option<SinkPlan> {
        let path = format!("/sinks/{at}/mongodb");
        let options = match mongo::options(to) {
            Ok(options) => options,
            Err(why) => {
                self.mistake(&format!("{path}/update"), why, None);
                return None;
            }
        };
        if let Err(why) = options.check(rows) {
            self.mistake(&path, why, None);
            return None;
        }
        if self.catalog.asks_elsewhere() {
            self.mongo_cluster(&to.cluster, &path).await?;
        }
        let to = format!("{}.{}", to.cluster.database, to.collection);
        Some(SinkPlan::Outside { to: format!("mongodb {to}") })
    }

    /// The deployment, when it is not known to be away.
    async fn mongo_cluster(&mut self, options: &MongoCluster, path: &str) -> Option<Arc<Cluster>> {
        if self.away.contains(&options.hosts) {
            return None;
        }
        match mongo::connect(options, self.file, &Handle::current()).await {
            Ok(cluster) => Some(cluster),
            Err(error) => {
                self.away.push(options.hosts.clone());
                let is_away = error.disposition() == Disposition::Retry;
                self.refusal(path, &error, is_away.then(|| "start it, or correct `hosts`".into()));
                None
            }
        }
    }
}
