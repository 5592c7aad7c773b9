//! Times in buckets of at most a sixteenth of what is in them: enough to tell a median by.

use std::time::Duration;

/// So many buckets for each doubling.
const STEPS: u64 = 16;
const BUCKETS: usize = 64 * STEPS as usize;

/// How long something took, each time.
#[derive(Clone)]
pub struct Spread {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
}

impl Spread {
    pub fn add(&mut self, time: Duration) {
        self.buckets[bucket(time.as_nanos() as u64)] += 1;
        self.count += 1;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that this part of them, from 0 to 1, did not exceed.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (part.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let at = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_nanos(least_above(at)))
    }
}

impl Default for Spread {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0 }
    }
}

impl std::fmt::Debug for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [half, most] = [0.5, 0.99].map(|part| self.quantile(part));
        write!(f, "{} times, p50 {half:?}, p99 {most:?}", self.count)
    }
}

/// Numbers below [`STEPS`] have a bucket each; then the four bits below the highest tell.
fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - STEPS.ilog2();
    (u64::from(shift + 1) * STEPS + ((nanos >> shift) & (STEPS - 1))) as usize
}

/// The upper end of a bucket.
fn least_above(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (shift, low) = (bucket / STEPS - 1, bucket % STEPS);
    (STEPS + low + 1).saturating_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_sixteenth_off() {
        let mut spread = Spread::default();
        assert_eq!(spread.quantile(0.5), None);
        for micros in 1..=10_000 {
            spread.add(Duration::from_micros(micros));
        }
        for (part, micros) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0), (0.0, 1.0)] {
            let told = spread.quantile(part).unwrap().as_secs_f64() * 1e6;
            assert!((micros..=micros * 1.07).contains(&told), "{part}: {told}");
        }
        spread.add(Duration::from_secs(u64::MAX));
        assert_eq!(spread.count(), 10_001);
        assert!(spread.quantile(1.0).unwrap() > Duration::from_secs(100));
    }
}
