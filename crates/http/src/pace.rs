//! When the next request may go: so many a second, and not before a server wants one again.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Servers that pause, at most; a column may name many.
const PAUSES_MAX: usize = 1000;

pub(crate) struct Pace {
    /// The time between two requests.
    apart: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: Option<Instant>,
    pauses: HashMap<String, Instant>,
}

impl Pace {
    pub fn new(requests_per_second: Option<f64>) -> Self {
        let apart = requests_per_second.filter(|rate| *rate > 0.0);
        Self {
            apart: apart.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            state: Mutex::default(),
        }
    }

    /// Waits for a turn with this server. Cancelled, the turn is lost.
    pub async fn turn(&self, authority: &str) {
        loop {
            let until = self.state.lock().pauses.get(authority).copied();
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => break,
            }
        }
        let Some(apart) = self.apart else { return };
        let at = {
            let mut state = self.state.lock();
            let now = Instant::now();
            let at = state.next.unwrap_or(now).max(now);
            state.next = Some(at + apart);
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// The server wants no request for so long.
    pub fn pause(&self, authority: &str, time: Duration) {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.pauses.len() >= PAUSES_MAX {
            state.pauses.retain(|_, until| *until > now);
        }
        let until = state.pauses.entry(authority.to_owned()).or_insert(now);
        *until = (now + time).max(*until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_as_far_apart_as_the_rate_says() {
        let pace = Pace::new(Some(10.0));
        let begin = Instant::now();
        for _ in 0..11 {
            pace.turn("a").await;
        }
        assert_eq!(begin.elapsed().as_millis() / 10, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_pauses_holds_only_its_own() {
        let pace = Pace::new(None);
        pace.pause("a", Duration::from_secs(7));
        pace.pause("a", Duration::from_secs(3));
        let begin = Instant::now();
        pace.turn("b").await;
        assert_eq!(begin.elapsed().as_secs(), 0);
        pace.turn("a").await;
        assert_eq!(begin.elapsed().as_secs(), 7);
    }
}
