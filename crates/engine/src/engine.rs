//! Runs pipelines: a supervised task for each partition, one committer for all.

use crate::group::Grouped;
use crate::pipeline::Pipeline;
use crate::reset::reset_offsets;
use crate::status::{OffsetUnit, PartitionReport, PartitionState, PartitionStatus};
use crate::supervise::supervise;
use millstream_core::{Error, Place, Result};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// A cheap-clone handle to the running pipelines.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// An [`Engine`] that does not keep it alive.
pub(crate) struct WeakEngine(Weak<Shared>);

struct Shared {
    cpu: runtime::Handle,
    pipelines: Mutex<BTreeMap<String, Running>>,
    /// How many partition tasks there are, and others that will start some.
    live: watch::Sender<usize>,
    watched: AtomicBool,
    stopping: AtomicBool,
    /// Pipelines whose place in their group another process has taken.
    fenced: watch::Sender<Vec<Arc<str>>>,
    /// Why the pipelines that are to run are not there yet.
    awaited: Mutex<Option<String>>,
}

/// One that [`Engine::ended`] waits for, until it is dropped.
pub(crate) struct Live(watch::Sender<usize>);

struct Running {
    pipeline: Arc<Pipeline>,
    partitions: Vec<Slot>,
    stop: CancellationToken,
    /// Its tasks are being ended for new offsets, and will be started with them.
    resetting: bool,
    /// All tasks were ended, and will be started again.
    halted: bool,
    group: Option<Grouped>,
    /// It may not write any more.
    failed: bool,
}

/// A partition and its task.
pub(crate) struct Slot {
    pub status: Arc<PartitionStatus>,
    pub stop: CancellationToken,
    pub task: Option<Work>,
}

/// A partition's task, for everybody who waits for its end.
#[derive(Clone)]
pub(crate) struct Work {
    abort: AbortHandle,
    ended: CancellationToken,
}

/// A pipeline whose tasks are being ended for new offsets: when this is dropped they are started
/// again, however the reset came to its end.
struct Resetting {
    shared: Arc<Shared>,
    name: String,
}

/// A pipeline at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineReport {
    pub name: String,
    pub state: PartitionState,
    pub source: String,
    pub rows_in: u64,
    pub rows_out: u64,
    pub rows_filtered: u64,
    pub rows_dead: u64,
    pub lag: i64,
    pub lag_unit: OffsetUnit,
    /// What it waits for, in words; empty while nothing holds it up.
    pub waits_for: Vec<String>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Per look-up: name, rows that asked, rows that found something.
    pub lookups: Vec<LookupReport>,
    pub partitions: Vec<PartitionReport>,
}

#[derive(Debug, Clone, Serialize)]
pub struct LookupReport {
    pub name: String,
    pub asked: u64,
    pub found: u64,
}

/// How long a reset waits for what is in flight.
const RESET_WITHIN: Duration = Duration::from_secs(25);

/// How long it then waits for the last commits.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

