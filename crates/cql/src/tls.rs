//! TLS whose certificates are read again when their files change. The driver has one configuration
//! for as long as it lives, so that this one looks at the files for each handshake.

use millstream_core::{Error, Result};
use millstream_tls::{TlsOptions, Watched};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;

/// The configuration; the files must be usable now.
pub(crate) fn config(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let files = Arc::new(Files {
        options: options.clone(),
        provider: millstream_tls::provider(),
        loaded: options.watched(),
    });
    files.current()?;
    let mut config = millstream_tls::builder()?
        .dangerous()
        .with_custom_certificate_verifier(files.clone())
        .with_client_cert_resolver(files);
    // A session that is resumed shows nobody the certificates that there are now.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Files {
    options: TlsOptions,
    provider: Arc<CryptoProvider>,
    loaded: Watched<Loaded>,
}

#[derive(Debug, Clone)]
struct Loaded {
    verifier: Arc<WebPkiServerVerifier>,
    /// What we show.
    own: Option<Arc<CertifiedKey>>,
}

impl Files {
    fn current(&self) -> Result<Loaded> {
        self.loaded.now(|| {
            let own = self.options.own()?.map(|own| Arc::new(own.certified));
            let roots = Arc::new(self.options.roots()?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
                    .build()
                    .map_err(|e| Error::stop("tls", "TLS cannot be set up").because(e))?;
            Ok(Loaded { verifier, own })
        })
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
