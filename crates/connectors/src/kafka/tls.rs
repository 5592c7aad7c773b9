//! TLS to brokers, with certificates that are read again when their files change.

use super::options::TlsOptions;
use millstream_core::{Error, Result};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The options, and what was made of the files as they were last.
pub(super) struct Tls {
    options: TlsOptions,
    loaded: Mutex<Option<(Times, Arc<ClientConfig>)>>,
}

/// When the files were written.
type Times = Vec<Option<SystemTime>>;

impl Tls {
    pub fn new(options: TlsOptions) -> Self {
        Self { options, loaded: Mutex::default() }
    }

    /// Cancel safe: a handshake that is given up closes the connection.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let config = self.config()?;
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

    fn config(&self) -> Result<Arc<ClientConfig>> {
        let changed = self.times();
        let mut loaded = self.loaded.lock();
        if let Some((when, config)) = &*loaded
            && *when == changed
        {
            return Ok(config.clone());
        }
        let known = loaded.take();
        match self.load() {
            Ok(config) => {
                if known.is_some() {
                    tracing::info!("the TLS files changed: new connections use them");
                }
                *loaded = Some((changed, config.clone()));
                Ok(config)
            }
            // A file that is just being replaced must not end what works.
            Err(error) if known.is_some() => {
                tracing::warn!("the changed TLS files cannot be used yet: {}", error.chain());
                let config = known.as_ref().map(|(_, config)| config.clone());
                *loaded = known;
                config.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn times(&self) -> Times {
        let TlsOptions { ca, certificate, key } = &self.options;
        let time = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        [ca, certificate, key].into_iter().map(|path| path.as_ref().and_then(time)).collect()
    }

    fn load(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        match &self.options.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| unusable(path, "a certificate", e))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                let (added, _) = roots.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err(Error::stop(
                        "tls",
                        "the system has no certificates to trust: name a file with `ca`",
                    ));
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::stop("tls", "TLS cannot be set up").because(e))?
            .with_root_certificates(roots);
        let config = match (&self.options.certificate, &self.options.key) {
            (Some(certificate), Some(path)) => {
                let key = PrivateKeyDer::from_pem_file(path)
                    .map_err(|e| unusable(path, "a private key", e))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, key)
                    .map_err(|e| unusable(path, "the certificate's key", e))?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => {
                return Err(Error::stop("tls", "`certificate` and `key` are given together"));
            }
        };
        Ok(Arc::new(config))
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

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    let found: Vec<_> = read.map_err(|e| unusable(path, "certificates", e))?;
    match found.is_empty() {
        true => Err(Error::stop("tls", format!("{} has no certificate", path.display()))),
        false => Ok(found),
    }
}

fn unusable(
    path: &Path,
    what: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::stop("tls", format!("{} cannot be read as {what}", path.display())).because(error)
}
