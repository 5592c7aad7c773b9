//! A data directory, a pipeline on it, and the processes that come and go.

use millstream_connectors::{Home, HomeOptions};
use millstream_core::Encoder;
use millstream_engine::{DeadLetters, Letters};
use millstream_formats::json::JsonEncoder;
use millstream_log::{Reader, TopicOptions};
use millstream_testkit::events::{Checker, Event, Fate, Fault, Generator};
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 4;
/// Rows of a partition that may come again after a kill: what is in flight, and what was settled
/// since the last commit.
const AGAIN_MAX: u64 = 2_000;

const PIPELINE: &str = "
pipeline: torture
source:
  topic: numbers
  format:
    json:
      columns: { key: string, seq: bigint, fate: string, crc: string, number: string }
steps:
  - sql: |
      SELECT key, seq, fate, crc, number, CAST(number AS BIGINT) AS n
      FROM input
      WHERE fate <> 'drop'
sinks:
  - topic: out
    key: key
    format: json
  - table: seen
    key: [key]
    clustering: [seq]
max_dead_ratio: 50%
batch: { max_rows: 50 }
in_flight: { batches: 3 }
commit_interval: 20ms
";

pub struct World {
    dir: tempfile::TempDir,
    checker: Checker,
}

/// What the count at the end found.
pub struct Found {
    pub sent: usize,
    pub out: usize,
    pub dead: usize,
    pub duplicates: u64,
    pub faults: Vec<Fault>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events sent; {} in the topic ({} of them duplicates), {} dead letters; {} faults",
            self.sent,
            self.out,
            self.duplicates,
            self.dead,
            self.faults.len()
        )
    }
}

impl World {
    pub fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap(), checker: Checker::default() };
        std::fs::write(world.pipeline(), PIPELINE).unwrap();
        let home = world.home();
        for topic in ["numbers", "out"] {
            // Small segments, so that they roll, and a retention that has something to remove once
            // it is committed.
            let retention_bytes = (topic == "numbers").then_some(64 << 10);
            let options = TopicOptions {
                partitions: PARTITIONS,
                segment_bytes: 32 << 10,
                retention_bytes,
                ..TopicOptions::default()
            };
            home.log.create_topic(topic, options).unwrap();
        }
        home.log.close();
        world
    }

    fn pipeline(&self) -> PathBuf {
        self.dir.path().join("torture.yaml")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn home(&self) -> Home {
        // The process before may have the lock for a moment after it is gone.
        let mut last = None;
        for _ in 0..100 {
            match Home::open(&self.data(), HomeOptions::default()) {
                Ok(home) => return home,
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the data directory cannot be opened: {:?}", last.unwrap());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command
            .arg("--data")
            .arg(self.data())
            .args(args)
            .env_remove("MILLSTREAM_FAILPOINT")
            .env_remove("MILLSTREAM_BUG")
            .env("MILLSTREAM_HOUSEKEEPING_MS", "50")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts the pipelines, with these environment variables, and waits until they can be asked.
    pub fn start(&self, variables: &[(&str, &str)]) -> Process {
        let pipeline = self.pipeline();
        let mut command = self.command(&["run", pipeline.to_str().unwrap(), "--listen", "off"]);
        command.envs(variables.iter().copied());
        let child = command.spawn().unwrap();
        let mut process = Process { child };
        let socket = self.data().join("millstream.sock");
        let since = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err()
            && process.child.try_wait().unwrap().is_none()
            && since.elapsed() < Duration::from_secs(20)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        process
    }

    /// Sends events as a client would. They count as sent when it was told so.
    pub fn produce(&mut self, generator: &mut Generator, count: usize) {
        let events: Vec<Event> = (0..count).map(|_| generator.event()).collect();
        let mut command = self.command(&["produce", "numbers", "--key-separator", "\\t"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = String::new();
        for event in &events {
            lines.push_str(&format!("{}\t{}\n", event.key, event.line()));
        }
        // The client may be gone already: then it was not told, and it all counts as unsure.
        let written = child.stdin.take().unwrap().write_all(lines.as_bytes());
        let taken = child.wait().unwrap().success() && written.is_ok();
        for event in &events {
            if taken {
                self.checker.sent(event);
            } else {
                self.checker.sent_unsure(event);
            }
        }
    }

    /// Reads the committed offsets of the stopped directory: they never go back.
    pub fn note_offsets(&mut self) {
        let home = self.home();
        let topic = home.log.topic("numbers").unwrap();
        let committed = home.tables.offsets().get("torture").map(|c| c.offsets).unwrap_or_default();
        for (partition, offset) in committed {
            let end = topic.partition(partition).unwrap().end_offset();
            self.checker.committed(partition, offset, end);
        }
        home.log.close();
    }

    /// Lets the pipeline come to its end undisturbed.
    pub fn finish(&self) {
        let pipeline = self.pipeline();
        let mut command = self.command(&[
            "run",
            pipeline.to_str().unwrap(),
            "--listen",
            "off",
            "--exit-when-idle",
        ]);
        let status = command.stderr(Stdio::inherit()).status().unwrap();
        assert!(status.success(), "the last, undisturbed run failed: {status}");
    }

    pub fn check(&mut self, kills: u64) -> Found {
        self.note_offsets();
        let home = self.home();
        let allowed = kills * u64::from(PARTITIONS) * AGAIN_MAX;
        let mut out = Vec::new();
        let topic = home.log.topic("out").unwrap();
        for partition in 0..topic.partitions() {
            let partition = topic.partition(partition).unwrap();
            let mut reader = Reader::new(&partition, partition.start_offset(), 1 << 20).unwrap();
            while let Some(records) = reader.try_next().unwrap() {
                out.extend(records.iter().map(|r| event(r.value.unwrap())));
            }
        }
        let duplicates = self.checker.arrived("topic out", Fate::Out, &out, true, allowed);

        let mut seen = Vec::new();
        if let Some(table) = home.tables.table("seen") {
            for batch in table.scan(Default::default()).unwrap() {
                let batch = batch.unwrap();
                let encoded = JsonEncoder::new(batch.schema()).unwrap().encode(&batch).unwrap();
                seen.extend((0..encoded.len()).map(|row| event(encoded.row(row))));
            }
        }
        self.checker.arrived("table seen", Fate::Out, &seen, false, 0);

        let dead = home.log.topic("torture.dead").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dead: Vec<Event> = runtime.block_on(async {
            let mut letters = Letters::open(&home, &DeadLetters::Log(dead)).await.unwrap();
            let mut dead = Vec::new();
            while let Some((letter, _)) = letters.next().await.unwrap() {
                dead.push(event(&letter.value.unwrap()));
            }
            dead
        });
        self.checker.arrived("dead letters", Fate::Dead, &dead, false, allowed);
        Found {
            sent: self.checker.sent_count(),
            out: out.len(),
            dead: dead.len(),
            duplicates,
            faults: self.checker.faults().to_vec(),
        }
    }
}

fn event(json: &[u8]) -> Event {
    serde_json::from_slice(json)
        .unwrap_or_else(|e| panic!("{} is no event: {e}", String::from_utf8_lossy(json)))
}

pub struct Process {
    child: Child,
}

impl Process {
    /// Waits for it to end by itself.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if since.elapsed() >= patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
