//! What is known by id, and one fetch at a time for each id that is not.

use super::answer::Failure;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use millstream_core::RegisteredSchema;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an id that the registry does not know is not asked for again: rows that carry garbage
/// must not wait for it one by one, and an id registered late must be found.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
const UNKNOWN_MAX: usize = 1000;

type Fetched = Result<Arc<RegisteredSchema>, Failure>;

/// By `Id`: the number of a schema, or its GUID.
pub(super) struct Flights<Id> {
    state: Mutex<State<Id>>,
}

struct State<Id> {
    known: HashMap<Id, Arc<RegisteredSchema>>,
    unknown: HashMap<Id, (Instant, Failure)>,
    under_way: HashMap<Id, Flight>,
    flights: u64,
}

impl<Id> Default for Flights<Id> {
    fn default() -> Self {
        let (known, unknown, under_way) = Default::default();
        Self { state: Mutex::new(State { known, unknown, under_way, flights: 0 }) }
    }
}

#[derive(Clone)]
struct Flight {
    number: u64,
    fetched: Shared<BoxFuture<'static, Fetched>>,
}

impl<Id: Copy + Eq + Hash> Flights<Id> {
    /// Cancel safe: when the caller who polls a fetch goes away, another who waits goes on with it.
    pub async fn get(
        &self,
        id: Id,
        fetch: impl Future<Output = Fetched> + Send + 'static,
    ) -> Fetched {
        let flight = {
            let mut state = self.state.lock();
            if let Some(schema) = state.known.get(&id) {
                return Ok(schema.clone());
            }
            match state.unknown.get(&id) {
                Some((since, failure)) if since.elapsed() < UNKNOWN_FOR => {
                    return Err(failure.clone());
                }
                _ => {}
            }
            state.flights += 1;
            let number = state.flights;
            let start = || Flight { number, fetched: fetch.boxed().shared() };
            state.under_way.entry(id).or_insert_with(start).clone()
        };
        let fetched = flight.fetched.await;
        self.land(id, flight.number, &fetched);
        fetched
    }

    fn land(&self, id: Id, number: u64, fetched: &Fetched) {
        let mut state = self.state.lock();
        // Everybody who waited comes by here; the next flight may have left already.
        if state.under_way.get(&id).is_none_or(|flight| flight.number != number) {
            return;
        }
        state.under_way.remove(&id);
        state.unknown.remove(&id);
        match fetched {
            Ok(schema) => {
                state.known.insert(id, schema.clone());
            }
            Err(failure) if failure.is_not_found() => {
                if state.unknown.len() >= UNKNOWN_MAX {
                    state.unknown.clear();
                }
                state.unknown.insert(id, (Instant::now(), failure.clone()));
            }
            Err(_) => {}
        }
    }
}
