//! Files of every kind in every place.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use millstream_core::Disposition;
use millstream_tls::TlsOptions;
use rcgen::{CertificateParams, KeyPair};
use std::fs;
use std::path::{Path, PathBuf};

/// A certificate and its key, in files of that name.
fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let pem = certificate.self_signed(&key).unwrap().pem();
    let write = |name: String, text: String| {
        fs::write(folder.join(&name), text).unwrap();
        folder.join(name)
    };
    (write(format!("{name}.pem"), pem), write(format!("{name}.key"), key.serialize_pem()))
}

#[test]
fn what_is_given_is_trusted_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = pair(folder.path(), "me");
    let mut options = TlsOptions { ca: Some(certificate.clone()), ..TlsOptions::default() };
    assert!(!options.config().unwrap().client_auth_cert_resolver.has_certs());
    assert!(options.own().unwrap().is_none());
    options.certificate = Some(certificate);
    options.key = Some(key);
    assert!(options.config().unwrap().client_auth_cert_resolver.has_certs());
    assert_eq!(options.trusted().unwrap(), options.own().unwrap().unwrap().certified.cert);
    assert_eq!((options.roots().unwrap().len(), options.paths().count()), (1, 3));
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_what_it_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = pair(folder.path(), "me");
    let (_, other_key) = pair(folder.path(), "other");
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let (empty, half) = (file("empty", "x"), file("half", "-----BEGIN CERTIFICATE-----\nab"));
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let hollow = file("hollow", hollow);
    let gone = folder.path().join("gone");
    let cases = [
        (Some(&gone), Some((&certificate, &key)), "gone cannot be used"),
        (Some(&empty), None, "empty has no certificate: it must be a PEM file"),
        (Some(&half), None, "half cannot be used: it must be a PEM file with certificates"),
        (Some(&key), None, "me.key has no certificate"),
        (Some(&hollow), None, "hollow cannot be used: it must be a PEM file with certificates to"),
        (None, Some((&gone, &key)), "gone cannot be used"),
        (None, Some((&certificate, &empty)), "empty cannot be used: it must be a PEM file with a"),
        (None, Some((&certificate, &certificate)), "a PEM file with a private key: "),
        (None, Some((&certificate, &other_key)), "other.key cannot be used: it must be a PEM file"),
        (None, Some((&certificate, &other_key)), "with the private key of "),
    ];
    for (ca, own, told) in cases {
        let (certificate, key) = own.map(|(one, key)| (one.clone(), key.clone())).unzip();
        let error = TlsOptions { ca: ca.cloned(), certificate, key }.config().unwrap_err();
        assert_eq!((error.disposition(), error.kind()), (Disposition::Stop, "tls"));
        assert!(error.chain().contains(told), "{told}: {}", error.chain());
    }
    for (certificate, key) in [(Some(certificate), None), (None, Some(key))] {
        let error = TlsOptions { ca: None, certificate, key }.config().unwrap_err();
        assert_eq!(error.chain(), "`certificate` and `key` are given together");
    }
}