impl Engine {
    /// Partition tasks run on `cpu`.
    pub fn new(cpu: runtime::Handle) -> Self {
        let shared = Shared {
            cpu,
            pipelines: Mutex::default(),
            live: watch::Sender::new(0),
            watched: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            fenced: watch::Sender::default(),
            awaited: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts a pipeline's partition tasks.
    pub fn start(&self, pipeline: Pipeline) {
        if !self.shared.watched.swap(true, Ordering::AcqRel) {
            self.watch(&pipeline.committer);
        }
        // What a group tells must find the pipeline among those that run.
        let mut pipelines = self.shared.pipelines.lock();
        let (pipeline, group) = match pipeline.grouped {
            true => match self.start_grouped(pipeline) {
                Some((pipeline, group)) => (pipeline, Some(group)),
                None => return,
            },
            false => (Arc::new(pipeline), None),
        };
        pipeline.metrics.queue_bytes_max.set(pipeline.budget.bytes_max() as i64);
        let mut running = Running {
            partitions: Vec::new(),
            stop: CancellationToken::new(),
            resetting: false,
            halted: false,
            group,
            failed: false,
            pipeline,
        };
        if running.group.is_none() {
            (0..running.pipeline.source.partitions()).for_each(|p| running.add(p));
        }
        running.spawn(&self.shared);
        pipelines.insert(running.pipeline.name.to_string(), running);
    }

    /// A group has given us these.
    pub(crate) fn take_in(&self, pipeline: &Pipeline, partitions: &[u32]) {
        let mut pipelines = self.shared.pipelines.lock();
        let Some(running) = pipelines.get_mut(&*pipeline.name) else { return };
        if let Some(group) = &mut running.group {
            group.assigned = true;
        }
        partitions.iter().for_each(|partition| running.add(*partition));
        if !running.resetting && !running.halted && !self.shared.stopping.load(Ordering::Acquire) {
            running.spawn(&self.shared);
        }
    }

    /// Those of these that we have, with their tasks.
    pub(crate) fn take_out(&self, pipeline: &Pipeline, partitions: &[u32]) -> Vec<Slot> {
        let mut pipelines = self.shared.pipelines.lock();
        let Some(running) = pipelines.get_mut(&*pipeline.name) else { return Vec::new() };
        let (gone, left) = std::mem::take(&mut running.partitions)
            .into_iter()
            .partition(|slot| partitions.contains(&slot.status.partition));
        running.partitions = left;
        gone
    }

    /// The place of a pipeline in its group is another process's.
    pub(crate) fn is_fenced(&self, pipeline: &Pipeline) {
        self.shared.fenced.send_modify(|fenced| fenced.push(pipeline.name.clone()));
    }

    /// The pipelines whose place in their group another process has taken: they do not go on.
    pub fn fenced(&self) -> Vec<Arc<str>> {
        self.shared.fenced.borrow().clone()
    }

    /// Resolves when there is such a pipeline and none else does anything any more. Cancel safe.
    pub async fn only_fenced(&self) {
        let mut fenced = self.shared.fenced.subscribe();
        let _ = fenced.wait_for(|fenced| !fenced.is_empty()).await;
        self.ended().await;
    }

    /// Says what has to come before the pipelines can be started; `None` when they are.
    pub fn awaits(&self, what: Option<String>) {
        *self.shared.awaited.lock() = what;
    }

    /// What has to come before the pipelines can be started.
    pub fn awaited(&self) -> Option<String> {
        self.shared.awaited.lock().clone()
    }

    pub fn reports(&self) -> Vec<PipelineReport> {
        self.shared.pipelines.lock().values().map(Running::report).collect()
    }

    /// A pipeline may not write any more: its tasks end, and its group gets its partitions back.
    pub(crate) fn fail(&self, name: &str) {
        let mut pipelines = self.shared.pipelines.lock();
        if let Some(running) = pipelines.get_mut(name) {
            running.failed = true;
            running.stop.cancel();
            if let Some(group) = &running.group {
                group.leave.cancel();
            }
        }
    }

    pub fn pipeline(&self, name: &str) -> Option<Arc<Pipeline>> {
        self.shared.pipelines.lock().get(name).map(|running| running.pipeline.clone())
    }

    /// Brings the lag of partitions that wait or hold up to what their source has now.
    pub fn refresh_metrics(&self) {
        self.shared.pipelines.lock().values().for_each(Running::look_at_ends);
    }

    /// Stops a pipeline's tasks, sets its offsets, starts them again. `partition` limits it to one.
    ///
    /// Cancel safe: what was begun goes on to its end.
    pub async fn reset(
        &self,
        name: &str,
        place: Place,
        partition: Option<u32>,
    ) -> Result<Vec<(u32, i64)>> {
        let (engine, name) = (self.clone(), name.to_owned());
        let reset = async move { engine.reset_now(name, place, partition).await };
        match self.shared.cpu.spawn(reset).await {
            Ok(outcome) => outcome,
            Err(died) => {
                Err(Error::stop("reset", "the reset did not end as it should").because(died))
            }
        }
    }

    async fn reset_now(
        &self,
        name: String,
        place: Place,
        partition: Option<u32>,
    ) -> Result<Vec<(u32, i64)>> {
        let _busy = self.busy();
        let (pipeline, stop, tasks) = {
            let mut pipelines = self.shared.pipelines.lock();
            let running = pipelines.get_mut(&name).ok_or_else(|| {
                Error::stop("no_pipeline", format!("no pipeline {name} is running"))
            })?;
            if running.resetting {
                return Err(Error::retry("busy", format!("pipeline {name} is being reset")));
            }
            running.resetting = true;
            (running.pipeline.clone(), running.stop.clone(), running.tasks())
        };
        let _resetting = Resetting { shared: self.shared.clone(), name };
        stop.cancel();
        let deadline = tokio::time::Instant::now() + RESET_WITHIN;
        for task in tasks {
            if tokio::time::timeout_at(deadline, task.ended()).await.is_err() {
                // What it has in flight is not acknowledged and comes again, or is reset away.
                task.abort();
                task.ended().await;
            }
        }
        pipeline.waits.forget();
        // A commit that is still under way must not come after the reset.
        if tokio::time::timeout(FLUSH_WITHIN, pipeline.committer.flush()).await.is_err() {
            let why = pipeline.committer.trouble().unwrap_or_else(|| "no answer yet".into());
            return Err(Error::retry(
                "commits",
                format!(
                    "the last commits of pipeline {} cannot be made now ({why}), nothing was reset: \
                     try again when they can",
                    pipeline.name
                ),
            ));
        }
        reset_offsets(&pipeline, place, partition).await
    }

    /// Asks every task to finish what is in flight and stop.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        for running in self.shared.pipelines.lock().values() {
            running.stop.cancel();
            if let Some(group) = &running.group {
                group.leave.cancel();
            }
        }
    }

