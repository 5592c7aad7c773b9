//! Confluent's Python client, unchanged, against the registry.

use crate::server::Server;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 6] =
    ["confluent-kafka[schemaregistry]>=2.8", "fastavro", "httpx", "authlib", "cachetools", "attrs"];

#[test]
fn the_client_of_confluent_works_unchanged() {
    let python = match client() {
        Ok(python) => python,
        Err(why) if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("the Python client is due in CI: {why}")
        }
        Err(why) => {
            eprintln!("skipped, there is no Python client: {why}");
            return;
        }
    };
    let server = Server::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
    let run = Command::new(python)
        .arg(script)
        .arg(format!("http://{}", server.address))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("all well"), "{out}\n{err}");
}

/// The interpreter of an environment that has the client; made once for the workspace.
fn client() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp is in target");
    let home = target.join("python");
    fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    let python = home.join("bin/python");
    let lock = File::create(home.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if ready(&python) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    match ready(&python) {
        true => Ok(python),
        false => Err("it does not import after its installation".into()),
    }
}

fn ready(python: &Path) -> bool {
    let import = "import confluent_kafka.schema_registry.avro";
    Command::new(python).args(["-c", import]).output().is_ok_and(|run| run.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let run = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match run.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&run.stderr))),
    }
}
