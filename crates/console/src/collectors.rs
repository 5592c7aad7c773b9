//! What `/metrics` says beside the pipelines' own: the log, the tables, the listener
//! for Kafka clients and the process, read when
//! they are asked for.

use crate::{Error, Result};
use millstream_broker::stats::{BOUNDS, Groups, Meter};
use millstream_connectors::Home;
use millstream_host::process;
use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use std::time::UNIX_EPOCH;

/// Everything that is exported. Cheap to clone.
#[derive(Clone)]
pub struct Collectors {
    home: Home,
    pipelines: prometheus::Registry,
    kafka: Option<Meter>,
}

impl Collectors {
    /// `pipelines` holds the engine's metrics, `kafka` those of the listener for Kafka clients.
    pub fn new(home: Home, pipelines: prometheus::Registry, kafka: Option<Meter>) -> Self {
        Self { home, pipelines, kafka }
    }

    /// Prometheus's text format, version 0.0.4. Blocks for a few reads of `/proc`.
    pub fn text(&self) -> Result<String> {
        let mut families = self.pipelines.gather();
        families.extend(log(&self.home));
        families.extend(tables(&self.home));
        families.extend(self.kafka.iter().flat_map(kafka));
        families.extend(own_process());
        families.push(build_info());
        // The encoder refuses a family that has nothing in it yet.
        families.retain(|family| !family.get_metric().is_empty());
        TextEncoder::new()
            .encode_to_string(&families)
            .map_err(|error| Error::failure(format!("cannot write the metrics: {error}")))
    }
}

fn log(home: &Home) -> Vec<MetricFamily> {
    let stats = home.log.stats();
    let topics = home.log.topics();
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    for topic in &topics {
        let label = [("topic", topic.name())];
        let kept: i64 = (0..topic.partitions())
            .filter_map(|index| topic.partition(index))
            .map(|partition| partition.end_offset() - partition.start_offset())
            .sum();
        bytes.push(gauge_of(topic.bytes() as f64, &label));
        records.push(gauge_of(kept as f64, &label));
    }
    let refused = home.log.refused().len();
    vec![
        family("millstream_log_bytes", "Bytes of a topic on disk.", MetricType::GAUGE, bytes),
        family("millstream_log_records", "Records that a topic keeps.", MetricType::GAUGE, records),
        counter("millstream_log_appends_total", "Calls that appended.", stats.appends),
        counter("millstream_log_append_errors_total", "Calls that failed to.", stats.append_errors),
        counter(
            "millstream_log_records_appended_total",
            "Records appended.",
            stats.records_appended,
        ),
        counter("millstream_log_bytes_appended_total", "Bytes appended.", stats.bytes_appended),
        counter("millstream_log_records_read_total", "Records read.", stats.records_read),
        counter("millstream_log_bytes_read_total", "Bytes read.", stats.bytes_read),
        counter(
            "millstream_log_records_skipped_total",
            "Records that hard retention removed before a reader came.",
            stats.records_skipped,
        ),
        counter("millstream_log_fsyncs_total", "Syncs of segments.", stats.fsyncs),
        counter("millstream_log_fsync_errors_total", "Syncs that failed.", stats.fsync_errors),
        counter("millstream_log_rolls_total", "Segments begun.", stats.rolls),
        counter(
            "millstream_log_bytes_truncated_total",
            "Bytes of torn tails that were cut off when the log was opened.",
            stats.bytes_truncated,
        ),
        counter(
            "millstream_log_segments_removed_total",
            "Segments removed.",
            stats.segments_removed,
        ),
        counter("millstream_log_bytes_removed_total", "Bytes removed.", stats.bytes_removed),
        gauge(
            "millstream_log_partitions_refused",
            "Partitions that are damaged and were refused when the log was opened.",
            refused as f64,
        ),
        histogram(
            "millstream_log_group_commit_records",
            "Records that one group commit made durable.",
            &stats.commit_records,
            1.0,
        ),
        histogram(
            "millstream_log_group_commit_seconds",
            "How long a group commit took.",
            &stats.commit_us,
            1e-6,
        ),
    ]
}