    /// Waits until every task has come to its end. Cancel safe: another call waits on.
    pub async fn ended(&self) {
        let mut live = self.shared.live.subscribe();
        let _ = live.wait_for(|live| *live == 0).await;
    }

    /// Waits until what the tasks have offered is committed, also those that hold or restart.
    async fn flush(&self) {
        let committers: Vec<_> = {
            let pipelines = self.shared.pipelines.lock();
            pipelines.values().map(|running| running.pipeline.committer.clone()).collect()
        };
        for committer in committers {
            committer.flush().await;
        }
    }

    /// Stops, then waits at most this long. False when something was still in flight: it is not
    /// acknowledged and comes again.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.stop();
        let in_time = tokio::time::timeout(deadline, async {
            self.ended().await;
            self.flush().await;
        })
        .await
        .is_ok();
        for running in self.shared.pipelines.lock().values() {
            running.partitions.iter().filter_map(|slot| slot.task.as_ref()).for_each(|t| t.abort());
        }
        in_time
    }

    /// Whether every partition of every pipeline has read all there is and settled it.
    pub fn is_idle(&self) -> bool {
        let pipelines = self.shared.pipelines.lock();
        pipelines.values().all(|running| {
            running.look_at_ends();
            running.has_all() && running.partitions.iter().all(|slot| slot.status.is_idle())
        })
    }

    /// Has sinks that collect rows finish what they have, in partitions that have read all there is:
    /// nobody wants to wait for more.
    pub fn finish_collected(&self) {
        for running in self.shared.pipelines.lock().values() {
            running.partitions.iter().for_each(|slot| slot.status.ask_to_finish());
        }
    }

    /// Whether nothing will be done before something new comes or an operator does something: every
    /// partition has settled all there is, or holds.
    pub fn is_at_rest(&self) -> bool {
        let pipelines = self.shared.pipelines.lock();
        pipelines.values().all(|running| {
            running.look_at_ends();
            let over = |slot: &Slot| {
                let state = slot.status.state();
                matches!(state, PartitionState::Holding | PartitionState::Stopped)
                    || slot.status.is_idle()
            };
            running.has_all() && running.partitions.iter().all(over)
        })
    }

    /// Whether nothing will be done before an operator does something: every partition has come to
    /// its end, or holds. One that a group may still give us has not.
    pub fn is_over(&self) -> bool {
        let pipelines = self.shared.pipelines.lock();
        pipelines.values().all(|running| {
            let over = |slot: &Slot| {
                use PartitionState::{Finished, Holding, Stopped};
                matches!(slot.status.state(), Finished | Stopped | Holding)
            };
            running.has_all() && running.partitions.iter().all(over)
        })
    }

    pub(crate) fn downgrade(&self) -> WeakEngine {
        WeakEngine(Arc::downgrade(&self.shared))
    }

    pub(crate) fn cpu(&self) -> &runtime::Handle {
        &self.shared.cpu
    }

    /// While this is held, tasks will be started: [`Engine::ended`] waits.
    pub(crate) fn busy(&self) -> Live {
        Live::begin(&self.shared.live)
    }

    pub(crate) fn all(&self) -> Vec<(Arc<Pipeline>, Vec<Arc<PartitionStatus>>)> {
        let pipelines = self.shared.pipelines.lock();
        let statuses = |r: &Running| r.partitions.iter().map(|slot| slot.status.clone()).collect();
        pipelines.values().map(|r| (r.pipeline.clone(), statuses(r))).collect()
    }

    /// Lets no task begin before [`Engine::start_again`], and gives those that there are.
    pub(crate) fn halt(&self) -> Vec<Work> {
        let mut pipelines = self.shared.pipelines.lock();
        let tasks = pipelines.values_mut().flat_map(|running| {
            running.halted = true;
            running.tasks()
        });
        tasks.collect()
    }

    /// Starts the tasks of all pipelines, for new, but of those that are being reset or stopped.
    /// Gives the number of pipelines and partitions.
    pub(crate) fn start_again(&self) -> (usize, usize) {
        let mut pipelines = self.shared.pipelines.lock();
        let mut partitions = 0;
        for running in pipelines.values_mut() {
            running.pipeline.metrics.reopens.inc();
            running.halted = false;
            partitions += running.partitions.len();
            if !running.resetting {
                running.start_again(&self.shared);
            }
        }
        (pipelines.len(), partitions)
    }
}

