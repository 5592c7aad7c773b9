//! The numbers of running pipelines: refreshed in place on a terminal, a line now and then where
//! there is none.

use crate::failure::Result;
use crate::output;
use millstream_engine::{OffsetUnit, PipelineReport};
use millstream_host::process;
use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// Without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// The rate is that of this time.
const RATE_OVER: Duration = Duration::from_secs(2);

pub struct Screen {
    /// The pipeline that it is about; all of them unless given.
    about: Option<&'static str>,
    terminal: bool,
    started: Instant,
    /// Lines of the block that stands on the terminal.
    drawn: usize,
    last_line: Instant,
    /// When and how many rows, for the rate.
    seen: VecDeque<(Instant, u64)>,
}

impl Screen {
    pub fn new(started: Instant, about: Option<&'static str>) -> Self {
        Self {
            about,
            terminal: io::stdout().is_terminal(),
            started,
            drawn: 0,
            last_line: started,
            seen: VecDeque::new(),
        }
    }

    pub fn show(&mut self, reports: &[PipelineReport], last: bool) -> Result<()> {
        let rate = self.rate(reports);
        if self.terminal {
            let block = self.block(reports, rate);
            let up = match self.drawn {
                0 => String::new(),
                lines => format!("\x1b[{lines}A\x1b[J"),
            };
            self.drawn = block.lines().count();
            return output::out(format!("{up}{block}"));
        }
        if last || self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            return output::line(self.one_line(reports, rate));
        }
        Ok(())
    }

    fn rate(&mut self, reports: &[PipelineReport]) -> f64 {
        let rows: u64 = self.jobs(reports).map(|report| report.rows_in).sum();
        let now = Instant::now();
        self.seen.push_back((now, rows));
        while self.seen.len() > 2 && now - self.seen[0].0 > RATE_OVER {
            self.seen.pop_front();
        }
        let (since, before) = self.seen[0];
        let seconds = (now - since).as_secs_f64();
        if seconds > 0.0 { (rows - before) as f64 / seconds } else { 0.0 }
    }

    fn block(&self, reports: &[PipelineReport], rate: f64) -> String {
        let mut text = numbers(reports);
        for job in self.jobs(reports).filter(|job| !job.lookups.is_empty()) {
            let _ = writeln!(text, "look-ups  {}", hits(job));
        }
        let memory = process::read().map_or(0, |reading| reading.resident_bytes);
        let _ = writeln!(
            text,
            "{} rows/s   {:.1} s   memory {}",
            output::count(rate as u64),
            self.started.elapsed().as_secs_f64(),
            output::bytes(memory)
        );
        text
    }

    fn one_line(&self, reports: &[PipelineReport], rate: f64) -> String {
        let mut text = format!("{:5.1} s ", self.started.elapsed().as_secs_f64());
        for report in reports {
            let _ = write!(
                text,
                " {} in {} out {} filtered {} dead {};",
                report.name,
                report.rows_in,
                report.rows_out,
                report.rows_filtered,
                report.rows_dead
            );
        }
        let latency = |ms: Option<f64>| ms.map_or_else(|| "-".into(), output::ms);
        for job in self.jobs(reports) {
            let _ = write!(
                text,
                " lag {}, p50 {}, p99 {},",
                match job.lag_unit {
                    OffsetUnit::Records => job.lag.to_string(),
                    OffsetUnit::Bytes => lag(job),
                },
                latency(job.p50_ms),
                latency(job.p99_ms)
            );
        }
        let _ = write!(text, " {} rows/s", rate as u64);
        text
    }

    fn jobs<'a>(&self, reports: &'a [PipelineReport]) -> impl Iterator<Item = &'a PipelineReport> {
        let about = self.about;
        reports.iter().filter(move |report| about.is_none_or(|about| report.name == about))
    }
}

/// The table of the pipelines' counts.
pub fn numbers(reports: &[PipelineReport]) -> String {
    let mut table = output::Table::new(
        &["PIPELINE", ">ROWS IN", ">OUT", ">FILTERED", ">DEAD", ">LAG", ">P50", ">P99"],
        "",
    );
    let latency = |ms: Option<f64>| ms.map_or_else(|| "-".into(), output::ms);
    for report in reports {
        table.row([
            report.name.clone(),
            output::count(report.rows_in),
            output::count(report.rows_out),
            output::count(report.rows_filtered),
            output::count(report.rows_dead),
            lag(report),
            latency(report.p50_ms),
            latency(report.p99_ms),
        ]);
    }
    table.render(output::colours())
}

/// What is left to read, as what its offsets count.
fn lag(report: &PipelineReport) -> String {
    match report.lag_unit {
        OffsetUnit::Records => output::count(report.lag),
        OffsetUnit::Bytes => output::bytes(report.lag.max(0) as u64),
    }
}

/// How often each look-up of a pipeline found something.
pub fn hits(report: &PipelineReport) -> String {
    let each = report
        .lookups
        .iter()
        .map(|lookup| format!("{} {}", lookup.name, output::percent(lookup.found, lookup.asked)));
    each.collect::<Vec<_>>().join("   ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_engine::PartitionState;

    fn report(source: &str, lag_unit: OffsetUnit) -> PipelineReport {
        PipelineReport {
            name: "p".into(),
            state: PartitionState::Running,
            source: source.into(),
            rows_in: 0,
            rows_out: 0,
            rows_filtered: 0,
            rows_dead: 0,
            lag: 123_456,
            lag_unit,
            waits_for: Vec::new(),
            p50_ms: None,
            p99_ms: None,
            lookups: Vec::new(),
            partitions: Vec::new(),
        }
    }

    #[test]
    fn only_what_is_left_of_a_file_is_in_bytes_whatever_a_source_is_called() {
        let shown = |source, unit| numbers(&[report(source, unit)]);
        let (records, bytes) = (output::count(123_456), output::bytes(123_456));
        for topic in ["page.views", "views", "a/b"] {
            let text = shown(topic, OffsetUnit::Records);
            assert!(text.contains(&records) && !text.contains(&bytes), "{text}");
        }
        let text = shown("views", OffsetUnit::Bytes);
        assert!(text.contains(&bytes) && !text.contains(&records), "{text}");
    }
}
