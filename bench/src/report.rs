//! The rows that a suite gives, as a printed table and as JSON.

use crate::job::{Measured, bench_dir};
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::PathBuf;

/// One line of the table: what was measured, and where there is a target, against whom.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub messages: u64,
    pub bytes: u64,
    pub cpu_seconds_per_million: f64,
    pub messages_per_second: f64,
    pub peak_rss_mb: f64,
    pub peer: Option<String>,
    pub ratio: Option<f64>,
    pub target: Option<String>,
    pub met: Option<bool>,
}

/// What a ratio must be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// CPU a message, as a multiple of the peer's.
pub fn cpu_ratio(own: &Measured, peer: &Measured) -> f64 {
    own.cpu_us_per_message() / peer.cpu_us_per_message()
}

/// Messages a second, as a multiple of the peer's.
pub fn rate_ratio(own: &Measured, peer: &Measured) -> f64 {
    own.messages_per_second() / peer.messages_per_second()
}

impl Row {
    /// A row without a target: a peer, or something to know.
    pub fn plain(measured: &Measured) -> Row {
        Row {
            name: measured.name.clone(),
            messages: measured.messages,
            bytes: measured.bytes,
            cpu_seconds_per_million: measured.cpu_us_per_message(),
            messages_per_second: measured.messages_per_second(),
            peak_rss_mb: measured.peak_rss_mb,
            peer: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    /// A row whose ratio to the peer is known.
    pub fn against(measured: &Measured, peer: &Measured, ratio: f64) -> Row {
        Row { peer: Some(peer.name.clone()), ratio: Some(ratio), ..Row::plain(measured) }
    }

    /// The same with what the ratio must be.
    pub fn target(self, target: Target) -> Row {
        let met = self.ratio.map(|ratio| target.met(ratio));
        Row { target: Some(target.to_string()), met, ..self }
    }
}

impl Target {
    fn met(self, ratio: f64) -> bool {
        match self {
            Target::AtMost(bound) => ratio <= bound,
            Target::AtLeast(bound) => ratio >= bound,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::AtMost(bound) => write!(f, "<= {bound}"),
            Target::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

/// Writes a suite's rows to `target/bench/NAME.json`.
pub fn save(name: &str, rows: &[Row]) -> Result<PathBuf> {
    let path = bench_dir().join(format!("{name}.json"));
    std::fs::create_dir_all(bench_dir())?;
    std::fs::write(&path, serde_json::to_string_pretty(rows)?)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<36} {:>10} {:>9} {:>11} {:>11} {:>8}  {:>7} {:>8}  {}\n",
        "work", "messages", "MB", "CPU s/M", "messages/s", "RSS MB", "ratio", "target", "against"
    );
    for row in rows {
        let ratio = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let verdict = match row.met {
            Some(true) => "met: ",
            Some(false) => "MISSED: ",
            None => "",
        };
        text.push_str(&format!(
            "{:<36} {:>10} {:>9.1} {:>11.3} {:>11.0} {:>8.1}  {ratio:>7} {:>8}  {verdict}{}\n",
            row.name,
            row.messages,
            row.bytes as f64 / 1e6,
            row.cpu_seconds_per_million,
            row.messages_per_second,
            row.peak_rss_mb,
            row.target.as_deref().unwrap_or_default(),
            row.peer.as_deref().unwrap_or_default(),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &str, cpu_seconds: f64) -> Measured {
        Measured {
            name: name.into(),
            messages: 1_000_000,
            bytes: 1,
            cpu_seconds,
            wall_seconds: cpu_seconds * 2.0,
            peak_rss_mb: 1.0,
            extra: Default::default(),
        }
    }

    #[test]
    fn a_missed_target_says_so() {
        let (own, peer) = (measured("own", 1.4), measured("peer", 1.0));
        let ratio = cpu_ratio(&own, &peer);
        let missed = Row::against(&own, &peer, ratio).target(Target::AtMost(1.3));
        let met = Row::against(&own, &peer, ratio).target(Target::AtMost(1.5));
        assert_eq!((missed.met, met.met), (Some(false), Some(true)));
        assert!(table(&[missed]).contains("MISSED: peer"));
        assert!((met.cpu_seconds_per_million - 1.4).abs() < 1e-9);
        let slower = Row::against(&own, &peer, rate_ratio(&own, &peer));
        assert_eq!(slower.target(Target::AtLeast(0.8)).met, Some(false));
    }
}
