//! Partitions that come and go: what an engine does when a group gives this process a partition or
//! takes one away.
//!
//! ```text
//!  assigned ─► a task for each        revoked ─► tasks finish, commits are flushed ─► released
//!                                     lost ────► tasks are aborted, nothing is committed
//! ```

use crate::engine::{Engine, Live, Slot, WeakEngine};
use crate::gate::Gate;
use crate::pipeline::Pipeline;
use crate::status::PartitionState;
use millstream_core::{Change, Group, Release};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// What is under this name in the pipeline's waits.
const WAIT: &str = "group";

/// The kind of the error after which the group tells nothing more: another process has our place.
const FENCED: &str = "fenced";

/// A group's part of a running pipeline.
pub(crate) struct Grouped {
    /// Asks for everything to be given back.
    pub leave: CancellationToken,
    /// How many tasks there are.
    pub live: watch::Sender<usize>,
    /// Something was given to us at least once.
    pub assigned: bool,
}

impl Grouped {
    pub fn new() -> Self {
        Self { leave: CancellationToken::new(), live: watch::Sender::new(0), assigned: false }
    }
}

/// Follows a group until it is left.
pub(crate) async fn follow(
    engine: WeakEngine,
    pipeline: Arc<Pipeline>,
    group: Arc<dyn Group>,
    leave: CancellationToken,
    tasks: watch::Sender<usize>,
    _live: Live,
) {
    loop {
        let change = tokio::select! {
            change = group.next() => change,
            () = leave.cancelled() => break,
        };
        let Some(engine) = engine.upgrade() else { return };
        match change {
            Ok(Change::Assigned(partitions)) => {
                tracing::info!(pipeline = &*pipeline.name, ?partitions, "partitions are ours");
                pipeline.metrics.partitions_changed("assigned", partitions.len());
                pipeline.waits.clear(WAIT);
                engine.take_in(&pipeline, &partitions);
            }
            Ok(Change::Revoked(partitions, release)) => {
                tracing::info!(pipeline = &*pipeline.name, ?partitions, "partitions are given up");
                pipeline.metrics.partitions_changed("revoked", partitions.len());
                let slots = engine.take_out(&pipeline, &partitions);
                tokio::spawn(give_up(pipeline.clone(), slots, release));
            }
            Ok(Change::Lost(partitions)) => {
                tracing::warn!(pipeline = &*pipeline.name, ?partitions, "partitions are lost");
                pipeline.metrics.partitions_changed("lost", partitions.len());
                pipeline.committer.forget(&partitions);
                let slots = engine.take_out(&pipeline, &partitions);
                abort(&pipeline, slots).await;
                // What their tasks offered until they ended.
                pipeline.committer.forget(&partitions);
            }
            Err(error) => {
                // The group says it, and goes on trying: what may pass is told while it lasts.
                pipeline.metrics.error(WAIT, error.kind(), 1);
                if error.kind() == FENCED {
                    tracing::error!(pipeline = &*pipeline.name, "{}", error.chain());
                    pipeline.waits.set(WAIT, &error.chain());
                    engine.is_fenced(&pipeline);
                    break;
                }
            }
        }
    }
    // The tasks were asked to end with us.
    let _ = tasks.subscribe().wait_for(|live| *live == 0).await;
    pipeline.committer.flush().await;
    group.leave().await;
}

/// Ends a pipeline that may not write any more.
async fn follow_gate(
    engine: WeakEngine,
    pipeline: Arc<Pipeline>,
    gate: Arc<Gate>,
    ended: CancellationToken,
) {
    let why = tokio::select! {
        why = gate.stopped() => why,
        () = ended.cancelled() => return,
    };
    tracing::error!(pipeline = &*pipeline.name, "stopped: {why}");
    pipeline.metrics.error("transaction", "stopped", 1);
    if let Some(engine) = engine.upgrade() {
        engine.fail(&pipeline.name);
        engine.is_fenced(&pipeline);
    }
}

/// Finishes what is in flight and commits it, within the release's time.
async fn give_up(pipeline: Arc<Pipeline>, mut slots: Vec<Slot>, release: Release) {
    let begun = Instant::now();
    let deadline = |part: u32| begun + release.within * part / 4;
    slots.iter().for_each(|slot| slot.stop.cancel());
    let mut late = Vec::new();
    let partitions: Vec<u32> = slots.iter().map(|slot| slot.status.partition).collect();
    for slot in slots.drain(..) {
        let Some(task) = &slot.task else { continue };
        match timeout_at(deadline(2), task.ended()).await {
            Ok(()) => settle(&pipeline, &slot),
            Err(_) => late.push(slot),
        }
    }
    abort(&pipeline, late).await;
    if timeout_at(deadline(3), pipeline.committer.flush()).await.is_err() {
        pipeline.committer.forget(&partitions);
    }
    release.done();
}

/// What these had in flight is not acknowledged, and comes again elsewhere.
async fn abort(pipeline: &Pipeline, slots: Vec<Slot>) {
    for mut slot in slots {
        if let Some(task) = slot.task.take() {
            task.abort();
            task.ended().await;
        }
        settle(pipeline, &slot);
    }
}

fn settle(pipeline: &Pipeline, slot: &Slot) {
    slot.status.in_flight(&pipeline.metrics, 0, 0, 0);
    slot.status.set(PartitionState::Stopped);
    pipeline.metrics.forget_partition(&slot.status.place);
}

impl Engine {
    /// Starts a pipeline whose partitions a group shares out.
    pub(crate) fn start_grouped(&self, mut pipeline: Pipeline) -> Option<(Arc<Pipeline>, Grouped)> {
        let group = pipeline.source.group()?;
        let grouped = Grouped::new();
        let sync_tables = pipeline.writes_tables();
        let interval = pipeline.commit_interval.max(Duration::from_millis(1));
        let ended = CancellationToken::new();
        pipeline.committer = match &pipeline.exactly_once {
            Some(to) => pipeline.committer.for_transactions(
                to.clone(),
                pipeline.metrics.clone(),
                interval,
                ended.clone(),
            ),
            None => {
                pipeline.committer.for_group(group.clone(), sync_tables, interval, ended.clone())
            }
        };
        let pipeline = Arc::new(pipeline);
        let following = follow(
            self.downgrade(),
            pipeline.clone(),
            group,
            grouped.leave.clone(),
            grouped.live.clone(),
            self.busy(),
        );
        if let Some(to) = &pipeline.exactly_once {
            self.cpu().spawn(follow_gate(
                self.downgrade(),
                pipeline.clone(),
                to.gate.clone(),
                ended.clone(),
            ));
        }
        self.cpu().spawn(async move {
            following.await;
            ended.cancel();
        });
        Some((pipeline, grouped))
    }
}
