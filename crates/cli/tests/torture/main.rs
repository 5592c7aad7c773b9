//! Nothing is lost, whatever is killed when: numbered events through the real binary, which is
//! killed at random and at named places, and an independent count at the end.
//!
//! `MILLSTREAM_KILLS` sets how many kills (40 unless given), `MILLSTREAM_SEED` repeats a run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bugs;
mod world;

use millstream_testkit::events::Generator;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use world::World;

/// Where the process can be told to die. Some are only passed now and then: a life in which its
/// failpoint is not reached is killed from outside.
const FAILPOINTS: [&str; 15] = [
    "log.append.written",
    "log.append.synced",
    "log.index",
    "log.roll",
    "log.recovery",
    "log.retention",
    "tables.write",
    "tables.commit.written",
    "tables.commit.persisted",
    "engine.sink_written",
    "engine.settled",
    "engine.commit",
    "engine.committed",
    "dead_letters.due",
    "dead_letters.durable",
];

#[test]
fn nothing_is_lost_whatever_is_killed_when() {
    let kills: u32 = setting("MILLSTREAM_KILLS", 40);
    let seed: u64 = setting("MILLSTREAM_SEED", 0x5eed);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut generator = Generator::new(seed, 23);
    let mut world = World::new();
    world.produce(&mut generator, 2_000);
    let mut died_at: BTreeMap<&str, u32> = BTreeMap::new();
    for life in 0..kills {
        let failpoint = (life % 2 == 0).then(|| FAILPOINTS[life as usize / 2 % FAILPOINTS.len()]);
        let nth = rng.random_range(1..4);
        let armed = failpoint
            .map(|name| format!("{name}@{}", if name == "log.recovery" { 1 } else { nth }));
        let variables: Vec<_> =
            armed.iter().map(|armed| ("MILLSTREAM_FAILPOINT", armed.as_str())).collect();
        let mut process = world.start(&variables);
        world.produce(&mut generator, rng.random_range(50..400));
        // A failpoint that this life does not come to is waited for in vain, but not for long.
        let patience = if failpoint.is_some() { 1_500 } else { rng.random_range(20..700) };
        let patience = Duration::from_millis(patience);
        let place = match process.wait(patience) {
            Some(_) => failpoint.unwrap_or("by itself"),
            None => {
                process.kill();
                "from outside"
            }
        };
        *died_at.entry(place).or_default() += 1;
        if life % 4 == 3 {
            world.note_offsets();
        }
    }
    world.produce(&mut generator, 500);
    world.finish();
    let found = world.check(u64::from(kills));
    println!("torture: seed {seed:#x}, {kills} kills: {died_at:?}");
    println!("torture: {found}");
    assert!(found.faults.is_empty(), "seed {seed:#x}: {:#?}", found.faults);
    assert!(!died_at.contains_key("by itself"), "the process ended without being killed");
}

fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
