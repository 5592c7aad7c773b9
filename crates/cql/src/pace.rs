//! How many requests may be under way: more while the store keeps up, half when it says that it
//! does not. And whose they are: batches send theirs one after the other, in the order in which they
//! came. If all took turns, all would be done at the same time, and their tasks would read in bursts.

use parking_lot::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// Answers of one moment are one sign.
const ONE_SIGN: Duration = Duration::from_millis(100);

pub(crate) struct Pace {
    state: Mutex<State>,
    free: Notify,
    line: Semaphore,
    max: usize,
}

struct State {
    limit: f64,
    under_way: usize,
    slowed: Option<Instant>,
}

/// So many batches send at a time: one may be of a task that is busy with something else.
const SENDING: usize = 2;

/// A request that is under way.
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    went_well: bool,
}

impl Pace {
    pub fn new(max: usize) -> Pace {
        let limit = (max.max(1) as f64 / 2.0).max(1.0);
        let state = State { limit, under_way: 0, slowed: None };
        Pace {
            state: Mutex::new(state),
            free: Notify::new(),
            line: Semaphore::new(SENDING),
            max: max.max(1),
        }
    }

    /// Waits until there is room. Cancel safe.
    pub async fn turn(&self) -> Turn<'_> {
        loop {
            let mut freed = std::pin::pin!(self.free.notified());
            freed.as_mut().enable();
            if let Some(turn) = self.try_turn() {
                return turn;
            }
            freed.await;
        }
    }

    /// Waits until it is this batch's time to send; it gives the place back when all is sent.
    pub async fn line(&self) -> Option<SemaphorePermit<'_>> {
        self.line.acquire().await.ok()
    }

    pub fn try_turn(&self) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        if state.under_way >= state.limit as usize {
            return None;
        }
        state.under_way += 1;
        Some(Turn { pace: self, went_well: false })
    }

    /// The store is overloaded, late or partly away.
    pub fn slow_down(&self) {
        let mut state = self.state.lock();
        if state.slowed.is_none_or(|when| when.elapsed() >= ONE_SIGN) {
            state.slowed = Some(Instant::now());
            state.limit = (state.limit / 2.0).max(1.0);
        }
    }

    /// How many may be under way now.
    pub fn limit(&self) -> usize {
        self.state.lock().limit as usize
    }
}

impl Turn<'_> {
    /// An answer came in time: one more for each limit of them.
    pub fn went_well(mut self) {
        self.went_well = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let room = {
            let mut state = self.pace.state.lock();
            state.under_way -= 1;
            let limit = state.limit;
            if self.went_well {
                state.limit = (limit + 1.0 / limit).min(self.pace.max as f64);
            }
            // Where it grew by a whole one there is room for two.
            match state.limit as usize > limit as usize {
                true => 2,
                false => usize::from(state.under_way < state.limit as usize),
            }
        };
        for _ in 0..room {
            self.pace.free.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn those_who_wait_are_woken_also_where_the_limit_grew() {
        let pace = Pace::new(2);
        let turn = pace.try_turn().unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(pace.turn())).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()));
        turn.went_well();
        let turns: Vec<_> = waiting.iter_mut().filter_map(FutureExt::now_or_never).collect();
        assert_eq!((turns.len(), pace.limit()), (2, 2));
        drop(turns);
    }

    #[tokio::test]
    async fn it_slows_down_at_once_and_speeds_up_in_steps() {
        let pace = Pace::new(8);
        assert_eq!(pace.limit(), 4);
        let turns: Vec<_> = (0..4).map(|_| pace.turn().now_or_never().unwrap()).collect();
        assert!(pace.turn().now_or_never().is_none());
        pace.slow_down();
        pace.slow_down();
        assert_eq!(pace.limit(), 2, "answers of one moment are one sign");
        drop(turns);
        for _ in 0..200 {
            pace.try_turn().unwrap().went_well();
        }
        assert_eq!(pace.limit(), 8);
        let turns: Vec<_> = (0..8).map(|_| pace.try_turn().unwrap()).collect();
        assert!(pace.try_turn().is_none());
        drop(turns);
        assert!(pace.try_turn().is_some());
    }
}
