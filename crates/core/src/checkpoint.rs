//! The contiguous prefix of a partition: the offset below which every row is done.

use std::collections::VecDeque;

/// Runs are opened in offset order and finished in any order; [`Checkpoint::upto`] only moves over
/// runs that are finished.
#[derive(Debug)]
pub struct Checkpoint {
    upto: i64,
    /// Open runs in offset order: the offset after each, and whether it is done.
    runs: VecDeque<(i64, bool)>,
    first: u64,
}

/// Names a run of one [`Checkpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(u64);

impl Checkpoint {
    pub fn new(start: i64) -> Self {
        Self { upto: start, runs: VecDeque::new(), first: 0 }
    }

    /// Opens the run that ends before `next`.
    pub fn open(&mut self, next: i64) -> Run {
        debug_assert!(next >= self.runs.back().map_or(self.upto, |(next, _)| *next));
        self.runs.push_back((next, false));
        Run(self.first + self.runs.len() as u64 - 1)
    }

    /// Marks a run done. True when the prefix moved.
    pub fn finish(&mut self, run: Run) -> bool {
        let before = self.upto;
        self.runs[(run.0 - self.first) as usize].1 = true;
        while let Some((next, true)) = self.runs.front() {
            self.upto = *next;
            self.runs.pop_front();
            self.first += 1;
        }
        self.upto != before
    }

    /// Every row below this offset is done.
    pub fn upto(&self) -> i64 {
        self.upto
    }

    pub fn open_runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_over_finished_runs_only() {
        let mut checkpoint = Checkpoint::new(10);
        let runs = [20, 25, 40].map(|next| checkpoint.open(next));
        assert!(!checkpoint.finish(runs[1]));
        assert_eq!(checkpoint.upto(), 10);
        assert!(checkpoint.finish(runs[0]));
        assert_eq!(checkpoint.upto(), 25);
        assert!(checkpoint.finish(runs[2]));
        assert_eq!((checkpoint.upto(), checkpoint.open_runs()), (40, 0));
    }
}
