//! The listener for Kafka clients: what is wrong is said, and what was acknowledged is in the topic.

use crate::program::Program;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

#[test]
fn a_listener_that_cannot_be_is_a_mistake_with_a_sentence() {
    let program = Program::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let open = program.write("open.txt", "ann:secret\n");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let broken = program.write("broken.txt", "ann\n");
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o600)).unwrap();
    program.write("not.pem", "hello\n");
    let at = |more: &[&str]| {
        let base = ["serve", "--kafka-listen", "127.0.0.1:0"];
        base.iter().chain(more).map(|arg| (*arg).to_owned()).collect::<Vec<_>>()
    };
    for (args, said) in [
        (vec!["serve".into(), "--kafka-listen".into(), taken], "is in use by another process"),
        (at(&["--kafka-users", "open.txt"]), "`chmod 600` it first"),
        (at(&["--kafka-users", "broken.txt"]), "line 1 is not `name:password`"),
        (at(&["--kafka-users", "nobody.txt"]), "there is no such file"),
        (at(&["--kafka-tls-cert", "not.pem", "--kafka-tls-key", "not.pem"]), "not.pem"),
        (at(&["--kafka-tls-cert", "not.pem"]), "--kafka-tls-key"),
        (at(&["--kafka-advertise", "here"]), "write HOST:PORT"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = program.command(&args).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert!(err.contains(said), "{args:?}: {err}");
    }
}

#[test]
fn serve_says_where_it_listens_answers_and_ends_when_asked() {
    let program = Program::new();
    let mut child = program
        .command(&["serve", "--kafka-listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("it says where it listens").unwrap();
        if let Some((_, address)) = line.split_once("kafka=") {
            break address.trim().to_owned();
        }
    };
    // ApiVersions, version 0: its answer begins with the correlation id and no error.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff]).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4..], [0, 0, 0, 7, 0, 0]);
    let created = program.command(&["topics", "create", "t"]).output().unwrap();
    assert!(created.status.success(), "a command works beside it");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}
