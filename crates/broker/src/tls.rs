//! TLS on the listener.

use crate::error::{Error, Result};
use crate::options::TlsOptions;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

pub fn load(options: &TlsOptions) -> Result<Tls> {
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
    Ok(Tls(TlsAcceptor::from(Arc::new(config))))
}

impl Tls {
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
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
