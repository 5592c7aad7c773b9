//! How many requests may be under way: more while the store keeps up, half when it says that it
//! does not.

use parking_lot::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Answers of one moment are one sign.
const ONE_SIGN: Duration = Duration::from_millis(100);

pub(crate) struct Pace {
    state: Mutex<State>,
    free: Notify,
    max: usize,
}

struct State {
    limit: f64,
    under_way: usize,
    slowed: Option<Instant>,
}

/// A request that is under way.
pub(crate) struct Turn<'a>(&'a Pace);

impl Pace {
    pub fn new(max: usize) -> Pace {
        let limit = (max.max(1) as f64 / 2.0).max(1.0);
        let state = State { limit, under_way: 0, slowed: None };
        Pace { state: Mutex::new(state), free: Notify::new(), max: max.max(1) }
    }

    /// Waits until there is room. Cancel safe.
    pub async fn turn(&self) -> Turn<'_> {
        loop {
            let mut freed = std::pin::pin!(self.free.notified());
            freed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.under_way < state.limit as usize {
                    state.under_way += 1;
                    return Turn(self);
                }
            }
            freed.await;
        }
    }

    /// An answer came in time: one more for each limit of them.
    pub fn went_well(&self) {
        let mut state = self.state.lock();
        state.limit = (state.limit + 1.0 / state.limit).min(self.max as f64);
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

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().under_way -= 1;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

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
            pace.went_well();
        }
        assert_eq!(pace.limit(), 8);
    }
}
