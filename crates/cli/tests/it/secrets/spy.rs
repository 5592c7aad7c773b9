//! Who sees all that comes out, and knows a secret in any form.

use crate::program::{Program, Running, Said, ask};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What holds secrets on purpose stands in here, and is not searched.
const GIVEN: &str = "given";

/// Every log, also those that are silent unless they are named.
pub const LOG: [&str; 2] = ["--log", "trace,scylla=trace"];

/// The secrets, and everything that was seen of the program.
#[derive(Default)]
pub struct Spy {
    /// By what they are called in a failure.
    secrets: Vec<(String, String)>,
    pub seen: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

impl Spy {
    pub fn secret(&mut self, name: &str, value: &str) {
        self.secrets.push((name.to_owned(), value.to_owned()));
    }

    /// A secret that a variable gives to the program.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.secret(name, value);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The lines of a private key.
    pub fn key(&mut self, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("---") && line.len() > 20);
        lines.for_each(|line| self.secret("a private key", line));
    }

    pub fn sees(&mut self, what: impl Into<String>, bytes: &[u8]) {
        self.seen.push((what.into(), String::from_utf8_lossy(bytes).into_owned()));
    }

    /// Runs a command to its end, with every log.
    pub fn runs(&mut self, program: &Program, args: &[&str]) -> Said {
        let mut command = program.command(&[args, &LOG].concat());
        let output = command.envs(self.variables.iter().cloned()).output().unwrap();
        self.sees(format!("the output of {args:?}"), &output.stdout);
        self.sees(format!("the log of {args:?}"), &output.stderr);
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn starts(&self, program: &Program, args: &[&str]) -> Running {
        let mut variables: Vec<(&str, &Path)> =
            self.variables.iter().map(|(name, value)| (&**name, Path::new(value))).collect();
        variables.push(("RUST_BACKTRACE", Path::new("full")));
        variables.push(("MILLSTREAM_PANIC_ON", Path::new("poison")));
        program.start_with(&[args, &LOG].concat(), &variables)
    }

    /// Asks a process that runs for all that it tells.
    pub fn asks(&mut self, program: &Program, running: &Running, pipeline: &str) {
        for page in ["/metrics", "/health/ready", "/health/live", "/registry/subjects", "/nothing"]
        {
            let (_, text) = running.get(page);
            self.sees(page, text.as_bytes());
        }
        let socket = program.path("millstream-data/millstream.sock");
        for request in ["process", "pipelines", "nothing"] {
            let answer = ask(&socket, &json!({ "request": request }).to_string());
            self.sees(format!("the socket's {request}"), answer.to_string().as_bytes());
        }
        for args in [
            &["pipelines"][..],
            &["pipelines", "--json"],
            &["offsets", "show", "--json"],
            &["topics", "list", "--json"],
            &["dead-letters", "list", pipeline],
            &["dead-letters", "list", pipeline, "--json"],
            &["tap", "out", "--from", "earliest", "--no-follow", "--json"],
            &["tap", &format!("{pipeline}.dead"), "--from", "earliest", "--no-follow", "--raw"],
        ] {
            self.runs(program, args);
        }
    }

    /// Everything in the program's folder.
    pub fn reads(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() && entry.file_name() != GIVEN {
                self.reads(&path);
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                self.sees(path.display().to_string(), &bytes);
            }
        }
    }

    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for (name, secret) in &self.secrets {
            for form in forms(secret) {
                for (place, text) in &self.seen {
                    if let Some(at) = text.find(&form) {
                        let from = text.floor_char_boundary(at.saturating_sub(200));
                        let to = text.ceil_char_boundary(at + form.len() + 60);
                        leaks.push(format!("{name} in {place}: …{}…", &text[from..to]));
                    }
                }
            }
        }
        leaks
    }

    pub fn finds_nothing(&self) {
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "{}", leaks.join("\n\n"));
    }
}

/// The ways in which a secret may come out.
fn forms(secret: &str) -> Vec<String> {
    let each = |show: fn(u8) -> String, between: &str| -> String {
        secret.bytes().map(show).collect::<Vec<_>>().join(between)
    };
    let percent = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let mut forms = vec![
        secret.to_owned(),
        each(percent, ""),
        each(percent, "").to_lowercase(),
        each(|byte| format!("{byte:02x}"), ""),
        each(|byte| byte.to_string(), ", "),
    ];
    // In the middle of a longer text, as `user:password`: what its own bytes decide.
    for before in 0..3 {
        let bytes = [&vec![b'x'; before], secret.as_bytes()].concat();
        let whole = STANDARD_NO_PAD.encode(&bytes);
        let whole = &whole[(before * 4).div_ceil(3)..bytes.len() / 3 * 4];
        forms.push(whole.to_owned());
        forms.push(whole.replace('+', "-").replace('/', "_"));
    }
    forms.sort();
    forms.dedup();
    forms
}

/// A folder with another for what holds secrets.
pub fn program() -> Program {
    let program = Program::new();
    std::fs::create_dir(program.path(GIVEN)).unwrap();
    program
}

pub fn give(program: &Program, name: &str, text: &str) {
    let path = program.write(&format!("{GIVEN}/{name}"), text);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_comes_out_in_any_form_is_found() {
    let secret = "a+long/secret:9";
    let coded = STANDARD_NO_PAD.encode(format!("user:{secret}"));
    for text in [
        format!("x{secret}x"),
        format!("Basic {coded}=="),
        format!("auth={}", coded.replace('+', "-").replace('/', "_")),
        "a%2Blong%2Fsecret%3A9".to_owned(),
        format!("{:?}", secret.as_bytes()),
    ] {
        let mut spy = Spy::default();
        spy.secret("it", secret);
        spy.sees("nothing", b"a long secret");
        assert!(spy.leaks().is_empty());
        spy.sees("this", text.as_bytes());
        assert!(!spy.leaks().is_empty(), "{text}");
    }
}
