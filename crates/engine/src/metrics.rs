//! What a pipeline counts and times, under Prometheus names.
//!
//! Source rows end in exactly one of out, filtered and dead, counted when they settle, so that
//! `millstream_rows_in_total = out + filtered + dead` holds whenever nothing is in flight.

use millstream_core::Partition;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use std::sync::Arc;
use std::time::Instant;

/// Seconds, from 10 µs to 30 s.
pub const BUCKETS: [f64; 20] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The metrics of all pipelines of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
}

struct Families {
    rows_in: IntCounterVec,
    rows_out: IntCounterVec,
    rows_filtered: IntCounterVec,
    rows_dead: IntCounterVec,
    rows_skipped: IntCounterVec,
    rows_tombstones: IntCounterVec,
    sink_rows: IntCounterVec,
    sink_bytes: IntCounterVec,
    errors: IntCounterVec,
    retries: IntCounterVec,
    panics: IntCounterVec,
    restarts: IntCounterVec,
    commits: IntCounterVec,
    committed: IntGaugeVec,
    lag: IntGaugeVec,
    in_flight_batches: IntGaugeVec,
    queue_rows: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    queue_bytes_max: IntGaugeVec,
    permits: IntGaugeVec,
    holding: IntGaugeVec,
    cache_entries: IntGaugeVec,
    cache_bytes: IntGaugeVec,
    cache_hits: IntCounterVec,
    cache_misses: IntCounterVec,
    cache_shared: IntCounterVec,
    cache_stale: IntCounterVec,
    cache_evicted: IntCounterVec,
    cache_invalidated: IntCounterVec,
    lookup_rows: IntCounterVec,
    lookup_found: IntCounterVec,
    reopens: IntCounterVec,
    transactions: IntCounterVec,
    partition_changes: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = Families {
            rows_in: counters(
                &registry,
                "rows_in_total",
                "Source rows that are settled.",
                &["pipeline"],
            ),
            rows_out: counters(
                &registry,
                "rows_out_total",
                "Source rows of which a row was written.",
                &["pipeline"],
            ),
            rows_filtered: counters(
                &registry,
                "rows_filtered_total",
                "Source rows that the SQL dropped.",
                &["pipeline"],
            ),
            rows_dead: counters(
                &registry,
                "rows_dead_total",
                "Source rows in the dead letters.",
                &["pipeline"],
            ),
            rows_skipped: counters(
                &registry,
                "rows_skipped_total",
                "Source rows that hard retention removed before they were read.",
                &["pipeline"],
            ),
            rows_tombstones: counters(
                &registry,
                "rows_tombstones_total",
                "Source rows without a value that were passed over; they count as filtered.",
                &["pipeline"],
            ),
            sink_rows: counters(
                &registry,
                "sink_rows_total",
                "Rows written, by sink.",
                &["pipeline", "sink"],
            ),
            sink_bytes: counters(
                &registry,
                "sink_bytes_total",
                "Bytes written, by sink.",
                &["pipeline", "sink"],
            ),
            errors: counters(
                &registry,
                "errors_total",
                "Errors, by step and kind.",
                &["pipeline", "step", "kind"],
            ),
            retries: counters(
                &registry,
                "retries_total",
                "Attempts beyond the first, by step and kind.",
                &["pipeline", "step", "kind"],
            ),
            panics: counters(
                &registry,
                "panics_total",
                "Panics that restarted a partition.",
                &["pipeline"],
            ),
            restarts: counters(
                &registry,
                "restarts_total",
                "Partitions that went back to their last commit.",
                &["pipeline"],
            ),
            commits: counters(&registry, "commits_total", "Offset commits.", &["pipeline"]),
            committed: gauges(
                &registry,
                "committed_offset",
                "The next offset to read after a restart.",
                &["pipeline", "source", "partition"],
            ),
            lag: gauges(
                &registry,
                "lag_rows",
                "Records between the commit and the end of the partition (bytes for a file).",
                &["pipeline", "source", "partition"],
            ),
            in_flight_batches: gauges(
                &registry,
                "in_flight_batches",
                "Batches between fetch and settlement.",
                &["pipeline"],
            ),
            queue_rows: gauges(
                &registry,
                "queue_rows",
                "Rows between fetch and settlement.",
                &["pipeline"],
            ),
            queue_bytes: gauges(
                &registry,
                "queue_bytes",
                "Bytes between fetch and settlement.",
                &["pipeline"],
            ),
            queue_bytes_max: gauges(
                &registry,
                "queue_bytes_max",
                "Bytes that may be between fetch and settlement, and one batch a partition more.",
                &["pipeline"],
            ),
            reopens: counters(
                &registry,
                "tables_reopened_total",
                "Times that a pipeline went back to its last commit because the journal of the \
                 tables had failed.",
                &["pipeline"],
            ),
            transactions: counters(
                &registry,
                "transactions_total",
                "Transactions of a pipeline with `delivery: exactly_once`, by how they ended.",
                &["pipeline", "end"],
            ),
            partition_changes: counters(
                &registry,
                "partition_changes_total",
                "Partitions that a group gave this process (assigned), took back (revoked), or took \
                 without waiting for what was in flight (lost).",
                &["pipeline", "change"],
            ),
            permits: gauges(
                &registry,
                "in_flight_permits",
                "Batches that may be in flight, over all partitions.",
                &["pipeline"],
            ),
            holding: gauges(
                &registry,
                "partition_holding",
                "1 while a partition holds.",
                &["pipeline", "source", "partition"],
            ),
            cache_entries: gauges(
                &registry,
                "lookup_cache_entries",
                "Keys in a lookup's cache.",
                &["pipeline", "lookup"],
            ),
            cache_bytes: gauges(
                &registry,
                "lookup_cache_bytes",
                "Bytes of a lookup's cache: rows, keys and what finds them.",
                &["pipeline", "lookup"],
            ),
            cache_hits: counters(
                &registry,
                "lookup_cache_hits_total",
                "Keys answered by the cache.",
                &["pipeline", "lookup"],
            ),
            cache_misses: counters(
                &registry,
                "lookup_cache_misses_total",
                "Keys that the store was asked for.",
                &["pipeline", "lookup"],
            ),
            cache_shared: counters(
                &registry,
                "lookup_cache_shared_total",
                "Keys that were being fetched already: one call served all who asked.",
                &["pipeline", "lookup"],
            ),
            cache_stale: counters(
                &registry,
                "lookup_cache_stale_total",
                "Answers given beyond their time, while they were asked for again.",
                &["pipeline", "lookup"],
            ),
            cache_evicted: counters(
                &registry,
                "lookup_cache_evicted_total",
                "Keys given up for want of room.",
                &["pipeline", "lookup"],
            ),
            cache_invalidated: counters(
                &registry,
                "lookup_cache_invalidated_total",
                "Keys forgotten because the topic of changes named them.",
                &["pipeline", "lookup"],
            ),
            lookup_rows: counters(
                &registry,
                "lookup_rows_total",
                "Rows that asked a lookup.",
                &["pipeline", "lookup"],
            ),
            lookup_found: counters(
                &registry,
                "lookup_rows_found_total",
                "Rows for which a lookup had an answer.",
                &["pipeline", "lookup"],
            ),
        };
        Self { registry, families: Arc::new(families) }
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The metrics of one pipeline. `buckets` in seconds; [`BUCKETS`] without.
    pub fn pipeline(&self, name: &str, buckets: Option<&[f64]>) -> PipelineMetrics {
        let f = &self.families;
        let times = |metric: &str, help: &str, labels: &[&str]| {
            let buckets = buckets.map_or_else(|| BUCKETS.to_vec(), <[f64]>::to_vec);
            let options = HistogramOpts::new(format!("millstream_{metric}"), help);
            HistogramVec::new(options.const_label("pipeline", name).buckets(buckets), labels)
                .expect("the name and labels are valid")
        };
        let stages = times(
            "stage_seconds",
            "Time a batch spends in a stage: fetch, decode, lookup, sql, sink; end_to_end from \
             when its records came in.",
            &["stage"],
        );
        let lookups = times(
            "lookup_seconds",
            "Time that a lookup takes for the keys of a batch: where its cache has them all, and \
             where its store is asked too.",
            &["lookup", "answer"],
        );
        let sinks = times(
            "sink_seconds",
            "Time from giving a batch to a sink until its rows are durable there.",
            &["sink"],
        );
        // An increase is seen of what was there before.
        for change in ["assigned", "revoked", "lost"] {
            f.partition_changes.with_label_values(&[name, change]);
        }
        let one = |family: &IntCounterVec| family.with_label_values(&[name]);
        let gauge = |family: &IntGaugeVec| family.with_label_values(&[name]);
        let stage = |stage| stages.with_label_values(&[stage]);
        let metrics = PipelineMetrics {
            rows_in: one(&f.rows_in),
            rows_out: one(&f.rows_out),
            rows_filtered: one(&f.rows_filtered),
            rows_dead: one(&f.rows_dead),
            rows_skipped: one(&f.rows_skipped),
            rows_tombstones: one(&f.rows_tombstones),
            panics: one(&f.panics),
            restarts: one(&f.restarts),
            commits: one(&f.commits),
            in_flight_batches: gauge(&f.in_flight_batches),
            queue_rows: gauge(&f.queue_rows),
            queue_bytes: gauge(&f.queue_bytes),
            queue_bytes_max: gauge(&f.queue_bytes_max),
            reopens: one(&f.reopens),
            transactions_committed: f.transactions.with_label_values(&[name, "committed"]),
            transactions_aborted: f.transactions.with_label_values(&[name, "aborted"]),
            permits: gauge(&f.permits),
            fetch: stage("fetch"),
            decode: stage("decode"),
            lookup: stage("lookup"),
            sql: stage("sql"),
            sink: stage("sink"),
            end_to_end: stage("end_to_end"),
            lookups: lookups.clone(),
            sinks: sinks.clone(),
            name: name.into(),
            families: self.families.clone(),
        };
        // A pipeline that is started again in the same process keeps its first histograms.
        for histograms in [stages, lookups, sinks] {
            let _ = self.registry.register(Box::new(histograms));
        }
        metrics
    }

