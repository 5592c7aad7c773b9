//! A pipeline from Kafka to Kafka with a look-up and dead letters.

use super::faults::{KEYS, Load, Out, Pace, Rig};
use crate::program::Program;
use millstream_testkit::events::{Event, Fate};
use millstream_testkit::services::Client;
use std::time::Duration;

const PACE: Pace =
    Pace { part: 12, every: Duration::from_millis(60), rest: [Duration::from_millis(50); 2] };

/// The topics of a pipeline.
#[derive(Debug, Clone)]
pub struct Places {
    pub source: String,
    pub out: String,
    pub dead: String,
}

/// What is special about a pipeline.
pub struct Setup {
    /// The brokers as its file names them.
    pub brokers: String,
    /// What its three cluster options have besides.
    pub cluster: String,
    pub source: String,
    /// The source's format, with what else stands beside it.
    pub format: String,
    /// Further lines of the source.
    pub beside_source: String,
    /// What stands beside the pipeline's file.
    pub files: Vec<(&'static str, String)>,
    /// What stands beside a sink's topic.
    pub sink: String,
    pub seed: u64,
    /// What is selected besides.
    pub select: &'static str,
    /// How an event is written.
    pub encode: fn(&Event) -> Vec<u8>,
    pub decode: fn(&[u8]) -> Event,
    /// How long what is committed may be hidden from readers: a new leader does not know at once
    /// up to where everybody has everything.
    pub hidden_for: Duration,
}

/// The topics must be there.
pub fn start(name: &str, client: Client, setup: Setup) -> Rig {
    let program = Program::new();
    let places: String = (0..KEYS).map(|key| format!("k{key},place-{key}\n")).collect();
    program.write("places.csv", format!("key,place\n{places}"));
    program.ok(&["tables", "load", "places", "places.csv", "--key", "key"]);
    setup.files.iter().for_each(|(file, text)| drop(program.write(file, text)));
    program.write("p.yaml", pipeline(name, &setup));
    let load = Load {
        topic: name.to_owned(),
        out: Out::Topic { name: Places::of(name).out, decode: written },
        seed: setup.seed,
        encode: setup.encode,
        decode: setup.decode,
        hidden_for: setup.hidden_for,
        pace: PACE,
    };
    Rig::start(name, program, client, load)
}

impl Places {
    pub fn of(name: &str) -> Self {
        let [source, out, dead] = ["", "-out", "-dead"].map(|end| format!("{name}{end}"));
        Self { source, out, dead }
    }

    pub fn all(&self) -> [&str; 3] {
        [&self.source, &self.out, &self.dead]
    }
}

impl Setup {
    pub fn new(brokers: String, seed: u64) -> Self {
        Self {
            brokers,
            cluster: "request_timeout: 2s, metadata_refresh: 1s".into(),
            source: "session_timeout: 6s, rebalance_timeout: 6s".into(),
            format: "{ json: { columns: { key: string, seq: bigint, fate: string, crc: string, \
                     number: string } } }"
                .into(),
            beside_source: String::new(),
            files: Vec::new(),
            sink: "compression: none".into(),
            seed,
            select: "",
            encode: |event| event.line().into_bytes(),
            decode: |bytes| serde_json::from_slice(bytes).unwrap(),
            hidden_for: Duration::ZERO,
        }
    }
}

/// An event as the pipeline writes it, with what its look-up found.
fn written(value: &[u8]) -> Event {
    let row: serde_json::Value = serde_json::from_slice(value).unwrap();
    let place = row["key"].as_str().unwrap().replace('k', "place-");
    assert_eq!((&row["place"], &row["n"]), (&place.into(), &row["seq"]), "{row}");
    serde_json::from_value(row).unwrap()
}

fn pipeline(name: &str, setup: &Setup) -> String {
    let Setup { brokers, cluster, source, beside_source, format, sink, select, .. } = setup;
    let brokers = brokers.replace(',', "\", \"");
    let cluster = format!("brokers: [\"{brokers}\"], {cluster}");
    format!(
        "pipeline: {name}
source:
  kafka: {{ {cluster}, topic: {name}, {source} }}
  format: {format}
{beside_source}lookups:
  places: {{ table: places }}
steps:
  - sql: |
      SELECT i.key, i.seq, i.fate, i.crc, i.number, CAST(i.number AS BIGINT) AS n, p.place{select}
      FROM input i JOIN places p ON p.key = i.key
      WHERE i.fate <> '{}'
sinks:
  - kafka: {{ {cluster}, topic: {name}-out }}
    key: key
    format: json
    {sink}
dead_letters: {{ topic: {name}-dead, kafka: {{ {cluster} }} }}
max_dead_ratio: 1
batch: {{ max_rows: 50 }}
in_flight: {{ batches: 4 }}
",
        serde_json::to_value(Fate::Drop).unwrap().as_str().unwrap()
    )
}
