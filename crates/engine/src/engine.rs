//! Runs pipelines: a supervised task for each partition, one committer for all.

use crate::brake::Brake;
use crate::group::Grouped;
use crate::pipeline::Pipeline;
use crate::status::{PartitionReport, PartitionState, PartitionStatus};
use crate::task::{Backoff, End, Suspects, Task};
use futures::FutureExt;
use millstream_core::{Disposition, Error, Place, Result};
use parking_lot::Mutex;
use serde::Serialize;
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
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
}

/// A partition and its task.
pub(crate) struct Slot {
    pub status: Arc<PartitionStatus>,
    pub stop: CancellationToken,
    pub task: Option<JoinHandle<()>>,
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

impl Engine {
    /// Partition tasks run on `cpu`.
    pub fn new(cpu: runtime::Handle) -> Self {
        let shared = Shared {
            cpu,
            pipelines: Mutex::default(),
            live: watch::Sender::new(0),
            watched: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
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

    pub fn reports(&self) -> Vec<PipelineReport> {
        self.shared.pipelines.lock().values().map(Running::report).collect()
    }

    pub fn pipeline(&self, name: &str) -> Option<Arc<Pipeline>> {
        self.shared.pipelines.lock().get(name).map(|running| running.pipeline.clone())
    }

    /// Brings the lag of partitions that wait or hold up to what their source has now.
    pub fn refresh_metrics(&self) {
        self.shared.pipelines.lock().values().for_each(Running::look_at_ends);
    }

    /// Stops a pipeline's tasks, sets its offsets, starts them again. `partition` limits it to one.
    pub async fn reset(
        &self,
        name: &str,
        place: Place,
        partition: Option<u32>,
    ) -> Result<Vec<(u32, i64)>> {
        let _busy = self.busy();
        let (pipeline, stop, tasks) = {
            let mut pipelines = self.shared.pipelines.lock();
            let running = pipelines.get_mut(name).ok_or_else(|| {
                Error::stop("no_pipeline", format!("no pipeline {name} is running"))
            })?;
            if running.resetting {
                return Err(Error::retry("busy", format!("pipeline {name} is being reset")));
            }
            running.resetting = true;
            (running.pipeline.clone(), running.stop.clone(), running.take_tasks())
        };
        stop.cancel();
        let deadline = tokio::time::Instant::now() + RESET_WITHIN;
        for mut task in tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                // What it has in flight is not acknowledged and comes again, or is reset away.
                task.abort();
                let _ = task.await;
            }
        }
        pipeline.waits.forget();
        // A commit that is still under way must not come after the reset.
        pipeline.committer.flush().await;
        let outcome = reset_offsets(&pipeline, place, partition).await;
        let mut pipelines = self.shared.pipelines.lock();
        if let Some(running) = pipelines.get_mut(name) {
            running.resetting = false;
            running.start_again(&self.shared);
        }
        outcome
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
            running.group.as_ref().is_none_or(|group| group.assigned)
                && running.partitions.iter().all(|slot| slot.status.is_idle())
        })
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
            running.group.as_ref().is_none_or(|group| group.assigned)
                && running.partitions.iter().all(over)
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

