//! Batches that are being worked on, and those that wait for the sinks or for their transaction.
//!
//! Whoever of a partition waits for something else drives this meanwhile: a batch that has a permit
//! of the pipeline's, or is handed one, would keep it from other partitions otherwise.

use super::Working;
use crate::gate::Gate;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use millstream_core::Result;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

type Queue<'a> = FuturesOrdered<BoxFuture<'a, Result<Working>>>;

pub(super) struct Worked<'a> {
    queue: Queue<'a>,
    /// Worked on, in order, and not taken yet.
    ready: VecDeque<Result<Working>>,
    gate: Option<Arc<Gate>>,
}

impl<'a> Worked<'a> {
    pub fn new(gate: Option<Arc<Gate>>) -> Self {
        Self { queue: FuturesOrdered::new(), ready: VecDeque::new(), gate }
    }

    pub fn len(&self) -> usize {
        self.queue.len() + self.ready.len()
    }

    pub fn push_back(&mut self, work: BoxFuture<'a, Result<Working>>) {
        self.queue.push_back(work);
    }

    /// The next one, in order, with its ticket where there are transactions. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Working>> {
        if self.ready.is_empty() {
            self.ready.push_back(self.queue.next().await?);
        }
        let Some(gate) = &self.gate else { return self.ready.pop_front() };
        let bytes = match self.ready.front() {
            Some(Ok(working)) => working.batch.records.bytes(),
            _ => return self.ready.pop_front(),
        };
        let ticket = tokio::select! {
            biased;
            ticket = gate.enter(bytes) => ticket,
            never = drive(&mut self.queue, &mut self.ready) => match never {},
        };
        let mut next = self.ready.pop_front();
        if let Some(Ok(working)) = &mut next {
            working.ticket = Some(ticket);
        }
        next
    }

    /// Goes on with all of them, for as long as it is waited for. Cancel safe.
    pub async fn drive(&mut self) -> Infallible {
        drive(&mut self.queue, &mut self.ready).await
    }
}

async fn drive(queue: &mut Queue<'_>, ready: &mut VecDeque<Result<Working>>) -> Infallible {
    poll_fn(|context| {
        while let Poll::Ready(Some(worked)) = queue.poll_next_unpin(context) {
            ready.push_back(worked);
        }
        Poll::Pending
    })
    .await
}
