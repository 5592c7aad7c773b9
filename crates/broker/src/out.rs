//! The way out of a connection: pieces of memory, and batches that the kernel sends from their
//! files where nothing lies between them and the socket.

use bytes::Bytes;
use millstream_log::Placed;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::io::{self, IoSlice};
use std::sync::Arc;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

/// A part of an answer.
#[derive(Debug, Clone)]
pub enum Piece {
    Bytes(Bytes),
    /// With its share of the files that answers may keep open.
    Placed(Placed, Arc<OwnedSemaphorePermit>),
}

impl Default for Piece {
    fn default() -> Piece {
        Piece::Bytes(Bytes::new())
    }
}

pub enum Out {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

/// As many parts as one call takes.
const SLICES_MAX: usize = 64;
/// More follows at once.
#[cfg(target_os = "linux")]
const MORE: SendFlags = SendFlags::MORE;
#[cfg(not(target_os = "linux"))]
const MORE: SendFlags = SendFlags::empty();

impl Piece {
    pub fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Placed(placed, _) => placed.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it takes of memory.
    pub fn held(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Placed(..) => 0,
        }
    }
}

impl Out {
    /// Writes all of it before `until`.
    pub async fn write(&mut self, pieces: Vec<Piece>, until: Instant) -> io::Result<()> {
        match timeout_at(until, self.write_all(pieces)).await {
            Ok(written) => written,
            Err(_) => {
                let what = "its answers were not taken for too long";
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
        }
    }

    pub async fn close(&mut self, patience: Duration) -> io::Result<()> {
        let closing = async {
            match self {
                Out::Plain(out) => out.shutdown().await,
                Out::Tls(out) => out.shutdown().await,
            }
        };
        timeout(patience, closing).await.unwrap_or(Ok(()))
    }

    async fn write_all(&mut self, pieces: Vec<Piece>) -> io::Result<()> {
        let mut in_memory: Vec<Bytes> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match (piece, &mut *self) {
                (Piece::Bytes(bytes), _) => in_memory.push(bytes),
                (Piece::Placed(placed, _file), Out::Plain(out)) => {
                    send(out.as_ref(), &mut in_memory, MORE).await?;
                    send_file(out.as_ref(), placed).await?;
                }
                (Piece::Placed(..), Out::Tls(_)) => return Err(io::ErrorKind::Unsupported.into()),
            }
        }
        match self {
            Out::Plain(out) => send(out.as_ref(), &mut in_memory, SendFlags::empty()).await,
            Out::Tls(out) => {
                write_vectored(out, &mut in_memory).await?;
                out.flush().await
            }
        }
    }
}

async fn send(socket: &TcpStream, parts: &mut Vec<Bytes>, flags: SendFlags) -> io::Result<()> {
    let mut first = 0;
    while first < parts.len() {
        let slices = slices(&parts[first..]);
        let sent = socket.async_io(Interest::WRITABLE, || {
            let mut control = SendAncillaryBuffer::default();
            Ok(sendmsg(socket, &slices, &mut control, flags | SendFlags::NOSIGNAL)?)
        });
        let sent = sent.await?;
        advance(parts, &mut first, sent)?;
    }
    parts.clear();
    Ok(())
}

async fn send_file(socket: &TcpStream, mut placed: Placed) -> io::Result<()> {
    while !placed.is_empty() {
        socket.async_io(Interest::WRITABLE, || placed.send(socket)).await?;
    }
    Ok(())
}

async fn write_vectored<W>(out: &mut W, parts: &mut Vec<Bytes>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut first = 0;
    while first < parts.len() {
        let slices = slices(&parts[first..]);
        let written = out.write_vectored(&slices).await?;
        advance(parts, &mut first, written)?;
    }
    parts.clear();
    Ok(())
}

fn slices(parts: &[Bytes]) -> Vec<IoSlice<'_>> {
    parts.iter().take(SLICES_MAX).map(|part| IoSlice::new(part)).collect()
}

/// Passes over what has been written.
fn advance(parts: &mut [Bytes], first: &mut usize, written: usize) -> io::Result<()> {
    if written == 0 && parts[*first..].iter().any(|part| !part.is_empty()) {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut left = written;
    while *first < parts.len() && left >= parts[*first].len() {
        left -= parts[*first].len();
        *first += 1;
    }
    if left > 0 {
        let _ = parts[*first].split_to(left);
    }
    Ok(())
}
