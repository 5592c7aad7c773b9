//! Connections that break, stall, lie, and vanish.

use super::faults::{NOTHING, PARTITIONS, Seen};
use super::rig::{self, Setup};
use super::{each, seed};
use millstream_testkit::proxy::{Direction, Fault};
use millstream_testkit::services::{self, Kafka, unique};
use std::time::Duration;

use Direction::{ToClient, ToServer};

/// A fault of the way to the broker, and what all that may be said of it has in common: whether
/// somebody was just connecting, asking or waiting is chance. A way that comes back in between may be
/// too good for anything to be said.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    faults: &'static [(Direction, Fault)],
    vanish: bool,
    refuse: bool,
    line: &'static [&'static str],
    /// It is over and comes again in the meantime, and is said again.
    flaps: bool,
    reason: Option<&'static str>,
}

const QUIET: Way = Way {
    name: "",
    faults: &[],
    vanish: false,
    refuse: false,
    line: &[],
    flaps: false,
    reason: None,
};

const WAYS: [Way; 9] = [
    Way {
        name: "the broker cannot be reached",
        faults: &[(ToClient, Fault::ResetAfter(0)), (ToServer, Fault::ResetAfter(0))],
        refuse: true,
        line: &["fetching for ", "trying again"],
        reason: Some("fetching for "),
        ..QUIET
    },
    Way {
        name: "answers are reset",
        flaps: true,
        faults: &[(ToClient, Fault::ResetAfter(1_500))],
        line: &["fetching for ", "trying again"],
        ..QUIET
    },
    Way {
        name: "requests are cut",
        flaps: true,
        faults: &[(ToServer, Fault::CutAfter(2_500))],
        line: &["writing to `", "-out`: trying again"],
        ..QUIET
    },
    Way {
        name: "answers are lost after some bytes",
        flaps: true,
        faults: &[(ToClient, Fault::BlackHoleAfter(700))],
        line: &["fetching for ", "trying again", "gave no answer"],
        reason: Some("no answer"),
        ..QUIET
    },
    Way {
        name: "requests are lost after some bytes",
        flaps: true,
        faults: &[(ToServer, Fault::BlackHoleAfter(700))],
        line: &["fetching for ", "trying again", "gave no answer"],
        reason: Some("no answer"),
        ..QUIET
    },
    Way {
        name: "the peer vanishes",
        vanish: true,
        line: &["fetching for ", "trying again", "gave no answer"],
        ..QUIET
    },
    Way {
        name: "the network is slow",
        faults: &[
            (ToServer, Fault::Delay { ms_min: 5, ms_max: 120 }),
            (ToClient, Fault::Delay { ms_min: 5, ms_max: 120 }),
        ],
        ..QUIET
    },
    Way {
        name: "the network stands still",
        faults: &[(ToServer, Fault::Hold), (ToClient, Fault::Hold)],
        line: &["fetching for ", "trying again", "gave no answer"],
        reason: Some("no answer"),
        ..QUIET
    },
    Way {
        name: "answers are corrupted",
        flaps: true,
        line: &["partition=", "what was fetched at offset", "a checksum is"],
        faults: &[(ToClient, Fault::CorruptText { every: 4_000 })],
        ..QUIET
    },
];

/// A topic, and where its rows and letters go.
pub fn topics(kafka: &Kafka, name: &str) -> String {
    let name = unique(name);
    kafka.create_topic(&name, PARTITIONS, &[]);
    kafka.create_topic(&format!("{name}-out"), PARTITIONS, &[]);
    kafka.create_topic(&format!("{name}-dead"), PARTITIONS, &[]);
    name
}

#[test]
fn connections_may_break_stall_lie_and_vanish() {
    let Some(kafka) = services::kafka() else { return };
    let name = topics(&kafka, "network");
    let proxied = kafka.proxied(seed());
    let proxy = &proxied.proxies[0];
    let rig = rig::start(&name, kafka.client(), Setup::new(proxied.bootstrap.clone(), seed()));
    each(&WAYS, |way, lasts| {
        let (before, lasts) = (proxy.passed(ToClient), lasts.max(Duration::from_secs(1)));
        let seen = Seen { line: way.line, reason: way.reason, flaps: way.flaps, ..NOTHING };
        rig.fault(
            way.name,
            lasts,
            seen,
            || {
                way.faults.iter().for_each(|(direction, fault)| proxy.set(*direction, *fault));
                proxy.refuse(way.refuse);
                if way.refuse {
                    proxy.reset();
                }
                if way.vanish {
                    proxy.vanish();
                }
            },
            || {
                let flipped = proxy.passed(ToClient).bits_flipped - before.bits_flipped;
                let corrupts =
                    way.faults.iter().any(|(_, f)| matches!(f, Fault::CorruptText { .. }));
                assert!(flipped == 0 || corrupts, "{}: {flipped} bits", way.name);
                proxy.heal();
            },
        );
    });
    rig.end();
}
