//! One HTTP exchange with one of the registry's addresses.
//!
//! Each exchange has a connection of its own: schemas are asked for once, so that there is nothing
//! to keep open, and a certificate that was renewed on disk is the one that is shown.

use super::Options;
use super::answer::{Answer, Failure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use millstream_core::{Credential, Error, Hidden, Result, redact};
use millstream_tls::TlsOptions;
use rustls::pki_types::ServerName;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Who we are to the registry. A file is read for each question.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    #[default]
    None,
    Basic {
        user: String,
        password: Credential,
    },
    Bearer {
        token: Credential,
    },
}

/// What is shown to an address now.
struct Login {
    /// Of the `Authorization` header.
    value: String,
    secret: Hidden,
}

pub(super) struct Transport {
    urls: Vec<Url>,
    /// Who we are to each address.
    logins: Vec<Auth>,
    /// Its files are read for each connection, so that renewed ones are used.
    tls: TlsOptions,
    timeout: Duration,
    /// The address that answered last.
    current: AtomicUsize,
}

impl Auth {
    fn header(&self) -> Result<Option<Login>, String> {
        let (value, secret) = match self {
            Auth::None => return Ok(None),
            Auth::Basic { user, password } => {
                let secret = password.current("password")?;
                let both = BASE64.encode(format!("{user}:{}", secret.0));
                (format!("Basic {both}"), secret)
            }
            Auth::Bearer { token } => {
                let secret = token.current("token")?;
                (format!("Bearer {}", secret.0.trim()), secret)
            }
        };
        Ok(Some(Login { value, secret }))
    }
}

impl Login {
    /// What no answer may repeat.
    fn secrets(&self) -> impl Iterator<Item = &str> {
        [self.secret.0.trim()].into_iter().chain(self.value.split(' ').nth(1))
    }
}

impl Transport {
    pub fn new(options: &Options) -> Result<Transport> {
        let mistake = |message: String| Error::stop("registry_options", message);
        let mut transport = Transport {
            urls: Vec::new(),
            logins: Vec::new(),
            tls: options.tls.clone(),
            timeout: options.timeout,
            current: AtomicUsize::new(0),
        };
        for text in &options.urls {
            let wrong = "the address of the schema registry is not one; write \
                         `http://HOST:PORT` or `https://HOST:PORT`";
            // The address is not repeated: it may have a password in it.
            let mut url = Url::parse(text).map_err(|why| mistake(format!("{wrong}: {why}")))?;
            if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
                return Err(mistake(wrong.to_owned()));
            }
            let password = Credential::given(decoded(url.password().unwrap_or_default()));
            let login = match (&options.auth, url.username()) {
                (Auth::None, "") => Auth::None,
                (Auth::None, user) => Auth::Basic { user: decoded(user), password },
                (given, _) => given.clone(),
            };
            // One that cannot be read is told of now.
            login.header().map_err(mistake)?;
            transport.logins.push(login);
            // Neither fails: the address has a host.
            let _ = (url.set_username(""), url.set_password(None));
            transport.urls.push(url);
        }
        match transport.urls.is_empty() {
            true => Err(mistake("the schema registry has no address".to_owned())),
            false => Ok(transport),
        }
    }

    /// One attempt. The next one goes to the next address when this one could not be reached.
    pub async fn exchange(
        &self,
        method: &'static str,
        path: &[&str],
        query: Option<&str>,
        body: &str,
    ) -> Result<Answer, Failure> {
        let at = self.current.load(Ordering::Relaxed) % self.urls.len();
        let mut url = self.urls[at].clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(query);
        let login = self.logins[at].header().map_err(Failure::unavailable)?;
        let authorization = login.as_ref().map(|login| login.value.as_str());
        let exchange = self.with(&url, authorization, method, body);
        let mut answer = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        };
        if let Ok(answer) = &mut answer
            && !(200..300).contains(&answer.status)
        {
            // One that refuses may repeat what it was sent.
            let secrets = login.iter().flat_map(Login::secrets);
            answer.body = redact(&String::from_utf8_lossy(&answer.body), secrets).into_bytes();
        }
        let well = answer.as_ref().is_ok_and(|answer| answer.status < 500);
        if !well {
            self.current.store(at + 1, Ordering::Relaxed);
        }
        answer.map_err(|why| {
            let place = url.authority();
            Failure::unavailable(format!("the schema registry at {place} cannot be asked: {why}"))
        })
    }

    /// Errors are the rest of a sentence.
    async fn with(
        &self,
        url: &Url,
        authorization: Option<&str>,
        method: &'static str,
        body: &str,
    ) -> Result<Answer, String> {
        // IPv6 addresses have brackets in an address, and none elsewhere.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(80);
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, url.authority())
            .header(header::ACCEPT, format!("{CONTENT_TYPE}, application/json"))
            .header(header::CONNECTION, "close");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, CONTENT_TYPE);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned())));
        let request = request.map_err(|error| error.to_string())?;
        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        if url.scheme() == "http" {
            return send(stream, request).await;
        }
        let tls = self.tls.clone();
        let config = tokio::task::spawn_blocking(move || tls.config());
        let config = config.await.map_err(|error| error.to_string())?;
        let config = config.map_err(|error| error.chain())?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        send(stream, request).await
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes().to_vec();
        Ok(Answer { status, body })
    };
    // The connection works only while it is polled; it may end before the answer is read.
    let driver = async move {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = driver => match never {},
    }
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (plain.push(byte), at += 3),
            None => (plain.push(bytes[at]), at += 1),
        };
    }
    String::from_utf8_lossy(&plain).into_owned()
}