    pub(crate) fn take_all_tasks(&self) -> Vec<JoinHandle<()>> {
        let mut pipelines = self.shared.pipelines.lock();
        let taken = pipelines.values_mut().flat_map(|running| {
            running.halted = true;
            running.take_tasks()
        });
        taken.collect()
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

/// Sets a stopped pipeline's offsets to a place. Gives the new ones.
pub async fn reset_offsets(
    pipeline: &Pipeline,
    place: Place,
    partition: Option<u32>,
) -> Result<Vec<(u32, i64)>> {
    if pipeline.grouped {
        return reset_group(pipeline, place, partition).await;
    }
    let partitions = match partition {
        Some(partition) if partition < pipeline.source.partitions() => partition..partition + 1,
        Some(partition) => {
            return Err(Error::stop(
                "no_partition",
                format!(
                    "{}, not {partition}",
                    partitions_of(pipeline.source.name(), pipeline.source.partitions())
                ),
            ));
        }
        None => 0..pipeline.source.partitions(),
    };
    let mut offsets = Vec::new();
    for partition in partitions {
        offsets.push((partition, pipeline.source.offset_of(partition, place).await?));
    }
    let store = pipeline.home.tables.offsets();
    let mut all = store.get(&pipeline.name).map(|known| known.offsets).unwrap_or_default();
    all.extend(offsets.iter().copied());
    let all: Vec<_> = all.into_iter().collect();
    store.reset(&pipeline.name, &pipeline.offsets_source(), &all).map_err(Error::from)?;
    Ok(offsets)
}

/// Says in words which partitions there are.
pub fn partitions_of(name: &str, partitions: u32) -> String {
    match partitions {
        0 | 1 => format!("`{name}` has only the partition 0"),
        2 => format!("`{name}` has the partitions 0 and 1"),
        more => format!("`{name}` has the partitions 0 to {}", more - 1),
    }
}

/// Sets the offsets of the group that reads a file's source; no process may read with it now.
pub async fn reset_at_rest(
    file: &millstream_config::Pipeline,
    home: &millstream_connectors::Home,
    place: Place,
    partition: Option<u32>,
) -> anyhow::Result<Vec<(millstream_core::Partition, i64)>> {
    let source = crate::open::open_source(&file.spec, file, home).await?.source;
    let wanted = match partition {
        Some(partition) => partition..partition + 1,
        None => 0..source.partitions(),
    };
    let mut offsets = Vec::new();
    for partition in wanted {
        offsets.push((partition, source.offset_of(partition, place).await?));
    }
    source.set_offsets(&offsets).await?;
    Ok(offsets.into_iter().map(|(p, offset)| (source.place_of(p), offset)).collect())
}

/// The same for a pipeline that runs as a member of a group: of the partitions that it has.
async fn reset_group(
    pipeline: &Pipeline,
    place: Place,
    partition: Option<u32>,
) -> Result<Vec<(u32, i64)>> {
    let Some(group) = pipeline.source.group() else { return Ok(Vec::new()) };
    let wanted: Vec<u32> = match partition {
        Some(partition) => vec![partition],
        None => (0..pipeline.source.partitions()).collect(),
    };
    if let Some(other) = wanted.iter().find(|partition| group.start_of(**partition).is_none()) {
        return Err(Error::stop(
            "not_ours",
            format!(
                "partition {other} of {} is read by another process of the group now: stop the \
                 others first",
                pipeline.source.name()
            ),
        ));
    }
    let mut offsets = Vec::new();
    for partition in wanted {
        offsets.push((partition, pipeline.source.offset_of(partition, place).await?));
    }
    let done = group.commit(&offsets).await?;
    match done.len() == offsets.len() {
        true => Ok(offsets),
        false => Err(Error::retry("rebalancing", "the group was being shared out anew: try again")),
    }
}

impl Running {
    fn add(&mut self, partition: u32) {
        let metrics = self.pipeline.metrics.partition(partition);
        let status = Arc::new(PartitionStatus::new(partition, metrics));
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
            slot.task = Some(shared.cpu.spawn(async move {
                let _live = (live, in_group);
                supervised.await;
            }));
        }
    }

    fn take_tasks(&mut self) -> Vec<JoinHandle<()>> {
        self.partitions.iter_mut().filter_map(|slot| slot.task.take()).collect()
    }

    fn start_again(&mut self, shared: &Shared) {
        if shared.stopping.load(Ordering::Acquire) {
            self.partitions.iter().for_each(|slot| slot.status.set(PartitionState::Stopped));
            return;
        }
        self.stop = CancellationToken::new();
        self.spawn(shared);
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
        for partition in &partitions {
            if let Some(reason) = &partition.reason {
                let line = format!("partition {}: {reason}", partition.partition);
                waits_for.push(line);
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

/// Keeps one partition going: restarts it from its last commit after a passing error or a panic,
/// holds it when it needs the operator.
async fn supervise(pipeline: Arc<Pipeline>, status: Arc<PartitionStatus>, stop: CancellationToken) {
    let mut suspects = Suspects::default();
    let mut brake = Brake::new(pipeline.limits.max_dead_ratio);
    let mut backoff = Backoff::new();
    let mut last_panic = None;
    loop {
        let before = status.report().committed;
        let task = Task {
            pipeline: &pipeline,
            partition: status.partition,
            status: &status,
            suspects: &mut suspects,
            stop: stop.clone(),
            brake: &mut brake,
            session: pipeline.committer.session(),
        };
        let ended = AssertUnwindSafe(task.run()).catch_unwind().await;
        status.in_flight(&pipeline.metrics, 0, 0, 0);
        let name = &pipeline.name;
        let partition = status.partition;
        let reason = match ended {
            Ok(Ok(End::Finished)) => return status.set(PartitionState::Finished),
            Ok(Ok(End::Drained)) => return status.set(PartitionState::Stopped),
            Ok(Err(error)) if error.disposition() == Disposition::Stop => {
                let reason = named(&error.chain(), name);
                if pipeline.home.tables.needs_reopen() {
                    pipeline.committer.fail();
                }
                tracing::error!(pipeline = %name, partition, "holding: {reason}");
                pipeline.metrics.error("partition", error.kind(), 1);
                status.hold(PartitionState::Holding, reason);
                stop.cancelled().await;
                return status.set(PartitionState::Stopped);
            }
            Ok(Err(error)) => {
                pipeline.metrics.error("partition", error.kind(), 1);
                error.chain()
            }
            Err(panic) => {
                pipeline.metrics.panics.inc();
                let said = panic_text(&panic);
                learn(&mut suspects, &mut last_panic, &said);
                format!("a panic: {said}")
            }
        };
        pipeline.metrics.restarts.inc();
        tracing::warn!(pipeline = %name, partition, "back to the last commit: {reason}");
        status.hold(PartitionState::Restarting, reason);
        if status.report().committed > before {
            backoff = Backoff::new();
        }
        tokio::select! {
            () = stop.cancelled() => return status.set(PartitionState::Stopped),
            () = backoff.wait() => {}
        }
    }
}

/// A source does not know whose it is: where its sentence says what to run for its pipeline, the
/// name is put in.
fn named(reason: &str, pipeline: &str) -> String {
    reason.replace("offsets reset PIPELINE", &format!("offsets reset {pipeline}"))
}

/// The first panic in a batch may pass; the second makes its records go one by one, and one that
/// panics alone is condemned to the dead letters.
fn learn(suspects: &mut Suspects, last_panic: &mut Option<Range<i64>>, said: &str) {
    let first = suspects.current.first.load(Ordering::Relaxed);
    let next = suspects.current.next.load(Ordering::Relaxed);
    if first < suspects.careful_upto {
        suspects.condemned.insert(first, said.to_owned());
    } else if let Some(last) = last_panic
        // After a restart the same records may be cut into other batches.
        && first < last.end
        && last.start < next
    {
        suspects.careful_upto = next.max(last.end);
    }
    *last_panic = Some(first..next);
}

pub fn panic_text(panic: &Box<dyn Any + Send>) -> String {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_sentence_names_the_pipeline() {
        let said = named("`millstream offsets reset PIPELINE --to earliest`: a PIPELINE", "p");
        assert_eq!(said, "`millstream offsets reset p --to earliest`: a PIPELINE");
    }
}
