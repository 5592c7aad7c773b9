//! The threads that sync dirty partitions, at the same time and each partition by one at a time.

use crate::partition::Partition;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A sync needs next to no stack.
pub const STACK_BYTES: usize = 256 << 10;

pub struct Syncer {
    state: Mutex<State>,
    wake: Condvar,
    threads_max: usize,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Partition>>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stop: bool,
}

impl Syncer {
    pub fn new(threads_max: usize) -> Arc<Syncer> {
        let state = Mutex::new(State::default());
        Arc::new(Syncer { state, wake: Condvar::new(), threads_max: threads_max.max(1) })
    }

    /// Takes a partition that is dirty and not queued already. False when no thread will come: the
    /// caller then syncs by itself.
    pub fn push(self: &Arc<Self>, partition: Arc<Partition>) -> bool {
        let mut state = self.state.lock();
        if state.stop && state.threads.is_empty() {
            return false;
        }
        let short = state.ready.len() >= state.idle && state.threads.len() < self.threads_max;
        if short && !state.stop {
            let syncer = self.clone();
            let thread = std::thread::Builder::new()
                .name("log-sync".into())
                .stack_size(STACK_BYTES)
                .spawn(move || syncer.work());
            match thread {
                Ok(thread) => state.threads.push(thread),
                Err(_) if state.threads.is_empty() => return false,
                Err(error) => tracing::warn!(%error, "fewer threads than wanted to sync the log"),
            }
        }
        state.ready.push_back(partition);
        self.wake.notify_one();
        true
    }

    /// Syncs what is queued, then ends the threads.
    pub fn stop(&self) {
        let threads = {
            let mut state = self.state.lock();
            state.stop = true;
            self.wake.notify_all();
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            let Some(partition) = state.ready.pop_front() else {
                if state.stop {
                    return;
                }
                state.idle += 1;
                self.wake.wait(&mut state);
                state.idle -= 1;
                continue;
            };
            drop(state);
            let again = partition.sync();
            state = self.state.lock();
            if again {
                state.ready.push_back(partition);
            }
        }
    }
}
