//! Certificates and tokens that change while rows flow.

use crate::server::{Asked, Reply, Server, is};
use crate::sink::client_options;
use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use hyper::Method;
use millstream_core::{Batch, Credential, Hidden, Sink};
use millstream_http::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// One that lets in whom this authority knows.
    fn acceptor(&self) -> TlsAcceptor {
        let (certificate, key) = self.issue("server");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.1.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            );
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }
}

fn put(path: &Path, content: &str, age: u64) {
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    // A time of its own, however coarse the clock of the files is.
    file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
}

fn open(client: ClientOptions, address: &str) -> Box<dyn Sink> {
    open_with(client, address, Headers::default())
}

fn open_with(client: ClientOptions, address: &str, headers: Headers) -> Box<dyn Sink> {
    let (site, target) = Site::of(address).unwrap();
    let options = HttpSinkOptions {
        target: Target::Address(site, target),
        method: Method::PUT,
        headers,
        body: Body::Lines,
        batch_rows: 10,
        batch_bytes: 1 << 20,
        concurrency: 1,
        gzip: false,
        idempotency: None,
        pipeline: "p".into(),
        sink: "s".into(),
    };
    let client = Client::new(client, Handle::current()).unwrap();
    HttpTarget::open(client, options, &rows().rows.schema()).unwrap().sink().unwrap()
}

fn rows() -> Batch {
    let columns = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let values = Arc::new(Int64Array::from(vec![1]));
    Batch::same(RecordBatch::try_new(columns, vec![values]).unwrap())
}

#[tokio::test]
async fn a_certificate_that_is_renewed_is_shown_from_then_on() {
    let authority = Authority::new();
    let other = Authority::new();
    let server = Server::with(Some(authority.acceptor()), |_, _| is(200)).await;
    let folder = tempfile::tempdir().unwrap();
    let (ca, certificate, key) =
        (folder.path().join("ca.pem"), folder.path().join("me.pem"), folder.path().join("me.key"));
    let put_identity = |by: &Authority, age| {
        let (pem, private) = by.issue("me");
        put(&certificate, &pem, age);
        put(&key, &private, age);
    };
    put(&ca, &authority.1, 100);
    put_identity(&authority, 100);
    let mut client = client_options();
    client.tls = TlsOptions {
        ca: Some(ca.clone()),
        certificate: Some(certificate.clone()),
        key: Some(key.clone()),
    };
    let mut sink = open(client, &format!("https://localhost:{}/", server.port));
    sink.write(&rows()).await.unwrap();
    sink.write(&rows()).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    // Another one is not let in, though the old connection was open.
    put_identity(&other, 50);
    assert!(sink.write(&rows()).await.is_err());
    // Half a file does not end what works; a whole one that is right does.
    put_identity(&authority, 20);
    sink.write(&rows()).await.unwrap();
    put(&certificate, "-----BEGIN", 10);
    sink.write(&rows()).await.unwrap();
    assert_eq!(server.asked().len(), 4);
    // Whom it does not trust it tells nothing.
    put(&certificate, &fs::read_to_string(&certificate).unwrap(), 9);
    put_identity(&authority, 8);
    put(&ca, &other.1, 7);
    let error = sink.write(&rows()).await.err().unwrap();
    assert!(error.chain().contains("TLS"), "{}", error.chain());
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn a_secret_is_read_from_its_file_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let password = Credential::File(file.clone());
    let ways = [
        (Auth::Bearer(Credential::File(file.clone())), "Bearer second"),
        (Auth::Basic { user: "me".into(), password }, "Basic bWU6c2Vjb25k"),
    ];
    for (auth, right) in ways {
        put(&file, "first\n", 100);
        let server = Server::start(move |_, asked| {
            is(if asked.headers["authorization"] == right { 200 } else { 401 })
        })
        .await;
        let client = ClientOptions { auth, retries: 3, ..client_options() };
        let mut sink = open(client, &format!("http://127.0.0.1:{}/", server.port));
        let error = sink.write(&rows()).await.err().unwrap();
        assert_eq!(error.kind(), "not_allowed");
        assert!(error.chain().contains("401"), "{}", error.chain());
        assert_eq!(server.asked().len(), 1, "whoever is not let in does not knock again at once");
        put(&file, "second\n", 100);
        sink.write(&rows()).await.unwrap();
    }
}

