//! The bytes that all partitions of a pipeline may have under way together.
//!
//! A partition may always have one batch. For each further one it takes a turn: turns are given in
//! the order they were asked for, while there is room, and one that is given keeps room for a batch.
//! Who has nothing under way keeps no room and waits for nobody, so that nobody waits for ever.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Shared by the partition tasks of a pipeline.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    state: Mutex<State>,
}

/// What one partition task has under way. Given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    id: u64,
    bytes: usize,
    has_turn: bool,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    /// The room that turns keep, by whose they are.
    turns: HashMap<u64, usize>,
    kept: usize,
    /// The largest batch so far.
    batch: usize,
    queue: VecDeque<(u64, Waker)>,
    shares: u64,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, state: Mutex::default() })
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub fn share(self: &Arc<Self>) -> Share {
        let mut state = self.state.lock();
        state.shares += 1;
        Share { budget: self.clone(), id: state.shares, bytes: 0, has_turn: false }
    }
}

impl Share {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the next batch may be fetched.
    pub fn may_fetch(&self) -> bool {
        self.bytes == 0 || self.has_turn
    }

    /// Ready when it is this partition's turn to fetch one more batch. Its place in the queue stays
    /// between calls.
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut guard = self.budget.state.lock();
        let state = &mut *guard;
        match state.queue.iter_mut().find(|(id, _)| *id == self.id) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None if state.turns.contains_key(&self.id) => {}
            None => state.queue.push_back((self.id, context.waker().clone())),
        }
        state.give_turns(self.budget.bytes_max);
        self.has_turn = state.turns.contains_key(&self.id);
        if self.has_turn { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A batch is under way; the turn, if it had one, is over.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        let mut state = self.budget.state.lock();
        state.leave(self.id);
        self.has_turn = false;
        state.bytes += bytes;
        state.batch = state.batch.max(bytes);
    }

    /// A batch is settled.
    pub fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        let mut state = self.budget.state.lock();
        state.bytes -= bytes;
        if self.bytes == 0 {
            state.leave(self.id);
            self.has_turn = false;
        }
        state.give_turns(self.budget.bytes_max);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

impl State {
    fn give_turns(&mut self, bytes_max: usize) {
        while self.bytes + self.kept < bytes_max
            && let Some((id, waker)) = self.queue.pop_front()
        {
            self.turns.insert(id, self.batch);
            self.kept += self.batch;
            waker.wake();
        }
    }

    fn leave(&mut self, id: u64) {
        self.kept -= self.turns.remove(&id).unwrap_or(0);
        self.queue.retain(|(own, _)| *own != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::future::poll_fn;

    fn asks(share: &mut Share) -> bool {
        poll_fn(|context| share.poll_turn(context)).now_or_never().is_some()
    }

    #[test]
    fn turns_are_given_in_order_while_there_is_room() {
        let budget = Budget::new(100);
        let [mut a, mut b, mut c] = [(); 3].map(|()| budget.share());
        a.add(60);
        assert!(!a.may_fetch() && b.may_fetch());
        assert!(asks(&mut a) && a.may_fetch());
        a.add(60);
        b.add(10);
        c.add(10);
        assert!(!asks(&mut b) && !asks(&mut c), "140 of 100 are under way");
        a.release(60);
        assert!(!asks(&mut c), "the other asked first, and has the room");
        assert!(asks(&mut b) && b.may_fetch());
        b.release(10);
        assert!(asks(&mut c), "who has nothing under way keeps no room");
        c.add(40);
        assert!(b.may_fetch(), "one batch is always allowed");
        b.add(5);
        assert!(!asks(&mut a) && !asks(&mut b));
        drop(a);
        assert!(asks(&mut b), "who went away is not waited for");
        drop((b, c));
        let state = budget.state.lock();
        assert_eq!((state.bytes, state.kept, state.queue.len()), (0, 0, 0));
    }
}
