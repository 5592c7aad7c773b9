//! `millstream demo`: the main job on real data, shown while it runs.
//!
//! ```text
//! home   a directory of its own: clean, to be continued, or somebody else's
//! data   the two logs, replayed with shifted times up to the lines asked for
//! picture the job as it is drawn; its numbers are on the screen below
//! result what came out, and what to try next
//! ```

mod data;
mod home;
mod picture;
mod result;

use crate::cli::Global;
use crate::failure::{Mistake, Result, Said};
use crate::output;
use crate::process::{Options, Process};
use crate::screen::Screen;
use anyhow::Context;
use clap::Args;
use home::DemoHome;
use millstream_config::ProcessEnv;
use millstream_console::HttpOptions;
use millstream_engine::{PartitionState, PipelineReport};
use millstream_host::Threads;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The pipeline that the demo is about.
const MAIN_JOB: &str = "enrich";
/// How often the numbers are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// So many looks in a row must find nothing left to do.
const LOOKS_IDLE: u32 = 3;

/// Run the main job on real data and show it
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream demo --events 100000\n\nA finished demo is cleared away by the next; one that was interrupted is continued."
)]
pub struct DemoArgs {
    /// How many lines of the two logs to replay
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000_000))]
    events: u64,
    /// Go on running after the result, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Where /metrics, /health and the schema registry answer meanwhile; nowhere unless given
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

impl DemoArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let home = DemoHome::prepare(&global.data, self.events)?;
        let files = millstream_config::load_many(&home.pipelines(), &ProcessEnv)?;
        output::out(picture::picture(home.events))?;
        let options = Options {
            waits: false,
            data: global.data.clone(),
            threads: Threads::default(),
            kafka: None,
            sentry: None,
            http: self.listen.map(|listen| HttpOptions { listen, registry_listen: None }),
        };
        let process =
            Process::start(options, &files).or_else(|error| match error.downcast_ref() {
                // It ended before a row was read, as it was asked to.
                Some(Said(0)) => interrupted(),
                _ => Err(error),
            })?;
        let started = Instant::now();
        let outcome = process.block_on(watch(&process, started));
        let (reports, took) = (process.engine.reports(), started.elapsed());
        match outcome {
            Outcome::Done => {}
            Outcome::Asked => {
                process.end();
                return interrupted();
            }
            Outcome::Holds(reason) => {
                process.end();
                anyhow::bail!("the demo cannot go on: {reason}");
            }
        }
        let shown = process
            .block_on(result::show(&process, &reports, took, &home))
            .context("showing the result");
        if self.keep && shown.is_ok() {
            output::line("\nThe pipelines go on running; Ctrl-C ends them.")?;
            process.block_on(process.shutdown.wait());
        }
        let drained = process.end();
        shown?;
        home.finished()?;
        if !drained {
            return Err(Mistake::new("the pipelines did not end in time"));
        }
        Ok(())
    }
}

fn interrupted<T>() -> Result<T> {
    output::line(
        "\nInterrupted. What was done is committed; run the same command again and it goes on \
         from there.",
    )?;
    Err(Said(130).into())
}

enum Outcome {
    Done,
    /// By a signal.
    Asked,
    Holds(String),
}

/// Shows the numbers until there is nothing left to do.
async fn watch(process: &Process, started: Instant) -> Outcome {
    let mut screen = Screen::new(started, Some(MAIN_JOB));
    let mut idle = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = process.shutdown.wait() => return Outcome::Asked,
        }
        let reports = process.engine.reports();
        let done = process.engine.is_idle() && all_began(&reports);
        idle = if done { idle + 1 } else { 0 };
        let over = idle >= LOOKS_IDLE;
        // A reader that went away does not stop the work.
        let _ = screen.show(&reports, over);
        if over {
            return Outcome::Done;
        }
        if let Some(reason) = held(&reports) {
            return Outcome::Holds(reason);
        }
    }
}

fn all_began(reports: &[PipelineReport]) -> bool {
    reports.iter().flat_map(|report| &report.partitions).all(|partition| {
        matches!(partition.state, PartitionState::Running | PartitionState::Finished)
    })
}

fn held(reports: &[PipelineReport]) -> Option<String> {
    reports.iter().find_map(|report| {
        let held = report.partitions.iter().find(|p| p.state == PartitionState::Holding)?;
        let reason = held.reason.clone().unwrap_or_else(|| "a partition holds".into());
        Some(format!("{} partition {}: {reason}", report.name, held.partition))
    })
}
