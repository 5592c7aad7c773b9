//! The admin socket of a running process: `DIR/millstream.sock`, for the owner of the directory.

use crate::protocol::{Line, Request};
use crate::service::{Reply, Service};
use crate::{Error, Result};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

/// The socket's name in the data directory.
pub const SOCKET: &str = "millstream.sock";
/// What the kernel's `sockaddr_un` has room for, less the final zero.
const PATH_BYTES_MAX: usize = 107;
/// A request holds a batch of records at most; longer lines are not ours.
const REQUEST_BYTES_MAX: u64 = 64 << 20;

/// A bound socket. The file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Binds the socket of a data directory that this process has opened. One that a dead process
    /// left behind is replaced. Must be called inside a runtime.
    pub fn bind(dir: &Path) -> Result<Self> {
        let path = dir.join(SOCKET);
        check_path(&path)?;
        if path.exists() {
            if BlockingStream::connect(&path).is_ok() {
                return Err(Error::failure(format!(
                    "another process answers on {}: stop it, or choose another --data",
                    path.display()
                )));
            }
            fs::remove_file(&path).map_err(|error| {
                Error::failure(format!("cannot replace the stale {}: {error}", path.display()))
            })?;
        }
        let failed = |error: io::Error| {
            Error::failure(format!("cannot open the admin socket {}: {error}", path.display()))
        };
        // Bound in a directory of its own, closed to others, so that it is never open to them. Its
        // path is no longer than the socket's.
        let nest = dir.join(format!(".sock-{}", std::process::id()));
        let _ = fs::remove_dir_all(&nest);
        fs::create_dir(&nest).map_err(failed)?;
        let bound = (|| {
            fs::set_permissions(&nest, fs::Permissions::from_mode(0o700))?;
            let inside = nest.join("s");
            let listener = UnixListener::bind(&inside)?;
            fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
            fs::rename(&inside, &path)?;
            Ok(listener)
        })();
        let _ = fs::remove_dir_all(&nest);
        let listener = bound.map_err(failed)?;
        Ok(Self { path, listener })
    }

    /// Answers until `stop`. Connections that are open then are dropped.
    pub async fn serve(self, service: Service, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others may close theirs meanwhile.
                    tracing::warn!(%error, "the admin socket cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (service, stop) = (service.clone(), stop.clone());
            tokio::spawn(async move {
                let (read, write) = stream.into_split();
                tokio::select! {
                    result = converse(&service, read, write) => {
                        if let Err(error) = result {
                            tracing::debug!(%error, "an admin connection ended");
                        }
                    }
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A clear sentence instead of the kernel's "invalid argument".
pub(crate) fn check_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().len();
    if bytes <= PATH_BYTES_MAX {
        return Ok(());
    }
    Err(Error::mistake(format!(
        "the path of the admin socket, {}, has {bytes} bytes and a socket's may have {}: choose a \
         shorter --data, or a relative one",
        path.display(),
        PATH_BYTES_MAX
    )))
}

async fn converse(
    service: &Service,
    read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
) -> io::Result<()> {
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = (&mut read).take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if bytes == 0 {
            return Ok(());
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                let text = format!(
                    "the running process does not know this request ({error}): is it of another \
                     version?"
                );
                send(&mut write, &Line::Error(Error::mistake(text))).await?;
                return Ok(());
            }
        };
        let (reply, mut rows) = Reply::pair();
        let mut answer = std::pin::pin!(service.handle(request, reply));
        // The one who asked says nothing until the answer has ended: a read that returns means
        // that it is gone, and the work for it is dropped.
        let last = loop {
            tokio::select! {
                biased;
                Some(row) = rows.next() => send(&mut write, &Line::Row(row)).await?,
                result = &mut answer => break result,
                _ = read.fill_buf() => return Ok(()),
            }
        };
        while let Some(row) = rows.next().await {
            send(&mut write, &Line::Row(row)).await?;
        }
        let last = match last {
            Ok(end) => Line::End(end),
            Err(error) => Line::Error(error),
        };
        send(&mut write, &last).await?;
    }
}

async fn send(write: &mut OwnedWriteHalf, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    write.write_all(&text).await
}
