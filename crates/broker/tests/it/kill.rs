//! The process is killed under a client that produces; what it acknowledged is there, once.

use crate::server::Server;
use millstream_testkit::python::run_script;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const DIR: &str = "MILLSTREAM_BROKER_KILL_DIR";
const LISTEN: &str = "MILLSTREAM_BROKER_KILL_LISTEN";

/// The process that is killed.
#[test]
#[ignore = "run by the tests below"]
fn child() {
    let (Ok(dir), Ok(listen)) = (std::env::var(DIR), std::env::var(LISTEN)) else { return };
    let _server = Server::start_at(listen.parse().unwrap(), Path::new(&dir), |_| {});
    loop {
        std::thread::park();
    }
}

/// Killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(dir: &Path, listen: SocketAddr, bug: &str) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--ignored", "--test-threads=1"])
            .env(DIR, dir)
            .env(LISTEN, listen.to_string())
            .env("MILLSTREAM_BUG", bug)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(listen).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Process(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn what_a_producer_was_told_is_kept_once_through_kills() {
    let dir = tempfile::tempdir().unwrap();
    Server::start_in(dir.path(), |_| {}).topic("t", 3);
    let listen = free_port();
    let over = AtomicBool::new(false);
    let kills = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let process = Process::start(dir.path(), listen, "");
                for _ in 0..8 {
                    std::thread::sleep(Duration::from_millis(100));
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
                drop(process);
                kills.fetch_add(1, Ordering::Relaxed);
            }
        });
        let produced = std::panic::catch_unwind(|| run("produce", dir.path(), listen));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = produced {
            std::panic::resume_unwind(panic);
        }
    });
    eprintln!("killed {} times", kills.load(Ordering::Relaxed));
    let _process = Process::start(dir.path(), listen, "");
    run("count", dir.path(), listen);
}

fn run(what: &str, dir: &Path, listen: SocketAddr) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/through_kills.py");
    let file = dir.join("acked.json");
    let args = [&listen.to_string(), what, file.to_str().expect("a temporary path is text")];
    run_script(env!("CARGO_TARGET_TMPDIR"), &script, &args);
}
