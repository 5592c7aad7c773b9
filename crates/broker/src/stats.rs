//! What the listener counts.

use crate::broker::Inner;
use crate::out::Piece;
use crate::shape::{APIS, Api};
use kafka_protocol::ResponseError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of [`Histogram`], in seconds; the last bucket has none.
pub const BOUNDS: [f64; 20] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// A snapshot since the listener was opened.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub connections: u64,
    pub connections_accepted: u64,
    /// Turned away because there were too many.
    pub connections_refused: u64,
    pub handshake_errors: u64,
    /// Requests that could not be read and ended their connection.
    pub requests_refused: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_produced: u64,
    pub bytes_produced: u64,
    pub records_fetched: u64,
    pub bytes_fetched: u64,
    /// By the name of the request, those that came.
    pub requests: Vec<(&'static str, Histogram)>,
    /// By the name of the request and that of the error.
    pub errors: Vec<(&'static str, String, u64)>,
    pub classic: Groups,
    pub modern: Groups,
    /// Committed offsets that are kept.
    pub offsets: u64,
    /// Consumers that name their partitions once, all there were, and those that made room for others.
    pub fetch_sessions: u64,
    pub fetch_sessions_begun: u64,
    pub fetch_sessions_evicted: u64,
}

/// Groups of one kind that have members or had some lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Groups {
    pub groups: u64,
    pub members: u64,
}

/// How long requests took from being read to being answered.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// Not cumulative.
    pub buckets: [u64; BOUNDS.len() + 1],
    pub count: u64,
    pub seconds: f64,
}

/// Reads the counters of a listener, also after it has ended. Cheap to clone.
#[derive(Clone)]
pub struct Meter(Arc<Inner>);

#[derive(Default)]
pub struct Counters {
    pub connections: AtomicU64,
    pub connections_accepted: AtomicU64,
    pub connections_refused: AtomicU64,
    pub handshake_errors: AtomicU64,
    pub requests_refused: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    records_produced: AtomicU64,
    bytes_produced: AtomicU64,
    records_fetched: AtomicU64,
    bytes_fetched: AtomicU64,
    requests: PerApi,
    errors: Mutex<BTreeMap<(&'static str, i16), u64>>,
}

/// In the order of [`APIS`].
struct PerApi(Box<[Cells]>);

#[derive(Default)]
struct Cells {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    us: AtomicU64,
}

/// Counts one more until it is dropped.
pub struct Present(Arc<Inner>);

pub fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Meter {
    pub(crate) fn new(inner: Arc<Inner>) -> Meter {
        Meter(inner)
    }

    pub fn read(&self) -> Stats {
        let counters = &self.0.counters;
        let requests = APIS.iter().zip(&counters.requests.0);
        let requests = requests.map(|(api, cells)| (api.name, cells.snapshot()));
        let errors = counters.errors.lock();
        let errors = errors.iter().map(|((api, code), count)| (*api, name(*code), *count));
        let (classic, modern) = self.0.groups.count();
        let sessions = self.0.sessions.count();
        Stats {
            connections: get(&counters.connections),
            connections_accepted: get(&counters.connections_accepted),
            connections_refused: get(&counters.connections_refused),
            handshake_errors: get(&counters.handshake_errors),
            requests_refused: get(&counters.requests_refused),
            bytes_in: get(&counters.bytes_in),
            bytes_out: get(&counters.bytes_out),
            records_produced: get(&counters.records_produced),
            bytes_produced: get(&counters.bytes_produced),
            records_fetched: get(&counters.records_fetched),
            bytes_fetched: get(&counters.bytes_fetched),
            requests: requests.filter(|(_, histogram)| histogram.count > 0).collect(),
            errors: errors.collect(),
            classic,
            modern,
            offsets: self.0.store.count(),
            fetch_sessions: sessions.now,
            fetch_sessions_begun: sessions.begun,
            fetch_sessions_evicted: sessions.evicted,
        }
    }
}

impl Counters {
    /// A request was answered, or needed no answer.
    pub fn answered(&self, api: &'static Api, took: Duration, failures: &[i16]) {
        if let Some(at) = APIS.iter().position(|known| known.key == api.key) {
            self.requests.0[at].observe(took);
        }
        if failures.is_empty() {
            return;
        }
        let mut errors = self.errors.lock();
        for code in failures {
            *errors.entry((api.name, *code)).or_default() += 1;
        }
    }

    pub fn produced(&self, records: u64, bytes: u64) {
        add(&self.records_produced, records);
        add(&self.bytes_produced, bytes);
    }

    /// Whole batches, as the log gives them.
    pub fn fetched(&self, batches: &Piece) {
        let records = match batches {
            Piece::Bytes(batches) => records(batches),
            Piece::Placed(placed, _) => placed.records(),
        };
        add(&self.bytes_fetched, batches.len() as u64);
        add(&self.records_fetched, records);
    }
}

impl Default for PerApi {
    fn default() -> PerApi {
        PerApi(APIS.iter().map(|_| Cells::default()).collect())
    }
}

impl Cells {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        add(&self.buckets[bucket], 1);
        add(&self.us, took.as_micros() as u64);
    }

    fn snapshot(&self) -> Histogram {
        let buckets = self.buckets.each_ref().map(get);
        let seconds = get(&self.us) as f64 * 1e-6;
        Histogram { buckets, count: buckets.iter().sum(), seconds }
    }
}

impl Present {
    pub fn new(inner: Arc<Inner>) -> Present {
        add(&inner.counters.connections_accepted, 1);
        add(&inner.counters.connections, 1);
        Present(inner)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The name of a code, as the protocol's documents have it but for the case.
fn name(code: i16) -> String {
    ResponseError::try_from_code(code)
        .map_or_else(|| code.to_string(), |error| format!("{error:?}"))
}

/// How many records the headers of these batches say.
fn records(mut batches: &[u8]) -> u64 {
    let int = |at: usize, batch: &[u8]| {
        let bytes = batch.get(at..)?.first_chunk::<4>()?;
        u32::try_from(i32::from_be_bytes(*bytes)).ok()
    };
    let mut count = 0;
    while let Some((len, records)) = int(8, batches).zip(int(57, batches)) {
        count += u64::from(records);
        batches = batches.get(12 + len as usize..).unwrap_or_default();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_in_the_bucket_whose_bound_holds_it() {
        for us in [0, 10, 11, 1_000, 30_000_000, 31_000_000] {
            let cells = Cells::default();
            cells.observe(Duration::from_micros(us));
            let counted = cells.snapshot();
            let found = counted.buckets.iter().position(|count| *count == 1).unwrap();
            let seconds = us as f64 * 1e-6;
            assert!(BOUNDS.get(found).is_none_or(|bound| seconds <= *bound), "{us}");
            let below = found.checked_sub(1).map(|below| BOUNDS[below]);
            assert!(below.is_none_or(|bound| seconds > bound), "{us}");
            assert_eq!((counted.count, counted.seconds), (1, seconds));
        }
    }
}
