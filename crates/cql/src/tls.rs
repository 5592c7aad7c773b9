//! TLS whose certificates are read again when their files change. The driver has one configuration
//! for as long as it lives, so that this one looks at the files for each handshake.

use crate::cluster::TlsOptions;
use millstream_core::{Error, Result};
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The configuration; the files must be usable now.
pub(crate) fn config(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let files = Arc::new(Files {
        options: options.clone(),
        provider: provider.clone(),
        loaded: Mutex::default(),
    });
    files.current()?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::stop("tls", "TLS cannot be set up").because(e))?
        .dangerous()
        .with_custom_certificate_verifier(files.clone())
        .with_client_cert_resolver(files);
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Files {
    options: TlsOptions,
    provider: Arc<CryptoProvider>,
    loaded: Mutex<Option<(Times, Loaded)>>,
}

/// When the files were written.
type Times = Vec<Option<SystemTime>>;

#[derive(Debug, Clone)]
struct Loaded {
    verifier: Arc<WebPkiServerVerifier>,
    /// What we show.
    own: Option<Arc<CertifiedKey>>,
}

impl Files {
    fn current(&self) -> Result<Loaded> {
        let times = self.times();
        let mut loaded = self.loaded.lock();
        if let Some((when, known)) = &*loaded
            && *when == times
        {
            return Ok(known.clone());
        }
        match (self.load(), &*loaded) {
            (Ok(new), known) => {
                if known.is_some() {
                    tracing::info!("the TLS files changed: new connections use them");
                }
                *loaded = Some((times, new.clone()));
                Ok(new)
            }
            // A file that is just being replaced must not end what works.
            (Err(error), Some((_, known))) => {
                tracing::warn!("the changed TLS files cannot be used yet: {}", error.chain());
                Ok(known.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    fn times(&self) -> Times {
        let TlsOptions { ca, certificate, key } = &self.options;
        let time = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        [ca, certificate, key].into_iter().map(|path| path.as_ref().and_then(time)).collect()
    }

    fn load(&self) -> Result<Loaded> {
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
                    let told = "the system has no certificates to trust: name a file with `ca`";
                    return Err(Error::stop("tls", told));
                }
            }
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
                .build()
                .map_err(|e| Error::stop("tls", "TLS cannot be set up").because(e))?;
        let own = match (&self.options.certificate, &self.options.key) {
            (Some(certificate), Some(path)) => {
                let key = PrivateKeyDer::from_pem_file(path)
                    .map_err(|e| unusable(path, "a private key", e))?;
                let chain = certificates(certificate)?;
                let own = CertifiedKey::from_der(chain, key, &self.provider)
                    .map_err(|e| unusable(path, "the certificate's key", e))?;
                Some(Arc::new(own))
            }
            (None, None) => None,
            _ => return Err(Error::stop("tls", "`certificate` and `key` are given together")),
        };
        Ok(Loaded { verifier, own })
    }

    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let loaded = self.current().map_err(|e| rustls::Error::General(e.chain()))?;
        Ok(loaded.verifier)
    }
}

impl ServerCertVerifier for Files {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier()?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Files {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current().ok()?.own
    }

    fn has_certs(&self) -> bool {
        self.options.certificate.is_some()
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
