//! What a partition is doing, for the operator.

use crate::metrics::{PartitionMetrics, PipelineMetrics};
use millstream_core::Partition;
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    Starting,
    Running,
    /// Something that may pass made it go back to its last commit.
    Restarting,
    /// It needs the operator.
    Holding,
    Draining,
    Stopped,
    Finished,
}

/// What offsets count, and so the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetUnit {
    Records,
    /// Of a file.
    Bytes,
}

/// One partition's state, written by its task, read by anyone.
pub struct PartitionStatus {
    /// The source's number of it.
    pub partition: u32,
    /// What it is called.
    pub place: Partition,
    pub metrics: PartitionMetrics,
    state: Mutex<(PartitionState, Option<String>)>,
    position: AtomicI64,
    committed: AtomicI64,
    end: AtomicI64,
    /// The source had nothing more when it was last asked.
    waits: AtomicBool,
    /// Somebody wants what sinks collect to be finished where nothing more comes.
    finish: Notify,
    in_flight: Mutex<(i64, i64, i64)>,
}

/// A [`PartitionStatus`] at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionReport {
    /// The topic or file.
    pub source: String,
    pub partition: u32,
    pub state: PartitionState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub committed: i64,
    pub end: i64,
    pub lag: i64,
}

impl PartitionStatus {
    pub fn new(partition: u32, place: Partition, metrics: PartitionMetrics) -> Self {
        Self {
            partition,
            place,
            metrics,
            state: Mutex::new((PartitionState::Starting, None)),
            position: AtomicI64::new(0),
            committed: AtomicI64::new(0),
            end: AtomicI64::new(0),
            waits: AtomicBool::new(false),
            finish: Notify::new(),
            in_flight: Mutex::default(),
        }
    }

    /// Its number, with its topic where the source reads several.
    pub fn called(&self, source: &str) -> String {
        let Partition { source: topic, index } = &self.place;
        match **topic == *source {
            true => index.to_string(),
            false => format!("{topic}/{index}"),
        }
    }

    pub fn begin(&self, from: i64) {
        self.position.store(from, Ordering::Relaxed);
        self.committed.store(from, Ordering::Relaxed);
        self.metrics.committed.set(from);
        self.waits(false);
        self.set(PartitionState::Running);
    }

    pub fn set(&self, state: PartitionState) {
        *self.state.lock() = (state, None);
        self.metrics.holding.set(0);
    }

    pub fn hold(&self, state: PartitionState, reason: String) {
        self.metrics.holding.set(i64::from(state == PartitionState::Holding));
        *self.state.lock() = (state, Some(reason));
    }

    pub fn state(&self) -> PartitionState {
        self.state.lock().0
    }

    pub fn position(&self) -> i64 {
        self.position.load(Ordering::Relaxed)
    }

    pub fn advance(&self, next: i64) {
        self.position.store(next, Ordering::Relaxed);
    }

    pub fn committed(&self, upto: i64) {
        self.committed.store(upto, Ordering::Relaxed);
    }

    pub fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Release);
    }

    pub fn ask_to_finish(&self) {
        self.finish.notify_one();
    }

    /// Cancel safe.
    pub async fn asked_to_finish(&self) {
        self.finish.notified().await;
    }

    /// Whether it has read all there is and settled it, as far as this partition can say.
    pub fn is_idle(&self) -> bool {
        match self.state.lock().0 {
            PartitionState::Finished => true,
            PartitionState::Running => self.waits.load(Ordering::Acquire) && self.report_lag() == 0,
            _ => false,
        }
    }

    fn report_lag(&self) -> i64 {
        (self.end.load(Ordering::Relaxed) - self.committed.load(Ordering::Relaxed)).max(0)
    }

    pub fn end(&self, end: i64) {
        self.end.store(end, Ordering::Relaxed);
        self.metrics.lag.set((end - self.committed.load(Ordering::Relaxed)).max(0));
    }

    /// Brings the pipeline's gauges to what this partition holds now.
    pub fn in_flight(&self, metrics: &PipelineMetrics, batches: usize, rows: usize, bytes: usize) {
        let now = (batches as i64, rows as i64, bytes as i64);
        let mut known = self.in_flight.lock();
        if *known != now {
            metrics.in_flight_batches.add(now.0 - known.0);
            metrics.queue_rows.add(now.1 - known.1);
            metrics.queue_bytes.add(now.2 - known.2);
            *known = now;
        }
    }

    pub fn report(&self) -> PartitionReport {
        let (state, reason) = self.state.lock().clone();
        let committed = self.committed.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        PartitionReport {
            source: self.place.source.to_string(),
            partition: self.place.index,
            state,
            reason,
            committed,
            end,
            lag: (end - committed).max(0),
        }
    }
}
