//! One connection to one broker: frames out, frames in, each answer to its asker.
//!
//! ```text
//!  call ─► frame ─► writer task ─► socket ─► reader task ─► answer by correlation id
//! ```
//!
//! A broker answers a connection's requests in their order, so that a request which waits there (a
//! long fetch, a join) holds up those behind it: each [`super::cluster::Purpose`] has its own.

use super::error::{answered, malformed};
use super::options::ClusterOptions;
use super::sasl::{Conversation, refusal, secret};
use super::tls::Tls;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest,
    SaslHandshakeRequest,
};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange,
};
use millstream_core::{Disposition, Error, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A broker that sends more at once is no broker.
const FRAME_BYTES_MAX: usize = 256 << 20;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Requests that may wait for the socket.
const OUTGOING_MAX: usize = 64;

pub(super) struct Connection {
    link: Arc<Link>,
    versions: HashMap<i16, VersionRange>,
    /// The levels of what the cluster has switched on.
    features: HashMap<String, i16>,
    /// When the broker wants a new proof of who we are.
    expires: Option<Instant>,
    client_id: StrBytes,
    next_id: AtomicI32,
}

/// The socket's tasks. They end when the connection and all who wait for its answers are gone: one
/// that a newer connection replaces still gives the answers that are due.
struct Link {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<(i32, BytesMut)>,
}

struct Shared {
    address: String,
    waiting: Mutex<HashMap<i32, oneshot::Sender<Bytes>>>,
    closed: CancellationToken,
    why: Mutex<Option<Closed>>,
}

/// Why a connection is gone.
#[derive(Clone)]
struct Closed {
    told: String,
    /// The broker does not want us as we are.
    refused: bool,
}

/// A request that was sent.
pub(super) struct Answer<R> {
    link: Arc<Link>,
    id: i32,
    version: i16,
    answer: oneshot::Receiver<Bytes>,
    doing: PhantomData<fn() -> R>,
}

impl Connection {
    /// Connects, learns the broker's versions and proves who we are. Must be called within the
    /// runtime that does the I/O.
    pub async fn open(
        host: &str,
        port: u16,
        options: &ClusterOptions,
        tls: Option<&Tls>,
    ) -> Result<Connection> {
        let address = format!("{host}:{port}");
        let connecting = async {
            let stream = TcpStream::connect((host, port)).await.map_err(|error| {
                Error::retry("unreachable", format!("cannot connect to {address}")).because(error)
            })?;
            let _ = stream.set_nodelay(true);
            match tls {
                Some(tls) => {
                    let (reader, writer) = tokio::io::split(tls.connect(host, stream).await?);
                    Ok::<_, Error>(Self::start(&address, options, reader, writer))
                }
                None => {
                    let (reader, writer) = stream.into_split();
                    Ok(Self::start(&address, options, reader, writer))
                }
            }
        };
        let mut connection = timeout(CONNECT_WITHIN, connecting).await.map_err(|_| {
            Error::retry("unreachable", format!("{address} did not answer in time"))
        })??;
        connection.learn_versions().await?;
        if options.sasl.is_some() {
            connection.authenticate(options).await?;
        }
        Ok(connection)
    }

    fn start(
        address: &str,
        options: &ClusterOptions,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Connection {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            waiting: Mutex::default(),
            closed: CancellationToken::new(),
            why: Mutex::default(),
        });
        let (outgoing, frames) = mpsc::channel(OUTGOING_MAX);
        tokio::spawn(write(shared.clone(), writer, frames));
        tokio::spawn(read(shared.clone(), reader));
        Connection {
            link: Arc::new(Link { shared, outgoing }),
            versions: HashMap::new(),
            features: HashMap::new(),
            expires: None,
            client_id: StrBytes::from_string(options.client_id.clone()),
            next_id: AtomicI32::new(0),
        }
    }

    /// Whether it can be used for another request.
    pub fn is_usable(&self) -> bool {
        !self.link.shared.closed.is_cancelled() && self.expires.is_none_or(|at| Instant::now() < at)
    }

    pub fn address(&self) -> &str {
        &self.link.shared.address
    }

    /// The newest version of a request, at most `cap`, that both sides know.
    pub fn version<R: Request>(&self, cap: i16) -> Result<i16> {
        let known = R::VERSIONS.intersect(&VersionRange { min: 0, max: cap });
        let theirs = self.versions.get(&R::KEY);
        let both = theirs.map(|theirs| known.intersect(theirs)).filter(|both| !both.is_empty());
        both.map(|both| both.max).ok_or_else(|| {
            let name = std::any::type_name::<R>().rsplit("::").next().unwrap_or_default();
            Error::stop("unsupported", format!("{} knows no {name} that we know", self.address()))
        })
    }

    /// The level of a feature that the cluster has switched on; 0 where it has not.
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// Sends a request. Its place in the connection's order is taken when this returns.
    ///
    /// Cancel safe: a cancelled call has sent nothing.
    pub async fn send<R: Request>(&self, request: &R, version: i16) -> Result<Answer<R>> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = self.frame(request, version, id)?;
        let (sender, answer) = oneshot::channel();
        let Link { shared, outgoing } = &*self.link;
        let place = outgoing.reserve().await.map_err(|_| shared.lost())?;
        shared.waiting.lock().insert(id, sender);
        if shared.closed.is_cancelled() {
            shared.waiting.lock().clear();
            return Err(shared.lost());
        }
        place.send((id, frame));
        Ok(Answer { link: self.link.clone(), id, version, answer, doing: PhantomData })
    }

    /// Sends a request and waits for its answer. A broker that does not answer in time loses the
    /// connection.
    pub async fn call<R: Request>(
        &self,
        request: &R,
        version: i16,
        within: Duration,
    ) -> Result<R::Response> {
        self.send(request, version).await?.wait(within).await
    }

    fn frame<R: Request>(&self, request: &R, version: i16, id: i32) -> Result<BytesMut> {
        let doing = || format!("writing a request to {}", self.address());
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(id)
            .with_client_id(Some(self.client_id.clone()));
        let header_version = R::header_version(version);
        let size = header.compute_size(header_version).map_err(|e| malformed(doing(), e))?
            + request.compute_size(version).map_err(|e| malformed(doing(), e))?;
        let mut frame = BytesMut::with_capacity(size + 4);
        frame.put_i32(size as i32);
        header.encode(&mut frame, header_version).map_err(|e| malformed(doing(), e))?;
        request.encode(&mut frame, version).map_err(|e| malformed(doing(), e))?;
        Ok(frame)
    }

    async fn learn_versions(&mut self) -> Result<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("millstream"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        // A broker that does not know version 3 answers in version 0 and says so.
        let mut answer = self.send(&request, 3).await?.bytes(CONNECT_WITHIN).await?;
        let code = answer.get(4..6).map(|code| i16::from_be_bytes([code[0], code[1]]));
        let response = match code {
            Some(super::error::UNSUPPORTED_VERSION) => {
                self.call(&ApiVersionsRequest::default(), 0, CONNECT_WITHIN).await?
            }
            _ => decode::<ApiVersionsRequest>(&mut answer, 3, self.address())?,
        };
        if response.error_code != 0 {
            let doing = format!("asking {} what it knows", self.address());
            return Err(answered(doing, response.error_code));
        }
        for api in response.api_keys {
            let range = VersionRange { min: api.min_version, max: api.max_version };
            self.versions.insert(api.api_key, range);
        }
        for feature in response.finalized_features {
            self.features.insert(feature.name.as_str().to_owned(), feature.max_version_level);
        }
        Ok(())
    }

    async fn authenticate(&mut self, options: &ClusterOptions) -> Result<()> {
        let Some(sasl) = &options.sasl else { return Ok(()) };
        let within = options.request_timeout;
        let mechanism = sasl.mechanism.name();
        let address = self.address().to_owned();
        let request =
            SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let response = self.call(&request, 1, within).await?;
        if response.error_code != 0 {
            let known: Vec<_> = response.mechanisms.iter().map(|m| m.as_str()).collect();
            return Err(Error::stop(
                "authentication",
                format!("{address} does not take {mechanism}; it takes {}", known.join(", ")),
            ));
        }
        let secret = secret(sasl)?;
        let mut talk = Conversation::new(sasl, &secret)?;
        let mut answer = Bytes::new();
        let version = self.version::<SaslAuthenticateRequest>(2)?;
        while let Some(message) = talk.next(&answer)? {
            let sent = Bytes::from(message);
            let request = SaslAuthenticateRequest::default().with_auth_bytes(sent.clone());
            let response = self.call(&request, version, within).await?;
            if response.error_code != 0 {
                let said = response.error_message.unwrap_or_default();
                let told = refusal(sasl, &secret, &address, &sent, &said);
                return Err(Error::stop("authentication", told));
            }
            if response.session_lifetime_ms > 0 {
                // A new connection takes over before the broker ends this one.
                let life = Duration::from_millis(response.session_lifetime_ms as u64) * 4 / 5;
                self.expires = Some(Instant::now() + life);
            }
            answer = response.auth_bytes;
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.close("it is not needed any more");
    }
}

