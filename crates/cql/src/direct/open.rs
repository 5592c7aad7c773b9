//! Connects to a node and logs in.

use super::frames::{self, Garbled, HEADER, Head, Said};
use millstream_core::Credential;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How to get in.
pub(crate) struct Doors {
    /// A password in a file is read for each connection.
    pub user: Option<(String, Credential)>,
    pub tls: Option<Arc<ClientConfig>>,
    pub patience: Duration,
}

/// A connection that takes statements.
pub(crate) struct Opened {
    pub read: Box<dyn AsyncRead + Send + Unpin>,
    pub write: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Doors {
    pub async fn open(&self, address: SocketAddr) -> io::Result<Opened> {
        timeout(self.patience, self.enter(address)).await?
    }

    async fn enter(&self, address: SocketAddr) -> io::Result<Opened> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut opened = match &self.tls {
            None => {
                let (read, write) = stream.into_split();
                Opened { read: Box::new(read), write: Box::new(write) }
            }
            Some(tls) => {
                let name = ServerName::IpAddress(address.ip().into());
                let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
                let (read, write) = tokio::io::split(stream);
                Opened { read: Box::new(read), write: Box::new(write) }
            }
        };
        let mut request = Vec::new();
        frames::startup(&mut request);
        match opened.ask(&request).await? {
            Said::Ready => Ok(opened),
            Said::Authenticate => {
                let token = self.token()?;
                request.clear();
                frames::auth_response(&mut request, &token);
                match opened.ask(&request).await? {
                    Said::LoggedIn => Ok(opened),
                    // Its words may repeat the password.
                    Said::Error(..) => Err(io::Error::other("the server does not let us in")),
                    _ => {
                        Err(io::Error::other("the server asks for more than a name and a password"))
                    }
                }
            }
            Said::Error(_, words) => Err(io::Error::other(words)),
            _ => Err(io::Error::other("the server does not begin as it should")),
        }
    }

    fn token(&self) -> io::Result<Vec<u8>> {
        let Some((user, password)) = &self.user else {
            return Err(io::Error::other("the server asks for a name and a password"));
        };
        token(user, password).map_err(io::Error::other)
    }
}

/// Name and password, for the server's PLAIN authenticator. The password may have been changed since
/// the last connection.
pub(crate) fn token(user: &str, password: &Credential) -> Result<Vec<u8>, String> {
    let password = password.current("password")?;
    Ok(format!("\0{user}\0{}", password.0).into_bytes())
}

impl Opened {
    async fn ask(&mut self, request: &[u8]) -> io::Result<Said> {
        self.write.write_all(request).await?;
        self.write.flush().await?;
        let mut head = [0; HEADER];
        self.read.read_exact(&mut head).await?;
        let garbled = |Garbled(why)| io::Error::other(why);
        let head = Head::read(&head).map_err(garbled)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut body = vec![0; head.length];
        self.read.read_exact(&mut body).await?;
        head.said(&body).map_err(garbled)
    }
}
