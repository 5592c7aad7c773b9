//! One measured piece of work, in a process of its own: its CPU time counts every thread it had,
//! and its peak memory is nobody else's.

use crate::decode::{self, Columns};
use crate::kafka::{self, Work};
use crate::kafka_latency;
use crate::pipeline::{self, Output};
use crate::{log, store, stores};
use anyhow::{Context, Result, bail, ensure};
use millstream_log::Codec;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The work that a child process can be asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    Decode {
        columns: Columns,
        messages: u64,
    },
    OwnDecode {
        columns: Columns,
        messages: u64,
    },
    Pipeline {
        output: Output,
        messages: u64,
        codec: Codec,
    },
    LogAppend {
        messages: u64,
        codec: Codec,
    },
    RawWrites {
        messages: u64,
        bytes: u64,
        syncs: u64,
    },
    FjallInserts {
        messages: u64,
        bytes_each: usize,
    },
    /// Reads what `BENCH_BROKERS`, `BENCH_SOURCE`, `BENCH_TARGET` and `BENCH_GROUP` say.
    Kafka {
        work: Work,
        messages: u64,
    },
    /// The same while the producer, a command, fills the source at a steady rate.
    KafkaPaced {
        messages: u64,
        producer: Vec<String>,
    },
    KafkaProduce {
        brokers: String,
        topic: String,
        messages: u64,
    },
    /// Reads what `BENCH_CQL` and the others say.
    Store {
        work: stores::Work,
        count: u64,
    },
}

/// What a piece of work cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub messages: u64,
    pub bytes: u64,
    pub cpu_seconds: f64,
    pub wall_seconds: f64,
    pub peak_rss_mb: f64,
    /// Counts that a row's peer needs, such as `fsyncs`.
    #[serde(default)]
    pub extra: BTreeMap<String, f64>,
}

/// CPU and wall time of this process between `resume` and `pause`.
pub struct Meter {
    running: Option<(Duration, Instant)>,
    cpu: Duration,
    wall: Duration,
}

/// A directory under `target/bench` that goes when this is dropped.
pub struct Scratch(PathBuf);

impl Job {
    /// Does the work in a child process.
    pub fn measure(&self) -> Result<Measured> {
        self.measure_in(&[], &[])
    }

    /// The same behind a command such as `taskset`, in an environment.
    pub fn measure_in(&self, behind: &[&str], env: &[(&str, &str)]) -> Result<Measured> {
        let exe = std::env::current_exe().context("finding this binary")?;
        let mut child = match behind {
            [] => Command::new(exe),
            [program, arguments @ ..] => {
                let mut child = Command::new(program);
                child.args(arguments).arg(exe);
                child
            }
        };
        child.arg("job").arg(serde_json::to_string(self)?).envs(env.iter().copied());
        measured_by(child).with_context(|| format!("measuring {self:?}"))
    }

    /// Does the work in this process.
    pub fn run(self) -> Result<Measured> {
        match self {
            Job::Decode { columns, messages } => decode::bare(columns, messages),
            Job::OwnDecode { columns, messages } => decode::own(columns, messages),
            Job::Pipeline { output, messages, codec } => {
                pipeline::main_job(output, messages, codec)
            }
            Job::LogAppend { messages, codec } => log::append(messages, codec),
            Job::RawWrites { messages, bytes, syncs } => store::raw_writes(messages, bytes, syncs),
            Job::FjallInserts { messages, bytes_each } => {
                store::fjall_inserts(messages, bytes_each)
            }
            Job::Kafka { work, messages } => kafka::run(work, messages),
            Job::KafkaPaced { messages, producer } => kafka_latency::paced(messages, &producer),
            Job::KafkaProduce { brokers, topic, messages } => {
                kafka::produce(&brokers, &topic, messages)
            }
            Job::Store { work, count } => stores::run(work, count),
        }
    }
}

/// Runs a command whose last line of output is a [`Measured`].
pub fn measured_by(mut command: Command) -> Result<Measured> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let Some(line) = text.lines().last() else { bail!("{command:?} said nothing") };
    serde_json::from_str(line).with_context(|| format!("reading `{line}`"))
}

impl Measured {
    pub fn cpu_us_per_message(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.messages.max(1) as f64
    }

    pub fn messages_per_second(&self) -> f64 {
        if self.wall_seconds == 0.0 { 0.0 } else { self.messages as f64 / self.wall_seconds }
    }
}

impl Meter {
    pub fn paused() -> Self {
        Self { running: None, cpu: Duration::ZERO, wall: Duration::ZERO }
    }

    pub fn resume(&mut self) {
        self.running = Some((process_cpu(), Instant::now()));
    }

    pub fn pause(&mut self) {
        if let Some((cpu, wall)) = self.running.take() {
            self.cpu += process_cpu().saturating_sub(cpu);
            self.wall += wall.elapsed();
        }
    }

    pub fn measured(self, name: &str, messages: u64, bytes: u64) -> Result<Measured> {
        Ok(Measured {
            name: name.to_owned(),
            messages,
            bytes,
            cpu_seconds: self.cpu.as_secs_f64(),
            wall_seconds: self.wall.as_secs_f64(),
            peak_rss_mb: status_mb("self", "VmHWM:")?,
            extra: BTreeMap::new(),
        })
    }
}

/// User and system time of all threads of this process, ended ones included.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A size in MiB from the status of a process: `VmHWM:` is the most that it had resident, `VmRSS:`
/// what it has now. `pid` may be `self`.
pub fn status_mb(pid: &str, what: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib =
        line.and_then(|line| line.trim().strip_suffix("kB")).with_context(|| what.to_owned())?;
    Ok(kib.trim().parse::<f64>()? / 1024.0)
}

/// The folder for results and scratch data.
pub fn bench_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    workspace.join("target/bench")
}

impl Scratch {
    pub fn new(name: &str) -> Result<Scratch> {
        let path = bench_dir().join(format!("scratch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Scratch(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over is under target/ and says which process it belonged to.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_meter_counts_nothing() {
        let mut meter = Meter::paused();
        let spin = || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(30) {}
        };
        spin();
        meter.resume();
        spin();
        meter.pause();
        let wall = meter.wall;
        spin();
        assert_eq!(meter.wall, wall);
        assert!(wall >= Duration::from_millis(30));
        assert!(meter.cpu > Duration::ZERO);
    }

    #[test]
    fn a_job_survives_its_command_line() {
        let job = Job::LogAppend { messages: 5, codec: Codec::Lz4 };
        let text = serde_json::to_string(&job).unwrap();
        let back: Job = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{back:?}"), format!("{job:?}"));
    }
}
