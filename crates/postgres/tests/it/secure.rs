//! Names, passwords and certificates.

use crate::support::{ask, longs, options, world};
use arrow_schema::DataType;
use millstream_core::Credential;
use millstream_postgres::{Server, ServerOptions, Table, TlsOptions};
use std::fs;
use tokio::runtime::Handle;

async fn connect(options: ServerOptions) -> Result<Table, String> {
    let server = Server::new(options, Handle::current());
    let table = Table::of(&server, Some("pg_catalog"), "pg_class").await;
    table.map_err(|error| error.chain())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_not_shown() {
    let Some(world) = world().await else { return };
    let mut wrong = options(&world.postgres);
    wrong.password = Some(Credential::given("canary"));
    assert!(!format!("{wrong:?}").contains("canary"));
    let told = connect(wrong).await.unwrap_err();
    assert!(told.contains("password authentication failed") && !told.contains("canary"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_read_from_its_file_for_each_connection() {
    let Some(world) = world().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "wrong\n").unwrap();
    let mut rotated = options(&world.postgres);
    rotated.password = Some(Credential::File(file.clone()));
    assert!(connect(rotated.clone()).await.is_err());
    fs::write(&file, format!("{}\n", world.postgres.files().password)).unwrap();
    connect(rotated).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_and_read_again() {
    let Some(world) = world().await else { return };
    let files = world.postgres.files();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::copy(&files.stranger_cert, &ca).unwrap();
    let mut secure = options(&world.postgres);
    secure.hosts = vec![secure.hosts[0].replace("127.0.0.1", "localhost")];
    secure.tls = Some(TlsOptions { ca: Some(ca.clone()), ..TlsOptions::default() });
    let told = connect(secure.clone()).await.unwrap_err();
    assert!(told.to_lowercase().contains("certificate"), "{told}");
    fs::copy(&files.ca, &ca).unwrap();
    connect(secure.clone()).await.unwrap();
    secure.tls = Some(TlsOptions {
        ca: Some(ca),
        certificate: Some(files.client_cert),
        key: Some(files.client_key),
    });
    connect(secure).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_changes_is_used_without_a_restart() {
    let Some(mut world) = world().await else { return };
    world.sql("CREATE TABLE S.t (id bigint PRIMARY KEY)").await;
    let files = world.postgres.files();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::copy(&files.ca, &ca).unwrap();
    let mut secure = options(&world.postgres);
    secure.hosts = vec![secure.hosts[0].replace("127.0.0.1", "localhost")];
    secure.application = world.schema.clone();
    secure.tls = Some(TlsOptions { ca: Some(ca.clone()), ..TlsOptions::default() });
    world.server = Server::new(secure, Handle::current());
    let lookup = world.lookup(world.looking("t"), &[("id", DataType::Int64)]).await.unwrap();
    let found = async || ask(&lookup, vec![("id", longs(&[Some(1)]))]).await.map(|f| f.ends);
    assert_eq!(found().await, Ok(vec![0]));
    fs::copy(&files.stranger_cert, &ca).unwrap();
    assert_eq!(found().await, Ok(vec![0]), "a connection that there is goes on");
    world.cut().await;
    for _ in 0..3 {
        found().await.unwrap_err();
    }
    fs::copy(&files.ca, &ca).unwrap();
    assert_eq!(found().await, Ok(vec![0]));
}
