//! The client: one suite against the embedded registry over HTTP and against a real one, then what
//! it does when the registry is down, slow, somebody else's, or wants to know who asks.

use crate::server::Server;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use millstream_core::{Credential, Disposition, Guid, RegisteredSchema, SchemaKind, Schemas};
use millstream_registry::client::{Auth, Client, Options, TlsOptions};
use millstream_registry::{Registry, router};
use millstream_testkit::proxy::{Direction, Fault, Proxy};
use millstream_testkit::services;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

fn run<T>(work: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(work)
}

/// Options that lose no time.
fn options(url: String) -> Options {
    Options { attempts: 2, backoff: Duration::from_millis(1), ..Options::new(url) }
}

fn client(url: String) -> Client {
    Client::new(options(url)).unwrap()
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn record(name: &str, fields: &[(&str, &str)]) -> String {
    let fields: Vec<Value> =
        fields.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
    json!({"type": "record", "name": name, "fields": fields}).to_string()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(
    result: millstream_core::Result<T>,
    disposition: Disposition,
    kind: &str,
) -> String {
    let error = result.unwrap_err();
    assert_eq!((error.disposition(), error.kind()), (disposition, kind), "{}", error.chain());
    error.chain()
}

/// What every registry gives a client; `raw` is its address for requests that the client has not.
async fn suite(url: &str) {
    let subject = services::unique("shop/orders:ü") + "-value";
    let asking = client(url.to_owned());
    let sending = Client::new(Options { auto_register: true, ..options(url.to_owned()) }).unwrap();
    let order = services::unique("Order").replace('-', "_");

    // Nothing is there, and nothing comes to be there by asking.
    let first = record(&order, &[("amount", "int")]);
    assert!(asking.latest(&subject).await.unwrap().is_none());
    assert_eq!(
        asking.incompatibilities(&subject, SchemaKind::Avro, &first).await.unwrap(),
        Vec::<String>::new()
    );
    let why = asking.register(&subject, SchemaKind::Avro, &first).await;
    let why = refused(why, Disposition::Stop, "schema_not_registered");
    assert!(why.contains(&subject) && why.contains("auto_register"), "{why}");
    assert!(asking.latest(&subject).await.unwrap().is_none());

    // What one client registers another finds, also written in another way.
    let id = sending.register(&subject, SchemaKind::Avro, &first).await.unwrap();
    assert_eq!(sending.register(&subject, SchemaKind::Avro, &first).await.unwrap(), id);
    assert_eq!(asking.register(&subject, SchemaKind::Avro, &first).await.unwrap(), id);
    let spaced = first.replace(",", " ,\n ");
    assert_eq!(
        client(url.to_owned()).register(&subject, SchemaKind::Avro, &spaced).await.unwrap(),
        id
    );
    let latest = asking.latest(&subject).await.unwrap().unwrap();
    assert_eq!((latest.id, latest.kind), (id, SchemaKind::Avro));
    assert_eq!(same(&latest.text), same(&first));
    let by_id = asking.by_id(id).await.unwrap();
    assert_eq!(by_id.text, latest.text);

    // A type that changes is found incompatible before and while it is registered.
    let changed = record(&order, &[("amount", "string")]);
    let level = json!({"compatibility": "BACKWARD"});
    put(url, &format!("/config/{}", percent(&subject)), &level).await;
    let messages = asking.incompatibilities(&subject, SchemaKind::Avro, &changed).await.unwrap();
    assert!(!messages.is_empty());
    let why = sending.register(&subject, SchemaKind::Avro, &changed).await;
    refused(why, Disposition::Stop, "incompatible_schema");
    let broken = sending.register(&subject, SchemaKind::Avro, "{\"type\":").await;
    refused(broken, Disposition::Stop, "invalid_schema");

    // The other kinds come back as what they are.
    let proto = "syntax = \"proto3\";\npackage shop;\n\nmessage Sale {\n  int32 amount = 1;\n}\n";
    let sales = services::unique("sales");
    let id = sending.register(&sales, SchemaKind::Protobuf, proto).await.unwrap();
    let found = client(url.to_owned()).by_id(id).await.unwrap();
    assert_eq!(found.kind, SchemaKind::Protobuf);
    assert!(found.text.contains("message Sale"), "{}", found.text);
    let draft = "http://json-schema.org/draft-07/schema#";
    let schema = json!({"$schema": draft, "type": "object", "title": "Refund"}).to_string();
    let refunds = services::unique("refunds");
    let id = sending.register(&refunds, SchemaKind::Json, &schema).await.unwrap();
    assert_eq!(client(url.to_owned()).by_id(id).await.unwrap().kind, SchemaKind::Json);

    references(url, &asking).await;

    let nobody = asking.by_id(2_000_000_000).await;
    let why = refused(nobody, Disposition::Reject, "unknown_schema");
    assert!(why.contains("does not know"), "{why}");
}

/// `c` needs `b` and `a`, and `b` needs `a`.
async fn references(url: &str, asking: &Client) {
    let [a, b, c] = ["A", "B", "C"].map(|name| services::unique(name).replace('-', "_"));
    let register = async |subject: &str, schema: String, names: &[&str]| {
        let names = names.iter().map(|name| json!({"name": name, "subject": name, "version": 1}));
        let body = json!({"schema": schema, "references": names.collect::<Vec<_>>()});
        let answer = post(url, &format!("/subjects/{subject}/versions"), &body).await;
        answer["id"].as_u64().unwrap_or_else(|| panic!("{subject}: {answer}")) as u32
    };
    register(&a, record(&a, &[("x", "int")]), &[]).await;
    register(&b, record(&b, &[("a", &a)]), &[&a]).await;
    let id = register(&c, record(&c, &[("b", &b), ("a", &a)]), &[&b, &a]).await;
    let schema = asking.by_id(id).await.unwrap();
    let names: Vec<&str> = schema.references.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [&a, &b], "dependencies come first, each once");
    assert_eq!(same(&schema.references[0].1), same(&record(&a, &[("x", "int")])));
}

fn same(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn post(url: &str, path: &str, body: &Value) -> Value {
    send("POST", url, path, body).await
}

async fn put(url: &str, path: &str, body: &Value) {
    send("PUT", url, path, body).await;
}

/// A request that the client under test does not make, by plain sockets.
async fn send(method: &str, url: &str, path: &str, body: &Value) -> Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rest = url.strip_prefix("http://").unwrap();
    let (address, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "{method} {base}{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 "), "{method} {path}: {answer}");
    let json = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(json).unwrap_or_else(|_| panic!("{method} {path}: {answer}"))
}

