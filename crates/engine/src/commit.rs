//! Commits the contiguous prefixes of all partitions of all pipelines: collected for an interval,
//! then written together with one sync. A pipeline whose source is shared out by a group has a
//! committer of its own, which gives them to the group, so that others do not wait for it.

#[cfg(test)]
mod tests;
mod transactional;

pub use transactional::ExactlyOnce;

use crate::metrics::{PartitionMetrics, PipelineMetrics};
use millstream_connectors::Home;
use millstream_core::{Disposition, Group, fault};
use millstream_tables::{Commit, Database, Error, Offsets};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Whose offset it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub pipeline: Arc<str>,
    pub partition: u32,
}

struct Pending {
    next: i64,
    topic: Option<Arc<str>>,
    metrics: PartitionMetrics,
    pipeline_metrics: Arc<PipelineMetrics>,
}

/// A cheap-clone handle to the one committer of a process.
#[derive(Clone)]
pub struct Committer {
    shared: Arc<Shared>,
}

/// The time between two openings of the tables. What was written in one that is over may be gone, so
/// that nothing of it may be committed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session(u64);

struct Shared {
    home: Home,
    io: Handle,
    to: To,
    interval: Duration,
    state: Mutex<State>,
    wanted: Notify,
    /// Offsets offered so far, and how many of them are durable.
    offered: watch::Sender<u64>,
    durable: watch::Sender<u64>,
    trouble: Mutex<Option<String>>,
    /// The journal has failed: nothing can be committed before the tables are opened again.
    failed: watch::Sender<bool>,
    broken: CancellationToken,
}

/// Where offsets are kept.
enum To {
    Tables,
    Group {
        group: Arc<dyn Group>,
        /// Who is told when the tables fail.
        parent: Committer,
        /// Rows are in tables that have to be synced before.
        sync_tables: bool,
    },
    /// To a group, in transactions with what was written.
    Transactions(ExactlyOnce, Committer),
}

struct State {
    pending: HashMap<Owner, Pending>,
    /// What is being committed, and tried again until it is.
    under_way: HashMap<Owner, Pending>,
    /// Of one opening with the tables that the sinks write: after these were opened again it
    /// refuses to commit, so that no offset outlives its rows.
    offsets: Offsets,
    session: u64,
}

impl Committer {
    /// The returned future does the committing; it ends with its last handle's process. What waits
    /// for others, such as connections, lives on `io`.
    pub fn new(
        home: Home,
        interval: Duration,
        io: Handle,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let handle = Self::to(home, interval, io, To::Tables);
        let shared = handle.shared.clone();
        (handle, run(shared))
    }

    /// One that commits to a group; it ends when `stop` is cancelled.
    pub(crate) fn for_group(
        &self,
        group: Arc<dyn Group>,
        sync_tables: bool,
        interval: Duration,
        stop: CancellationToken,
    ) -> Self {
        let Shared { home, io, .. } = &*self.shared;
        let to = To::Group { group, sync_tables, parent: self.clone() };
        let handle = Self::to(home.clone(), interval, io.clone(), to);
        let committing = run(handle.shared.clone());
        io.spawn(async move {
            tokio::select! {
                () = committing => {}
                () = stop.cancelled() => {}
            }
        });
        handle
    }

    /// One that commits to a group in transactions; it ends when `stop` is cancelled.
    pub(crate) fn for_transactions(
        &self,
        to: ExactlyOnce,
        metrics: Arc<PipelineMetrics>,
        interval: Duration,
        stop: CancellationToken,
    ) -> Self {
        let Shared { home, io, .. } = &*self.shared;
        let kept = To::Transactions(to.clone(), self.clone());
        let handle = Self::to(home.clone(), interval, io.clone(), kept);
        let committing = transactional::run(handle.shared.clone(), to, metrics);
        io.spawn(async move {
            tokio::select! {
                () = committing => {}
                () = stop.cancelled() => {}
            }
        });
        handle
    }

    fn to(home: Home, interval: Duration, io: Handle, to: To) -> Self {
        let offsets = home.tables.offsets();
        let shared = Arc::new(Shared {
            home,
            io,
            to,
            interval,
            state: Mutex::new(State {
                pending: HashMap::new(),
                under_way: HashMap::new(),
                offsets,
                session: 0,
            }),
            wanted: Notify::new(),
            offered: watch::Sender::new(0),
            durable: watch::Sender::new(0),
            trouble: Mutex::default(),
            failed: watch::Sender::new(false),
            broken: CancellationToken::new(),
        });
        Committer { shared }
    }

    /// Where sockets and timers live.
    pub fn io(&self) -> &Handle {
        &self.shared.io
    }

