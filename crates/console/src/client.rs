//! The asking side: through the socket when a process runs on the data directory, else the
//! directory itself, opened here.

use crate::directory::{check_directory, is_new};
use crate::protocol::{Access, Line, Request};
use crate::service::{Reply, Rows, Service};
use crate::socket::{SOCKET, check_path};
use crate::{Error, Result};
use anyhow::Context;
use millstream_connectors::{Home, HomeOptions};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// How long to wait for another short command to let go of a stopped directory.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers requests for one data directory.
pub struct Client {
    side: Side,
    /// An empty directory that stands for one that is not there; removed with the client.
    _scratch: Option<Scratch>,
}

enum Side {
    Remote(BufReader<UnixStream>),
    Local(Service),
}

/// The answer to one request: rows, then the end.
pub struct Answer<'a>(From<'a>);

enum From<'a> {
    Remote { stream: &'a mut BufReader<UnixStream>, line: String },
    Local { rows: Rows, task: Option<JoinHandle<Result<Value>>> },
    Ended(Value),
}

impl Client {
    /// Connects to the process that runs on `dir`, or opens `dir` itself. To be written it is made
    /// where it is missing.
    pub async fn open(dir: &Path, access: Access) -> Result<Self> {
        check_directory(dir)?;
        let patient_until = Instant::now() + PATIENCE;
        loop {
            if let Some(stream) = connect(dir).await? {
                return Ok(Self { side: Side::Remote(BufReader::new(stream)), _scratch: None });
            }
            if is_new(dir) && matches!(access, Access::ReadOrEmpty | Access::ReadTopicsOrEmpty) {
                let scratch = Scratch::new()?;
                let home = open_home(scratch.0.clone(), Access::Write).await?;
                let side = Side::Local(Service::stopped(home));
                return Ok(Self { side, _scratch: Some(scratch) });
            }
            if is_new(dir) && matches!(access, Access::Read | Access::ReadTopics) {
                return Err(Error::mistake(format!(
                    "nothing has been kept in {} yet: name the data directory with --data, or start \
                     with `millstream run FILE`",
                    dir.display()
                )));
            }
            match open_home(dir.to_owned(), access).await {
                Ok(home) => return Ok(Self::local(Service::stopped(home))),
                // Another command looks at it, or a process is just starting.
                Err(error) if is_locked(&error) && Instant::now() < patient_until => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                Err(error) => return Err(opening(dir, error)),
            }
        }
    }

    /// Connects to the process that runs on `dir`; an error when none does.
    pub async fn connect(dir: &Path) -> Result<Self> {
        match connect(dir).await? {
            Some(stream) => Ok(Self { side: Side::Remote(BufReader::new(stream)), _scratch: None }),
            None => Err(Error::failure(format!("no process runs on {}", dir.display()))),
        }
    }

    /// For a service in this process.
    pub fn local(service: Service) -> Self {
        Self { side: Side::Local(service), _scratch: None }
    }

    /// Whether a running process answers.
    pub fn is_remote(&self) -> bool {
        matches!(self.side, Side::Remote(_))
    }

    /// Asks. The answer before must have been read to its end.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer<'_>> {
        match &mut self.side {
            Side::Remote(stream) => {
                let mut line = serde_json::to_vec(request).map_err(lost)?;
                line.push(b'\n');
                stream.get_mut().write_all(&line).await.map_err(lost)?;
                Ok(Answer(From::Remote { stream, line: String::new() }))
            }
            Side::Local(service) => {
                let (reply, rows) = Reply::pair();
                let (service, request) = (service.clone(), request.clone());
                let task = tokio::spawn(async move { service.handle(request, reply).await });
                Ok(Answer(From::Local { rows, task: Some(task) }))
            }
        }
    }

    /// Asks and gives all rows, for answers that are small.
    pub async fn rows<T: DeserializeOwned>(&mut self, request: &Request) -> Result<Vec<T>> {
        let mut answer = self.ask(request).await?;
        let mut rows = Vec::new();
        while let Some(row) = answer.next().await? {
            rows.push(read(row)?);
        }
        Ok(rows)
    }

    /// Asks and gives the end.
    pub async fn end<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        let mut answer = self.ask(request).await?;
        while answer.next().await?.is_some() {}
        read(answer.end())
    }
}

impl Answer<'_> {
    /// The next row; none after the last, and then [`Answer::end`] has the rest.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        let end = match &mut self.0 {
            From::Ended(_) => return Ok(None),
            From::Remote { stream, line } => {
                line.clear();
                if stream.read_line(line).await.map_err(lost)? == 0 {
                    return Err(Error::failure("the running process ended before its answer did"));
                }
                match serde_json::from_str(line).map_err(lost)? {
                    Line::Row(row) => return Ok(Some(row)),
                    Line::Error(error) => return Err(error),
                    Line::End(end) => end,
                }
            }
            From::Local { rows, task } => {
                if let Some(row) = rows.next().await {
                    return Ok(Some(row));
                }
                let Some(task) = task.take() else { return Ok(None) };
                task.await.map_err(|error| Error::failure(format!("internal: {error}")))??
            }
        };
        self.0 = From::Ended(end);
        Ok(None)
    }

    /// What the answer ended with.
    pub fn end(self) -> Value {
        match self.0 {
            From::Ended(end) => end,
            _ => Value::Null,
        }
    }
}

/// The socket of the process that runs on a directory, if one does.
async fn connect(dir: &Path) -> Result<Option<UnixStream>> {
    let path = dir.join(SOCKET);
    if !path.exists() {
        return Ok(None);
    }
    check_path(&path)?;
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Some(stream)),
        // The process that made it is dead, or has just ended.
        Err(error)
            if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::failure(format!(
            "cannot ask the process that runs on {}: {}: {error}",
            dir.display(),
            path.display()
        ))),
    }
}

async fn open_home(dir: PathBuf, access: Access) -> anyhow::Result<Home> {
    tokio::task::spawn_blocking(move || match access {
        Access::Write => Home::open(&dir, HomeOptions::default()),
        Access::ReadTopics | Access::ReadTopicsOrEmpty => Home::open_read_only(&dir),
        Access::Read | Access::ReadOrEmpty => {
            let home = Home::open_read_only(&dir)?;
            home.tables
                .ready()
                .with_context(|| format!("opening the tables in {}", dir.display()))?;
            Ok(home)
        }
    })
    .await?
}

/// Says of a data directory that may not be made or written whose turn it is.
pub fn opening(dir: &Path, error: anyhow::Error) -> Error {
    use ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    let denied = error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| matches!(e.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem))
    });
    let error = Error::from(error);
    match denied {
        true => Error::mistake(format!(
            "the data directory {} cannot be made or written by this user: {}; name another with \
             --data, or give this user the right",
            dir.display(),
            error.message
        )),
        false => error,
    }
}

/// Whether another process has what was to be opened.
pub fn is_locked(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<millstream_tables::Error>(),
            Some(millstream_tables::Error::Locked { .. })
        ) || matches!(
            cause.downcast_ref::<millstream_log::Error>(),
            Some(millstream_log::Error::Locked { .. })
        )
    })
}

/// A directory that is removed when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let stamp = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        let name = format!("millstream-{}-{stamp:x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|error| {
            Error::failure(format!("cannot make the directory {}: {error}", path.display()))
        })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A row as the type that the request promises.
fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::failure(format!(
            "the running process answers otherwise ({error}): is it of another version?"
        ))
    })
}

fn lost(error: impl std::fmt::Display) -> Error {
    Error::failure(format!("the connection to the running process broke: {error}"))
}
