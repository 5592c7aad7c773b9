//! Look-ups with their guards and caches.

use super::Stores;
use crate::connectors::cql;
use crate::connectors::kafka;
use crate::connectors::mongo;
use crate::connectors::postgres;
use crate::connectors::web;
use crate::lookups::{CacheOptions, Guarded, KeyColumns, Policy, TableStore};
use crate::metrics::PipelineMetrics;
use crate::plan::{PlannedStep, open_file_lookup};
use crate::waits::Waits;
use anyhow::anyhow;
use millstream_config::{ChangesSpec, LookupFrom, LookupSpec, OnFailure, PipelineSpec};
use millstream_connectors::topic::{TopicSource, TopicSourceOptions};
use millstream_core::{Lookup, Source};
use millstream_sql::LookupUse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the caches of a pipeline may hold together, where the file does not say.
const CACHE_BYTES: usize = 64 << 20;

/// How many bytes the cache of each use of a look-up may hold, by the look-up's name: its own bound,
/// divided by its uses, or an even part of the pipeline's.
pub(super) fn cache_bytes(spec: &PipelineSpec, steps: &[PlannedStep]) -> BTreeMap<String, usize> {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for used in steps.iter().flat_map(|step| step.query.lookups()) {
        if is_cached(&spec.lookups[&used.name]) {
            *uses.entry(&used.name).or_default() += 1;
        }
    }
    let own = |name: &str| spec.lookups[name].cache.max_bytes.as_ref().map(|size| size.0 as usize);
    let sharing: usize =
        uses.iter().filter(|(name, _)| own(name).is_none()).map(|(_, uses)| uses).sum();
    uses.into_iter()
        .map(|(name, uses)| match own(name) {
            Some(bytes) => (name.to_owned(), bytes / uses),
            None => (name.to_owned(), CACHE_BYTES / sharing),
        })
        .collect()
}

fn is_cached(spec: &LookupSpec) -> bool {
    // A file is in memory already.
    let in_memory = matches!(spec.from, LookupFrom::File(_));
    !in_memory && !spec.consistent && !inserts(spec) && spec.cache.max_entries > 0
}

/// Whether what it is asked for is inserted: the earlier batch must be answered before the later asks.
pub(super) fn inserts(spec: &LookupSpec) -> bool {
    matches!(&spec.from, LookupFrom::Cql(from) if from.cql.insert_if_not_exists)
}

pub(super) async fn open_lookup(
    used: &LookupUse,
    spec: &LookupSpec,
    cache_bytes: usize,
    stores: &mut Stores<'_>,
    metrics: &Arc<PipelineMetrics>,
    waits: &Arc<Waits>,
) -> anyhow::Result<Arc<dyn Lookup>> {
    let store: Arc<dyn Lookup> = match &spec.from {
        LookupFrom::Table(from) => {
            Arc::new(TableStore::open(&stores.home.tables, &from.table, &used.key)?)
        }
        LookupFrom::File(from) => {
            let path = stores.file.resolve(&from.file);
            Arc::new(open_file_lookup(from, path, &used.key).map_err(|e| anyhow!(e))?)
        }
        LookupFrom::Http(from) => {
            web::http_lookup(&from.http, stores.file, spec.timeout.0, used, stores.io)?
        }
        LookupFrom::Cql(from) => {
            let Stores { file, io, cql, read_only, .. } = stores;
            let cluster = cql.get(&from.cql.cluster, file, io).await?;
            cql::lookup(cluster, &from.cql, spec.timeout.0, used, *read_only).await?
        }
        LookupFrom::Mongo(from) => {
            let from = &from.mongodb;
            let cluster = mongo::connect(&from.cluster, stores.file, stores.io).await;
            let cluster = cluster?;
            mongo::lookup(cluster, &used.name, from, spec.timeout.0, used).await?
        }
        LookupFrom::Postgres(from) => {
            let from = &from.postgres;
            let server = postgres::server(&from.server, spec.timeout.0, stores.file, stores.io);
            postgres::lookup(server, from, used).await?
        }
    };
    let policy = Policy {
        cache: is_cached(spec).then_some(CacheOptions {
            entries_max: spec.cache.max_entries as usize,
            bytes_max: cache_bytes,
            ttl: spec.cache.ttl.0,
            negative_ttl: spec.cache.negative_ttl.0,
            stale: spec.cache.stale.0,
        }),
        dead_letter: spec.on_failure == OnFailure::DeadLetter,
        retries: spec.retries,
        // Of a store that is asked in several requests each has its time.
        timeout: (!matches!(
            spec.from,
            LookupFrom::Cql(_)
                | LookupFrom::Postgres(_)
                | LookupFrom::Mongo(_)
                | LookupFrom::Http(_)
        ))
        .then_some(spec.timeout.0),
    };
    let mut guarded =
        Guarded::new(&used.name, store, &used.key_types, policy, metrics.clone(), waits.clone())?;
    if let Some(changes) = &spec.cache.changes
        && let Some(key) = KeyColumns::of(&used.key, &used.key_types)
    {
        let source = changes_source(changes, stores, waits).await?;
        guarded.follow(source, key, stores.io);
    }
    Ok(Arc::new(guarded))
}

/// What tells a look-up's cache which rows changed. It is read, and nothing is committed.
async fn changes_source(
    changes: &ChangesSpec,
    stores: &Stores<'_>,
    waits: &Waits,
) -> anyhow::Result<Arc<dyn Source>> {
    let Stores { file, home, io, .. } = stores;
    if let Some(cluster) = &changes.kafka {
        let cluster = kafka::watched_cluster(cluster, file, io, &waits.troubles)?;
        return Ok(Arc::new(kafka::topic(&changes.topic, cluster).await?));
    }
    let topic = home
        .log
        .topic(&changes.topic)
        .ok_or_else(|| anyhow!("there is no topic `{}` any more", changes.topic))?;
    let options = TopicSourceOptions { batch_rows: 1024, batch_bytes: 1 << 20 };
    Ok(Arc::new(TopicSource::new(topic, options)))
}
