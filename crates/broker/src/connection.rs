//! One connection: requests are taken in order and answered in order.
//!
//! ```text
//! read ─► begin (appends happen here) ─► window, bounded ─► finish, in order ─► write
//!            └ the sync of one request overlaps with the appends of those behind it
//! ```
//!
//! A connection that stalls in the middle of a frame, or does not take its answers, is closed. What
//! it holds of the shared budgets goes with it.

use crate::broker::Inner;
use crate::dispatch::{self, Pending};
use crate::out::{Out, Piece};
use crate::sasl::Session;
use crate::shape::Api;
use crate::stats::{Counters, add};
use crate::wire::{Answer, Refused, Request};
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Read at once from a socket.
const CHUNK_BYTES: usize = 64 << 10;
/// Frames up to this size are not counted against the shared budget.
const SMALL_BYTES: usize = 16 << 10;
/// A request that waits gives its share of the budget back after so long.
const HELD: Duration = Duration::from_secs(1);
/// Before a client has shown who it is.
const UNKNOWN_BYTES: usize = 64 << 10;

/// Where a client came from, and what it reached.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Nothing is encrypted: files can go out as they are.
    pub plain: bool,
}

struct Queued {
    pending: Pending,
    api: &'static Api,
    since: Instant,
    shares: Shares,
}

/// What a request holds of the shared budget and of its connection's own, until it is answered or
/// appended.
#[derive(Default)]
struct Shares {
    common: Option<OwnedSemaphorePermit>,
    _own: Option<OwnedSemaphorePermit>,
}

/// Serves a connection until it ends, for whatever reason.
pub async fn serve(
    broker: Arc<Inner>,
    reader: impl AsyncRead + Unpin,
    out: Out,
    ends: Ends,
    stop: CancellationToken,
) {
    let (queue, queued) = mpsc::channel(broker.options.limits.in_flight.max(1));
    let stalled = broker.options.limits.stalled;
    let over = stop.child_token();
    let writing = tokio::spawn({
        let (broker, over) = (broker.clone(), over.clone());
        async move {
            let done = tokio::select! {
                done = write(out, queued, stalled, &broker.counters) => done,
                () = over.cancelled() => Ok(()),
            };
            over.cancel();
            done
        }
    });
    let session = Session::new(&broker, ends);
    let read = tokio::select! {
        read = read(&broker, session, reader, queue) => read,
        () = over.cancelled() => Ok(()),
    };
    if let Err(error) = read {
        tracing::debug!(peer = %ends.peer, %error, "a connection ended");
        over.cancel();
    }
    // What was asked before the client closed its side is still answered.
    if let Ok(Err(error)) = writing.await {
        tracing::debug!(peer = %ends.peer, %error, "a connection ended");
    }
}

async fn read<R>(
    broker: &Arc<Inner>,
    mut session: Session,
    reader: R,
    queue: mpsc::Sender<Queued>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
{
    let own = Arc::new(Semaphore::new(kib(broker.options.limits.connection_bytes) as usize));
    let mut frames = Frames { reader, buffer: BytesMut::new(), own };
    loop {
        let Some((frame, shares)) = frames.next(broker, &session).await? else { return Ok(()) };
        let since = Instant::now();
        add(&broker.counters.bytes_in, frame.len() as u64 + 4);
        let begun = async {
            let request = Request::read(frame)?;
            Ok((request.api, dispatch::begin(broker, &mut session, request).await?))
        };
        let begun = begun.await;
        let (api, pending) = match begun {
            Ok(begun) => begun,
            Err(Refused::ApiVersions { api, correlation, .. }) => {
                (api, Pending::ready(dispatch::unknown_api_versions(correlation)))
            }
            Err(refused) => {
                add(&broker.counters.requests_refused, 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, refused));
            }
        };
        let shares = if pending.is_begun() { Shares::default() } else { shares };
        if queue.send(Queued { pending, api, since, shares }).await.is_err() {
            return Ok(());
        }
    }
}

