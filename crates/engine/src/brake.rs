//! Stops a partition from draining a topic into the dead letters after a bad deploy.

use std::collections::VecDeque;

/// Rows that the share is taken over.
pub const WINDOW_ROWS: u64 = 10_000;

/// Counts dead rows among the last [`WINDOW_ROWS`] of a partition. A window that is not full yet
/// counts as if its missing rows were good, so that a few bad first rows stop nothing.
#[derive(Debug)]
pub struct Brake {
    ratio_max: f64,
    runs: VecDeque<(u64, u64)>,
    rows: u64,
    dead: u64,
}

impl Brake {
    pub fn new(max_dead_ratio: f64) -> Self {
        Self { ratio_max: max_dead_ratio, runs: VecDeque::new(), rows: 0, dead: 0 }
    }

    /// Whether this run may be written. Says why when it may not; the run is then not counted.
    pub fn admit(&mut self, rows: u64, dead: u64) -> Result<(), String> {
        self.runs.push_back((rows, dead));
        self.rows += rows;
        self.dead += dead;
        while let Some((rows, dead)) = self.runs.front()
            && self.rows - rows >= WINDOW_ROWS
        {
            self.rows -= rows;
            self.dead -= dead;
            self.runs.pop_front();
        }
        // Runs are counted whole, so that the window may hold somewhat more.
        let dead_max = (self.ratio_max * self.rows.max(WINDOW_ROWS) as f64).floor() as u64;
        if dead == 0 || self.dead <= dead_max {
            return Ok(());
        }
        let reason = format!(
            "{} of the last {WINDOW_ROWS} rows would be dead letters, more than max_dead_ratio \
             allows ({dead_max}): mend the pipeline or raise max_dead_ratio, then start it again",
            self.dead
        );
        self.runs.pop_back();
        self.rows -= rows;
        self.dead -= dead;
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_over_the_last_rows_only() {
        let mut brake = Brake::new(0.05);
        assert!(brake.admit(1000, 500).is_ok(), "500 of 10,000 is 5 %");
        assert!(brake.admit(100, 1).is_err());
        for _ in 0..10 {
            assert!(brake.admit(1000, 0).is_ok());
        }
        assert!(brake.admit(1000, 500).is_ok(), "the old ones have left the window");
        assert!(brake.admit(2048, 2048).is_err());
    }

    #[test]
    fn a_ratio_of_one_never_stops() {
        let mut brake = Brake::new(1.0);
        for _ in 0..100 {
            assert!(brake.admit(999, 999).is_ok());
        }
    }
}