fn tables(home: &Home) -> Vec<MetricFamily> {
    let rows = home
        .tables
        .tables()
        .iter()
        .filter_map(|table| {
            let rows = table.count_estimate().ok()?;
            Some(gauge_of(rows as f64, &[("table", table.name())]))
        })
        .collect();
    let mut families = vec![family(
        "millstream_table_rows_estimate",
        "Rows of a table, roughly: superseded and expired ones count until they are compacted.",
        MetricType::GAUGE,
        rows,
    )];
    let Ok(stats) = home.tables.stats() else { return families };
    families.extend([
        gauge("millstream_tables_bytes", "Bytes of all tables on disk.", stats.disk_bytes as f64),
        gauge(
            "millstream_tables_write_buffer_bytes",
            "Bytes written and not yet in a table's files.",
            stats.write_buffer_bytes as f64,
        ),
        gauge(
            "millstream_tables_cache_bytes",
            "Bytes of the block cache.",
            stats.cache_bytes as f64,
        ),
        gauge("millstream_tables_journals", "Journal files.", stats.journals as f64),
        counter("millstream_tables_rows_written_total", "Rows written.", stats.rows_written),
        counter(
            "millstream_tables_bytes_written_total",
            "Bytes of rows written.",
            stats.bytes_written,
        ),
        counter("millstream_tables_rows_rejected_total", "Rows refused.", stats.rows_rejected),
        counter("millstream_tables_rows_read_total", "Rows read.", stats.rows_read),
        counter("millstream_tables_commits_total", "Commits of offsets and rows.", stats.commits),
        counter("millstream_tables_fsyncs_total", "Syncs of the journal.", stats.fsyncs),
    ]);
    families
}

fn kafka(meter: &Meter) -> Vec<MetricFamily> {
    let stats = meter.read();
    let requests = stats.requests.iter().map(|(api, times)| {
        let counted = times.buckets.iter().zip(BOUNDS).map(|(count, bound)| (bound, *count));
        histogram_of(counted, times.count, times.seconds, &[("api", api)])
    });
    let errors = stats
        .errors
        .iter()
        .map(|(api, error, count)| counter_of(*count as f64, &[("api", api), ("error", error)]));
    let groups = |count: fn(&Groups) -> u64| {
        let kinds = [("classic", &stats.classic), ("consumer", &stats.modern)];
        kinds.map(|(kind, groups)| gauge_of(count(groups) as f64, &[("type", kind)])).to_vec()
    };
    vec![
        gauge("millstream_kafka_connections", "Kafka clients connected.", stats.connections as f64),
        counter(
            "millstream_kafka_connections_total",
            "Connections of Kafka clients that were let in.",
            stats.connections_accepted,
        ),
        counter(
            "millstream_kafka_connections_refused_total",
            "Connections turned away because there were too many.",
            stats.connections_refused,
        ),
        counter(
            "millstream_kafka_handshake_errors_total",
            "TLS handshakes that failed.",
            stats.handshake_errors,
        ),
        family(
            "millstream_kafka_request_seconds",
            "How long requests of Kafka clients took from being read to being answered, by request; \
             a fetch or a join includes the time that the client let it wait.",
            MetricType::HISTOGRAM,
            requests.collect(),
        ),
        counter(
            "millstream_kafka_requests_refused_total",
            "Requests that could not be read; each ended its connection.",
            stats.requests_refused,
        ),
        family(
            "millstream_kafka_errors_total",
            "Errors told to Kafka clients, by request and error; some are part of the protocol, as \
             MemberIdRequired.",
            MetricType::COUNTER,
            errors.collect(),
        ),
        counter("millstream_kafka_bytes_in_total", "Bytes of requests.", stats.bytes_in),
        counter("millstream_kafka_bytes_out_total", "Bytes of answers.", stats.bytes_out),
        counter(
            "millstream_kafka_records_produced_total",
            "Records that Kafka clients appended.",
            stats.records_produced,
        ),
        counter(
            "millstream_kafka_bytes_produced_total",
            "Bytes of batches that Kafka clients appended.",
            stats.bytes_produced,
        ),
        counter(
            "millstream_kafka_records_fetched_total",
            "Records in batches given to Kafka clients.",
            stats.records_fetched,
        ),
        counter(
            "millstream_kafka_bytes_fetched_total",
            "Bytes of batches given to Kafka clients.",
            stats.bytes_fetched,
        ),
        family(
            "millstream_kafka_groups",
            "Groups of consumers in memory, by protocol.",
            MetricType::GAUGE,
            groups(|groups| groups.groups),
        ),
        family(
            "millstream_kafka_group_members",
            "Members of groups, by protocol.",
            MetricType::GAUGE,
            groups(|groups| groups.members),
        ),
        gauge(
            "millstream_kafka_fetch_sessions",
            "Kafka consumers that name their partitions once.",
            stats.fetch_sessions as f64,
        ),
        counter(
            "millstream_kafka_fetch_sessions_evicted_total",
            "Such consumers that made room for others, after they had asked nothing for long.",
            stats.fetch_sessions_evicted,
        ),
        gauge(
            "millstream_kafka_committed_offsets",
            "Committed offsets of groups that are kept.",
            stats.offsets as f64,
        ),
    ]
}