struct Frames<R> {
    reader: R,
    buffer: BytesMut,
    /// The bytes that this connection's requests may take together.
    own: Arc<Semaphore>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// The next frame without its length, and its shares of the budgets. `None` at the end.
    async fn next(
        &mut self,
        broker: &Inner,
        session: &Session,
    ) -> io::Result<Option<(Bytes, Shares)>> {
        let limits = &broker.options.limits;
        while self.buffer.len() < 4 {
            let patience = if self.buffer.is_empty() { limits.idle } else { limits.stalled };
            if self.fill(CHUNK_BYTES, Instant::now() + patience).await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
        let head = self.buffer.first_chunk::<4>().copied().unwrap_or_default();
        let max = match session.is_open() {
            true => limits.request_bytes,
            false => UNKNOWN_BYTES.min(limits.request_bytes),
        };
        let len = usize::try_from(i32::from_be_bytes(head)).ok().filter(|len| *len <= max);
        let Some(len) = len else {
            let said = i32::from_be_bytes(head);
            let what = format!("a request of {said} bytes, where {max} are the most");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        // One that is larger than all of it has it alone.
        let own = share(&self.own, len.min(limits.connection_bytes)).await?;
        let common = match len {
            ..=SMALL_BYTES => None,
            _ => {
                let budget = match len <= limits.ordinary_bytes {
                    true => &broker.budgets.ordinary,
                    false => &broker.budgets.large,
                };
                Some(share(budget, len).await?)
            }
        };
        let whole = len + 4;
        // A trickle is no request: what it holds of the budget others wait for.
        let until = Instant::now() + patience(limits.stalled, len);
        while self.buffer.len() < whole {
            // No more room than twice what has come, whatever the length says.
            let missing = whole - self.buffer.len();
            let room = missing.min(self.buffer.len().max(CHUNK_BYTES));
            if self.fill(room, until).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let frame = self.buffer.split_to(whole).freeze().slice(4..);
        Ok(Some((frame, Shares { common, _own: Some(own) })))
    }

    async fn fill(&mut self, room: usize, until: Instant) -> io::Result<usize> {
        self.buffer.reserve(room);
        match timeout_at(until, self.reader.read_buf(&mut self.buffer)).await {
            Ok(read) => read,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came for too long")),
        }
    }
}

/// For so many bytes; a slow network has to carry a MiB in the time of one stall.
fn patience(stalled: Duration, bytes: usize) -> Duration {
    stalled.saturating_mul(1 + u32::try_from(bytes >> 20).unwrap_or(u32::MAX - 1))
}

/// Waits for a share of a budget that is counted in KiB.
pub async fn share(budget: &Arc<Semaphore>, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
    budget.clone().acquire_many_owned(kib(bytes)).await.map_err(io::Error::other)
}

pub fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

async fn write(
    mut out: Out,
    mut queued: mpsc::Receiver<Queued>,
    stalled: Duration,
    counters: &Counters,
) -> io::Result<()> {
    while let Some(Queued { pending, api, since, mut shares }) = queued.recv().await {
        let mut finishing = pin!(pending.finish());
        let finished = match timeout(HELD, &mut finishing).await {
            Ok(finished) => finished,
            Err(_) => {
                shares.common = None;
                finishing.await
            }
        };
        let answer = match finished {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                counters.answered(api, since.elapsed(), &[]);
                continue;
            }
            Err(refused) => {
                add(&counters.requests_refused, 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, refused));
            }
        };
        drop(shares);
        let Answer(pieces) = answer.answer;
        if pieces.is_empty() {
            return Err(io::Error::other("an answer could not be written"));
        }
        let bytes: usize = pieces.iter().map(Piece::len).sum();
        add(&counters.bytes_out, bytes as u64);
        // Also one that takes a little now and then holds memory that others wait for.
        out.write(pieces, Instant::now() + patience(stalled, bytes)).await?;
        counters.answered(api, since.elapsed(), &answer.failures);
        drop(answer.permit);
        if answer.last {
            break;
        }
    }
    out.close(stalled).await
}
