//! `millstream run`: pipelines, until they are asked to end.

use crate::cli::Global;
use crate::commands::kafka::KafkaArgs;
use crate::commands::sentry::{self, SentryArgs};
use crate::failure::{Mistake, Result, Said};
use crate::output::{self, JsonArg};
use crate::plan_files::plan_files;
use crate::process::{Options, Process};
use crate::screen::Screen;
use crate::session::Session;
use clap::Args;
use millstream_config::ProcessEnv;
use millstream_console::{HttpOptions, Request};
use millstream_engine::{PartitionState, PipelineReport};
use millstream_host::Threads;
use millstream_sentry::{Handle, Sentry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the numbers on the screen are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Run pipelines in one process
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millstream run examples/first/first.yaml\n  millstream run examples/first/first.yaml --preview 5\n  millstream run examples/first/first.yaml --until-end --listen off\n\nThe first SIGTERM or Ctrl-C finishes and commits what is in flight, for at most 25 s; a second\none ends at once. Nothing is lost either way."
)]
pub struct RunArgs {
    /// The pipeline files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show up to N rows that each sink would get; write and commit nothing
    #[arg(long, value_name = "N")]
    pub preview: Option<u64>,
    /// Where /metrics, /health and the schema registry answer, or `off`
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464", value_parser = listen)]
    listen: Listen,
    /// An address of its own for the schema registry, beside /registry of --listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    registry_listen: Option<SocketAddr>,
    /// End when every source has come to its end (a topic never does)
    #[arg(long)]
    until_end: bool,
    /// End when everything that there is to read now is done
    #[arg(long, conflicts_with = "until_end")]
    exit_when_idle: bool,
    /// Threads for the pipelines; as many as there are cores unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Threads for sources, sinks and timers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    io_threads: u16,
    /// Threads for the console: socket, metrics, schema registry
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    console_threads: u16,
    /// Show on standard output how it does; the log goes to standard error
    #[arg(long, conflicts_with_all = ["preview", "json"])]
    screen: bool,
    #[command(flatten)]
    json: JsonArg,
    /// Where Kafka clients can read and write the topics; nowhere unless given
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Kafka")]
    kafka_listen: Option<SocketAddr>,
    /// Threads that serve Kafka clients; as many as there are cores unless given
    #[arg(long, value_name = "N", help_heading = "Kafka", value_parser = clap::value_parser!(u16).range(1..=1024))]
    kafka_threads: Option<u16>,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    pub sentry: SentryArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listen(Option<SocketAddr>);

impl RunArgs {
    pub fn run(self, global: &Global, sentry: Option<Sentry>) -> Result<()> {
        let handle = sentry.as_ref().map(Sentry::handle);
        let result = self.run_told(global, handle.clone());
        // What is left is sent when the service is dropped.
        if let (Err(error), Some(handle)) = (&result, handle)
            && !error.is::<Said>()
        {
            handle.tell(sentry::not_started());
        }
        result
    }

