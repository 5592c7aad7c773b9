//! Commits the contiguous prefixes of all partitions of all pipelines: collected for an interval,
//! then written together with one sync.

use crate::metrics::{PartitionMetrics, PipelineMetrics};
use millstream_connectors::Home;
use millstream_core::fault;
use millstream_tables::{Commit, Error, Offsets};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
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

struct Shared {
    home: Home,
    /// Of one moment with the tables that the sinks write: after these were reopened it refuses to
    /// commit, so that no offset outlives its rows.
    offsets: Offsets,
    interval: Duration,
    pending: Mutex<HashMap<Owner, Pending>>,
    wanted: Notify,
    /// Offsets offered so far, and how many of them are durable.
    offered: watch::Sender<u64>,
    durable: watch::Sender<u64>,
    trouble: Mutex<Option<String>>,
    broken: CancellationToken,
}

impl Committer {
    /// The returned future does the committing; it ends with its last handle's process.
    pub fn new(home: Home, interval: Duration) -> (Self, impl Future<Output = ()> + Send) {
        let shared = Arc::new(Shared {
            offsets: home.tables.offsets(),
            home,
            interval,
            pending: Mutex::default(),
            wanted: Notify::new(),
            offered: watch::Sender::new(0),
            durable: watch::Sender::new(0),
            trouble: Mutex::default(),
            broken: CancellationToken::new(),
        });
        let handle = Committer { shared: shared.clone() };
        (handle, run(shared))
    }

    /// Every row below `next` is done. Not durable yet.
    pub fn offer(
        &self,
        owner: Owner,
        next: i64,
        topic: Option<Arc<str>>,
        metrics: PartitionMetrics,
        pipeline_metrics: Arc<PipelineMetrics>,
    ) {
        let mut pending = self.shared.pending.lock();
        pending.insert(owner, Pending { next, topic, metrics, pipeline_metrics });
        self.shared.offered.send_modify(|n| *n += 1);
        drop(pending);
        self.shared.wanted.notify_one();
    }

    /// Waits until all that was offered before this call is durable. Cancel safe.
    pub async fn flush(&self) {
        let upto = *self.shared.offered.borrow();
        let mut durable = self.shared.durable.subscribe();
        let _ = durable.wait_for(|n| *n >= upto).await;
    }

    /// Resolves when the journal has failed: nothing can be committed before the data directory
    /// is opened again, by a new process. Cancel safe.
    pub async fn broken(&self) {
        self.shared.broken.cancelled().await;
    }

    /// What keeps commits from succeeding, while something does.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        shared.wanted.notified().await;
        let (batch, upto) = {
            let mut pending = shared.pending.lock();
            (std::mem::take(&mut *pending), *shared.offered.borrow())
        };
        if !batch.is_empty() {
            let batch = Arc::new(batch);
            let mut backoff = Duration::from_millis(50);
            loop {
                let (task, work) = (shared.clone(), batch.clone());
                let written =
                    tokio::task::spawn_blocking(move || write(&task.home, &task.offsets, &work))
                        .await;
                let trouble = match written {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => {
                        if error.needs_reopen() {
                            shared.broken.cancel();
                        }
                        millstream_core::Error::from(error).chain()
                    }
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
        }
        shared.durable.send_replace(upto);
        tokio::time::sleep(shared.interval).await;
    }
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
