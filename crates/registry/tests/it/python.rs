//! Confluent's Python client, unchanged, against the registry.

use crate::server::Server;
use millstream_registry::{Registry, Version};
use millstream_testkit::python::run_script;
use serde_json::Value;
use std::path::Path;

#[test]
fn the_client_of_confluent_works_unchanged() {
    let server = Server::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
    let address = format!("http://{}", server.address);
    run_script(env!("CARGO_TARGET_TMPDIR"), &script, &[&address]);
}

#[test]
fn a_serializer_puts_the_guid_into_a_header() {
    let registry = Registry::in_memory();
    let server = Server::with(registry.clone());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/headers.py");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("record.json");
    let address = format!("http://{}", server.address);
    run_script(env!("CARGO_TARGET_TMPDIR"), &script, &[&address, out.to_str().unwrap()]);
    // Nothing is written where there is no Python client.
    let Ok(text) = std::fs::read_to_string(out) else { return };
    let out: Value = serde_json::from_str(&text).unwrap();
    // 7 and `seven` as Avro writes them, with nothing before.
    assert_eq!(out["record"], "0e0a736576656e");
    let found = registry.by_version("orders-value", Version::Latest, false).unwrap();
    let guid: String = found.schema.guid.0.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(out["header"], format!("01{guid}"));
}
