//! TLS files for the driver, which takes the path of one file with the certificate and its key, and
//! reads it whenever it meets a server. What was checked here is given to it in files in memory.

use crate::cluster::TlsOptions;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream_core::{Error, Result};
use mongodb::options::TlsOptions as DriverTls;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// When the files were written, and how long they are: one that is written in two steps may be so
/// within a tick of its clock.
pub(crate) type Times = Vec<Option<(SystemTime, u64)>>;

pub(crate) fn time(path: &Path) -> Option<(SystemTime, u64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

/// The files as they were once; the driver may read them as long as this lives.
pub(crate) struct Loaded {
    trusted: File,
    own: Option<File>,
}

impl TlsOptions {
    pub(crate) fn times(&self) -> Times {
        let files = [&self.ca, &self.certificate, &self.key];
        files.into_iter().map(|path| path.as_deref().and_then(time)).collect()
    }
}

impl Loaded {
    pub fn new(options: &TlsOptions) -> Result<Loaded> {
        let trusted = match &options.ca {
            Some(path) => certificates(path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let (usable, _) = RootCertStore::empty().add_parsable_certificates(trusted.iter().cloned());
        if usable == 0 {
            let told = match &options.ca {
                Some(path) => format!("{} has no certificate to trust", path.display()),
                None => "the system has no certificates to trust: name a file with `ca`".into(),
            };
            return Err(Error::stop("tls", told));
        }
        let own = match (&options.certificate, &options.key) {
            (Some(certificate), Some(path)) => {
                let key = PrivateKeyDer::from_pem_file(path)
                    .map_err(|e| unusable(path, "a private key", e))?;
                let mut pem = String::new();
                let chain = certificates(certificate)?;
                chain.iter().for_each(|one| block("CERTIFICATE", one, &mut pem));
                block(label(&key), key.secret_der(), &mut pem);
                let provider = rustls::crypto::ring::default_provider();
                CertifiedKey::from_der(chain, key, &provider)
                    .map_err(|e| unusable(path, "the certificate's key", e))?;
                Some(File::new(&pem)?)
            }
            (None, None) => None,
            _ => return Err(Error::stop("tls", "`certificate` and `key` are given together")),
        };
        let mut pem = String::new();
        trusted.iter().for_each(|one| block("CERTIFICATE", one, &mut pem));
        Ok(Loaded { trusted: File::new(&pem)?, own })
    }

    pub fn options(&self) -> DriverTls {
        let mut options = DriverTls::default();
        options.ca_file_path = Some(self.trusted.path());
        options.cert_key_file_path = self.own.as_ref().map(File::path);
        options
    }
}

/// A file without a name, which only this process can open.
struct File(std::fs::File);

impl File {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn new(text: &str) -> Result<File> {
        use rustix::fs::{MemfdFlags, memfd_create};
        use std::io::Write;
        let failed = |e: std::io::Error| Error::stop("tls", "no room for TLS files").because(e);
        let made = memfd_create("millstream-tls", MemfdFlags::CLOEXEC);
        let mut file = std::fs::File::from(made.map_err(|e| failed(e.into()))?);
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(File(file))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn new(_: &str) -> Result<File> {
        Err(Error::stop("tls", "TLS to MongoDB is only there on Linux"))
    }

    fn path(&self) -> PathBuf {
        #[cfg(unix)]
        {
            use std::os::fd::AsRawFd;
            format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
        }
        #[cfg(not(unix))]
        PathBuf::new()
    }
}

fn block(label: &str, der: &[u8], out: &mut String) {
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    let text = BASE64_STANDARD.encode(der);
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII.
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
}

fn label(key: &PrivateKeyDer<'_>) -> &'static str {
    match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
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
