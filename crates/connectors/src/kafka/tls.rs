//! TLS to brokers, with certificates that are read again when their files change.

use millstream_core::{Error, Result};
use millstream_tls::{TlsOptions, Watched};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(super) struct Tls {
    options: TlsOptions,
    made: Watched<Arc<ClientConfig>>,
}

impl Tls {
    pub fn new(options: TlsOptions) -> Self {
        Self { made: options.watched(), options }
    }

    /// Cancel safe: a handshake that is given up closes the connection.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let config = self.made.now(|| self.options.config().map(Arc::new))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::stop("tls", format!("`{host}` is no name that a certificate has"))
        })?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            let told = format!("no TLS with {host}: see `ca`, `certificate` and `key`");
            match is_refusal(&error) {
                true => Error::stop("tls", told).because(error),
                false => Error::retry("tls", told).because(error),
            }
        })
    }
}

/// Whether one side does not believe the other's certificate: trying again does not help.
pub(super) fn is_refusal(error: &std::io::Error) -> bool {
    use rustls::AlertDescription::*;
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match error {
        Some(rustls::Error::InvalidCertificate(_)) => true,
        Some(rustls::Error::AlertReceived(alert)) => matches!(
            alert,
            AccessDenied
                | BadCertificate
                | CertificateExpired
                | CertificateRequired
                | CertificateRevoked
                | CertificateUnknown
                | UnknownCA
                | UnsupportedCertificate
        ),
        _ => false,
    }
}
