//! The production pipeline: Kafka, Avro, look-ups in Cassandra and MongoDB behind caches, a row in
//! Cassandra and a record on Kafka for each message; and the part of it that is on Cassandra.

use crate::job::{Measured, Meter, Scratch};
use crate::kafka::{home, rows_in};
use crate::pipeline::{Running, check, parse_file};
use crate::store::FILES;
use anyhow::{Result, ensure};
use millstream_engine::Pipeline;
use std::time::Instant;

const WHOLE: &str = "production.yaml";
const ON_CASSANDRA: &str = "production_cassandra.yaml";
/// What lets a row's own time decide which write of it is the last.
const STAMPED: &str = "timestamp: seen_at\n";

/// The most that is under way, as the file says.
pub struct Window {
    pub rows: u64,
    pub look_ups: u64,
    pub writes: u64,
}

/// From Kafka, Cassandra and MongoDB to Cassandra and Kafka.
pub fn whole(messages: u64) -> Result<Measured> {
    run("production pipeline", messages, WHOLE, &file(WHOLE)?, |_| {})
}

pub fn on_cassandra(messages: u64) -> Result<Measured> {
    let name = "production pipeline on Cassandra alone";
    run(name, messages, ON_CASSANDRA, &file(ON_CASSANDRA)?, |_| {})
}

/// The part on Cassandra, changed before it starts, without a time of the rows' own: the later write
/// wins.
pub fn in_order(messages: u64, change: impl FnOnce(&mut Pipeline)) -> Result<Measured> {
    run("production pipeline, in order", messages, ON_CASSANDRA, &text_in_order()?, change)
}

/// The CPU counts from the start of the tasks, the time from the first row: joining a group is a wait.
fn run(
    name: &str,
    messages: u64,
    file: &str,
    text: &str,
    change: impl FnOnce(&mut Pipeline),
) -> Result<Measured> {
    let scratch = Scratch::new("production")?;
    let home = home(&scratch)?;
    let mut running = Running::open(&home, &parse_file(file, text)?)?;
    running.change(change);
    let mut meter = Meter::paused();
    meter.resume();
    let running = running.start();
    running.wait(|engine| rows_in(engine) > 0)?;
    let first = Instant::now();
    running.wait(|engine| rows_in(engine) >= messages)?;
    let wall = first.elapsed();
    meter.pause();
    let counted = |name| running.counted(name);
    let (hits, misses) = (
        counted("millstream_lookup_cache_hits_total"),
        counted("millstream_lookup_cache_misses_total"),
    );
    let report = running.drain()?;
    check(&report, messages)?;
    ensure!(hits + misses > 0.0, "the cache is asked");
    let mut measured = meter.measured(name, messages, 0)?;
    measured.wall_seconds = wall.as_secs_f64();
    measured.extra.insert("hits".into(), hits / (hits + misses));
    home.log.close();
    Ok(measured)
}

fn file(name: &str) -> Result<String> {
    Ok(std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR")))?)
}

fn text_in_order() -> Result<String> {
    let text = file(ON_CASSANDRA)?;
    ensure!(text.contains(STAMPED), "{ON_CASSANDRA} says `{}`", STAMPED.trim_end());
    Ok(text.replace(STAMPED, "\n"))
}

/// That of the part on Cassandra.
pub fn window() -> Result<Window> {
    let text = file(ON_CASSANDRA)?;
    let numbers = |name: &'static str| {
        text.split(name).skip(1).filter_map(|rest| {
            let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        })
    };
    let one = |name: &'static str| {
        numbers(name).next().ok_or_else(|| anyhow::anyhow!("{ON_CASSANDRA} says `{name}`"))
    };
    Ok(Window {
        rows: one("max_rows:")? * one("batches:")? * FILES,
        look_ups: one("concurrency:")?,
        writes: numbers("concurrency:").nth(1).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_its_window_and_its_order() {
        let window = window().unwrap();
        assert_eq!((window.rows, window.look_ups, window.writes), (40_000, 64, 256));
        assert!(!text_in_order().unwrap().contains("timestamp:"));
    }
}
