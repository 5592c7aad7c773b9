//! One envelope sent, over a connection of its own: there are few.

use crate::dsn::Dsn;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, header};
use hyper_util::rt::TokioIo;
use millstream_tls::TlsOptions;
use rustls::pki_types::ServerName;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONTENT_TYPE: &str = "application/x-sentry-envelope";
/// Nothing of an answer's body is used; a longer one ends its connection.
const ANSWER_BYTES_MAX: usize = 64 << 10;

pub(crate) struct Answer {
    pub status: u16,
    pub limits: Option<String>,
    pub retry_after: Option<String>,
}

/// The error is the rest of a sentence. Cancel safe: what was begun is given up.
pub(crate) async fn post(dsn: &Dsn, envelope: Vec<u8>) -> Result<Answer, String> {
    let url = &dsn.endpoint;
    // IPv6 addresses have brackets in an address, and none elsewhere.
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(443);
    let request = Request::post(url.path())
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, concat!("millstream/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, CONTENT_TYPE)
        .header(header::CONNECTION, "close")
        .header("X-Sentry-Auth", dsn.authorization())
        .body(Full::new(Bytes::from(envelope)))
        .map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    if url.scheme() == "http" {
        return send(stream, request).await;
    }
    // The system's authorities, or those of `SSL_CERT_FILE`.
    let config = tokio::task::spawn_blocking(|| TlsOptions::default().config());
    let config = config.await.map_err(|error| error.to_string())?;
    let config = config.map_err(|error| error.chain())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, request).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let told = Answer {
            status: answer.status().as_u16(),
            limits: text(answer.headers(), "x-sentry-rate-limits"),
            retry_after: text(answer.headers(), "retry-after"),
        };
        // What it took it has taken, also when its answer breaks off.
        let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(told)
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

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}
