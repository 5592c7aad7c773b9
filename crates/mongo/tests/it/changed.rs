//! Files of passwords and certificates that change while they are used, or cannot be used for a while.

use crate::scripted::{log_in, serve};
use crate::support::{ask, longs, lookup_options, open_lookup, options};
use arrow_schema::DataType;
use millstream_core::Credential;
use millstream_mongo::{Cluster, ClusterOptions, TlsOptions};
use millstream_testkit::logged::Lines;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tracing::Level;

/// Writes a file as if on that day.
fn put(path: &Path, content: &str, day: u64) {
    fs::write(path, content).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * day);
    fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

/// A server that lets alice in with `pencil`, and what she connects with.
fn alice() -> (ClusterOptions, PathBuf, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    put(&file, "pencil\n", 1);
    let mut with = options(serve(log_in("pencil")));
    with.user = Some(("alice".into(), Credential::File(file.clone())));
    (with, file, folder)
}

async fn connect(with: ClusterOptions) -> Result<Arc<Cluster>, String> {
    Cluster::connect(with, &Handle::current()).await.map_err(|error| error.chain())
}

async fn found(cluster: &Arc<Cluster>) -> Result<Vec<u32>, String> {
    let lookup = lookup_options("d", "c", &[("v", "string")]);
    let lookup = open_lookup(cluster, lookup, &[("_id", DataType::Int64)]).unwrap();
    ask(&lookup, vec![("_id", longs(&[Some(1)]))]).await.map(|found| found.ends)
}

#[tokio::test]
async fn a_password_is_read_again_when_its_file_changes() {
    let (with, file, _folder) = alice();
    let cluster = connect(with).await.unwrap();
    assert_eq!(found(&cluster).await, Ok(vec![1]));
    put(&file, "canary\n", 2);
    let error = found(&cluster).await.unwrap_err();
    assert!(!error.contains("canary"), "{error}");
    put(&file, "pencil\n", 3);
    assert_eq!(found(&cluster).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_password_that_is_refused_is_read_again_though_its_file_looks_the_same() {
    Lines::listen();
    let (with, file, _folder) = alice();
    let cluster = connect(with).await.unwrap();
    put(&file, "canary\n", 2);
    for _ in 0..3 {
        found(&cluster).await.unwrap_err();
    }
    assert_eq!(Lines::of(Level::INFO).len(), 1, "it was the same all the time");
    // As within one tick of the clock of files.
    put(&file, "pencil\n", 2);
    assert_eq!(found(&cluster).await, Ok(vec![1]));
    assert_eq!(Lines::of(Level::INFO).len(), 2);
    assert_eq!(found(&cluster).await, Ok(vec![1]));
    assert_eq!(Lines::of(Level::INFO).len(), 2);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_told_once_and_what_works_goes_on() {
    Lines::listen();
    let (with, file, folder) = alice();
    let cluster = connect(with.clone()).await.unwrap();
    fs::remove_file(&file).unwrap();
    for _ in 0..3 {
        assert_eq!(found(&cluster).await, Ok(vec![1]));
        let lines = Lines::of(Level::WARN);
        assert!(lines.len() == 1 && lines[0].starts_with("the password file changed"), "{lines:?}");
    }

    // Nobody starts with such a file.
    put(&file, "", 4);
    let error = connect(with.clone()).await.err().unwrap();
    assert!(error.contains("password") && error.contains("is empty"), "{error}");
    put(&file, "pencil\n", 5);
    let ca = Some(folder.path().join("ca.pem"));
    let error =
        connect(ClusterOptions { tls: Some(TlsOptions { ca, ..Default::default() }), ..with });
    let error = error.await.err().unwrap();
    assert!(error.contains("ca.pem"), "{error}");
}

#[tokio::test]
async fn a_refused_password_whose_file_is_gone_is_told_once_too() {
    Lines::listen();
    let (with, file, _folder) = alice();
    let cluster = connect(with).await.unwrap();
    put(&file, "canary\n", 2);
    found(&cluster).await.unwrap_err();
    fs::remove_file(&file).unwrap();
    for _ in 0..3 {
        found(&cluster).await.unwrap_err();
        assert_eq!(Lines::of(Level::WARN).len(), 1);
    }
    put(&file, "pencil\n", 2);
    assert_eq!(found(&cluster).await, Ok(vec![1]));
}
