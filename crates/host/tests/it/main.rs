//! Signals, met by a process of its own: this binary, started again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use millstream_host::{Runtimes, Shutdown, Threads};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROLE: &str = "MILLSTREAM_TEST_ROLE";

/// Not a test by itself: what the started process does. Without the role it does nothing.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtimes =
        Runtimes::start(Threads { pipelines: 1, io: 1, clients: 0, console: 1 }).unwrap();
    let shutdown = Shutdown::on_signals(runtimes.io()).unwrap();
    println!("\nready");
    runtimes.pipelines().block_on(shutdown.wait());
    println!("draining");
    if role == "slow" {
        std::thread::sleep(Duration::from_secs(60));
    }
    std::process::exit(0);
}

struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, lines };
        process.wait_for("ready");
        process
    }

    fn wait_for(&mut self, wanted: &str) {
        let found = self.lines.any(|line| line.unwrap() == wanted);
        assert!(found, "it ended without saying {wanted}");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

#[test]
fn the_first_signal_asks_for_a_drain() {
    for name in ["-TERM", "-INT"] {
        let mut process = Process::start("quick");
        process.signal(name);
        process.wait_for("draining");
        assert_eq!(process.end().0, Some(0), "{name}");
    }
}

#[test]
fn the_second_signal_ends_at_once_and_says_so() {
    for (name, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut process = Process::start("slow");
        process.signal(name);
        process.wait_for("draining");
        process.signal(name);
        let (found, said) = process.end();
        assert_eq!(found, Some(code), "{name}");
        assert!(said.contains("a second time"), "{said}");
    }
}
