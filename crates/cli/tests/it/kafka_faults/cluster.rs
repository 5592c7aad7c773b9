//! Brokers that die, stand still, move what they lead, lack replicas, and have a full disk; and
//! their controller.

use super::faults::{NOTHING, Rig, Seen};
use super::rig::{self, Places, Setup};
use super::{each, seed};
use crate::program::eventually;
use millstream_testkit::services::{self, Client, Kafka, unique};
use std::cell::Cell;
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
    setup.hidden_for = Duration::from_secs(180);
    let rig = rig::start(&name, client.clone(), setup);
    let cluster = Cluster { kafka: &kafka, client, places: Places::of(&name) };
    let mut node = 0;
    each(EVENTS, |event, lasts| {
        node = node % 3 + 1;
        cluster.happen(event, lasts, node, &rig);
    });
    rig.end();
}

struct Cluster<'a> {
    kafka: &'a Kafka,
    client: Client,
    places: Places,
}

impl Cluster<'_> {
    fn happen(&self, event: Event, lasts: Duration, node: u32, rig: &Rig) {
        let kafka = self.kafka;
        let name = format!("{event:?} of broker {node}");
        let address = kafka.bootstrap().split(',').nth(node as usize - 1).unwrap().to_owned();
        let too_few = "not enough replicas";
        let waits = ["writing to ", "trying again", too_few];
        let waits = Seen::new(&waits, Some(too_few));
        self.lead_as_wanted();
        match event {
            Event::Killed => {
                let line = ["fetching for ", "trying again", &address];
                let kill = || {
                    self.is_at_work(rig);
                    kafka.kill(node);
                };
                rig.fault(&name, lasts, Seen::new(&line, None), kill, || kafka.start(node));
            }
            Event::Paused => {
                let line = ["fetching for ", "trying again", &address, "gave no answer"];
                let seen = Seen::new(&line, Some("gave no answer"));
                // Longer than a request may take.
                let lasts = lasts.max(Duration::from_secs(3));
                let pause = || {
                    self.is_at_work(rig);
                    kafka.pause(node);
                };
                rig.fault(&name, lasts, seen, pause, || kafka.resume(node));
            }
            Event::ControllerKilled => {
                let killed = Cell::new(node);
                let kill = || {
                    killed.set(self.controller());
                    kafka.kill(killed.get());
                };
                rig.fault(&name, lasts, NOTHING, kill, || kafka.start(killed.get()));
            }
            Event::LeadersMoved => {
                let turned = |by: usize| -> Vec<Vec<i32>> {
                    (0..3).map(|at| EVERYWHERE[(at + by) % 3].to_vec()).collect()
                };
                let to = |by| {
                    for topic in self.places.all() {
                        self.client.reassign(topic, &turned(by));
                        self.client.elect_preferred(topic);
                    }
                };
                rig.fault(&name, lasts, NOTHING, || to(1), || to(0));
            }
            Event::TooFewReplicas => {
                let kill = || {
                    self.want_replicas("3");
                    kafka.kill(node);
                };
                let start = || {
                    kafka.start(node);
                    self.want_replicas("2");
                };
                rig.fault(&name, lasts, waits, kill, start);
            }
            #[cfg(target_os = "linux")]
            Event::DiskFull => {
                let fill = || {
                    self.want_replicas("3");
                    kafka.limit_disk(node, Some(1));
                };
                let mend = || {
                    // It may have ended itself for want of a disk.
                    kafka.limit_disk(node, None);
                    kafka.start(node);
                    self.want_replicas("2");
                };
                rig.fault(&name, lasts, waits, fill, mend);
            }
        }
    }

    fn lead_as_wanted(&self) {
        self.places.all().iter().for_each(|topic| self.client.elect_preferred(topic));
    }

    /// Each broker leads something that is fetched, and the pipeline knows it.
    fn is_at_work(&self, rig: &Rig) {
        self.lead_as_wanted();
        rig.goes_on("led as wanted");
    }

    fn want_replicas(&self, least: &str) {
        self.client.configure(&self.places.out, "min.insync.replicas", Some(least));
    }

    /// There may be none for a moment.
    fn controller(&self) -> u32 {
        eventually("somebody is the controller", || self.client.controller().ok()) as u32
    }
}