impl<R: Request> Answer<R> {
    /// Waits for the answer. A broker that does not give it in time loses the connection.
    pub async fn wait(self, within: Duration) -> Result<R::Response> {
        let (version, link) = (self.version, self.link.clone());
        let mut bytes = self.bytes(within).await?;
        decode::<R>(&mut bytes, version, &link.shared.address)
    }

    async fn bytes(mut self, within: Duration) -> Result<Bytes> {
        let shared = &self.link.shared;
        match timeout(within, &mut self.answer).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(_)) => Err(shared.lost()),
            Err(_) => {
                shared.close(&format!("it gave no answer in {} s", within.as_secs_f32()));
                Err(Error::retry(
                    "timeout",
                    format!("{} gave no answer in {} s", shared.address, within.as_secs_f32()),
                ))
            }
        }
    }
}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        self.link.shared.waiting.lock().remove(&self.id);
    }
}

fn decode<R: Request>(bytes: &mut Bytes, version: i16, address: &str) -> Result<R::Response> {
    let doing = || format!("reading an answer of {address}");
    ResponseHeader::decode(bytes, R::Response::header_version(version))
        .map_err(|e| malformed(doing(), e))?;
    R::Response::decode(bytes, version).map_err(|e| malformed(doing(), e))
}

impl Shared {
    fn close(&self, why: &str) {
        self.close_as(Closed { told: why.to_owned(), refused: false });
    }