    /// The whole registry as Prometheus text.
    pub fn text(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Handles to one pipeline's metrics, so that no label is looked up on the hot path.
pub struct PipelineMetrics {
    pub rows_in: IntCounter,
    pub rows_out: IntCounter,
    pub rows_filtered: IntCounter,
    pub rows_dead: IntCounter,
    pub rows_skipped: IntCounter,
    pub rows_tombstones: IntCounter,
    pub panics: IntCounter,
    pub restarts: IntCounter,
    pub commits: IntCounter,
    pub in_flight_batches: IntGauge,
    pub queue_rows: IntGauge,
    pub queue_bytes: IntGauge,
    pub queue_bytes_max: IntGauge,
    /// Times that it went back because the journal of the tables had failed.
    pub reopens: IntCounter,
    pub transactions_committed: IntCounter,
    pub transactions_aborted: IntCounter,
    pub permits: IntGauge,
    pub fetch: Histogram,
    pub decode: Histogram,
    pub lookup: Histogram,
    pub sql: Histogram,
    pub sink: Histogram,
    pub end_to_end: Histogram,
    lookups: HistogramVec,
    sinks: HistogramVec,
    name: Arc<str>,
    families: Arc<Families>,
}

impl PipelineMetrics {
    /// What a sink writes, in rows and bytes, and how long it takes until that is durable.
    pub fn sink(&self, sink: &str) -> (IntCounter, IntCounter, Histogram) {
        let labels = [&*self.name, sink];
        (
            self.families.sink_rows.with_label_values(&labels),
            self.families.sink_bytes.with_label_values(&labels),
            self.sinks.with_label_values(&[sink]),
        )
    }

    /// Counts partitions that came or went: `assigned`, `revoked` or `lost`.
    pub fn partitions_changed(&self, change: &str, count: usize) {
        let labels = [&*self.name, change];
        self.families.partition_changes.with_label_values(&labels).inc_by(count as u64);
    }

    pub fn error(&self, step: &str, kind: &str, count: u64) {
        self.families.errors.with_label_values(&[&*self.name, step, kind]).inc_by(count);
    }

    pub fn retry(&self, step: &str, kind: &str) {
        self.families.retries.with_label_values(&[&*self.name, step, kind]).inc();
    }

    pub fn partition(&self, place: &Partition) -> PartitionMetrics {
        let index = place.index.to_string();
        let labels = [&*self.name, &*place.source, index.as_str()];
        PartitionMetrics {
            committed: self.families.committed.with_label_values(&labels),
            lag: self.families.lag.with_label_values(&labels),
            holding: self.families.holding.with_label_values(&labels),
        }
    }

    /// A partition that went to another process is none of ours to tell of.
    pub fn forget_partition(&self, place: &Partition) {
        let index = place.index.to_string();
        let labels = [&*self.name, &*place.source, index.as_str()];
        for family in [&self.families.committed, &self.families.lag, &self.families.holding] {
            let _ = family.remove_label_values(&labels);
        }
    }

    pub fn lookup_of(&self, lookup: &str) -> LookupMetrics {
        let labels = [&*self.name, lookup];
        LookupMetrics {
            entries: self.families.cache_entries.with_label_values(&labels),
            bytes: self.families.cache_bytes.with_label_values(&labels),
            hits: self.families.cache_hits.with_label_values(&labels),
            misses: self.families.cache_misses.with_label_values(&labels),
            shared: self.families.cache_shared.with_label_values(&labels),
            stale: self.families.cache_stale.with_label_values(&labels),
            evicted: self.families.cache_evicted.with_label_values(&labels),
            invalidated: self.families.cache_invalidated.with_label_values(&labels),
            rows: self.families.lookup_rows.with_label_values(&labels),
            found: self.families.lookup_found.with_label_values(&labels),
            from_cache: self.lookups.with_label_values(&[lookup, "cache"]),
            from_store: self.lookups.with_label_values(&[lookup, "store"]),
        }
    }
}

#[derive(Clone)]
pub struct PartitionMetrics {
    pub committed: IntGauge,
    pub lag: IntGauge,
    pub holding: IntGauge,
}

#[derive(Clone)]
pub struct LookupMetrics {
    pub entries: IntGauge,
    pub bytes: IntGauge,
    pub hits: IntCounter,
    pub misses: IntCounter,
    /// Keys that another was fetching already.
    pub shared: IntCounter,
    /// Answers beyond their time, given while they were asked for again.
    pub stale: IntCounter,
    pub evicted: IntCounter,
    /// Forgotten because they changed.
    pub invalidated: IntCounter,
    /// Rows that asked.
    pub rows: IntCounter,
    pub found: IntCounter,
    /// How long a batch's keys took that the cache knew all of.
    pub from_cache: Histogram,
    /// How long they took where the store was asked too.
    pub from_store: Histogram,
}

/// Times a stage. Dropped without [`Timer::stop`] it records nothing, so that failures do not show
/// as fast or slow successes.
pub struct Timer<'a> {
    histogram: &'a Histogram,
    since: Instant,
}

impl<'a> Timer<'a> {
    pub fn start(histogram: &'a Histogram) -> Self {
        Self { histogram, since: Instant::now() }
    }

