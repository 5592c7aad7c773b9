//! Names, passwords and certificates.

use crate::support::{options, world};
use millstream_core::Credential;
use millstream_mongo::{Cluster, ClusterOptions, TlsOptions};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

async fn connect(options: ClusterOptions) -> Result<Arc<Cluster>, String> {
    Cluster::connect(options, &Handle::current()).await.map_err(|error| error.chain())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_not_shown() {
    let Some(world) = world().await else { return };
    let mut wrong = options(world.mongo.address());
    wrong.user = Some(("alice".into(), Credential::given("canary")));
    assert!(!format!("{wrong:?}").contains("canary"));
    let error = connect(wrong).await.err().unwrap_or_default();
    assert!(!error.contains("canary"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_checked_and_changed_files_are_read() {
    let Some(world) = world().await else { return };
    let files = world.mongo.files();
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    // A file that is copied within a tick of the clock would look unchanged.
    let mut day = 0;
    let mut show = |from: &Path, name: &str| {
        fs::copy(from, own(name)).unwrap();
        day += 1;
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * day);
        fs::File::options().write(true).open(own(name)).unwrap().set_modified(at).unwrap();
    };
    show(&files.stranger_cert, "ca.pem");
    show(&files.client_cert, "client.pem");
    show(&files.client_key, "client.key");
    let mut secure = options(world.mongo.tls_address());
    secure.connect_timeout = Duration::from_millis(1500);
    secure.tls = Some(TlsOptions {
        ca: Some(own("ca.pem")),
        certificate: Some(own("client.pem")),
        key: Some(own("client.key")),
    });
    let error = connect(secure.clone()).await.err().expect("another authority");
    assert!(error.contains("cannot be reached"), "{error}");
    show(&files.ca, "ca.pem");
    let cluster = connect(secure.clone()).await.unwrap();

    // What works goes on while a file is just being replaced, and the new one counts for what comes.
    let seconds = Duration::from_secs(5);
    let read = || {
        let from = millstream_mongo::ReadFrom::Primary;
        millstream_mongo::sample(&cluster, "none", "none", 1, from, seconds)
    };
    let told = |error: millstream_core::Error| error.chain();
    assert!(read().await.map_err(told).unwrap_err().contains("has no documents"));
    fs::write(own("ca.pem"), "half a file").unwrap();
    assert!(read().await.map_err(told).unwrap_err().contains("has no documents"));
    show(&files.stranger_cert, "ca.pem");
    let error = read().await.map_err(told).unwrap_err();
    assert!(!error.contains("has no documents"), "{error}");
    show(&files.ca, "ca.pem");
    assert!(read().await.map_err(told).unwrap_err().contains("has no documents"));

    show(&files.stranger_key, "client.key");
    let error = connect(secure).await.err().expect("a key of another certificate");
    assert!(error.contains("client.key"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_told() {
    let nobody = "127.0.0.1:1".parse().unwrap();
    let mut options = options(nobody);
    options.connect_timeout = Duration::from_millis(500);
    let error = connect(options).await.err().unwrap();
    assert!(error.contains("MongoDB at 127.0.0.1:1 cannot be reached"), "{error}");
}
