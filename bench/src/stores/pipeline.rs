//! The production pipeline: Kafka, Avro, a look-up in Cassandra behind a cache, a row in Cassandra for
//! each message.

use crate::job::{Measured, Meter, Scratch};
use crate::kafka::{home, rows_in};
use crate::pipeline::{Running, check, parse_file};
use crate::store::FILES;
use anyhow::{Result, ensure};
use millstream_engine::Pipeline;
use std::time::Instant;

const FILE: &str = "production.yaml";
/// What lets a row's own time decide which write of it is the last.
const STAMPED: &str = "timestamp: seen_at\n";

/// The most that is under way, as the file says.
pub struct Window {
    pub rows: u64,
    pub look_ups: u64,
    pub writes: u64,
}

pub fn run(messages: u64) -> Result<Measured> {
    run_with(messages, &text()?, |_| {})
}

/// The same with the pipeline changed before it starts. The CPU counts from the start of the tasks,
/// the time from the first row: joining a group is a wait.
pub fn run_with(messages: u64, text: &str, change: impl FnOnce(&mut Pipeline)) -> Result<Measured> {
    let scratch = Scratch::new("production")?;
    let home = home(&scratch)?;
    let mut running = Running::open(&home, &parse_file(FILE, text)?)?;
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
    let mut measured = meter.measured("production pipeline", messages, 0)?;
    measured.wall_seconds = wall.as_secs_f64();
    measured.extra.insert("hits".into(), hits / (hits + misses));
    home.log.close();
    Ok(measured)
}

/// The file, as it is.
fn text() -> Result<String> {
    Ok(std::fs::read_to_string(format!("{}/{FILE}", env!("CARGO_MANIFEST_DIR")))?)
}

/// The file without a time of the rows' own: the later write wins.
pub fn text_in_order() -> Result<String> {
    let text = text()?;
    ensure!(text.contains(STAMPED), "{FILE} says `{}`", STAMPED.trim_end());
    Ok(text.replace(STAMPED, "\n"))
}

pub fn window() -> Result<Window> {
    let text = text()?;
    let numbers = |name: &'static str| {
        text.split(name).skip(1).filter_map(|rest| {
            let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        })
    };
    let one = |name: &'static str| {
        numbers(name).next().ok_or_else(|| anyhow::anyhow!("{FILE} says `{name}`"))
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