    /// The socket has failed.
    fn broken(&self, error: &io::Error) {
        let refused = super::tls::is_refusal(error);
        self.close_as(Closed { told: error.to_string(), refused });
    }

    fn close_as(&self, why: Closed) {
        self.why.lock().get_or_insert(why);
        self.closed.cancel();
        // Who waits learns of it because its sender is gone.
        self.waiting.lock().clear();
    }

    fn lost(&self) -> Error {
        let address = &self.address;
        match self.why.lock().clone() {
            Some(Closed { told, refused: true }) => Error::stop(
                "tls",
                format!("{address} does not take our certificate: see `certificate` and `key`"),
            )
            .because(told),
            why => {
                let told = why.map_or_else(|| "it was closed".into(), |why| why.told);
                let told = format!("the connection to {address} is gone: {told}");
                Error::new(Disposition::Retry, "disconnected", told)
            }
        }
    }
}

async fn write(
    shared: Arc<Shared>,
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<(i32, BytesMut)>,
) {
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            () = shared.closed.cancelled() => return,
        };
        let Some((_, frame)) = frame else { return };
        let written = tokio::select! {
            written = async {
                writer.write_all(&frame).await?;
                writer.flush().await
            } => written,
            () = shared.closed.cancelled() => return,
        };
        if let Err(error) = written {
            return shared.broken(&error);
        }
    }
}

async fn read(shared: Arc<Shared>, reader: impl AsyncRead + Unpin) {
    let mut reader = BufReader::with_capacity(8 << 10, reader);
    loop {
        let frame = tokio::select! {
            frame = read_frame(&mut reader) => frame,
            () = shared.closed.cancelled() => return,
        };
        match frame {
            Ok(frame) => {
                let id = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
                let asker = shared.waiting.lock().remove(&id);
                if let Some(asker) = asker {
                    let _ = asker.send(frame);
                }
            }
            Err(error) => return shared.broken(&error),
        }
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let len = reader.read_i32().await?;
    let len = usize::try_from(len).ok().filter(|len| (4..=FRAME_BYTES_MAX).contains(len));
    let len =
        len.ok_or_else(|| io::Error::other("it sent something that is not Kafka's protocol"))?;
    let mut frame = BytesMut::with_capacity(len);
    let mut body = reader.take(len as u64);
    while frame.len() < len {
        if body.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}
