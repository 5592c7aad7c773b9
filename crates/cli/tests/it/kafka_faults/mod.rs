//! What may fail around a pipeline from Kafka to Kafka, on real Kafka and through the real binary:
//! nothing is lost, nothing is committed above a row that is undone, one line says what is waited
//! for, and all of it goes on by itself.
//!
//! - `MILLSTREAM_FAULTS_ROUNDS=20` does the faults of each test so often, in an order and for times
//!   that the seed says; once without it.
//! - `MILLSTREAM_FAULTS_SEED=7` is where the seeds begin.

mod cluster;
#[path = "../../faults/mod.rs"]
#[expect(dead_code, reason = "the stores' tests use more of it")]
mod faults;
mod metrics;
mod network;
mod registry;
mod rig;
mod topics;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("MILLSTREAM_FAULTS_SEED", 71)
}

/// Runs each of these faults, in their order and briefly; or again and again as the seed says.
fn each<T: Copy>(faults: &[T], mut run: impl FnMut(T, Duration)) {
    let rounds = number("MILLSTREAM_FAULTS_ROUNDS", 0);
    if rounds == 0 {
        faults.iter().for_each(|fault| run(*fault, Duration::from_millis(1_200)));
    }
    let mut random = StdRng::seed_from_u64(seed());
    for round in 0..rounds {
        println!("round {round}");
        let mut faults = faults.to_vec();
        faults.shuffle(&mut random);
        for fault in faults {
            run(fault, Duration::from_millis(random.random_range(100..12_000)));
        }
    }
}
