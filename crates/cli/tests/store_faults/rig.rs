//! A pipeline from Kafka with a look-up in a store and a sink to the same.

use super::faults::ledger::Store;
use super::faults::{Load, NOTHING, Out, PARTITIONS, Pace, Rig, Seen};
use crate::program::Program;
use millstream_testkit::events::Event;
use millstream_testkit::proxy::{Direction, Fault, Proxy};
use millstream_testkit::services::{Kafka, Own, unique};
use std::sync::Arc;
use std::time::Duration;

const PACE: Pace = Pace {
    part: 8,
    every: Duration::from_millis(100),
    rest: [Duration::from_millis(150), Duration::from_secs(2)],
};
pub const BRIEF: Duration = Duration::from_millis(1_500);
/// Who waits is told by the table, or by whom it connects to.
pub const WAITS: Seen<'static> =
    Seen { flaps: true, ..Seen::new(&["waiting: "], Some("\"reason\":")) };
/// Nothing is answered, so that nothing comes out.
pub const HALTS: Seen<'static> = Seen { halts: true, ..WAITS };

/// What the pipeline's file says of the store.
pub struct Setup {
    pub lookup: String,
    pub sink: String,
    /// What is selected besides, with a comma after it.
    pub select: &'static str,
    /// The look-up's column that has the key.
    pub key: &'static str,
    /// Whether the store shows what is written twice.
    pub appends: bool,
    pub seed: u64,
    /// What stands beside the file.
    pub files: Vec<(&'static str, String)>,
}

pub fn start(kafka: &Kafka, who: &str, store: Arc<impl Store>, setup: &Setup) -> Rig {
    let topic = unique(who);
    kafka.create_topic(&topic, PARTITIONS, &[]);
    kafka.create_topic(&format!("{topic}-dead"), PARTITIONS, &[]);
    let program = Program::new();
    setup.files.iter().for_each(|(file, text)| drop(program.write(file, text)));
    program.write("p.yaml", pipeline(&topic, &kafka.bootstrap(), setup));
    let load = Load {
        topic,
        out: Out::Store { store, appends: setup.appends },
        seed: setup.seed,
        encode: |event| event.line().into_bytes(),
        decode: |bytes| serde_json::from_slice(bytes).unwrap(),
        hidden_for: Duration::ZERO,
        pace: PACE,
    };
    Rig::start(who, program, kafka.client(), load)
}

/// A line of all that is waited for that has these words, and the one of a reason.
pub const fn waits<'a>(line: &'a [&'a str], reason: &'a str) -> Seen<'a> {
    Seen { flaps: true, ..Seen::new(line, Some(reason)) }
}

/// A store of the test's own stands still, and dies.
pub fn own_fails(rig: &Rig, own: &Own) {
    for seconds in [60, 5] {
        let (name, lasts) = (format!("paused for {seconds} s"), Duration::from_secs(seconds));
        rig.fault(&name, lasts, HALTS, || own.pause(), || own.resume());
    }
    rig.fault("killed", Duration::from_secs(3), HALTS, || own.kill(), || own.start());
}

/// The way to a store breaks, is slow, and stands still for so long; `vanished` is what is seen when
/// its connections are of no use any more and nobody was told.
pub fn way_fails(rig: &Rig, proxy: &Proxy, long: Duration, vanished: Seen<'_>) {
    let fault = |name, lasts, seen, break_it: &dyn Fn()| {
        rig.fault(name, lasts, seen, break_it, || proxy.heal());
    };
    let slow = Fault::Delay { ms_min: 5, ms_max: 90 };
    fault("connections are reset in the middle of what is written", BRIEF, NOTHING, &|| {
        proxy.set(Direction::ToServer, Fault::ResetAfter(6_000));
    });
    fault("answers are reset", BRIEF, NOTHING, &|| {
        proxy.set(Direction::ToClient, Fault::ResetAfter(2_500));
    });
    fault("slow", BRIEF, NOTHING, &|| proxy.set_both(slow));
    fault("slower than the time-out", long, HALTS, &|| proxy.set_both(Fault::Hold));
    fault("gone without a word", BRIEF, vanished, &|| proxy.vanish());
}

/// An event from the columns that a store has of it.
pub fn event(cells: [String; 4], seq: i64, place: &str) -> Event {
    let [key, fate, crc, number] = cells;
    assert_eq!(place, key.replace('k', "place-"), "what was looked up for {key}/{seq}");
    let row =
        serde_json::json!({ "key": key, "seq": seq, "fate": fate, "crc": crc, "number": number });
    serde_json::from_value(row).unwrap()
}

fn pipeline(name: &str, brokers: &str, setup: &Setup) -> String {
    let Setup { lookup, sink, select, key, .. } = setup;
    let brokers = format!("brokers: [\"{}\"]", brokers.replace(',', "\", \""));
    format!(
        "pipeline: {name}
source:
  kafka: {{ {brokers}, topic: {name} }}
  format: {{ json: {{ columns: {{ key: string, seq: bigint, fate: string, crc: string, number: string }} }} }}
lookups:
  places:
    {lookup}
    timeout: 2s
    cache: {{ max_entries: 20, ttl: 500ms }}
steps:
  - sql: |
      SELECT {select}i.key, i.seq, i.fate, i.crc, i.number, p.place
      FROM input i JOIN places p ON p.{key} = i.key
      WHERE i.fate <> 'drop' AND CAST(i.number AS BIGINT) >= 0
sinks: [{{ {sink} }}]
dead_letters: {{ topic: {name}-dead, kafka: {{ {brokers} }} }}
max_dead_ratio: 1
batch: {{ max_rows: 50 }}
in_flight: {{ batches: 4 }}
"
    )
}
