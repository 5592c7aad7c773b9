//! TLS whose files are read again when they change: connections made afterwards use the new ones.

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// Whom to trust; the system's own authorities unless given.
    pub ca: Option<PathBuf>,
    /// The certificate to show, with the chain above it, and its key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

pub(crate) struct Tls {
    options: TlsOptions,
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Clone)]
struct Loaded {
    times: Times,
    config: Arc<ClientConfig>,
    /// Tells it from those before it.
    number: u64,
}

/// When the files were written.
type Times = [Option<SystemTime>; 3];

impl Tls {
    pub fn new(options: TlsOptions) -> Self {
        Self { options, loaded: Mutex::default() }
    }

    /// What new connections use, and its number. Blocks on disk when the files have changed. The
    /// error is a sentence that names the file.
    pub fn now(&self) -> Result<(Arc<ClientConfig>, u64), String> {
        let times = self.times();
        let mut loaded = self.loaded.lock();
        if let Some(known) = &*loaded
            && known.times == times
        {
            return Ok((known.config.clone(), known.number));
        }
        match (self.load(), &mut *loaded) {
            (Ok(config), known) => {
                let number = known.as_ref().map_or(0, |known| known.number + 1);
                if number > 0 {
                    tracing::info!("the TLS files changed: new connections use them");
                }
                *known = Some(Loaded { times, config: config.clone(), number });
                Ok((config, number))
            }
            // A file that is just being replaced must not end what works.
            (Err(error), Some(known)) => {
                tracing::warn!("the changed TLS files cannot be used yet: {error}");
                Ok((known.config.clone(), known.number))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn times(&self) -> Times {
        let TlsOptions { ca, certificate, key } = &self.options;
        let time = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        [ca, certificate, key].map(|path| path.as_ref().and_then(time))
    }

    fn load(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        match &self.options.ca {
            Some(ca) => {
                for certificate in certificates(ca)? {
                    roots.add(certificate).map_err(|error| file(ca, error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match (&self.options.certificate, &self.options.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key).map_err(|e| file(key, e))?;
                let config = builder.with_client_auth_cert(chain, private);
                config.map_err(|error| file(certificate, error))?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err("`certificate` and `key` are given together".to_owned()),
        };
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(|all| all.collect());
    let all: Vec<_> = all.map_err(|error| file(path, error))?;
    match all.is_empty() {
        true => Err(format!("{} has no certificate in PEM", path.display())),
        false => Ok(all),
    }
}

fn file(path: &Path, error: impl fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
