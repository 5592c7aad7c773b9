//! The checker is itself checked: with a seeded bug in the product it must find something. (Bugs
//! below the page cache, such as a skipped fsync, survive a kill; the log's and the tables' own
//! suites find those.)

use crate::world::{Found, World};
use millstream_testkit::events::{Fault, Generator};
use std::time::Duration;

/// Runs the pipeline with the bug, ending each life in the way that brings it out.
fn with_bug(bug: &str, events: usize, end: impl Fn(&mut World, &[(&str, &str)])) -> Found {
    let mut generator = Generator::new(11, 23);
    let mut world = World::new();
    world.produce(&mut generator, events);
    for _ in 0..3 {
        end(&mut world, &[("MILLSTREAM_BUG", bug)]);
    }
    world.finish();
    world.check(3)
}

fn dies_at(failpoint: &'static str) -> impl Fn(&mut World, &[(&str, &str)]) {
    move |world, variables| {
        let variables: Vec<_> =
            variables.iter().copied().chain([("MILLSTREAM_FAILPOINT", failpoint)]).collect();
        let mut process = world.start(&variables);
        let died = process.wait(Duration::from_secs(20));
        assert!(died.is_some(), "{failpoint} was never reached");
    }
}

fn ended(world: &mut World, variables: &[(&str, &str)]) {
    let mut process = world.start(variables);
    // Long enough to be in the middle of it, short enough not to be done.
    process.wait(Duration::from_millis(30));
    process.terminate();
}

fn is_found(bug: &str, found: &Found) {
    let lost = found.faults.iter().filter(|fault| matches!(fault, Fault::Lost { .. })).count();
    println!("seeded bug {bug}: {lost} events lost, {} faults found", found.faults.len());
    assert!(lost > 0, "the checker did not notice the seeded bug {bug}: {found}");
}

#[test]
fn commit_before_ack() {
    is_found(
        "commit_before_ack",
        &with_bug("commit_before_ack", 3_000, dies_at("engine.sink_written@7")),
    );
}

#[test]
fn ack_after_one_of_two_sinks() {
    let found = with_bug("ack_after_one_sink", 3_000, dies_at("engine.sink_written@7"));
    is_found("ack_after_one_sink", &found);
}

#[test]
fn commit_before_the_dead_letter_is_durable() {
    let found = with_bug("commit_before_dead_letter", 3_000, dies_at("dead_letters.due@2"));
    is_found("commit_before_dead_letter", &found);
}

#[test]
fn a_rejected_row_dropped_silently() {
    let found = with_bug("drop_rejected_row", 3_000, |world, variables| {
        let mut process = world.start(variables);
        process.wait(Duration::from_millis(800));
        process.kill();
    });
    is_found("drop_rejected_row", &found);
}

#[test]
fn the_last_batch_lost_at_shutdown() {
    is_found(
        "lose_last_batch_at_shutdown",
        &with_bug("lose_last_batch_at_shutdown", 20_000, ended),
    );
}