#[tokio::test]
async fn a_user_says_who_it_is() {
    let server = Server::start(|_, asked| {
        let right = asked.headers["authorization"] == "Basic bWU6Y2FuYXJ5";
        is(if right { 200 } else { 403 })
    })
    .await;
    let mut client = client_options();
    client.auth = Auth::Basic { user: "me".into(), password: Credential::given("canary") };
    assert!(!format!("{client:?}").contains("canary"));
    let mut sink = open(client, &format!("http://127.0.0.1:{}/", server.port));
    sink.write(&rows()).await.unwrap();
}

/// What a client is told by a server that refuses it in these words.
async fn told(
    auth: Auth,
    query: &str,
    given: &[(&str, &str)],
    words: impl Fn(&Asked) -> String + Send + Sync + 'static,
) -> String {
    let server = Server::start(move |_, asked| Reply::Is(403, "", words(asked))).await;
    let given: Vec<_> = given.iter().map(|(k, v)| (*k, Hidden((*v).into()))).collect();
    let headers = headers(given.iter().map(|(name, value)| (*name, value))).unwrap();
    let client = ClientOptions { auth, ..client_options() };
    let address = format!("http://127.0.0.1:{}/{query}", server.port);
    let mut sink = open_with(client, &address, headers);
    let error = sink.write(&rows()).await.err().unwrap();
    error.chain().split_once("may do this: ").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_part_of_what_was_sent_is_not_shown_either() {
    let none = || Auth::None;
    let whole = told(none(), "", &[("X-Key", "canary")], |_| "no canary".into()).await;
    assert_eq!(whole, "no ***");
    let named = [("Authorization", "Token canary"), ("Cookie", "s=kenar; theme=\"finch\"")];
    let words = |_: &Asked| "Token canary: kenar of finch, the Bearer of a Token".into();
    let parts = told(none(), "", &named, words).await;
    assert_eq!(parts, "***: *** of ***, the Bearer of a Token");
    let query = "?key=can%2Bary&more=a+finch&barekey&v=1";
    let words = |_: &Asked| "no can+ary, no a finch, no can%2bary, no barekey, 1".into();
    assert_eq!(told(none(), query, &[], words).await, "no ***, no ***, no ***, no ***, 1");
    // JSON writes some letters in other ways, and who sends it escapes more than it asks for.
    let named = [("X-Key", "can\"ary\\s/ü")];
    for words in [r#"{"no":"can\"ary\\s/ü"}"#, r#"{"no":"can\u0022ary\u005Cs\/\u00fc"}"#] {
        let shown = told(none(), "", &named, |_| words.into()).await;
        assert_eq!(shown, r#"{"no":"***"}"#);
    }
    let basic = Auth::Basic { user: "me".into(), password: Credential::given("can\"ary") };
    let words = |asked: &Asked| {
        let sent = &asked.headers["authorization"];
        format!(r#"{sent} is me with can\"ary"#)
    };
    assert_eq!(told(basic, "", &[], words).await, "*** is me with ***");
    let bearer = Auth::Bearer(Credential::given("canäry"));
    assert_eq!(told(bearer, "", &[], |_| "no canäry".into()).await, "no ***");
}

#[tokio::test]
async fn a_token_whose_file_has_changed_meanwhile_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    put(&token, "canary\n", 100);
    let file = token.clone();
    let shown = told(Auth::Bearer(Credential::File(token)), "", &[], move |asked| {
        put(&file, "second\n", 50);
        format!("{} is too old", asked.headers["authorization"])
    });
    assert_eq!(shown.await, "*** is too old");
}
