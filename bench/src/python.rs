//! The peers in Python: a virtual environment under `target/python`, made when it is first needed,
//! and the scripts in `bench/peers`.

use crate::generate::{SEED, write_records, write_sites};
use crate::job::{Measured, bench_dir, measured_by};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the Python peers read: they get fewer records, their cost is a message's.
pub struct Peers {
    python: PathBuf,
    scripts: PathBuf,
    schema: PathBuf,
    records: PathBuf,
    sites: PathBuf,
}

impl Peers {
    pub fn prepare(messages: u64) -> Result<Peers> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scripts = home.join("peers");
        let python =
            environment(&scripts, "requirements.txt", "fastavro, orjson, confluent_kafka")?;
        let data = bench_dir().join("data");
        std::fs::create_dir_all(&data)?;
        let records = data.join(format!("navigation-{messages}.bin"));
        write_records(&mut BufWriter::new(File::create(&records)?), SEED, messages)?;
        let sites = data.join("sites.csv");
        write_sites(&mut BufWriter::new(File::create(&sites)?))?;
        Ok(Peers { python, scripts, schema: home.join("navigation.avsc"), records, sites })
    }

    /// Those of the stores read no files of records.
    pub fn for_stores() -> Result<Peers> {
        let mut peers = Peers::prepare(0)?;
        let modules = "cassandra.cluster, psycopg, pymongo";
        peers.python = environment(&peers.scripts, "requirements-stores.txt", modules)?;
        Ok(peers)
    }

    /// Bare fastavro.
    pub fn decode(&self) -> Result<Measured> {
        let mut command = self.script("decode.py");
        command.args([&self.schema, &self.records]);
        measured_by(command)
    }

    /// The main job from file to file; `output` is `avro` or `json`.
    pub fn main_job(&self, output: &str) -> Result<Measured> {
        let out = self.records.with_extension(format!("out.{output}"));
        let mut command = self.script("main_job.py");
        command.args([&self.schema, &self.sites, &self.records, &out]).arg(output);
        let measured = measured_by(command);
        let _ = std::fs::remove_file(&out);
        measured
    }

    /// The main job from Kafka to Kafka.
    pub fn kafka_main_job(
        &self,
        brokers: &str,
        from: &str,
        to: &str,
        messages: u64,
    ) -> Result<Measured> {
        let mut command = self.script("kafka_main_job.py");
        command.arg(brokers).args([&self.schema, &self.sites]);
        command.args([from, to]).arg(messages.to_string());
        measured_by(command)
    }

    /// A peer that talks to a store.
    pub fn store(&self, script: &str, arguments: &[String]) -> Result<Measured> {
        let mut command = self.script(script);
        command.args(arguments);
        measured_by(command)
    }

    pub fn schema(&self) -> &Path {
        &self.schema
    }

    pub fn records(&self) -> &Path {
        &self.records
    }

    pub fn sites(&self) -> &Path {
        &self.sites
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(self.scripts.join(name));
        command
    }
}

/// The interpreter of an environment that has what a file of requirements names, from which `modules`
/// come.
fn environment(scripts: &Path, requirements: &str, modules: &str) -> Result<PathBuf> {
    let home = bench_dir().with_file_name("python");
    let python = home.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    }
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).output()?;
    if !has.status.success() {
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "-r"]);
        run(install.arg(scripts.join(requirements)))?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
