//! Names, passwords and certificates.

use crate::sink::{self, rows};
use crate::support::{longs, options, world};
use millstream_core::Credential;
use millstream_cql::{Cluster, CqlTable, TlsOptions};
use millstream_testkit::proxy::Proxy;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
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
    let show = |certificate: &Path, key: &Path| {
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

/// The driver's connections and those of the sink.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_changes_is_used_without_a_restart() {
    let Some(mut world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, n bigint)").await;
    let files = world.cassandra.files();
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    let show = |certificate: &Path, key: &Path| {
        fs::copy(certificate, own("client.pem")).unwrap();
        fs::copy(key, own("client.key")).unwrap();
    };
    show(&files.client_cert, &files.client_key);
    let proxy = Proxy::start(world.cassandra.nodes()[0].parse().unwrap(), 3).unwrap();
    let mut secure = options(&world.cassandra);
    secure.nodes = vec![proxy.address().to_string()];
    secure.tls = Some(TlsOptions {
        ca: Some(files.ca.clone()),
        certificate: Some(own("client.pem")),
        key: Some(own("client.key")),
    });
    world.cluster = connect(secure).await.unwrap();
    world.cluster.refresh().await.unwrap();
    let batch = rows(vec![("id", longs(&[Some(1)])), ("n", longs(&[Some(1)]))]);
    let mut sink = sink::options(&world, "t");
    sink.retries = 0;
    sink.execution.timeout = Duration::from_secs(2);
    let table = CqlTable::open(world.cluster.clone(), sink, &batch.rows.schema()).await.unwrap();
    // Stored, and by which way.
    let write = async || {
        let before = table.stored_directly();
        let stored = table.sink().write(&batch).await;
        stored.map(|_| table.stored_directly() > before)
    };
    let goes_directly = async || {
        for _ in 0..150 {
            if write().await.is_ok_and(|directly| directly) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no connection of the sink's own came to be");
    };
    goes_directly().await;

    show(&files.stranger_cert, &files.stranger_key);
    assert_eq!(write().await.ok(), Some(true), "a connection that there is goes on");
    proxy.reset();
    for _ in 0..5 {
        assert!(write().await.is_err(), "a stranger's certificate is not let in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    show(&files.client_cert, &files.client_key);
    goes_directly().await;
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
