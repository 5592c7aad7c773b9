//! Stops a partition from draining a topic into the dead letters after a bad deploy.

use std::collections::VecDeque;

/// Rows that the share is taken over.
pub const WINDOW_ROWS: u64 = 10_000;

/// Counts dead rows among the last [`WINDOW_ROWS`] of a partition. A window that is not full yet
/// counts as if its missing rows were good, so that a few bad first rows stop nothing.
#[derive(Debug)]
pub struct Brake {
    ratio_max: f64,
    runs: VecDeque<Run>,
    rows: u64,
    dead: u64,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// The offset after its last row.
    next: i64,
    rows: u64,
    dead: u64,
}

impl Brake {
    pub fn new(max_dead_ratio: f64) -> Self {
        Self { ratio_max: max_dead_ratio, runs: VecDeque::new(), rows: 0, dead: 0 }
    }

    /// Whether a run may be written next. Says why when it may not.
    pub fn check(&self, rows: u64, dead: u64) -> Result<(), String> {
        let (mut rows_seen, mut dead_seen) = (self.rows + rows, self.dead + dead);
        // Runs are counted whole, so that the window may hold somewhat more.
        for run in &self.runs {
            if rows_seen - run.rows < WINDOW_ROWS {
                break;
            }
            rows_seen -= run.rows;
            dead_seen -= run.dead;
        }
        let dead_max = (self.ratio_max * rows_seen.max(WINDOW_ROWS) as f64).floor() as u64;
        if dead == 0 || dead_seen <= dead_max {
            return Ok(());
        }
        Err(format!(
            "{dead_seen} of the last {WINDOW_ROWS} rows would be dead letters, more than \
             max_dead_ratio allows ({dead_max} rows): mend the pipeline, or start it with \
             `max_dead_ratio: 100%`, which keeps them as dead letters with their reasons"
        ))
    }

    /// Counts a run that ends before `next`, unless it may not be written.
    pub fn admit(&mut self, next: i64, rows: u64, dead: u64) -> Result<(), String> {
        self.check(rows, dead)?;
        self.runs.push_back(Run { next, rows, dead });
        self.rows += rows;
        self.dead += dead;
        while let Some(run) = self.runs.front()
            && self.rows - run.rows >= WINDOW_ROWS
        {
            self.rows -= run.rows;
            self.dead -= run.dead;
            self.runs.pop_front();
        }
        Ok(())
    }

    /// Forgets the runs that come again after a restart at this offset.
    pub fn back_to(&mut self, offset: i64) {
        while let Some(run) = self.runs.back()
            && run.next > offset
        {
            self.rows -= run.rows;
            self.dead -= run.dead;
            self.runs.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_over_the_last_rows_only() {
        let mut brake = Brake::new(0.05);
        assert!(brake.admit(0, 1000, 500).is_ok(), "500 of 10,000 is 5 %");
        assert!(brake.admit(0, 100, 1).is_err());
        for _ in 0..10 {
            assert!(brake.admit(0, 1000, 0).is_ok());
        }
        assert!(brake.admit(0, 1000, 500).is_ok(), "the old ones have left the window");
        assert!(brake.admit(0, 2048, 2048).is_err());
    }

    #[test]
    fn rows_that_come_again_after_a_restart_count_once() {
        let mut brake = Brake::new(0.05);
        assert!(brake.admit(100, 100, 50).is_ok());
        for _ in 0..20 {
            assert!(brake.admit(200, 100, 100).is_ok());
            brake.back_to(100);
        }
        assert!(brake.admit(500, 400, 400).is_ok());
        assert!(brake.check(100, 51).is_err(), "50 and 400 are counted");
        assert!(brake.check(100, 50).is_ok());
    }

    #[test]
    fn a_ratio_of_one_never_stops() {
        let mut brake = Brake::new(1.0);
        for _ in 0..100 {
            assert!(brake.admit(0, 999, 999).is_ok());
        }
    }
}