/// The names that Prometheus's own client libraries use.
fn own_process() -> Vec<MetricFamily> {
    let Some(reading) = process::read() else { return Vec::new() };
    let started = reading.started.duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
    vec![
        gauge(
            "process_resident_memory_bytes",
            "Memory of the process that is resident.",
            reading.resident_bytes as f64,
        ),
        gauge(
            "process_resident_memory_max_bytes",
            "The most memory that was ever resident.",
            reading.resident_bytes_max as f64,
        ),
        gauge(
            "process_virtual_memory_bytes",
            "Memory that the process has reserved.",
            reading.virtual_bytes as f64,
        ),
        counter_f64(
            "process_cpu_seconds_total",
            "CPU time of all threads, user and system.",
            reading.cpu_seconds,
        ),
        gauge("process_open_fds", "Open file descriptors.", reading.open_fds as f64),
        gauge("process_threads", "Threads.", reading.threads as f64),
        gauge("process_start_time_seconds", "When the process started, since 1970.", started),
    ]
}

fn build_info() -> MetricFamily {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("profile", if cfg!(debug_assertions) { "debug" } else { "release" }),
        ("target", std::env::consts::ARCH),
    ];
    let metric = gauge_of(1.0, &labels);
    family("millstream_build_info", "What runs; always 1.", MetricType::GAUGE, vec![metric])
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![gauge_of(value, &[])])
}

fn gauge_of(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let labels = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(labels.collect())
}

fn counter(name: &str, help: &str, value: u64) -> MetricFamily {
    counter_f64(name, help, value as f64)
}

fn counter_f64(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![counter_of(value, &[])])
}

fn counter_of(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

/// `unit` is what one of the log's counted units is in the exported one.
fn histogram(
    name: &str,
    help: &str,
    counted: &millstream_log::Histogram,
    unit: f64,
) -> MetricFamily {
    let buckets = counted.buckets.iter().enumerate().filter_map(|(at, count)| {
        Some((millstream_log::Histogram::bound(at)? as f64 * unit, *count))
    });
    let metric = histogram_of(buckets, counted.count, counted.sum as f64 * unit, &[]);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

/// `counted` gives each bucket's upper bound and what is in it alone.
fn histogram_of(
    counted: impl Iterator<Item = (f64, u64)>,
    count: u64,
    sum: f64,
    labels: &[(&str, &str)],
) -> Metric {
    let mut upto = 0;
    let buckets = counted.map(|(bound, count)| {
        upto += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(upto);
        bucket
    });
    let buckets = buckets.collect();
    let mut histogram = Histogram::default();
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    histogram.set_bucket(buckets);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}
