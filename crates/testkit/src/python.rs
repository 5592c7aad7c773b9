//! A Python with Confluent's clients, for tests that run them unchanged.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 8] = [
    "confluent-kafka[schemaregistry]>=2.12",
    "fastavro",
    "httpx",
    "authlib",
    "cachetools",
    "attrs",
    "protobuf",
    "googleapis-common-protos",
];
const IMPORT: &str =
    "import confluent_kafka.schema_registry.avro, confluent_kafka.schema_registry.protobuf";

/// Runs a script with these arguments; it says `all well` at its end. Without a Python the test is
/// skipped with a printed reason, where `CI` is set that is a failure.
///
/// `tmp` is the test's `CARGO_TARGET_TMPDIR`: the environment is made once for the workspace.
pub fn run_script(tmp: &str, script: &Path, args: &[&str]) {
    let python = match interpreter(tmp) {
        Ok(python) => python,
        Err(why) if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("the Python client is due in CI: {why}")
        }
        Err(why) => {
            eprintln!("skipped, there is no Python client: {why}");
            return;
        }
    };
    let run = Command::new(python).arg(script).args(args).output();
    let run = run.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("all well"), "{out}\n{err}");
}

/// The interpreter of an environment that has what a file of requirements names, made once for the
/// workspace. None where there is no Python; where `CI` is set that is a failure.
///
/// `tmp` is the test's `CARGO_TARGET_TMPDIR`, `name` that of the environment.
pub fn with_requirements(tmp: &str, name: &str, requirements: &Path) -> Option<PathBuf> {
    match environment(tmp, name, requirements) {
        Ok(python) => Some(python),
        Err(why) if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("Python is due in CI: {why}")
        }
        Err(why) => {
            eprintln!("skipped, there is no Python with {}: {why}", requirements.display());
            None
        }
    }
}

fn environment(tmp: &str, name: &str, requirements: &Path) -> Result<PathBuf, String> {
    let said = |error: std::io::Error| error.to_string();
    let target = Path::new(tmp).parent().unwrap_or(Path::new("."));
    let home = target.join(name);
    fs::create_dir_all(&home).map_err(said)?;
    let (python, ready) = (home.join("bin/python"), home.join("ready"));
    let lock = File::create(home.join("lock")).map_err(said)?;
    lock.lock().map_err(said)?;
    let wanted = fs::read_to_string(requirements).map_err(said)?;
    // The Makefile writes it too.
    if fs::read_to_string(&ready).is_ok_and(|has| has == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    let mut install = Command::new(&python);
    run(install.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
    fs::write(&ready, wanted).map_err(said)?;
    Ok(python)
}

fn interpreter(tmp: &str) -> Result<PathBuf, String> {
    let target = Path::new(tmp).parent().unwrap_or(Path::new("."));
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
    Command::new(python).args(["-c", IMPORT]).output().is_ok_and(|run| run.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let run = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match run.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&run.stderr))),
    }
}
