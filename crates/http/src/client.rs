//! A client of HTTP/1.1 with connections that stay open.

use crate::answer::{self, Answer, Meaning};
use crate::auth::{Auth, Authorization};
use crate::pace::Pace;
use crate::request::{Request, Site};
use crate::secrets::Secrets;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderValue};
use hyper_util::rt::TokioIo;
use millstream_core::{Error, Result};
use millstream_tls::{TlsOptions, Watched};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Servers close what is idle, often after a minute or less.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// The first wait before a request goes again, and the longest.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub auth: Auth,
    pub tls: TlsOptions,
    /// How long a request may take, with the answer.
    pub timeout: Duration,
    /// Connections at a time.
    pub connections: usize,
    pub requests_per_second: Option<f64>,
    /// How often a request is tried again before its caller is told.
    pub retries: u32,
    /// The longest answer that is read.
    pub answer_bytes_max: usize,
}

/// Shared by all partition tasks.
pub struct Client {
    options: ClientOptions,
    authorization: Authorization,
    tls: Watched<Arc<ClientConfig>>,
    pace: Pace,
    room: Semaphore,
    idle: Mutex<HashMap<Site, Vec<Idle>>>,
    io: Handle,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// What it was made with.
    tls: Option<Arc<ClientConfig>>,
    was_used: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Client {
    /// Connections are driven on `io`. The files of TLS must be usable now. Blocks on disk.
    pub fn new(options: ClientOptions, io: Handle) -> Result<Arc<Client>> {
        let authorization = Authorization::new(options.auth.clone());
        authorization.now().map_err(|why| Error::stop("http", why))?;
        let client = Client {
            authorization,
            tls: options.tls.watched(),
            pace: Pace::new(options.requests_per_second),
            room: Semaphore::new(options.connections.max(1)),
            idle: Mutex::default(),
            io,
            options,
        };
        match client.config() {
            // Who sends without TLS needs no authorities of the system.
            Err(error) if client.options.tls != TlsOptions::default() => Err(error),
            _ => Ok(Arc::new(client)),
        }
    }

    /// Asks until there is an answer that says something of the request, or as often as the options
    /// say. Statuses that ask to come again are errors. Cancelled, the request may or may not have
    /// reached the server.
    pub(crate) async fn ask(&self, request: &Request<'_>) -> Result<Answer> {
        let Request { method, site, target, .. } = request;
        let asked = format!("{method} {}", site.shown(target));
        let mut left = self.options.retries;
        let mut backoff = BACKOFF;
        loop {
            self.pace.turn(&site.authority).await;
            let error = match self.attempt(request).await {
                Ok(answer) => match answer.meaning() {
                    Meaning::Again => {
                        if let Some(pause) = answer.pause {
                            self.pace.pause(&site.authority, pause);
                            // Whoever waits for long says so.
                            if pause > BACKOFF_MAX {
                                left = 0;
                            }
                        }
                        answer.error(&asked)
                    }
                    Meaning::Held => {
                        self.authorization.forget();
                        left = 0;
                        answer.error(&asked)
                    }
                    _ => return Ok(answer),
                },
                Err(why) => Error::retry("unreachable", format!("{asked}: {why}")),
            };
            if left == 0 {
                return Err(error);
            }
            left -= 1;
            // From half to the whole of it, so that many do not come together.
            let part = uuid::Uuid::new_v4().as_u128() % 512;
            tokio::time::sleep(backoff * (512 + part as u32) / 1024).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Errors are the rest of a sentence.
    async fn attempt(&self, request: &Request<'_>) -> Result<Answer, String> {
        let _room = self.room.acquire().await;
        let exchange = self.exchange(request);
        match tokio::time::timeout(self.options.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:?}", self.options.timeout)),
        }
    }

    async fn exchange(&self, request: &Request<'_>) -> Result<Answer, String> {
        loop {
            let mut connection = self.connection(request.site).await?;
            let authorization = self.authorization.now()?;
            let message = message(request, authorization.as_ref())?;
            let sent = match connection.sender.ready().await {
                Ok(()) => connection.sender.send_request(message).await,
                Err(error) => Err(error),
            };
            let answer = match sent {
                Ok(answer) => answer,
                // The server had closed it meanwhile, and has not seen the request.
                Err(error) if connection.was_used && error.is_canceled() => continue,
                Err(error) => return Err(told(&error)),
            };
            let status = answer.status().as_u16();
            let pause = answer::pause(answer.headers(), SystemTime::now());
            let location = answer.headers().contains_key(header::LOCATION);
            let mut body = self.body(answer.into_body()).await?;
            if body.is_some() {
                self.keep(request.site, connection);
            }
            if !(200..300).contains(&status) {
                // A server that refuses may repeat what it was sent.
                let secrets = Secrets::of(request.target, request.headers, authorization.as_ref());
                body = body.map(|body| secrets.hide(&String::from_utf8_lossy(&body)).into());
            }
            return Ok(Answer { status, pause, location, body });
        }
    }

    /// `None` when it is longer than may be read.
    async fn body(&self, mut body: Incoming) -> Result<Option<Bytes>, String> {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("half an answer: {}", told(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > self.options.answer_bytes_max {
                return Ok(None);
            }
            whole.extend_from_slice(&data);
        }
        Ok(Some(whole.freeze()))
    }

    /// What new connections use. Blocks on disk when the files have changed.
    fn config(&self) -> Result<Arc<ClientConfig>> {
        self.tls.now(|| self.options.tls.config().map(Arc::new))
    }

    async fn connection(&self, site: &Site) -> Result<Connection, String> {
        let tls = match site.is_https {
            true => Some(self.config().map_err(|error| error.chain())?),
            false => None,
        };
        if let Some(connection) = self.idle_one(site, tls.as_ref()) {
            return Ok(connection);
        }
        let stream = TcpStream::connect((site.host.as_str(), site.port)).await;
        let stream = stream.map_err(|error| format!("no connection: {error}"))?;
        let _ = stream.set_nodelay(true);
        let sender = match &tls {
            None => {
                let (sender, driver) =
                    handshake(TokioIo::new(stream)).await.map_err(|e| told(&e))?;
                self.io.spawn(driver);
                sender
            }
            Some(config) => {
                let name = ServerName::try_from(site.host.clone()).map_err(|e| e.to_string())?;
                let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
                let stream = stream.map_err(|error| format!("TLS: {error}"))?;
                let (sender, driver) =
                    handshake(TokioIo::new(stream)).await.map_err(|e| told(&e))?;
                self.io.spawn(driver);
                sender
            }
        };
        Ok(Connection { sender, tls, was_used: false })
    }

    fn idle_one(&self, site: &Site, tls: Option<&Arc<ClientConfig>>) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(site)?;
        while let Some(Idle { connection, since }) = kept.pop() {
            let is_usable = !connection.sender.is_closed()
                && connection.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
                && since.elapsed() < IDLE_MAX;
            if is_usable {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, site: &Site, connection: Connection) {
        let mut idle = self.idle.lock();
        let count: usize = idle.values().map(Vec::len).sum();
        if count >= self.options.connections {
            idle.values_mut().for_each(|kept| kept.retain(|one| one.since.elapsed() < IDLE_MAX));
            idle.retain(|_, kept| !kept.is_empty());
        }
        if idle.values().map(Vec::len).sum::<usize>() < self.options.connections {
            let connection = Connection { was_used: true, ..connection };
            let kept = idle.entry(site.clone()).or_default();
            kept.push(Idle { connection, since: Instant::now() });
        }
    }
}

fn message(
    request: &Request<'_>,
    authorization: Option<&HeaderValue>,
) -> Result<hyper::Request<Full<Bytes>>, String> {
    let mut message = hyper::Request::builder()
        .method(request.method.clone())
        .uri(request.target)
        .header(header::HOST, &request.site.authority)
        .header(header::USER_AGENT, "millstream");
    for (name, value) in request.headers.0.iter().chain(&request.more) {
        message = message.header(name, value);
    }
    if let Some(value) = authorization {
        message = message.header(header::AUTHORIZATION, value);
    }
    message.body(Full::new(request.body.clone())).map_err(|error| error.to_string())
}

/// An error with what is below it: hyper's own words leave that out.
fn told(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(below) => format!("{error}: {below}"),
        None => error.to_string(),
    }
}
