//! What a crash leaves: no file with the process's memory.

use crate::program::{Program, eventually};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

/// A `serve` for Kafka clients, killed at the end.
pub struct Served(pub Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The soft and the hard limit of a process's core files.
fn core_limits(pid: u32) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn a_crash_leaves_no_core_file() {
    for (more, allowed) in [("", false), ("--allow-core-files", true)] {
        let program = Program::new();
        // As far as the machine lets a process have core files.
        let script = format!(
            "ulimit -S -c $(ulimit -H -c) && exec \"$0\" serve --kafka-listen 127.0.0.1:0 {more}"
        );
        let binary = program.command(&[]).get_program().to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(binary).current_dir(program.folder.path());
        command.stdout(Stdio::null()).stderr(std::fs::File::create(program.path("log")).unwrap());
        let mut served = Served(command.spawn().unwrap());
        eventually("it is up", || {
            std::fs::read_to_string(program.path("log")).unwrap().contains("kafka=").then_some(())
        });
        let (soft, hard) = core_limits(served.0.id());
        if allowed {
            assert_eq!(soft, hard);
            continue;
        }
        assert!(["0", "1"].contains(&&*soft), "{soft}");
        let pid = served.0.id().to_string();
        assert!(Command::new("kill").args(["-ABRT", &pid]).status().unwrap().success());
        let status = served.0.wait().unwrap();
        assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
        let left = std::fs::read_dir(program.folder.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("core")), "{left:?}");
    }
}
