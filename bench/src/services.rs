//! The real Kafka that the project's own starter runs, and its tools.

use crate::job::{Measured, bench_dir, measured_by};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The topics of the benchmarks have as many partitions as the reference user's.
const PARTITIONS: &str = "20";
/// The plugin that the starter uses too: later ones need more than every mirror has.
const COPY_JARS: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies";

pub struct Kafka {
    pub brokers: String,
    pub pid: u32,
}

impl Kafka {
    /// One broker, started if there is none.
    pub fn up() -> Result<Kafka> {
        let text = started("kafka")?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let brokers = value("KAFKA_BOOTSTRAP=").context("the starter names the brokers")?;
        let status = said(starter().arg("status"))?;
        let line = status.lines().find(|line| line.split_whitespace().next() == Some("kafka"));
        let pid = line.and_then(|line| {
            line.split(|c: char| !c.is_ascii_digit()).rfind(|word| !word.is_empty())
        });
        let pid = pid.context("the starter says the broker's pid")?.parse()?;
        Ok(Kafka { brokers: brokers.to_owned(), pid })
    }

    /// Makes a topic whose name nobody else has.
    pub fn topic(&self, name: &str) -> Result<String> {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis();
        let topic = format!("bench-{name}-{since}");
        create_topic(&self.brokers, &topic)?;
        Ok(topic)
    }

    /// What the pipeline files of the jobs read.
    pub fn environment(&self, source: &str, target: &str) -> [(&'static str, String); 4] {
        [
            ("BENCH_BROKERS", self.brokers.clone()),
            ("BENCH_SOURCE", source.into()),
            ("BENCH_TARGET", target.into()),
            ("BENCH_GROUP", format!("group-{target}")),
        ]
    }

    pub fn delete(&self, topic: &str) -> Result<()> {
        tool(&["topics", "--bootstrap-server", &self.brokers, "--delete", "--topic", topic])?;
        Ok(())
    }
}

/// What the starter says of a service, started if it does not run.
pub fn started(name: &str) -> Result<String> {
    said(starter().args(["up", name]))
}

/// The same of a Cassandra that gets so much memory.
pub fn started_with(name: &str, heap: &str) -> Result<String> {
    said(starter().args(["up", name]).env("MILLSTREAM_CASSANDRA_HEAP", heap))
}

/// Ends a service, if it runs, and forgets its data.
pub fn ended(name: &str) -> Result<()> {
    said(starter().args(["down", name])).map(drop)
}

pub fn create_topic(brokers: &str, topic: &str) -> Result<()> {
    let at = ["topics", "--bootstrap-server", brokers];
    let create = ["--create", "--topic", topic, "--partitions", PARTITIONS];
    tool(&[&at[..], &create].concat())?;
    Ok(())
}

/// What one of Kafka's own tools printed.
pub fn tool(arguments: &[&str]) -> Result<String> {
    said(starter().arg("kafka").args(arguments))
}

/// librdkafka by itself, from a workspace of its own.
pub fn rdkafka(arguments: &[&str]) -> Result<Measured> {
    measured_by(rdkafka_command(arguments)?)
}

pub fn rdkafka_command(arguments: &[&str]) -> Result<Command> {
    let home = peers().join("clients");
    let target = bench_dir().with_file_name("clients");
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--quiet", "--manifest-path"]).arg(home.join("Cargo.toml"));
    run(build.env("CARGO_TARGET_DIR", &target))?;
    let mut command = Command::new(target.join("release/bench-clients"));
    command.args(arguments);
    Ok(command)
}

/// Kafka Streams, its jars from the machine's own Maven.
pub fn streams(arguments: &[&str]) -> Result<Measured> {
    let home = bench_dir().with_file_name("streams");
    let (jars, classes) = (home.join("jars"), home.join("classes"));
    if !jars.exists() {
        let mut fetch = Command::new("mvn");
        fetch.args(["-q", "-f"]).arg(peers().join("streams.pom.xml")).arg(COPY_JARS);
        run(fetch.arg(format!("-DoutputDirectory={}", jars.display())))?;
    }
    let class_path = format!("{}/*:{}", jars.display(), classes.display());
    let mut compile = Command::new("javac");
    compile.args(["-cp", &class_path, "-d"]).arg(&classes);
    run(compile.arg(peers().join("StreamsMainJob.java")))?;
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-cp", &class_path, "StreamsMainJob"]).args(arguments);
    measured_by(command)
}

fn starter() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/services"))
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