    /// Forgets what was offered of partitions that are not ours any more: they may come back with
    /// other offsets.
    pub(crate) fn forget(&self, partitions: &[u32]) {
        let mut state = self.shared.state.lock();
        let before = state.pending.len();
        state.pending.retain(|owner, _| !partitions.contains(&owner.partition));
        state.under_way.retain(|owner, _| !partitions.contains(&owner.partition));
        // Their rows are written.
        if let To::Transactions(to, _) = &self.shared.to
            && state.pending.len() < before
        {
            to.gate.give_up("partitions were lost whose rows are in it");
        }
    }

    /// To be asked for before anything is opened that is to be committed.
    pub fn session(&self) -> Session {
        Session(self.shared.state.lock().session)
    }

    /// Every row below `next` is done. Not durable yet. Without effect when the session is over.
    pub fn offer(
        &self,
        session: Session,
        owner: Owner,
        next: i64,
        topic: Option<Arc<str>>,
        metrics: PartitionMetrics,
        pipeline_metrics: Arc<PipelineMetrics>,
    ) {
        let mut state = self.shared.state.lock();
        if session != Session(state.session) {
            if let To::Transactions(to, _) = &self.shared.to {
                to.gate.give_up("a task was late");
            }
            return;
        }
        state.pending.insert(owner, Pending { next, topic, metrics, pipeline_metrics });
        self.shared.offered.send_modify(|n| *n += 1);
        drop(state);
        self.shared.wanted.notify_one();
    }

    /// Waits until all that was offered before this call is durable, or its session is over.
    /// Cancel safe.
    pub async fn flush(&self) {
        if let To::Transactions(to, _) = &self.shared.to {
            to.gate.hurry();
        }
        let upto = *self.shared.offered.borrow();
        let mut durable = self.shared.durable.subscribe();
        let _ = durable.wait_for(|n| *n >= upto).await;
    }

    /// Says that the journal has failed.
    pub fn fail(&self) {
        match &self.shared.to {
            To::Tables => drop(self.shared.failed.send_replace(true)),
            To::Group { parent, .. } | To::Transactions(_, parent) => parent.fail(),
        }
    }

