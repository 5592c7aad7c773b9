//! What PEM files say: whom to trust, and what to show.

use crate::Watched;
use millstream_core::{Error, Result};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Paths to PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// Certificates to trust; the system's own without it.
    pub ca: Option<PathBuf>,
    /// The certificate to show, with the chain above it, and its key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// What one side shows.
pub struct Own {
    pub key: PrivateKeyDer<'static>,
    /// The chain, and the same key as rustls uses it.
    pub certified: CertifiedKey,
}

impl TlsOptions {
    /// The files that are named here.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        [&self.ca, &self.certificate, &self.key].into_iter().flatten().cloned()
    }

    /// A place for what is made of these files.
    pub fn watched<T: Clone>(&self) -> Watched<T> {
        Watched::new("the TLS files", self.paths())
    }

    /// What a client does as the files say now.
    pub fn config(&self) -> Result<ClientConfig> {
        // What is renewed most comes first: less is read while it is half there.
        let own = self.own()?;
        let config = builder()?.with_root_certificates(self.roots()?);
        Ok(match own {
            Some(own) => config.with_client_cert_resolver(own.resolver()),
            None => config.with_no_client_auth(),
        })
    }

    pub fn own(&self) -> Result<Option<Own>> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Own::read(certificate, key).map(Some),
            (None, None) => Ok(None),
            _ => Err(Error::stop("tls", "`certificate` and `key` are given together")),
        }
    }

    /// Whom to trust; somebody, and each of them usable.
    pub fn trusted(&self) -> Result<Vec<CertificateDer<'static>>> {
        let usable = |one: &CertificateDer<'static>| RootCertStore::empty().add(one.clone());
        let Some(path) = &self.ca else {
            let mut found = rustls_native_certs::load_native_certs().certs;
            found.retain(|one| usable(one).is_ok());
            let told = "the system has no certificates to trust: name a file with `ca`";
            return match found.is_empty() {
                true => Err(Error::stop("tls", told)),
                false => Ok(found),
            };
        };
        let found = certificates(path)?;
        found
            .iter()
            .try_for_each(usable)
            .map_err(|e| unusable(path, "certificates to trust", e))?;
        Ok(found)
    }

    pub fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.trusted()?);
        Ok(roots)
    }
}

impl Own {
    pub fn read(certificate: &Path, key: &Path) -> Result<Own> {
        let chain = certificates(certificate)?;
        let private =
            PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(key, "a private key", e))?;
        let certified = CertifiedKey::from_der(chain, private.clone_key(), &provider());
        let certified = certified.map_err(|error| {
            let what = format!("the private key of {}", certificate.display());
            unusable(key, &what, error)
        })?;
        Ok(Own { key: private, certified })
    }

    /// Shows it whoever asks.
    pub fn resolver(self) -> Arc<SingleCertAndKey> {
        Arc::new(self.certified.into())
    }
}

/// The cryptography of all TLS here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The beginning of a client's configuration.
pub fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::stop("tls", "TLS cannot be set up").because(error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    let found: Vec<_> = read.map_err(|e| unusable(path, "certificates", e))?;
    match found.is_empty() {
        true => {
            let told = format!("{} has no certificate: it must be a PEM file", path.display());
            Err(Error::stop("tls", told))
        }
        false => Ok(found),
    }
}

fn unusable(
    path: &Path,
    what: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let told = format!("{} cannot be used: it must be a PEM file with {what}", path.display());
    Error::stop("tls", told).because(error)
}
