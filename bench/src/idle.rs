//! The real binary on a data directory with a full log and nothing to do: how soon it is ready, and
//! how much memory it keeps.

use crate::job::{Measured, Scratch, status_mb};
use crate::pipeline::prepare;
use anyhow::{Context, Result, bail, ensure};
use millstream_connectors::{Home, HomeOptions};
use millstream_log::Codec;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Of a record in the log, about; it need not be exact.
const RECORD_BYTES: u64 = 320;
/// How long it is left alone before its memory is read.
const REST: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is started; the middle one counts.
const STARTS: usize = 5;

/// A child that is killed when this is dropped.
struct Running(Child);

/// Fills a topic with about `log_bytes`, lets the main job work it off, ends the process in order,
/// and starts it again. `ready_ms` counts from the start of the process to the first 200 of
/// `/health/ready`; `ready_after_kill_ms` is the same after SIGKILL.
pub fn measure(log_bytes: u64) -> Result<Measured> {
    let scratch = Scratch::new("idle")?;
    let messages = log_bytes / RECORD_BYTES;
    let home = Home::open(scratch.path(), HomeOptions::default())?;
    let bytes = prepare(&home, messages, Codec::None)?;
    home.log.close();
    drop(home);
    let worked = command(scratch.path())?.args(["--listen", "off", "--exit-when-idle"]).status()?;
    ensure!(worked.success(), "the main job ended with {worked}");

    let (mut after_end, mut after_kill) = (Vec::new(), Vec::new());
    let mut idle_rss_mb: f64 = 0.0;
    for round in 0..STARTS {
        let (running, ready_ms) = start(scratch.path())?;
        after_end.push(ready_ms);
        if round == 0 {
            std::thread::sleep(REST);
            idle_rss_mb = status_mb(&running.0.id().to_string(), "VmRSS:")?;
        }
        drop(running);
        let (running, ready_ms) = start(scratch.path())?;
        after_kill.push(ready_ms);
        running.end()?;
    }
    let extra = BTreeMap::from([
        ("ready_ms".to_owned(), middle(after_end)),
        ("ready_after_kill_ms".to_owned(), middle(after_kill)),
        ("idle_rss_mb".to_owned(), idle_rss_mb),
    ]);
    Ok(Measured {
        name: "idle".into(),
        messages,
        bytes,
        cpu_seconds: 0.0,
        wall_seconds: 0.0,
        peak_rss_mb: idle_rss_mb,
        extra,
    })
}

/// Starts it and waits until it says that it is ready; the milliseconds that took.
fn start(data: &Path) -> Result<(Running, f64)> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = command(data)?;
    command.arg("--listen").arg(address.to_string());
    let begun = Instant::now();
    let running = Running(command.spawn()?);
    while !is_ready(address) {
        ensure!(begun.elapsed() < PATIENCE, "not ready after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((running, begun.elapsed().as_secs_f64() * 1e3))
}

fn is_ready(address: SocketAddr) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /health/ready HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    answer().is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
}

fn command(data: &Path) -> Result<Command> {
    let binary = std::env::current_exe()?.with_file_name("millstream");
    if !binary.exists() {
        bail!("{} is not there: cargo build --release --package millstream", binary.display());
    }
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("main_job.yaml");
    let mut command = Command::new(binary);
    command.arg("run").arg(file).arg("--data").arg(data).args(["--log", "error"]);
    command.stdin(Stdio::null());
    Ok(command)
}

fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Running {
    /// Asks it to end, and waits until it has.
    fn end(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.0.wait().context("waiting for the end")?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
