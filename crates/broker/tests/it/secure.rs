//! TLS, client certificates and passwords, with a real client.

use crate::client::{Client, frame};
use crate::server::Server;
use kafka_protocol::messages::*;
use millstream_broker::{TlsOptions, Users};
use millstream_testkit::python::run_script;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate authority, a server's certificate and a client's, in files.
struct Files {
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

fn files(dir: &Path) -> Files {
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the authority of a test");
    let ca = write("ca.pem", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let pem = write(&format!("{name}.pem"), certificate.pem());
        (pem, write(&format!("{name}.key"), key.serialize_pem()))
    };
    Files { ca, server: signed("server"), client: signed("client") }
}

fn users() -> Users {
    Users::new([("ann".to_owned(), "pencil".to_owned())])
}

fn try_client(
    common: &serde_json::Value,
    right: &serde_json::Value,
    wrong: &serde_json::Value,
    mechanisms: &serde_json::Value,
) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/secure.py");
    let args = [common, right, wrong, mechanisms].map(ToString::to_string);
    run_script(env!("CARGO_TARGET_TMPDIR"), &script, &args.each_ref().map(String::as_str));
}

#[test]
fn passwords_over_tls_let_in_who_knows_them() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path());
    let server = Server::start_with(|options| {
        let (certificates, key) = files.server.clone();
        options.users = Some(users());
        options.tls = Some(TlsOptions { certificates, key, client_ca: None });
    });
    let common = json!({
        "bootstrap.servers": server.address.to_string(),
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": files.ca,
        "sasl.username": "ann",
    });
    let mechanisms = json!(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]);
    let (right, wrong) = (json!({"sasl.password": "pencil"}), json!({"sasl.password": "pen"}));
    try_client(&common, &right, &wrong, &mechanisms);
}

#[test]
fn a_client_certificate_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path());
    let server = Server::start_with(|options| {
        let (certificates, key) = files.server.clone();
        options.tls = Some(TlsOptions { certificates, key, client_ca: Some(files.ca.clone()) });
    });
    let common = json!({
        "bootstrap.servers": server.address.to_string(),
        "security.protocol": "SSL",
        "ssl.ca.location": files.ca,
    });
    let right = json!({
        "ssl.certificate.location": files.client.0,
        "ssl.key.location": files.client.1,
    });
    try_client(&common, &right, &json!({}), &json!([]));
}

#[test]
fn certificates_are_read_again_when_their_files_change() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    std::fs::create_dir(&first).unwrap();
    std::fs::create_dir(&second).unwrap();
    let (used, next) = (files(&first), files(&second));
    let server = Server::start_with(|options| {
        let (certificates, key) = used.server.clone();
        options.tls = Some(TlsOptions { certificates, key, client_ca: None });
    });
    let roots = [used.ca.clone(), next.ca.clone()].map(|path| std::fs::read(path).unwrap());
    let trusted = |root: &[u8]| handshake(server.address, root);
    assert!(trusted(&roots[0]) && !trusted(&roots[1]));

    // While they are half replaced, the ones before are shown.
    let replace = |from: &Path, to: &Path| {
        std::fs::copy(from, to).unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(to).unwrap().set_modified(later).unwrap();
    };
    replace(&next.server.0, &used.server.0);
    assert!(trusted(&roots[0]) && !trusted(&roots[1]));
    replace(&next.server.1, &used.server.1);
    assert!(!trusted(&roots[0]) && trusted(&roots[1]));
}

/// Whether a client that trusts this authority accepts what the server shows.
fn handshake(address: std::net::SocketAddr, root: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    while client.is_handshaking() {
        if client.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn nothing_is_answered_before_a_client_has_shown_who_it_is() {
    let server = Server::start_with(|options| options.users = Some(users()));
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    assert_eq!(client.call(3, &ApiVersionsRequest::default()).error_code, 0);
    client.send(9, &MetadataRequest::default());
    assert_eq!(client.rest(), 0);
    // What a stranger may send is small.
    let mut client = Client::connect(server.address);
    client.stream.write_all(&[0, 2, 0, 0]).unwrap();
    assert_eq!(client.rest(), 0);
    // Bytes of a plain client make no TLS handshake.
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path());
    let server = Server::start_with(|options| {
        let (certificates, key) = files.server.clone();
        options.tls = Some(TlsOptions { certificates, key, client_ca: None });
    });
    let mut client = Client::connect(server.address);
    client.stream.write_all(&frame(3, 1, &ApiVersionsRequest::default())).unwrap();
    client.rest();
}
