//! What happens when the journal of the tables has failed: what was written since the last durable
//! commit is unknown, so that every partition of every pipeline goes back to it.
//!
//! ```text
//! commit or write fails ─► all tasks end ─► tables close, tail rewritten, open ─► new session ─► all tasks
//! ```

use crate::commit::Committer;
use crate::engine::Engine;
use crate::status::PartitionState;
use std::time::Duration;

/// How often it is tried, with pauses that double from the first.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

const REASON: &str = "the journal of the tables failed; they are being opened again";

impl Engine {
    /// Watches over one committer's journal for as long as this engine is there.
    pub(crate) fn watch(&self, committer: &Committer) {
        let (engine, committer) = (self.downgrade(), committer.clone());
        self.cpu().spawn(async move {
            let (mut seen, mut in_vain) = (None, 0);
            loop {
                committer.failed().await;
                let Some(engine) = engine.upgrade() else { return };
                // A disk on which they open and nothing can be committed is not tried for ever.
                let synced = committer.tables().stats().ok().map(|stats| stats.fsyncs);
                in_vain = if synced == seen { in_vain + 1 } else { 0 };
                seen = synced;
                tokio::time::sleep(PAUSE * in_vain).await;
                if in_vain >= TRIES || !engine.reopen_tables(&committer).await {
                    committer.give_up();
                    return;
                }
            }
        });
    }

    /// False when the tables cannot be opened again.
    async fn reopen_tables(&self, committer: &Committer) -> bool {
        let _busy = self.busy();
        for task in self.halt() {
            // What it has in flight is not acknowledged and comes again.
            task.abort();
            task.ended().await;
        }
        for (pipeline, partitions) in self.all() {
            for status in partitions {
                status.in_flight(&pipeline.metrics, 0, 0, 0);
                if !matches!(status.state(), PartitionState::Finished) {
                    status.hold(PartitionState::Restarting, REASON.into());
                }
            }
            pipeline.waits.forget();
        }
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            let tables = committer.tables();
            let reopened = tokio::task::spawn_blocking(move || tables.reopen()).await;
            let why = match reopened {
                Ok(Ok(_)) => {
                    committer.reopened();
                    for (pipeline, _) in self.all() {
                        if pipeline.grouped {
                            pipeline.committer.reopened();
                        }
                    }
                    let (pipelines, partitions) = self.start_again();
                    tracing::warn!(
                        pipelines,
                        partitions,
                        "the journal of the tables failed and they were opened again: all \
                         partitions are back at their last commit"
                    );
                    return true;
                }
                Ok(Err(error)) => millstream_core::Error::from(error).chain(),
                Err(panic) => panic.to_string(),
            };
            tracing::error!(attempt, "the tables cannot be opened again: {why}");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        false
    }
}