    /// The seconds that it noted.
    pub fn stop(self) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64();
        self.histogram.observe(seconds);
        seconds
    }
}

/// A quantile of a histogram, by interpolation within its bucket, in seconds.
pub fn quantile(histogram: &Histogram, q: f64) -> Option<f64> {
    let families = histogram.collect();
    let metric = families.first()?.get_metric().first()?.clone();
    let histogram = metric.get_histogram();
    let total = histogram.get_sample_count();
    if total == 0 {
        return None;
    }
    let rank = q * total as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for bucket in histogram.get_bucket() {
        let upto = bucket.cumulative_count() as f64;
        if upto >= rank {
            let share = if upto > below { (rank - below) / (upto - below) } else { 1.0 };
            return Some(lower + (bucket.upper_bound() - lower) * share);
        }
        (below, lower) = (upto, bucket.upper_bound());
    }
    Some(lower)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let family = IntCounterVec::new(Opts::new(format!("millstream_{name}"), help), labels)
        .expect("the name and labels are valid");
    registry.register(Box::new(family.clone())).expect("each name is registered once");
    family
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let family = IntGaugeVec::new(Opts::new(format!("millstream_{name}"), help), labels)
        .expect("the name and labels are valid");
    registry.register(Box::new(family.clone())).expect("each name is registered once");
    family
}
