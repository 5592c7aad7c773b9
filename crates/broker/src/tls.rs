//! TLS on the listener, with certificates that are read again when their files change.

use crate::error::{Error, Result};
use crate::options::TlsOptions;
use millstream_tls::{Own, Watched, provider};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The options, and what was made of the files as they were last.
pub struct Tls {
    options: TlsOptions,
    made: Watched<Arc<ServerConfig>>,
}

impl Tls {
    pub fn load(options: TlsOptions) -> Result<Tls> {
        let TlsOptions { certificates, key, client_ca } = options.clone();
        let paths = [Some(certificates), Some(key), client_ca].into_iter().flatten();
        let tls = Tls { options, made: Watched::new("the TLS files of the Kafka listener", paths) };
        tls.config().map_err(Error::Tls)?;
        Ok(tls)
    }

    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(stream).await
    }

    fn config(&self) -> millstream_core::Result<Arc<ServerConfig>> {
        self.made.now(|| load(&self.options))
    }
}

fn load(options: &TlsOptions) -> millstream_core::Result<Arc<ServerConfig>> {
    let own = Own::read(&options.certificates, &options.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(set_up)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let clients =
                millstream_tls::TlsOptions { ca: Some(path.clone()), ..Default::default() };
            let roots = Arc::new(clients.roots()?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(set_up)?)
        }
    };
    Ok(Arc::new(builder.with_cert_resolver(own.resolver())))
}

fn set_up(error: impl std::error::Error + Send + Sync + 'static) -> millstream_core::Error {
    millstream_core::Error::stop("tls", "TLS cannot be set up").because(error)
}
