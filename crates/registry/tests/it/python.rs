//! Confluent's Python client, unchanged, against the registry.

use crate::server::Server;
use millstream_testkit::python::run_script;
use std::path::Path;

#[test]
fn the_client_of_confluent_works_unchanged() {
    let server = Server::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
    let address = format!("http://{}", server.address);
    run_script(env!("CARGO_TARGET_TMPDIR"), &script, &[&address]);
}
