//! Acknowledgement of one run of source records.
//!
//! An [`Ack`] is a share. It is split, one share for every branch, sink and dead-letter write; the
//! run is settled when every share was given back by [`Ack::done`]. A share that is dropped makes
//! the run *lost*: it is never acknowledged, and its partition goes back to the last commit.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

const WRITTEN: u8 = 1;
const DEAD: u8 = 2;

/// A share of the acknowledgement of one run of source records.
#[must_use = "a share that is dropped is not an acknowledgement"]
#[derive(Debug)]
pub struct Ack {
    tally: Arc<Tally>,
    done: bool,
}

/// How the source rows of a run ended. `rows = out + filtered + dead`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: u64,
    pub out: u64,
    pub filtered: u64,
    pub dead: u64,
}

/// Resolves when every share is done: the counts, or `None` when a share was dropped.
#[derive(Debug)]
pub struct Settlement(oneshot::Receiver<Counts>);

#[derive(Debug)]
struct Tally {
    verdicts: Mutex<Vec<u8>>,
    lost: AtomicBool,
    settled: Mutex<Option<oneshot::Sender<Counts>>>,
}

impl Ack {
    /// The first share for a run of `rows` source records.
    pub fn open(rows: usize) -> (Ack, Settlement) {
        let (sender, receiver) = oneshot::channel();
        let tally = Arc::new(Tally {
            verdicts: Mutex::new(vec![0; rows]),
            lost: AtomicBool::new(false),
            settled: Mutex::new(Some(sender)),
        });
        (Ack { tally, done: false }, Settlement(receiver))
    }

    /// One more share of the same run.
    pub fn share(&self) -> Ack {
        Ack { tally: self.tally.clone(), done: false }
    }

    /// Notes that these source rows were written by a sink.
    pub fn written(&self, source_rows: impl IntoIterator<Item = u32>) {
        self.mark(source_rows, WRITTEN);
    }

    /// Notes that these source rows are in the dead letters.
    pub fn rejected(&self, source_rows: impl IntoIterator<Item = u32>) {
        self.mark(source_rows, DEAD);
    }

    /// This share's part is durably finished.
    pub fn done(mut self) {
        self.done = true;
    }

    fn mark(&self, source_rows: impl IntoIterator<Item = u32>, bit: u8) {
        let mut verdicts = self.tally.verdicts.lock().expect("no panic while marking");
        for row in source_rows {
            verdicts[row as usize] |= bit;
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if !self.done {
            self.tally.lost.store(true, Ordering::Release);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // The last share is gone. When one was dropped undone the sender is dropped unsent.
        if *self.lost.get_mut() {
            return;
        }
        let mut counts = Counts::default();
        for verdict in self.verdicts.get_mut().expect("no panic while marking") {
            counts.rows += 1;
            match *verdict {
                v if v & DEAD != 0 => counts.dead += 1,
                v if v & WRITTEN != 0 => counts.out += 1,
                _ => counts.filtered += 1,
            }
        }
        if let Some(sender) = self.settled.get_mut().expect("no panic while settling").take() {
            let _ = sender.send(counts);
        }
    }
}

impl Settlement {
    /// Cancel safe.
    pub async fn wait(self) -> Option<Counts> {
        self.0.await.ok()
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.out += other.out;
        self.filtered += other.filtered;
        self.dead += other.dead;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn settles_when_the_last_share_is_done_and_dead_beats_out() {
        let (ack, settlement) = Ack::open(4);
        let other = ack.share();
        ack.written([0, 1]);
        other.rejected([1]);
        ack.done();
        let mut wait = Box::pin(settlement.wait());
        assert!((&mut wait).now_or_never().is_none(), "one share is still out");
        other.done();
        let counts = Counts { rows: 4, out: 1, filtered: 2, dead: 1 };
        assert_eq!(wait.now_or_never(), Some(Some(counts)));
    }

    #[test]
    fn a_dropped_share_is_never_an_acknowledgement() {
        let (ack, settlement) = Ack::open(1);
        drop(ack.share());
        ack.written([0]);
        ack.done();
        assert_eq!(settlement.wait().now_or_never(), Some(None));
    }
}