/// A schema has the same GUID wherever it is, and a record may name it by that.
#[test]
fn a_schema_is_found_by_its_guid() {
    let server = Server::start();
    let url = url(server.address);
    let (asking, guid) = run(async {
        let body = json!({"schema": record("Order", &[("amount", "int")])});
        let answer = post(&url, "/subjects/orders-value/versions", &body).await;
        let digits = answer["guid"].as_str().unwrap().replace('-', "");
        let guid = Guid(u128::from_str_radix(&digits, 16).unwrap().to_be_bytes());
        let asking = client(url.clone());
        let found = asking.by_guid(guid).await.unwrap();
        assert!(found.text.contains("Order"), "{}", found.text);
        let nobody = asking.by_guid(Guid([7; 16])).await;
        refused(nobody, Disposition::Reject, "unknown_schema");
        // A registry that has no such path says nothing of the record.
        let elsewhere = client(format!("{url}/nowhere"));
        let why = refused(elsewhere.by_guid(guid).await, Disposition::Stop, "no_guids");
        assert!(why.contains("ids before their records"), "{why}");
        (asking, guid)
    });
    drop(server);
    let found = run(asking.by_guid(guid)).expect("what is known stays known");
    assert!(found.text.contains("Order"), "{}", found.text);
}

#[test]
fn the_embedded_registry_serves_it() {
    let server = Server::start();
    run(suite(&url(server.address)));
}

