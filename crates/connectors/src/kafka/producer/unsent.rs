//! What a producer was given and no broker was sent yet.
//!
//! While little waits to be sent, what comes next had better wait where it is and come together: each
//! batch costs the broker the same, whatever its size, and a request has one of a partition.

use futures::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// More than this that waits is worth a request, and what comes next need not wait for it.
const LITTLE_BYTES: usize = 32 << 10;
/// A record counts as at least so many bytes: a full batch is no little one, however well it packs.
const RECORD_BYTES: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Unsent {
    bytes: AtomicUsize,
    waits: AtomicWaker,
}

/// Some of it, until this is dropped: when it is sent, or given up.
#[derive(Debug)]
pub(in crate::kafka) struct Held {
    unsent: Arc<Unsent>,
    bytes: usize,
}

impl Unsent {
    pub fn hold(self: &Arc<Self>, bytes: usize, records: i32) -> Held {
        let bytes = bytes.max(records as usize * RECORD_BYTES);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Held { unsent: self.clone(), bytes }
    }

    /// Ready while nothing waits, or much. Wakes the one who asked last.
    pub fn poll_sent(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_sent() {
            return Poll::Ready(());
        }
        self.waits.register(context.waker());
        match self.is_sent() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn is_sent(&self) -> bool {
        !(1..LITTLE_BYTES).contains(&self.bytes.load(Ordering::Acquire))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.unsent.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if before == self.bytes {
            self.unsent.waits.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::future::poll_fn;

    #[tokio::test]
    async fn little_that_waits_is_waited_for() {
        let unsent = Arc::new(Unsent::default());
        let sent = || poll_fn(|context| unsent.poll_sent(context));
        sent().await;
        let (first, second) = (unsent.hold(100, 1), unsent.hold(50, 1));
        assert!(sent().now_or_never().is_none());
        for much in [unsent.hold(LITTLE_BYTES, 1), unsent.hold(5_000, 2048)] {
            sent().await;
            drop(much);
        }
        drop(first);
        assert!(sent().now_or_never().is_none());
        let waiting = async { sent().await };
        let sending = async move {
            tokio::task::yield_now().await;
            drop(second);
        };
        tokio::join!(waiting, sending);
    }
}
