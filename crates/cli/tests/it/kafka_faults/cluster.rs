//! Brokers that die, stand still, move what they lead, lack replicas, and have a full disk; and
//! their controller.

use super::rig::{Rig, Seen, Setup};
use super::{each, seed};
use millstream_testkit::services::{self, Client, Kafka, unique};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
enum Event {
    Killed,
    Paused,
    ControllerKilled,
    LeadersMoved,
    TooFewReplicas,
    #[cfg(target_os = "linux")]
    DiskFull,
}

const EVENTS: &[Event] = &[
    Event::Killed,
    Event::Paused,
    Event::ControllerKilled,
    Event::LeadersMoved,
    Event::TooFewReplicas,
    #[cfg(target_os = "linux")]
    Event::DiskFull,
];

const EVERYWHERE: [&[i32]; 3] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];
const TWO_OF_THREE: (&str, &str) = ("min.insync.replicas", "2");

#[test]
fn brokers_and_their_controller_may_fail() {
    let Some(kafka) = services::kafka_cluster() else { return };
    let client = kafka.client();
    let name = unique("cluster");
    let topics = ["", "-out", "-dead"].map(|end| format!("{name}{end}"));
    for topic in &topics {
        client.create_on(topic, &EVERYWHERE, &[TWO_OF_THREE]);
    }
    let mut setup = Setup::new(kafka.bootstrap(), seed());
    // A new leader may not yet know how far its log was acknowledged, and learns it from no fewer
    // followers than `min.insync.replicas`: what was done is hidden until they are back.
    setup.hidden_for = Duration::from_secs(60);
    let rig = Rig::start(&name, client.clone(), setup);
    let mut node = 0;
    each(EVENTS, |event, lasts| {
        node = node % 3 + 1;
        topics.iter().for_each(|topic| client.elect_preferred(topic));
        happen(event, lasts, node, &rig, &kafka, &client);
    });
    rig.end("cluster");
}

fn happen(event: Event, lasts: Duration, node: u32, rig: &Rig, kafka: &Kafka, client: &Client) {
    let name = format!("{event:?} of broker {node}");
    let address = kafka.bootstrap().split(',').nth(node as usize - 1).unwrap().to_owned();
    let gone = format!("connection to {address} is gone");
    let silent = format!("{address} gave no answer");
    let out = &rig.places.out;
    let set = |least| client.configure(out, "min.insync.replicas", Some(least));
    let too_few = "not enough replicas";
    let waits = ["writing to ", "trying again", too_few];
    let waits = Seen::new(&waits, Some(too_few));
    match event {
        Event::Killed => {
            let line = ["fetching for ", "trying again", &gone];
            let seen = Seen::new(&line, None);
            rig.fault(&name, lasts, seen, || kafka.kill(node), || kafka.start(node));
        }
        Event::Paused => {
            let line = ["fetching for ", "trying again", &silent];
            let seen = Seen::new(&line, Some("gave no answer"));
            // Longer than a request may take.
            let lasts = lasts.max(Duration::from_secs(3));
            rig.fault(&name, lasts, seen, || kafka.pause(node), || kafka.resume(node));
        }
        Event::ControllerKilled => {
            let node = client.controller().unwrap() as u32;
            let name = format!("{event:?}: {node}");
            let seen = Seen::new(&[], None);
            rig.fault(&name, lasts, seen, || kafka.kill(node), || kafka.start(node));
        }
        Event::LeadersMoved => {
            let seen = Seen::new(&[], None);
            let turned = |by: usize| -> Vec<Vec<i32>> {
                (0..3).map(|at| EVERYWHERE[(at + by) % 3].to_vec()).collect()
            };
            let to = |by| {
                for topic in [&rig.places.source, out, &rig.places.dead] {
                    client.reassign(topic, &turned(by));
                    client.elect_preferred(topic);
                }
            };
            rig.fault(&name, lasts, seen, || to(1), || to(0));
        }
        Event::TooFewReplicas => rig.fault(
            &name,
            lasts,
            waits,
            || {
                set("3");
                kafka.kill(node);
            },
            || {
                kafka.start(node);
            },
        ),
        #[cfg(target_os = "linux")]
        Event::DiskFull => rig.fault(
            &name,
            lasts,
            waits,
            || {
                set("3");
                kafka.limit_disk(node, Some(1));
            },
            || {
                // It may have ended itself for want of a disk.
                kafka.limit_disk(node, None);
                kafka.start(node);
            },
        ),
    }
    set("2");
}
