//! HTTP servers as look-up and sink, and the standard output, around the built binary.

use crate::program::{Program, eventually};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/web");
    folder.canonicalize().unwrap().join(name).to_str().unwrap().to_owned()
}

/// What a request said.
pub struct Asked {
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// A server on loopback; `answer` gives a status and a body. `None` closes the connection.
pub fn serve(answer: impl Fn(&Asked) -> Option<(u16, String)> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || one_connection(stream, &*answer));
        }
    });
    port
}

fn one_connection(
    stream: TcpStream,
    answer: &dyn Fn(&Asked) -> Option<(u16, String)>,
) -> Option<()> {
    let mut out = stream.try_clone().ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let target = line.split(' ').nth(1)?.to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).ok()?;
        let mut body = String::new();
        match headers.get("content-encoding") {
            Some(_) => drop(GzDecoder::new(&*bytes).read_to_string(&mut body).unwrap()),
            None => body = String::from_utf8(bytes).unwrap(),
        }
        let (status, text) = answer(&Asked { target, headers, body })?;
        let length = text.len();
        write!(out, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{text}").ok()?;
    }
}

const NUMBERS: &str = "\
pipeline: numbers
source: { file: numbers.jsonl, format: { json: { columns: { n: bigint } } } }
sinks:
  - http:
      url: http://127.0.0.1:PORT/in?key=canary-of-the-query
      body: lines
      batch_rows: 40
      retries: 2
      token: ${TOKEN}
      headers: { X-Key: { file: key.txt } }
      idempotency_header: Idempotency-Key
batch: { max_rows: 50 }
commit_interval: 50ms
";

/// Numbers into a file, and the pipeline for them.
fn numbers(port: u16, count: usize) -> Program {
    let program = Program::new();
    program.write("numbers.yaml", NUMBERS.replace("PORT", &port.to_string()));
    program.write("key.txt", "canary-of-the-header\n");
    let lines: String = (0..count).map(|n| json!({ "n": n }).to_string() + "\n").collect();
    program.write("numbers.jsonl", lines);
    program
}

#[test]
fn nothing_is_lost_on_the_way_to_a_server_that_fails_and_no_secret_is_told() {
    const POISON: [u64; 2] = [123, 777];
    let stored: Arc<Mutex<BTreeMap<u64, BTreeSet<String>>>> = Arc::default();
    let number = std::sync::atomic::AtomicUsize::new(0);
    let noted = stored.clone();
    let port = serve(move |asked| {
        assert_eq!(asked.headers["authorization"], "Bearer canary-of-the-token");
        assert_eq!(asked.headers["x-key"], "canary-of-the-header");
        let rows: Vec<u64> = asked
            .body
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap())
            .collect();
        match number.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 13 {
            1 => return Some((500, "canary".into())),
            3 => return None,
            5 => return Some((429, String::new())),
            7 | 8 => return Some((401, String::new())),
            _ => {}
        }
        if rows.iter().any(|n| POISON.contains(n)) {
            return Some((422, "no such number".into()));
        }
        let key = &asked.headers["idempotency-key"];
        let mut stored = noted.lock().unwrap();
        for n in rows {
            stored.entry(n).or_default().insert(key.clone());
        }
        Some((200, String::new()))
    });
    let program = numbers(port, 1000);
    let mut said = String::new();
    for kill_after in [Some(300), Some(600), None] {
        let mut command =
            program.command(&["run", "numbers.yaml", "--until-end", "--listen", "off"]);
        command.env("TOKEN", "canary-of-the-token").env("MILLSTREAM_LOG", "trace");
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            text
        });
        if let Some(after) = kill_after {
            std::thread::sleep(Duration::from_millis(after));
            child.kill().unwrap();
        }
        let ended = child.wait().unwrap();
        said.push_str(&reader.join().unwrap());
        assert!(kill_after.is_some() || ended.success(), "{said}");
    }
    let stored = stored.lock().unwrap();
    let expected: Vec<u64> = (0..1000).filter(|n| !POISON.contains(n)).collect();
    assert_eq!(stored.keys().copied().collect::<Vec<_>>(), expected);
    let letters = program.json(&["dead-letters", "list"]);
    let reasons: Vec<&str> = letters
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.contains("no such number")), "{reasons:?}");
    for text in [&said, &letters.to_string()] {
        assert!(!text.contains("canary-of"), "a secret is told");
    }
}

#[test]
fn a_server_that_lets_us_not_in_is_waited_for_and_said_so() {
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_open = open.clone();
    let port = serve(move |_| {
        Some((
            if is_open.load(std::sync::atomic::Ordering::SeqCst) { 200 } else { 403 },
            String::new(),
        ))
    });
    let program = numbers(port, 100);
    let token = PathBuf::from("x");
    let running = program.start_with(&["numbers.yaml"], &[("TOKEN", &token)]);
    let reason = eventually("it waits", || {
        let pipelines = program.json(&["pipelines"]);
        pipelines[0]["waits_for"][0].as_str().map(str::to_owned)
    });
    assert!(reason.contains("403") && reason.contains("token"), "{reason}");
    assert_eq!(running.get("/health/ready").0, 503);
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    eventually("all are in", || (program.json(&["pipelines"])[0]["rows_out"] == 100).then_some(()));
    assert_eq!(program.json(&["pipelines"])[0]["waits_for"], json!([]));
    assert_eq!(running.end(), 0);
}