#[test]
fn a_real_registry_serves_it() {
    let Some(registry) = services::registry() else { return };
    run(suite(&registry.url()));
}

/// A registry with one schema, behind a proxy that counts: one connection is one request.
fn behind_a_proxy() -> (Server, Proxy, u32) {
    let registry = Registry::in_memory();
    let new = millstream_registry::NewSchema::avro(record("R", &[("a", "int")]));
    let id = registry.register("r-value", &new, false).unwrap().id;
    let server = Server::with(registry);
    let proxy = Proxy::start(server.address, 1).unwrap();
    (server, proxy, id)
}

#[test]
fn an_id_is_fetched_once_whoever_asks() {
    let (_server, proxy, id) = behind_a_proxy();
    let client = client(url(proxy.address()));
    run(async {
        proxy.set(Direction::ToClient, Fault::Hold);
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.by_id(id).await.unwrap().id })
            })
            .collect();
        // The one who began goes away; the others have what they asked for.
        while proxy.connections() == 0 {
            tokio::task::yield_now().await;
        }
        asking[0].abort();
        proxy.heal();
        for (at, task) in asking.into_iter().enumerate() {
            match task.await {
                Ok(got) => assert_eq!(got, id),
                Err(error) => assert!(at == 0 && error.is_cancelled(), "{error}"),
            }
        }
        client.by_id(id).await.unwrap();
    });
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn an_unknown_id_is_not_asked_for_row_by_row() {
    let (_server, proxy, _) = behind_a_proxy();
    let client = client(url(proxy.address()));
    run(async {
        for _ in 0..20 {
            refused(client.by_id(99).await, Disposition::Reject, "unknown_schema");
        }
    });
    // Twice, for a replica that is behind.
    assert_eq!(proxy.connections(), 2);
}

#[test]
fn known_ids_go_on_while_it_is_down_and_others_wait() {
    let (server, proxy, id) = behind_a_proxy();
    let client = client(url(proxy.address()));
    run(async {
        let known = client.by_id(id).await.unwrap();
        let register = record("R", &[("a", "int")]);
        let registered = client.register("r-value", SchemaKind::Avro, &register).await.unwrap();
        proxy.refuse(true);
        assert!(Arc::ptr_eq(&client.by_id(id).await.unwrap(), &known));
        let again = client.register("r-value", SchemaKind::Avro, &register).await.unwrap();
        assert_eq!(again, registered);
        let down = "registry_unavailable";
        let why = refused(client.by_id(2).await, Disposition::Retry, down);
        assert!(why.contains(&proxy.address().to_string()), "{why}");
        refused(client.latest("r-value").await, Disposition::Retry, down);
        let other = client.register("s-value", SchemaKind::Avro, &register).await;
        refused(other, Disposition::Retry, down);
        // Nobody took "cannot be asked" for "is not there".
        let body = json!({"schema": record("S", &[("b", "int")])});
        let answer = post(&url(server.address), "/subjects/s-value/versions", &body).await;
        assert_eq!(answer["id"], 2);
        proxy.heal();
        assert_eq!(client.by_id(2).await.unwrap().id, 2);
    });
}

#[test]
fn an_answer_that_breaks_off_or_never_comes_is_asked_for_again() {
    for fault in [Fault::CutAfter(60), Fault::ResetAfter(60), Fault::BlackHole] {
        let (_server, proxy, id) = behind_a_proxy();
        let mut options = options(url(proxy.address()));
        options.timeout = Duration::from_millis(200);
        let client = Client::new(options).unwrap();
        proxy.set(Direction::ToClient, fault);
        run(async {
            let why = client.by_id(id).await;
            refused(why, Disposition::Retry, "registry_unavailable");
            assert_eq!(proxy.connections(), 2, "{fault:?}: each question is asked twice here");
            proxy.heal();
            assert_eq!(client.by_id(id).await.unwrap().id, id);
        });
    }
}

