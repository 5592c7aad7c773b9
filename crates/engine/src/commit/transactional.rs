//! Commits a pipeline's offsets together with what it wrote, in one transaction: closes the gate,
//! waits until what is inside is settled, commits, opens it again.

use super::{Owner, Pending, Shared};
use crate::gate::Gate;
use crate::metrics::PipelineMetrics;
use millstream_core::{Disposition, Transactions, fault};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What a pipeline's transactions are made with.
#[derive(Clone)]
pub struct ExactlyOnce {
    pub gate: Arc<Gate>,
    pub transactions: Arc<dyn Transactions>,
}

const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>, to: ExactlyOnce, metrics: Arc<PipelineMetrics>) {
    let gate = &to.gate;
    loop {
        tokio::select! {
            () = shared.wanted.notified() => {}
            _ = gate.broken() => {}
        }
        if gate.close().await {
            commit(&shared, &to, &metrics).await;
        }
        if gate.is_broken() {
            if !begin_anew(&shared, &to, &metrics).await {
                return;
            }
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(shared.interval) => {}
            () = gate.hurried() => {}
            _ = gate.broken() => {}
        }
    }
}

/// All that was written is settled, and nothing is written meanwhile.
pub(super) async fn commit(shared: &Shared, to: &ExactlyOnce, metrics: &PipelineMetrics) {
    let (batch, upto): (HashMap<Owner, Pending>, u64) = {
        let mut state = shared.state.lock();
        // What was forgotten since the gate was closed is written, and would come again.
        if to.gate.is_broken() {
            return;
        }
        (std::mem::take(&mut state.pending), *shared.offered.borrow())
    };
    if !batch.is_empty() {
        fault::point("engine.commit");
        if fault::bug("gate_open_during_commit") {
            to.gate.open();
        }
        let offsets: Vec<_> = batch.iter().map(|(owner, p)| (owner.partition, p.next)).collect();
        if let Err(error) = to.transactions.commit(&offsets).await {
            let why = error.chain();
            if error.disposition() == Disposition::Stop {
                to.gate.stop(&why);
            }
            *shared.trouble.lock() = Some(why.clone());
            return to.gate.give_up(&why);
        }
        fault::point("engine.committed");
        *shared.trouble.lock() = None;
        metrics.transactions_committed.inc();
        for pending in batch.values() {
            pending.metrics.committed.set(pending.next);
            pending.pipeline_metrics.commits.inc();
        }
    }
    shared.durable.send_modify(|n| *n = (*n).max(upto));
    to.gate.open();
}

/// Takes back what was written since the last commit and lets every partition begin there. False
/// when nothing may be written any more.
async fn begin_anew(shared: &Shared, to: &ExactlyOnce, metrics: &PipelineMetrics) -> bool {
    let why = to.gate.broken().await;
    to.gate.is_left().await;
    let mut pause = Duration::from_millis(50);
    let goes_on = loop {
        let error = match to.transactions.abort().await {
            Ok(()) => break true,
            Err(error) => error,
        };
        let told = error.chain();
        *shared.trouble.lock() = Some(told.clone());
        if error.disposition() == Disposition::Stop {
            to.gate.stop(&told);
            break false;
        }
        tracing::debug!("a transaction cannot be given up, trying again: {told}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    };
    metrics.transactions_aborted.inc();
    shared.begin_session();
    if !goes_on || to.gate.is_stopped() {
        return false;
    }
    tracing::warn!(
        "a transaction was given up: {why}: all partitions are back at their last commit"
    );
    to.gate.renew();
    true
}
