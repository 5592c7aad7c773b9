//! Names, passwords and certificates.

use crate::support::{options, world};
use millstream_core::Credential;
use millstream_cql::{Cluster, TlsOptions};
use std::fs;
use std::sync::Arc;
use tokio::runtime::Handle;

async fn connect(options: millstream_cql::ClusterOptions) -> Result<Arc<Cluster>, String> {
    Cluster::connect(options, &Handle::current()).await.map_err(|error| error.chain())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_not_shown() {
    let Some(world) = world().await else { return };
    let mut wrong = options(&world.cassandra);
    wrong.user = Some(("alice".into(), Credential::given("canary")));
    assert!(!format!("{wrong:?}").contains("canary"));
    let error = connect(wrong).await.err().unwrap();
    assert!(error.contains("cannot be reached") && !error.contains("canary"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_read_again_when_its_file_changes() {
    let Some(world) = world().await else { return };
    let files = world.cassandra.files();
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    let show = |certificate: &std::path::Path, key: &std::path::Path| {
        fs::copy(certificate, own("client.pem")).unwrap();
        fs::copy(key, own("client.key")).unwrap();
    };
    show(&files.stranger_cert, &files.stranger_key);
    let mut secure = options(&world.cassandra);
    secure.tls = Some(TlsOptions {
        ca: Some(files.ca.clone()),
        certificate: Some(own("client.pem")),
        key: Some(own("client.key")),
    });
    assert!(connect(secure.clone()).await.is_err(), "a stranger's certificate");
    show(&files.client_cert, &files.client_key);
    connect(secure.clone()).await.unwrap();
    secure.tls = Some(TlsOptions { ca: Some(files.stranger_cert), ..secure.tls.unwrap() });
    assert!(connect(secure).await.is_err(), "another authority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_read_from_its_file_for_each_connection() {
    let Some(world) = world().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let files = world.cassandra.files();
    let mut rotated = options(&world.cassandra);
    rotated.user = Some((files.user, Credential::File(file.clone())));
    let error = connect(rotated.clone()).await.err().unwrap();
    assert!(error.contains("cannot be read"), "{error}");
    fs::write(&file, "canary\n").unwrap();
    let error = connect(rotated.clone()).await.err().unwrap();
    assert!(error.contains("cannot be reached") && !error.contains("canary"), "{error}");
    fs::write(&file, files.password + "\n").unwrap();
    connect(rotated).await.unwrap();
}
