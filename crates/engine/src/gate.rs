//! What stands between the partition tasks of a pipeline and its transaction.
//!
//! ```text
//!  task ─ join ─► member ─ enter ─► ticket: its batch is in the transaction ─► settled: done()
//!                                      │ dropped undone
//!                                      ▼
//!  open ── close ──► no ticket is out: commit ──► open       broken: all members leave, abort, renew
//! ```
//!
//! A ticket that is dropped without [`Ticket::done`] (a write or a task that failed, a partition that
//! was lost) breaks the transaction: nothing of it is committed, and every partition goes back.

use millstream_core::{Error, Result};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// A transaction with so many bytes of source records is committed before its time.
const BYTES_MAX: usize = 64 << 20;

/// The kind of the error by which a task leaves a transaction that is given up.
pub(crate) const GIVEN_UP: &str = "transaction";
/// The kind of the error of every task of a pipeline that may not write any more.
pub(crate) const STOPPED: &str = "pipeline_stopped";

#[derive(Default)]
pub struct Gate {
    state: watch::Sender<State>,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Tasks that run.
    members: usize,
    /// Batches in the transaction that are not settled.
    inside: usize,
    bytes: usize,
    closed: bool,
    /// Why the transaction is given up.
    broken: Option<String>,
    /// Why there will be no other.
    stopped: Option<String>,
}

/// A task that may write.
pub(crate) struct Member(Arc<Gate>);

/// A batch that is part of the transaction.
#[must_use = "a ticket that is dropped gives the transaction up"]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    done: bool,
}

impl Gate {
    /// Waits while a transaction is being given up. Cancel safe.
    pub(crate) async fn join(self: &Arc<Self>) -> Result<Member> {
        let mut state = self.state.subscribe();
        loop {
            let mut stopped = None;
            let joined = self.state.send_if_modified(|state| {
                stopped = state.stopped.clone();
                let may = stopped.is_none() && state.broken.is_none();
                state.members += usize::from(may);
                may
            });
            if let Some(why) = stopped {
                return Err(Error::stop(STOPPED, why));
            }
            if joined {
                return Ok(Member(self.clone()));
            }
            let _ = state.changed().await;
        }
    }

    /// Waits while a transaction is being committed or given up. Cancel safe.
    pub(crate) async fn enter(self: &Arc<Self>, bytes: usize) -> Ticket {
        let mut state = self.state.subscribe();
        loop {
            let mut is_full = false;
            let entered = self.state.send_if_modified(|state| {
                let may = !state.closed && state.broken.is_none();
                if may {
                    state.inside += 1;
                    state.bytes += bytes;
                    is_full = state.bytes >= BYTES_MAX;
                }
                may
            });
            if is_full {
                self.hurry();
            }
            if entered {
                return Ticket { gate: self.clone(), done: false };
            }
            let _ = state.changed().await;
        }
    }

    /// Has the transaction given up.
    pub(crate) fn give_up(&self, why: &str) {
        self.state.send_if_modified(|state| {
            let first = state.broken.is_none();
            state.broken.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    /// Resolves when the transaction is to be given up. Cancel safe.
    pub(crate) async fn broken(&self) -> String {
        let mut state = self.state.subscribe();
        let broken = state.wait_for(|state| state.broken.is_some()).await;
        broken.ok().and_then(|state| state.broken.clone()).unwrap_or_default()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state.borrow().broken.is_some()
    }

    /// Lets no batch in, and waits until those inside are settled. False when the transaction is to
    /// be given up. Cancel safe, but the gate stays closed.
    pub(crate) async fn close(&self) -> bool {
        self.state.send_modify(|state| state.closed = true);
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| state.inside == 0 || state.broken.is_some()).await;
        settled.is_ok_and(|state| state.broken.is_none())
    }

    /// Begins the next transaction.
    pub(crate) fn open(&self) {
        self.state.send_modify(|state| {
            state.closed = false;
            state.bytes = 0;
        });
    }

    /// Waits until every member has left. Cancel safe.
    pub(crate) async fn is_left(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.members == 0).await;
    }

    /// What was in the transaction is taken back: lets members in again.
    pub(crate) fn renew(&self) {
        self.state.send_modify(|state| {
            debug_assert_eq!((state.members, state.inside), (0, 0), "nobody is in between");
            state.closed = false;
            state.bytes = 0;
            state.broken = None;
        });
    }

    /// Lets nobody in again.
    pub(crate) fn stop(&self, why: &str) {
        self.state.send_modify(|state| state.stopped = Some(why.to_owned()));
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state.borrow().stopped.is_some()
    }

    /// Resolves when nobody will be let in again. Cancel safe.
    pub(crate) async fn stopped(&self) -> String {
        let mut state = self.state.subscribe();
        let stopped = state.wait_for(|state| state.stopped.is_some()).await;
        stopped.ok().and_then(|state| state.stopped.clone()).unwrap_or_default()
    }

    /// Has the transaction committed before its time.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Cancel safe.
    pub(crate) async fn hurried(&self) {
        self.hurry.notified().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.members -= 1);
    }
}

impl Ticket {
    /// Its batch is settled, and where it ends was offered.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.state.send_modify(|state| {
            state.inside -= 1;
            if !self.done {
                let why = "a batch of it was not written to its end";
                state.broken.get_or_insert_with(|| why.to_owned());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_commit_waits_for_what_is_inside_and_keeps_others_out() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter(1).now_or_never().expect("it is open");
        assert_eq!(gate.close().now_or_never(), None, "one is inside");
        assert!(gate.enter(1).now_or_never().is_none(), "it is closed");
        first.done();
        assert_eq!(gate.close().now_or_never(), Some(true));
        assert!(gate.enter(1).now_or_never().is_none(), "the commit is under way");
        gate.open();
        gate.enter(1).now_or_never().expect("it is open again").done();
        assert!(!gate.is_broken());
    }

    #[test]
    fn a_ticket_that_is_dropped_sends_everybody_back() {
        let gate = Arc::new(Gate::default());
        let member = gate.join().now_or_never().expect("it is open").expect("it goes on");
        let (good, bad) = (gate.enter(1), gate.enter(1));
        let (good, bad) = (good.now_or_never().expect("open"), bad.now_or_never().expect("open"));
        drop(bad);
        good.done();
        assert!(gate.broken().now_or_never().is_some());
        assert_eq!(gate.close().now_or_never(), Some(false));
        assert!(gate.join().now_or_never().is_none(), "the transaction is being given up");
        assert!(gate.enter(1).now_or_never().is_none());
        assert!(gate.is_left().now_or_never().is_none());
        drop(member);
        assert!(gate.is_left().now_or_never().is_some());
        gate.renew();
        drop(gate.join().now_or_never().expect("a new one").expect("it goes on"));
        gate.stop("fenced");
        let told = gate.join().now_or_never().expect("an answer").err().expect("an error");
        assert_eq!(told.to_string(), "fenced");
    }
}
