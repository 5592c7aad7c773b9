//! TLS on the listener, with certificates that are read again when their files change.

use crate::error::{Error, Result};
use crate::options::TlsOptions;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The options, and what was made of the files as they were last.
pub struct Tls {
    options: TlsOptions,
    loaded: Mutex<(Times, Arc<ServerConfig>)>,
}

/// When the files were written.
type Times = Vec<Option<SystemTime>>;

impl Tls {
    pub fn load(options: TlsOptions) -> Result<Tls> {
        let times = times(&options);
        let config = load(&options)?;
        Ok(Tls { options, loaded: Mutex::new((times, config)) })
    }

    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config()).accept(stream).await
    }

    fn config(&self) -> Arc<ServerConfig> {
        let changed = times(&self.options);
        let mut loaded = self.loaded.lock();
        if loaded.0 == changed {
            return loaded.1.clone();
        }
        match load(&self.options) {
            Ok(config) => {
                tracing::info!("the TLS files changed: new Kafka clients are shown the new ones");
                *loaded = (changed, config);
            }
            // Files that are just being replaced must not end what works: the next client tries.
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the changed TLS files cannot be used yet");
            }
        }
        loaded.1.clone()
    }
}

fn times(options: &TlsOptions) -> Times {
    let TlsOptions { certificates, key, client_ca } = options;
    let time = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    [Some(certificates), Some(key), client_ca.as_ref()]
        .into_iter()
        .map(|path| path.and_then(time))
        .collect()
}

fn load(options: &TlsOptions) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&options.certificates)?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|error| Error::File {
        path: options.key.clone(),
        what: format!("there is no private key in it ({error}): it must be a PEM file"),
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(tls)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(tls)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(tls)?)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(tls)?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |what: String| Error::File { path: path.to_owned(), what };
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let found: Vec<CertificateDer<'static>> = read.map_err(|error| {
        wrong(format!("it cannot be read as certificates ({error}): it must be a PEM file"))
    })?;
    match found.is_empty() {
        true => Err(wrong("there is no certificate in it: it must be a PEM file".to_owned())),
        false => Ok(found),
    }
}

fn tls(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Tls(Box::new(error))
}
