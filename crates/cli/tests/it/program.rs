//! Runs the binary in a folder of its own.

use serde_json::Value;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_millstream");
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a data directory in it.
pub struct Program {
    pub folder: TempDir,
}

/// What a command said, and its exit code.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// A `run` that is up. Killed when it is dropped before [`Running::end`].
pub struct Running {
    child: Option<Child>,
    /// Where HTTP answers.
    pub address: SocketAddr,
}

impl Program {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("MILLSTREAM_DATA")
            .env_remove("MILLSTREAM_LOG")
            .env_remove("SENTRY_DSN")
            .env_remove("SENTRY_ENVIRONMENT")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }

    /// Runs a command that must succeed, and gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{args:?}: {}{}", said.out, said.err);
        said.out
    }

    /// The same, read as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    /// With something on standard input.
    pub fn feed(&self, args: &[&str], input: impl AsRef<[u8]>) -> Said {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_ref());
        said(child.wait_with_output().unwrap())
    }

    /// Starts `run` with these further arguments and waits until it answers.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(args, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(&self, args: &[&str], variables: &[(&str, &Path)]) -> Running {
        let args = [&["run", "--listen", "127.0.0.1:0"], args].concat();
        let log = std::fs::File::create(self.path("run.log")).unwrap();
        let mut command = self.command(&args);
        command.envs(variables.iter().copied());
        let mut child = command.stderr(log).stdout(Stdio::null()).spawn().unwrap();
        let socket = self.path("millstream-data/millstream.sock");
        let until = Instant::now() + PATIENCE;
        loop {
            if socket.exists() && std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                break;
            }
            let ended = child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > until {
                let log = std::fs::read_to_string(self.path("run.log")).unwrap();
                panic!("run did not come up ({ended:?}): {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut running = Running { child: Some(child), address: ([127, 0, 0, 1], 0).into() };
        running.address = ask(&socket, r#"{"request":"process"}"#)["end"]["listen"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        running
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Asks it to end and gives its exit code.
    pub fn end(mut self) -> i32 {
        self.signal("-TERM");
        self.child.take().unwrap().wait().unwrap().code().unwrap_or(-1)
    }

    /// Waits for it to end by itself.
    pub fn wait(mut self) -> std::process::ExitStatus {
        let child = self.child.as_mut().unwrap();
        eventually("it ended", || child.try_wait().unwrap())
    }

    /// The status and the body of a page.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One line to the admin socket, the last line back.
pub fn ask(socket: &Path, request: &str) -> Value {
    use std::io::{BufRead, BufReader};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    writeln!(stream, "{request}").unwrap();
    for line in BufReader::new(stream).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line.get("row").is_none() {
            return line;
        }
    }
    panic!("the answer has no end");
}

/// The status and the body of a page, over HTTP/1.1 by hand.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits for something to become true.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < until, "it did not happen: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