    fn run_told(self, global: &Global, sentry: Option<Handle>) -> Result<()> {
        let loaded = millstream_console::load_files(&self.files, &ProcessEnv);
        if !loaded.mistakes.0.is_empty() {
            return Err(loaded.mistakes.into());
        }
        let files = loaded.pipelines;
        if let Some(rows) = self.preview {
            return self.preview(global, rows);
        }
        let threads = Threads::default();
        let http = match (self.listen.0, self.registry_listen) {
            (Some(listen), registry_listen) => Some(HttpOptions { listen, registry_listen }),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Mistake::new(
                    "--registry-listen needs --listen: with `off` nothing listens",
                ));
            }
        };
        let options = Options {
            // A run that is to end by itself has nobody who would start what it waits for.
            waits: !self.until_end && !self.exit_when_idle,
            kafka: self.kafka.options(self.kafka_listen, &global.data)?,
            data: global.data.clone(),
            threads: Threads {
                pipelines: self.threads.map_or(threads.pipelines, usize::from),
                io: usize::from(self.io_threads),
                clients: match (self.kafka_listen, self.kafka_threads) {
                    (None, _) => 0,
                    (Some(_), given) => given.map_or(threads.pipelines, usize::from),
                },
                console: usize::from(self.console_threads),
            },
            http,
            sentry,
        };
        let process = Process::start(options, &files)?;
        process.say_where();
        let mut screen = self.screen.then(|| Screen::new(Instant::now(), None));
        let broken = process.block_on(async {
            tokio::select! {
                () = process.shutdown.wait() => false,
                () = self.finished(&process) => false,
                () = show(screen.as_mut(), &process) => false,
                () = process.engine.only_fenced() => false,
                () = process.committer.broken() => true,
            }
        });
        if broken {
            // What was written since the last commit is unknown: only opening the directory anew
            // says what is there. Nothing of it was acknowledged.
            tracing::error!(
                "the tables' journal failed and nothing can be committed: see what is wrong with \
                 the disk, then start again; it goes on from the last commit"
            );
            return Err(Said(1).into());
        }
        let reports = process.engine.reports();
        let asked = process.shutdown.begun();
        let holds = |report: &&PipelineReport| {
            report.partitions.iter().any(|p| p.state == PartitionState::Holding)
        };
        let held: Vec<&str> = reports.iter().filter(holds).map(|r| r.name.as_str()).collect();
        let engine = process.engine.clone();
        let drained = process.end();
        if let Some(screen) = &mut screen {
            let _ = screen.show(&engine.reports(), true);
        }
        for report in engine.reports() {
            tracing::info!(
                pipeline = report.name,
                rows_in = report.rows_in,
                out = report.rows_out,
                filtered = report.rows_filtered,
                dead = report.rows_dead,
                "settled"
            );
        }
        if !drained {
            tracing::warn!("not all was done in time: what was not committed comes again");
            return Err(Said(1).into());
        }
        let fenced = engine.fenced();
        if !fenced.is_empty() {
            let fenced: Vec<&str> = fenced.iter().map(|name| &**name).collect();
            tracing::error!(
                "ended: another process has the place of {} in its group; what was not committed \
                 is done there",
                fenced.join(", ")
            );
            return Err(Said(1).into());
        }
        if held.is_empty() {
            tracing::info!("ended: everything in flight is done and committed");
            return Ok(());
        }
        if asked {
            say_why(&reports);
        }
        tracing::warn!(
            "ended: {} held, and goes on from its last commit when it is run again; everything \
             else in flight is done and committed",
            held.join(", ")
        );
        // A script that waits for the end must see that something is left.
        if asked { Ok(()) } else { Err(Said(1).into()) }
    }

    /// Resolves when the run is to end by itself.
    async fn finished(&self, process: &Process) {
        if !self.until_end && !self.exit_when_idle {
            return std::future::pending().await;
        }
        let mut idle_for = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let is_over = process.engine.is_over();
            let reports = process.engine.reports();
            if is_over {
                say_why(&reports);
                return;
            }
            if self.exit_when_idle {
                process.engine.finish_collected();
                // Twice: what one pipeline has just written another may be about to read.
                idle_for = if process.engine.is_at_rest() { idle_for + 1 } else { 0 };
                if idle_for > 2 {
                    say_why(&reports);
                    return;
                }
            }
        }
    }

    fn preview(&self, global: &Global, rows: u64) -> Result<()> {
        let request = Request::Preview { files: plan_files(&self.files)?, rows };
        let mut session = Session::open(global, &request)?;
        let mut sinks: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
        let mut dead: Vec<Value> = Vec::new();
        session.each(&request, |row| {
            if self.json.json {
                return output::json_line(&row);
            }
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            match row.get("dead") {
                Some(letter) => dead.push(letter.clone()),
                None => {
                    sinks
                        .entry((text("pipeline"), text("sink")))
                        .or_default()
                        .push(row["row"].clone());
                }
            }
            Ok(())
        })?;
        for ((pipeline, sink), rows) in &sinks {
            output::line(format!("{pipeline} would write to {sink}:"))?;
            output::out(output::grid(rows, usize::MAX))?;
        }
        if !dead.is_empty() {
            output::line("would become dead letters:")?;
            output::out(output::grid(&dead, usize::MAX))?;
        }
        if sinks.is_empty() && dead.is_empty() && !self.json.json {
            output::line("There is nothing to read that would be written.")?;
        }
        Ok(())
    }
}

/// Shows the numbers, for ever.
async fn show(screen: Option<&mut Screen>, process: &Process) {
    let Some(screen) = screen else { return std::future::pending().await };
    loop {
        // A reader that went away does not stop the work.
        let _ = screen.show(&process.engine.reports(), false);
        tokio::time::sleep(LOOK).await;
    }
}

/// Why pipelines do not go on.
fn say_why(reports: &[PipelineReport]) {
    for report in reports {
        for reason in &report.waits_for {
            tracing::error!(pipeline = report.name, "{reason}");
        }
    }
}

fn listen(text: &str) -> std::result::Result<Listen, String> {
    if text == "off" {
        return Ok(Listen(None));
    }
    match text.parse() {
        Ok(address) => Ok(Listen(Some(address))),
        Err(_) => Err("write ADDRESS:PORT, as 127.0.0.1:9464, or `off`".into()),
    }
}
