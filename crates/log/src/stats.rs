//! What the log counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A snapshot of the counters since the log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub appends: u64,
    pub append_errors: u64,
    pub batches_appended: u64,
    pub records_appended: u64,
    pub bytes_appended: u64,
    pub fsyncs: u64,
    pub fsync_errors: u64,
    pub rolls: u64,
    pub bytes_read: u64,
    pub records_read: u64,
    /// Records that a reader could not be given because `hard` retention had removed them.
    pub records_skipped: u64,
    pub segments_removed: u64,
    pub bytes_removed: u64,
    /// Bytes after the recovery point that were not whole and right when the log was opened.
    pub bytes_truncated: u64,
    /// Records that one group commit made durable.
    pub commit_records: Histogram,
    /// Microseconds that one group commit took.
    pub commit_us: Histogram,
}

/// Counts by powers of four: bucket `i` counts values up to `4^i`, the last one all the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    pub buckets: [u64; BUCKETS],
    pub count: u64,
    pub sum: u64,
}

pub const BUCKETS: usize = 14;

impl Histogram {
    /// The upper bound of a bucket; `None` for the last.
    pub fn bound(bucket: usize) -> Option<u64> {
        (bucket + 1 < BUCKETS).then(|| 1 << (2 * bucket))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub appends: AtomicU64,
    pub append_errors: AtomicU64,
    pub batches_appended: AtomicU64,
    pub records_appended: AtomicU64,
    pub bytes_appended: AtomicU64,
    pub fsyncs: AtomicU64,
    pub fsync_errors: AtomicU64,
    pub rolls: AtomicU64,
    pub bytes_read: AtomicU64,
    pub records_read: AtomicU64,
    pub records_skipped: AtomicU64,
    pub segments_removed: AtomicU64,
    pub bytes_removed: AtomicU64,
    pub bytes_truncated: AtomicU64,
    commit_records: Cells,
    commit_us: Cells,
}

#[derive(Debug, Default)]
struct Cells {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Counters {
    pub fn committed(&self, records: u64, took: Duration) {
        self.commit_records.observe(records);
        self.commit_us.observe(took.as_micros() as u64);
    }

    pub fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            appends: get(&self.appends),
            append_errors: get(&self.append_errors),
            batches_appended: get(&self.batches_appended),
            records_appended: get(&self.records_appended),
            bytes_appended: get(&self.bytes_appended),
            fsyncs: get(&self.fsyncs),
            fsync_errors: get(&self.fsync_errors),
            rolls: get(&self.rolls),
            bytes_read: get(&self.bytes_read),
            records_read: get(&self.records_read),
            records_skipped: get(&self.records_skipped),
            segments_removed: get(&self.segments_removed),
            bytes_removed: get(&self.bytes_removed),
            bytes_truncated: get(&self.bytes_truncated),
            commit_records: self.commit_records.snapshot(),
            commit_us: self.commit_us.snapshot(),
        }
    }
}

impl Cells {
    fn observe(&self, value: u64) {
        let bits = 64 - value.saturating_sub(1).leading_zeros() as usize;
        add(&self.buckets[bits.div_ceil(2).min(BUCKETS - 1)], 1);
        add(&self.sum, value);
    }

    fn snapshot(&self) -> Histogram {
        let buckets = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        Histogram { buckets, count: buckets.iter().sum(), sum: self.sum.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_bucket_whose_bound_holds_it() {
        for value in [0, 1, 2, 4, 5, 16, 17, 1 << 24, (1 << 24) + 1, u64::MAX] {
            let cells = Cells::default();
            cells.observe(value);
            let found = cells.snapshot().buckets.iter().position(|count| *count == 1).unwrap();
            assert!(Histogram::bound(found).is_none_or(|bound| value <= bound), "{value}");
            let below = found.checked_sub(1).and_then(Histogram::bound);
            assert!(below.is_none_or(|bound| value > bound), "{value}");
        }
    }
}
