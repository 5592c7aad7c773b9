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
    Between(f64, f64),
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

    /// A row whose ratio says how many times faster it is, not how many times the CPU it takes.
    pub fn times_faster(self) -> Row {
        Row { name: format!("{}, times faster", self.name), ..self }
    }

    /// A row that is held to a number of its own, which stands where others have a ratio.
    pub fn number(measured: &Measured, what: &str, number: f64) -> Row {
        Row { name: what.to_owned(), ratio: Some(number), ..Row::plain(measured) }
    }

    /// A row that is held to its messages a second.
    pub fn rate(measured: &Measured) -> Row {
        let name = format!("{}, messages/s", measured.name);
        Row::number(measured, &name, measured.messages_per_second())
    }

    /// The most memory that one of these had.
    pub fn peak_rss(all: &[&Measured]) -> Row {
        let by_rss = |a: &&&Measured, b: &&&Measured| a.peak_rss_mb.total_cmp(&b.peak_rss_mb);
        let most = all.iter().max_by(by_rss).expect("there is one at least");
        Row::number(most, &format!("peak RSS MB: {}", most.name), most.peak_rss_mb)
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
            Target::Between(low, high) => (low..=high).contains(&ratio),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::AtMost(bound) => write!(f, "<= {bound}"),
            Target::AtLeast(bound) => write!(f, ">= {bound}"),
            Target::Between(low, high) => write!(f, "{low}..{high}"),
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
        "{:<42} {:>10} {:>9} {:>11} {:>11} {:>8}  {:>8} {:>9}  {}\n",
        "work", "messages", "MB", "CPU s/M", "messages/s", "RSS MB", "ratio", "target", "against"
    );
    for row in rows {
        let ratio = row.ratio.map_or(String::new(), |ratio| {
            if ratio < 1e3 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
        });
        let verdict = match row.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let peer = row.peer.as_deref().unwrap_or_default();
        let colon = if verdict.is_empty() || peer.is_empty() { "" } else { ": " };
        text.push_str(&format!(
            "{:<42} {:>10} {:>9.1} {:>11.3} {:>11.0} {:>8.1}  {ratio:>8} {:>9}  {verdict}{colon}{peer}\n",
            row.name,
            row.messages,
            row.bytes as f64 / 1e6,
            row.cpu_seconds_per_million,
            row.messages_per_second,
            row.peak_rss_mb,
            row.target.as_deref().unwrap_or_default(),
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
