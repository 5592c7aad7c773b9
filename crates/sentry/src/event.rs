//! One event, as the bytes of an envelope. See <https://develop.sentry.dev/sdk/data-model/envelopes/>.

use crate::digest::Kind;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Names that are longer are cut.
const NAME_MAX: usize = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It may pass by itself.
    Warning,
    Error,
    /// The process ends or does not start.
    Fatal,
}

/// What is told of a kind, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub kind: Kind,
    pub level: Level,
    /// What it means, in the program's own words.
    pub says: &'static str,
    /// How often since the last event of the kind.
    pub times: u64,
    /// Where in the source code.
    pub at: Vec<String>,
}

/// What all events of a process have in common.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub release: String,
    pub environment: String,
    /// The host's name.
    pub server: Option<String>,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Fatal => "fatal",
        }
    }
}

impl Event {
    pub fn envelope(&self, sender: &Sender) -> Vec<u8> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let event = self.json(sender, &id).to_string();
        let head = json!({ "event_id": id });
        let item = json!({
            "type": "event",
            "content_type": "application/json",
            "length": event.len(),
        });
        format!("{head}\n{item}\n{event}\n").into_bytes()
    }

    fn json(&self, sender: &Sender, id: &str) -> Value {
        let Kind { pipeline, step, word } = &self.kind;
        let pipeline = pipeline.as_deref().map(clean);
        let (step, word) = (clean(step), clean(word));
        let mut tags = Map::new();
        let whose = match &pipeline {
            Some(pipeline) => {
                tags.insert("pipeline".into(), json!(pipeline));
                format!("`{step}` of pipeline `{pipeline}`")
            }
            None => format!("`{step}`"),
        };
        tags.insert("step".into(), json!(step));
        tags.insert("kind".into(), json!(word));
        let times = match self.times {
            1 => String::new(),
            times => format!(" ({times} times)"),
        };
        let sentence = format!("{whose}: {}{times}; the process's log says more", self.says);
        let at: Vec<String> = self.at.iter().map(|at| clean_path(at)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let mut event = json!({
            "event_id": id,
            "timestamp": now,
            "platform": "other",
            "logger": "millstream",
            "level": self.level.word(),
            "release": sender.release,
            "environment": sender.environment,
            "exception": { "values": [{ "type": word, "value": sentence }] },
            "tags": tags,
            "extra": { "times": self.times, "at": at },
            "fingerprint": ["millstream", pipeline.unwrap_or_default(), step, word],
            "sdk": { "name": "millstream", "version": env!("CARGO_PKG_VERSION") },
        });
        if let Some(server) = &sender.server {
            event["server_name"] = json!(clean(server));
        }
        event
    }
}

/// A name without what only a path, an address or a value would have in it.
fn clean(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| match c.is_alphanumeric() || " _-.:".contains(c) {
        true => c,
        false => '_',
    };
    name.chars().take(NAME_MAX).map(plain).collect()
}

/// A place in the source code, without the folders of the machine that built it.
pub(crate) fn clean_path(at: &str) -> String {
    let begin = at.rfind("/src/").map_or(at.rfind('/'), |src| at[..src].rfind('/'));
    let short = begin.map_or(at, |slash| &at[slash + 1..]);
    short.chars().take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            kind: Kind::of("p", "step /data/in/secret.csv", "cast"),
            level: Level::Error,
            says: "rows or calls failed",
            times: 3,
            at: vec!["/home/x/.cargo/registry/src/index/foo-1.2/src/a/b.rs:7".into()],
        }
    }

    fn sender() -> Sender {
        Sender { release: "millstream@1".into(), environment: "test".into(), server: None }
    }

    #[test]
    fn an_envelope_has_three_lines_and_the_length_of_the_last() {
        let envelope = String::from_utf8(event().envelope(&sender())).unwrap();
        let lines: Vec<&str> = envelope.lines().collect();
        let [head, item, event] = lines[..] else { panic!("{envelope}") };
        let [head, item, parsed] =
            [head, item, event].map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(item["length"], event.len());
        assert_eq!(head["event_id"], parsed["event_id"]);
        assert_eq!(parsed["event_id"].as_str().unwrap().len(), 32);
        assert_eq!(parsed["release"], "millstream@1");
        assert_eq!(parsed["environment"], "test");
        assert_eq!(parsed["exception"]["values"][0]["type"], "cast");
        assert_eq!(parsed["extra"]["times"], 3);
    }

    #[test]
    fn names_and_places_have_no_path_in_them() {
        let envelope = String::from_utf8(event().envelope(&sender())).unwrap();
        assert!(!envelope.contains("/data") && !envelope.contains("/home"), "{envelope}");
        assert_eq!(clean("a\"b@c$d"), "a_b_c_d");
        assert_eq!(clean_path("crates/engine/src/task/mod.rs:3"), "engine/src/task/mod.rs:3");
        assert_eq!(clean_path("/rustc/ab/library/core/src/x.rs:1"), "core/src/x.rs:1");
        assert_eq!(clean_path("build.rs:1"), "build.rs:1");
    }
}
