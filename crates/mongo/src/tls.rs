//! TLS files for the driver, which takes the path of one file with the certificate and its key, and
//! reads it whenever it meets a server. What was checked here is given to it in files in memory.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream_core::{Error, Result};
use millstream_tls::{Own, TlsOptions};
use mongodb::options::TlsOptions as DriverTls;
use rustls::pki_types::PrivateKeyDer;
use std::path::PathBuf;

/// The files as they were once; the driver may read them as long as this lives.
pub(crate) struct Loaded {
    trusted: File,
    own: Option<File>,
}

impl Loaded {
    pub fn new(options: &TlsOptions) -> Result<Loaded> {
        let own = options.own()?.map(|Own { key, certified }| {
            let mut pem = String::new();
            certified.cert.iter().for_each(|one| block("CERTIFICATE", one, &mut pem));
            block(label(&key), key.secret_der(), &mut pem);
            File::new(&pem)
        });
        let mut pem = String::new();
        options.trusted()?.iter().for_each(|one| block("CERTIFICATE", one, &mut pem));
        Ok(Loaded { trusted: File::new(&pem)?, own: own.transpose()? })
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
