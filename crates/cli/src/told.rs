//! What Sentry is told of the pipelines: their counters of errors, and the states that need somebody.

use millstream_engine::{Engine, Metrics, PartitionState, PipelineReport};
use millstream_sentry::{Count, Kind, Level, Tally};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is waited for so long is told: shorter waits are what retries are for.
const WAITS_LONG: Duration = Duration::from_secs(30);

/// The step of what a partition's task does as a whole.
const TASK: &str = "task";

/// Looks at everything once. Texts of errors are not looked at: they name rows, paths and addresses.
pub fn look(metrics: Metrics, engine: Engine) -> impl FnMut() -> Vec<Tally> + Send {
    let mut waits = Waits::default();
    move || {
        let mut tallies = errors(&metrics);
        let reports = engine.reports();
        tallies.extend(reports.iter().map(holding));
        tallies.extend(waits.look(engine.awaited().is_some(), &reports, Instant::now()));
        tallies
    }
}

fn errors(metrics: &Metrics) -> Vec<Tally> {
    // A retry and what it ends in are one kind.
    let mut counted: BTreeMap<Kind, (u64, u64)> = BTreeMap::new();
    for family in metrics.registry().gather() {
        let is_error = match family.name() {
            "millstream_errors_total" | "millstream_panics_total" => true,
            "millstream_retries_total" => false,
            _ => continue,
        };
        for metric in family.get_metric() {
            let label = |name: &str| {
                let pair = metric.get_label().iter().find(|pair| pair.name() == name);
                pair.map(|pair| pair.value())
            };
            let kind = Kind::of(
                label("pipeline").unwrap_or_default(),
                label("step").unwrap_or(TASK),
                label("kind").unwrap_or("panic"),
            );
            let (errors, retries) = counted.entry(kind).or_default();
            let count = metric.get_counter().get_value() as u64;
            *if is_error { errors } else { retries } += count;
        }
    }
    let tallies = counted.into_iter().map(|(kind, (errors, retries))| Tally {
        level: if errors > 0 { Level::Error } else { Level::Warning },
        says: match (kind.step.as_str(), errors) {
            (TASK, _) => "a panic sent a partition back to its last commit",
            (_, 0) => "calls fail and are tried again",
            _ => "rows or calls failed",
        },
        count: Count::Ever(errors + retries),
        kind,
    });
    tallies.collect()
}

fn holding(report: &PipelineReport) -> Tally {
    let holds = report.partitions.iter().filter(|p| p.state == PartitionState::Holding);
    Tally {
        kind: Kind::of(&report.name, "partitions", "holding"),
        level: Level::Error,
        says: "partitions hold until somebody does something",
        count: Count::Now(holds.count() as u64),
    }
}

/// Since when each pipeline waits for something else than its own partitions; the start of all of
/// them has no name.
#[derive(Default)]
struct Waits(BTreeMap<String, Instant>);

impl Waits {
    fn look(&mut self, start: bool, reports: &[PipelineReport], now: Instant) -> Vec<Tally> {
        let waits = |report: &PipelineReport| {
            let own = report.partitions.iter().filter(|p| p.reason.is_some()).count();
            (report.name.clone(), report.waits_for.len() > own)
        };
        let all: Vec<_> = reports.iter().map(waits).chain([(String::new(), start)]).collect();
        let tallies = all.into_iter().map(|(name, waits)| {
            let since = match waits {
                true => Some(*self.0.entry(name.clone()).or_insert(now)),
                false => {
                    self.0.remove(&name);
                    None
                }
            };
            let is_long = since.is_some_and(|since| now >= since + WAITS_LONG);
            Tally {
                kind: match name.is_empty() {
                    true => Kind::of_process("start", "waiting"),
                    false => Kind::of(&name, "outside", "waiting"),
                },
                level: Level::Error,
                says: "it has waited for long for what is outside of it",
                count: Count::Now(u64::from(is_long)),
            }
        });
        tallies.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_engine::OffsetUnit;

    fn report(name: &str, waits_for: &[&str]) -> PipelineReport {
        PipelineReport {
            name: name.into(),
            state: PartitionState::Running,
            source: "s".into(),
            rows_in: 0,
            rows_out: 0,
            rows_filtered: 0,
            rows_dead: 0,
            lag: 0,
            lag_unit: OffsetUnit::Records,
            waits_for: waits_for.iter().map(|reason| (*reason).to_owned()).collect(),
            p50_ms: None,
            p99_ms: None,
            lookups: Vec::new(),
            partitions: Vec::new(),
        }
    }

    #[test]
    fn only_long_waits_are_told_and_nothing_of_their_reasons() {
        let mut waits = Waits::default();
        let start = Instant::now();
        let mut told = |seconds, starting, reports: &[PipelineReport]| {
            let tallies = waits.look(starting, reports, start + Duration::from_secs(seconds));
            let told = tallies.into_iter().filter(|tally| tally.count == Count::Now(1));
            told.map(|tally| tally.kind.pipeline.unwrap_or_default()).collect::<Vec<_>>()
        };
        let away = [report("a", &["the store at 10.0.0.1 is away"]), report("b", &[])];
        assert!(told(0, true, &[]).is_empty());
        assert_eq!(told(30, true, &[]), [""]);
        assert!(told(31, false, &away).is_empty());
        assert!(told(60, false, &away).is_empty());
        assert_eq!(told(61, false, &away), ["a"]);
        assert!(told(62, false, &[report("a", &[])]).is_empty());
        assert!(told(63, false, &away).is_empty(), "it waits anew");
    }
}