    /// Resolves when the journal has failed and the tables must be opened again. Cancel safe.
    pub async fn failed(&self) {
        let mut failed = self.shared.failed.subscribe();
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// The tables were opened again: begins a new session. What was offered in the last one is
    /// forgotten.
    pub fn reopened(&self) {
        // What was written outside of the tables is in the transaction that is open.
        if let To::Transactions(to, _) = &self.shared.to {
            return to.gate.give_up("the tables were opened again");
        }
        self.shared.begin_session();
        self.shared.failed.send_replace(false);
    }

    pub fn tables(&self) -> Database {
        self.shared.home.tables.clone()
    }

    /// The tables cannot be opened again.
    pub fn give_up(&self) {
        self.shared.broken.cancel();
    }

    /// Resolves when the journal has failed and the tables could not be opened again in this
    /// process. Cancel safe.
    pub async fn broken(&self) {
        self.shared.broken.cancelled().await;
    }

    /// What keeps commits from succeeding, while something does.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }
}

impl Shared {
    /// Forgets what was offered in the last session.
    fn begin_session(&self) {
        let mut state = self.state.lock();
        state.offsets = self.home.tables.offsets();
        state.session += 1;
        state.pending.clear();
        state.under_way.clear();
        let offered = *self.offered.borrow();
        self.durable.send_modify(|n| *n = (*n).max(offered));
        *self.trouble.lock() = None;
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        shared.wanted.notified().await;
        let (offsets, session, upto) = {
            let mut state = shared.state.lock();
            state.under_way = std::mem::take(&mut state.pending);
            (state.offsets.clone(), state.session, *shared.offered.borrow())
        };
        let done = match &shared.to {
            To::Tables => {
                let batch = std::mem::take(&mut shared.state.lock().under_way);
                batch.is_empty() || commit(&shared, offsets, batch).await
            }
            To::Group { group, sync_tables, .. } => {
                commit_to(&shared, &**group, sync_tables.then_some(offsets), session).await
            }
            To::Transactions(..) => return,
        };
        if !done {
            continue;
        }
        shared.durable.send_modify(|n| *n = (*n).max(upto));
        tokio::time::sleep(shared.interval).await;
    }
}

/// False when it cannot be done, because the journal has failed.
async fn commit(shared: &Arc<Shared>, offsets: Offsets, batch: HashMap<Owner, Pending>) -> bool {
    let batch = Arc::new(batch);
    let mut backoff = Duration::from_millis(50);
    loop {
        let (task, work, to) = (shared.clone(), batch.clone(), offsets.clone());
        let written = tokio::task::spawn_blocking(move || write(&task.home, &to, &work)).await;
        let trouble = match written {
            Ok(Ok(())) => break,
            // What belongs to an opening that is over comes again.
            Ok(Err(Error::Reopened)) => return false,
            Ok(Err(error)) if error.needs_reopen() => {
                let trouble = millstream_core::Error::from(error).chain();
                tracing::error!("offsets cannot be committed: {trouble}");
                *shared.trouble.lock() = Some(trouble);
                shared.failed.send_replace(true);
                return false;
            }
            Ok(Err(error)) => millstream_core::Error::from(error).chain(),
            Err(panic) => panic.to_string(),
        };
        tracing::error!("offsets cannot be committed, trying again: {trouble}");
        *shared.trouble.lock() = Some(trouble);
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(Duration::from_secs(5));
    }
    *shared.trouble.lock() = None;
    for pending in batch.values() {
        pending.metrics.committed.set(pending.next);
        pending.pipeline_metrics.commits.inc();
    }
    true
}

/// Commits what is under way. False when it cannot be done, because the journal has failed or the
/// session is over.
async fn commit_to(
    shared: &Arc<Shared>,
    group: &dyn Group,
    tables: Option<Offsets>,
    session: u64,
) -> bool {
    let mut backoff = Duration::from_millis(50);
    loop {
        if shared.state.lock().under_way.is_empty() {
            return true;
        }
        let error = match commit_once(shared, group, tables.clone(), session).await {
            Ok(None) => continue,
            Ok(Some(ended)) => return ended,
            Err(error) => error,
        };
        let trouble = error.chain();
        let before = shared.trouble.lock().replace(trouble.clone());
        match error.disposition() {
            Disposition::Stop if before.as_ref() != Some(&trouble) => {
                tracing::error!("offsets cannot be committed: {trouble}");
            }
            _ => tracing::debug!("offsets cannot be committed, trying again: {trouble}"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(Duration::from_secs(1));
        let mut state = shared.state.lock();
        // What is offered in a new session must not wait for the tables of an old one.
        if state.session != session {
            return false;
        }
        // What was offered meanwhile goes with it.
        let offered = std::mem::take(&mut state.pending);
        state.under_way.extend(offered);
    }
}

/// `None` when only a part was taken: the rest is tried again at once.
async fn commit_once(
    shared: &Arc<Shared>,
    group: &dyn Group,
    tables: Option<Offsets>,
    session: u64,
) -> Result<Option<bool>, millstream_core::Error> {
    if let Some(tables) = tables {
        match tokio::task::spawn_blocking(move || tables.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(Error::Reopened)) => return Ok(Some(false)),
            Ok(Err(error)) => {
                let trouble = millstream_core::Error::from(error).chain();
                tracing::error!("offsets cannot be committed: {trouble}");
                *shared.trouble.lock() = Some(trouble);
                Committer { shared: shared.clone() }.fail();
                return Ok(Some(false));
            }
            Err(died) => {
                return Err(millstream_core::Error::retry("tables", "syncing").because(died));
            }
        }
    }
    fault::point("engine.commit");
    let offsets: Vec<_> = {
        let state = shared.state.lock();
        if state.session != session {
            return Ok(Some(false));
        }
        state.under_way.iter().map(|(owner, p)| (owner.partition, p.next)).collect()
    };
    let done: HashMap<u32, i64> = group.commit(&offsets).await?.into_iter().collect();
    fault::point("engine.committed");
    *shared.trouble.lock() = None;
    let mut state = shared.state.lock();
    state.under_way.retain(|owner, pending| {
        let durable = done.get(&owner.partition) == Some(&pending.next);
        if durable {
            pending.metrics.committed.set(pending.next);
            pending.pipeline_metrics.commits.inc();
        }
        !durable
    });
    if done.is_empty() && !state.under_way.is_empty() {
        let partitions: Vec<u32> = state.under_way.keys().map(|owner| owner.partition).collect();
        tracing::debug!(?partitions, "not ours any more: what was offered is not committed");
        state.under_way.clear();
    }
    Ok(state.under_way.is_empty().then_some(true))
}

fn write(home: &Home, offsets: &Offsets, batch: &HashMap<Owner, Pending>) -> Result<(), Error> {
    fault::point("engine.commit");
    let commits: Vec<_> = batch
        .iter()
        .map(|(owner, pending)| Commit {
            pipeline: &owner.pipeline,
            partition: owner.partition,
            next_offset: pending.next,
        })
        .collect();
    match offsets.commit(&commits) {
        // One that means nothing any more must not keep the others.
        Err(Error::Backwards { .. } | Error::Unbound(_)) => {
            for commit in &commits {
                match offsets.commit(std::slice::from_ref(commit)) {
                    Err(error @ (Error::Backwards { .. } | Error::Unbound(_))) => {
                        tracing::error!("a commit was refused: {error}");
                    }
                    other => other?,
                }
            }
        }
        other => other?,
    }
    fault::point("engine.committed");
    // Only what is durable may let the log forget.
    for (owner, pending) in batch {
        if let Some(topic) = &pending.topic {
            let told =
                home.log.set_low_commit(topic, owner.partition, &owner.pipeline, pending.next);
            if let Err(error) = told {
                tracing::debug!("the log was not told of a commit: {error}");
            }
        }
    }
    Ok(())
}