impl Work {
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// Resolves when nothing of it is left. Cancel safe.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        if let Some(running) = self.shared.pipelines.lock().get_mut(&self.name) {
            running.resetting = false;
            if !running.halted {
                running.start_again(&self.shared);
            }
        }
    }
}

impl Live {
    fn begin(live: &watch::Sender<usize>) -> Self {
        live.send_modify(|live| *live += 1);
        Self(live.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.send_modify(|live| *live -= 1);
    }
}

impl WeakEngine {
    pub(crate) fn upgrade(&self) -> Option<Engine> {
        self.0.upgrade().map(|shared| Engine { shared })
    }
}

impl Running {
    fn add(&mut self, partition: u32) {
        let place = self.pipeline.source.place_of(partition);
        let metrics = self.pipeline.metrics.partition(&place);
        let status = Arc::new(PartitionStatus::new(partition, place, metrics));
        self.partitions.push(Slot { status, stop: self.stop.child_token(), task: None });
    }

    /// A task for each partition that has none.
    fn spawn(&mut self, shared: &Shared) {
        let batches = self.pipeline.limits.in_flight_batches * self.partitions.len();
        self.pipeline.metrics.permits.set(batches as i64);
        for slot in self.partitions.iter_mut().filter(|slot| slot.task.is_none()) {
            let live = Live::begin(&shared.live);
            let in_group = self.group.as_ref().map(|group| Live::begin(&group.live));
            slot.stop = self.stop.child_token();
            let supervised =
                supervise(self.pipeline.clone(), slot.status.clone(), slot.stop.clone());
            let ended = CancellationToken::new();
            let ends = ended.clone().drop_guard();
            let task = shared.cpu.spawn(async move {
                let _ends = ends;
                let _live = (live, in_group);
                supervised.await;
            });
            slot.task = Some(Work { abort: task.abort_handle(), ended });
        }
    }

    /// They stay in their slots: a group that takes a partition away meanwhile waits for its own.
    fn tasks(&self) -> Vec<Work> {
        self.partitions.iter().filter_map(|slot| slot.task.clone()).collect()
    }

    fn start_again(&mut self, shared: &Shared) {
        if shared.stopping.load(Ordering::Acquire) || self.failed {
            self.partitions.iter().for_each(|slot| slot.status.set(PartitionState::Stopped));
            return;
        }
        self.stop = CancellationToken::new();
        for slot in &mut self.partitions {
            slot.task.take_if(|task| task.ended.is_cancelled());
        }
        self.spawn(shared);
    }

    /// Whether nothing else is known to become its own. Its group may find out where some partitions
    /// begin before others.
    fn has_all(&self) -> bool {
        let Some(group) = &self.group else { return true };
        let told = || self.pipeline.source.group().is_none_or(|group| group.has_told_all());
        group.assigned && told()
    }

    /// A task that waits or holds does not see its source grow.
    fn look_at_ends(&self) {
        for Slot { status, .. } in &self.partitions {
            if let Some(end) = self.pipeline.end_of(status.partition) {
                status.end(end);
            }
        }
    }

    fn report(&self) -> PipelineReport {
        self.look_at_ends();
        let partitions: Vec<_> = self.partitions.iter().map(|slot| slot.status.report()).collect();
        let metrics = &self.pipeline.metrics;
        let ms = |q| crate::metrics::quantile(&metrics.end_to_end, q).map(|s| s * 1e3);
        let mut waits_for = self.pipeline.waits.all();
        waits_for.extend(self.pipeline.committer.trouble());
        for (slot, partition) in self.partitions.iter().zip(&partitions) {
            if let Some(reason) = &partition.reason {
                let called = slot.status.called(self.pipeline.source.name());
                waits_for.push(format!("partition {called}: {reason}"));
            }
        }
        PipelineReport {
            name: self.pipeline.name.to_string(),
            state: overall(&partitions),
            source: self.pipeline.source.name().to_owned(),
            rows_in: metrics.rows_in.get(),
            rows_out: metrics.rows_out.get(),
            rows_filtered: metrics.rows_filtered.get(),
            rows_dead: metrics.rows_dead.get(),
            lag: partitions.iter().map(|p| p.lag).sum(),
            lag_unit: self.pipeline.offset_unit,
            waits_for,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            lookups: self.pipeline.lookup_reports(),
            partitions,
        }
    }
}

/// A pipeline is in the state of its partition that most needs to be looked at.
fn overall(partitions: &[PartitionReport]) -> PartitionState {
    use PartitionState::*;
    [Holding, Restarting, Draining, Starting, Running, Stopped, Finished]
        .into_iter()
        .find(|state| partitions.iter().any(|p| p.state == *state))
        .unwrap_or(Running)
}