#[test]
fn the_next_address_is_tried() {
    let (_server, proxy, id) = behind_a_proxy();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = vec![url(gone), url(proxy.address())];
    let client = Client::new(Options { urls, ..options(String::new()) }).unwrap();
    run(async {
        assert_eq!(client.by_id(id).await.unwrap().id, id);
    });
}

/// A server that gives every request the same answer.
fn answers(status: StatusCode, body: &'static str) -> Server {
    Server::serve(axum::Router::new().fallback(async move || (status, body).into_response()))
}

#[test]
fn what_is_no_registry_kills_no_row() {
    let unknown = r#"{"error_code":40403,"message":"Schema 1 not found"}"#;
    let cases = [
        (StatusCode::NOT_FOUND, unknown, Disposition::Reject, "unknown_schema"),
        (StatusCode::NOT_FOUND, "<html>404</html>", Disposition::Stop, "registry_refused"),
        (StatusCode::NOT_FOUND, r#"{"error_code":404}"#, Disposition::Stop, "registry_refused"),
        (StatusCode::OK, "<html>welcome</html>", Disposition::Retry, "registry_unavailable"),
        (StatusCode::OK, "{}", Disposition::Retry, "registry_unavailable"),
        (StatusCode::UNAUTHORIZED, "", Disposition::Stop, "registry_not_allowed"),
        (StatusCode::FORBIDDEN, "{}", Disposition::Stop, "registry_not_allowed"),
        (StatusCode::TOO_MANY_REQUESTS, "", Disposition::Retry, "registry_unavailable"),
        (StatusCode::BAD_GATEWAY, unknown, Disposition::Retry, "registry_unavailable"),
        (StatusCode::FOUND, "", Disposition::Stop, "registry_refused"),
        (
            StatusCode::OK,
            r#"{"schema":"x","schemaType":"XML"}"#,
            Disposition::Stop,
            "registry_refused",
        ),
    ];
    for (status, body, disposition, kind) in cases {
        let server = answers(status, body);
        let got = run(async { client(url(server.address)).by_id(1).await });
        let why = refused(got, disposition, kind);
        assert!(why.contains("schema registry") || kind == "registry_refused", "{why}");
    }
}

#[test]
fn references_in_a_circle_end() {
    let body = r#"{"id":1,"schema":"x","references":[{"name":"x","subject":"x","version":1}]}"#;
    let server = answers(StatusCode::OK, body);
    let schema: Arc<RegisteredSchema> =
        run(async { client(url(server.address)).by_id(1).await.unwrap() });
    assert_eq!(schema.references.len(), 1);
}

/// An embedded registry that answers only whoever sends this header.
fn guarded(authorization: &'static str) -> (Server, u32) {
    let registry = Registry::in_memory();
    let new = millstream_registry::NewSchema::avro(record("R", &[("a", "int")]));
    let id = registry.register("r-value", &new, false).unwrap().id;
    type Next = axum::middleware::Next;
    let check = move |headers: HeaderMap, request, next: Next| async move {
        match headers.get(header::AUTHORIZATION).is_some_and(|sent| sent == authorization) {
            true => next.run(request).await,
            false => StatusCode::UNAUTHORIZED.into_response(),
        }
    };
    let app = router(registry).layer(axum::middleware::from_fn(check));
    (Server::serve(app), id)
}

#[test]
fn it_says_who_it_is() {
    // "alice:s3cret" and "t0ken", as RFC 7617 and RFC 6750 write them.
    let (basic, id) = guarded("Basic YWxpY2U6czNjcmV0");
    let (bearer, _) = guarded("Bearer t0ken");
    let auth = |auth, server: &Server| {
        Client::new(Options { auth, ..options(url(server.address)) }).unwrap()
    };
    run(async {
        let user = |password: &str| Auth::Basic {
            user: "alice".into(),
            password: Credential::given(password),
        };
        assert_eq!(auth(user("s3cret"), &basic).by_id(id).await.unwrap().id, id);
        let why = auth(user("wrong"), &basic).by_id(id).await;
        let why = refused(why, Disposition::Stop, "registry_not_allowed");
        assert!(why.contains("password") && !why.contains("wrong"), "{why}");
        let token = Auth::Bearer { token: Credential::given("t0ken") };
        assert_eq!(auth(token, &bearer).by_id(id).await.unwrap().id, id);
        let inside = format!("http://alice:s3%63ret@{}", basic.address);
        assert_eq!(client(inside).by_id(id).await.unwrap().id, id);
        let wrong = client(format!("http://alice:hidden@{}", basic.address)).by_id(id).await;
        assert!(!wrong.unwrap_err().chain().contains("hidden"));
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let token = || Auth::Bearer { token: Credential::File(file.clone()) };
    let none = Client::new(Options { auth: token(), ..options(url(bearer.address)) });
    let why = none.err().unwrap().chain();
    assert!(why.contains("the token file") && why.contains("cannot be read"), "{why}");
    std::fs::write(&file, "old\n").unwrap();
    let client = auth(token(), &bearer);
    run(async {
        let why = client.by_id(id).await;
        refused(why, Disposition::Stop, "registry_not_allowed");
        std::fs::write(&file, "t0ken\n").unwrap();
        assert_eq!(client.by_id(id).await.unwrap().id, id);
    });
    let token = Auth::Bearer { token: Credential::given("canary") };
    assert!(!format!("{token:?}").contains("canary"));
}

#[test]
fn an_address_that_is_none_is_said_without_its_password() {
    for wrong in ["alice:secret@host", "ftp://alice:secret@host", "http://", "kafka"] {
        let why = Client::new(Options::new(wrong)).err().expect("no address").chain();
        assert!(why.contains("http://HOST:PORT") && !why.contains("secret"), "{why}");
    }
    let none = Options { urls: vec![], ..Options::new("") };
    assert!(Client::new(none).err().expect("no address").chain().contains("has no address"));
}

#[test]
fn tls_trusts_whom_it_is_told_to_and_shows_its_certificate() {
    let Some(registry) = services::registry() else { return };
    let server = Server::start();
    run(async {
        let ask = async |ca: Option<std::path::PathBuf>| {
            let tls = TlsOptions { ca, ..TlsOptions::default() };
            let client = Client::new(Options { tls, ..options(registry.tls_url()) }).unwrap();
            client.latest(&services::unique("nothing")).await.map(|found| found.is_none())
        };
        assert!(ask(Some(registry.ca())).await.unwrap());
        let down = "registry_unavailable";
        let why = refused(ask(None).await, Disposition::Retry, down);
        assert!(why.contains("certificate"), "{why}");
        let nowhere = Some("/nonexistent/ca.pem".into());
        let why = refused(ask(nowhere).await, Disposition::Retry, down);
        assert!(why.contains("/nonexistent/ca.pem"), "{why}");
        mutual(&registry.files(), server.address).await;
    });
}

/// A TLS front that wants a client certificate, before an embedded registry.
async fn mutual(files: &services::Files, upstream: SocketAddr) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio_rustls::rustls;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&files.client_cert).unwrap()],
            PrivateKeyDer::from_pem_file(&files.client_key).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that is not let in is what is tested.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut plain = tokio::net::TcpStream::connect(upstream).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
        }
    });
    let ask = async |certificate: Option<(&std::path::PathBuf, &std::path::PathBuf)>| {
        let (certificate, key) = certificate.map(|(cert, key)| (cert.clone(), key.clone())).unzip();
        let tls = TlsOptions { ca: Some(files.ca.clone()), certificate, key };
        let url = format!("https://localhost:{}", address.port());
        let client = Client::new(Options { tls, ..options(url) }).unwrap();
        client.latest("nothing").await.map(|found| found.is_none())
    };
    assert!(ask(Some((&files.client_cert, &files.client_key))).await.unwrap());
    let stranger = ask(Some((&files.stranger_cert, &files.stranger_key))).await;
    refused(stranger, Disposition::Retry, "registry_unavailable");
    refused(ask(None).await, Disposition::Retry, "registry_unavailable");
}