#[test]
fn the_example_that_asks_and_tells_servers() {
    let told: Arc<Mutex<Vec<Value>>> = Arc::default();
    let noted = told.clone();
    let port = serve(move |asked| {
        assert_eq!(asked.headers["authorization"], "Bearer secret");
        match asked.target.as_str() {
            "/customers/c1" => Some((200, json!({"customer": {"name": "Ada"}}).to_string())),
            "/customers/c2" => Some((200, json!({"customer": {"name": "Grace"}}).to_string())),
            "/orders" => {
                let rows: Vec<Value> = serde_json::from_str(&asked.body).unwrap();
                noted.lock().unwrap().extend(rows);
                Some((202, String::new()))
            }
            _ => Some((404, String::new())),
        }
    });
    let program = Program::new();
    let address = format!("http://127.0.0.1:{port}");
    let file = example("notify.yaml");
    let run = |args: &[&str]| {
        let mut command = program.command(args);
        command.env("CUSTOMERS", &address).env("NOTIFY", &address).env("TOKEN", "secret");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for command in ["check", "explain", "test"] {
        let out = run(&[command, &file]);
        assert!(!out.contains("secret"), "{out}");
    }
    run(&["run", &file, "--until-end", "--listen", "off"]);
    let expected = json!([
        {"order": 1, "amount": "12.50", "name": "Ada"},
        {"order": 2, "amount": "3.00", "name": "Grace"},
        {"order": 4, "amount": "99.90", "name": "Ada"},
    ]);
    assert_eq!(Value::Array(told.lock().unwrap().clone()), expected);
}

#[test]
fn the_example_that_keeps_files_by_date() {
    let program = Program::new();
    let archive = program.path("kept");
    let file = example("archive.yaml");
    let mut command = program.command(&["run", &file, "--until-end", "--listen", "off"]);
    let output = command.env("ARCHIVE", &archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (day, range) in [("2026-03-01", "000000000000-"), ("2026-03-02", "")] {
        let names: Vec<String> = std::fs::read_dir(archive.join(day))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let [name] = &names[..] else { panic!("{names:?}") };
        assert!(name.starts_with("archive-files-") && name.contains("-p00000-"), "{name}");
        assert!(name.contains(range) && name.ends_with(".parquet"), "{name}");
    }
}

#[test]
fn the_example_that_prints_rows_and_a_reader_that_goes_away() {
    let program = Program::new();
    let file = example("show.yaml");
    program.ok(&["check", &file]);
    let out = program.ok(&["run", &file, "--until-end", "--listen", "off"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines,
        [json!({"order": 1, "amount": "12.50"}), json!({"order": 4, "amount": "99.90"})]
    );

    let lines: String = (0..200_000).map(|n| json!({ "n": n }).to_string() + "\n").collect();
    program.write("many.jsonl", lines);
    program.write(
        "many.yaml",
        "pipeline: many\nsource: { file: many.jsonl, format: { json: { columns: { n: bigint } } } }\nsinks: [{ stdout: table }]\n",
    );
    for _ in 0..3 {
        let args = ["run", "many.yaml", "--until-end", "--listen", "off"];
        let mut child = program.command(&args).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        drop(out);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success(), "{said}");
        assert!(line.starts_with("+--"), "{line}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn rows_for_an_output_that_is_closed_are_kept() {
    let program = Program::new();
    program.write("in.jsonl", "{\"n\": 1}\n");
    program.write(
        "p.yaml",
        "pipeline: p\nsource: { file: in.jsonl, format: { json: { columns: { n: bigint } } } }\nsinks: [{ stdout: json_lines }]\n",
    );
    let run = |to: &str| {
        let plain = program.command(&["run", "p.yaml", "--until-end", "--listen", "off"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {to}")]);
        shell.arg(plain.get_program()).args(plain.get_args());
        shell.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = plain.get_current_dir() {
            shell.current_dir(folder);
        }
        let ended = shell.output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    let (code, said) = run(">&-");
    assert!(code != Some(0) && said.contains("the standard output is closed"), "{code:?} {said}");
    let (code, said) = run("> /dev/null");
    assert!(code == Some(0) && said.contains("out=1"), "{code:?} {said}");
}

#[test]
fn check_says_what_cannot_be_read_or_asked() {
    let program = Program::new();
    program.write("in.jsonl", "");
    program.write("taken", "a file");
    program.write(
        "a.yaml",
        "pipeline: a
source: { file: in.jsonl, format: { json: { columns: { id: int, at: timestamp } } } }
lookups:
  users: { http: { url: \"http://h/{id}\", columns: { id: int, name: string } } }
steps:
  - sql: SELECT i.id, i.\"at\", u.name FROM input i JOIN users u ON u.name = i.id
sinks:
  - { name: a, http: { url: \"${ADDRESS}\" } }
  - { name: b, http: { url: \"http://h/\", token_file: none } }
  - { name: c, http: { url_column: id } }
  - { name: d, files: { folder: taken } }
  - { name: e, files: { folder: \"x/{hour}\" } }
  - { name: f, files: { folder: \"x/{date}\", date: id } }
",
    );
    let check = || {
        let mut command = program.command(&["check", "a.yaml"]);
        let output = command.env("ADDRESS", "http://me:canary@h/").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = check();
    assert_eq!(code, Some(2));
    for part in ["`u` no key to look up", "it is asked by id"] {
        assert!(said.contains(part), "{part}: {}", said);
    }
    program.write(
        "a.yaml",
        std::fs::read_to_string(program.path("a.yaml"))
            .unwrap()
            .replace("u.name = i.id", "u.id = i.id"),
    );
    let (_, said) = check();
    let parts = [
        "a user in it",
        "none",
        "an address is text",
        "not a folder",
        "{hour}",
        "a date or a timestamp",
    ];
    for part in parts {
        assert!(said.contains(part), "{part}: {}", said);
    }
    assert!(!said.contains("canary"), "{}", said);
}
