//! What becomes of a partition whose task fails or panics.

use crate::brake::Brake;
use crate::gate::{GIVEN_UP, STOPPED};
use crate::pipeline::Pipeline;
use crate::status::{PartitionState, PartitionStatus};
use crate::task::{Backoff, End, Suspects, Task};
use futures::FutureExt;
use millstream_core::Disposition;
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What needs the operator, but nothing of this process: whether it was mended is seen by trying.
const MENDED_ELSEWHERE: [&str; 4] =
    ["not_authorised", "no_topic", "authentication", "registry_not_allowed"];

/// One that holds again so soon is said to hold once.
const HELD_AGAIN: Duration = Duration::from_secs(30);

/// Keeps one partition going: restarts it from its last commit after a passing error or a panic,
/// holds it when it needs the operator.
pub async fn supervise(
    pipeline: Arc<Pipeline>,
    status: Arc<PartitionStatus>,
    stop: CancellationToken,
) {
    let mut suspects = Suspects::default();
    let mut brake = Brake::new(pipeline.limits.max_dead_ratio);
    let mut backoff = Backoff::new();
    let mut last_panic = None;
    // What it held for, and when last.
    let mut held: BTreeMap<String, Instant> = BTreeMap::new();
    let mut begun_at = None;
    loop {
        let before = status.report().committed;
        if begun_at.replace(before).is_some_and(|begun_at| before > begun_at) {
            backoff = Backoff::new();
        }
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
        let partition = status.called(pipeline.source.name());
        let reason = match ended {
            Ok(Ok(End::Finished)) => return status.set(PartitionState::Finished),
            Ok(Ok(End::Drained)) => return status.set(PartitionState::Stopped),
            // It was said once for all of them.
            Ok(Err(error)) if error.kind() == STOPPED => {
                return status.hold(PartitionState::Holding, error.chain());
            }
            // Not its own fault.
            Ok(Err(error)) if error.kind() == GIVEN_UP => {
                status.hold(PartitionState::Restarting, error.chain());
                if stop.is_cancelled() {
                    return status.set(PartitionState::Stopped);
                }
                continue;
            }
            Ok(Err(error)) if error.disposition() == Disposition::Stop => {
                let reason = named(&error.chain(), name);
                if pipeline.home.tables.needs_reopen() {
                    pipeline.committer.fail();
                }
                // Which partition of a topic it was, and when, makes no other reason of it.
                let same = reason.replace(|c: char| c.is_ascii_digit(), "");
                held.retain(|_, when| when.elapsed() < HELD_AGAIN);
                if held.insert(same, Instant::now()).is_none() {
                    tracing::error!(pipeline = %name, %partition, "holding: {reason}");
                    pipeline.metrics.error("partition", error.kind(), 1);
                }
                status.hold(PartitionState::Holding, reason);
                let mended = async {
                    match MENDED_ELSEWHERE.contains(&error.kind()) {
                        true => backoff.wait().await,
                        false => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => return status.set(PartitionState::Stopped),
                    () = mended => continue,
                }
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
        tracing::warn!(pipeline = %name, %partition, "back to the last commit: {reason}");
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
