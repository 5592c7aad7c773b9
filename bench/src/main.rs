//! Benchmarks side by side: every row and its peer run one after the other on the same machine, each
//! in a process of its own.

mod decode;
mod generate;
mod idle;
mod job;
mod kafka;
mod kafka_latency;
mod kafka_suites;
mod log;
mod pipeline;
mod python;
mod report;
mod services;
mod store;
mod stores;
mod suites;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use kafka_suites::KAFKA_SUITES;
use stores::STORE_SUITES;
use suites::{SUITES, Setup, Suite};

/// Measures Millstream against its bare parts and against the same work in Python.
#[derive(Parser)]
#[command(after_help = "Example: millstream-bench --messages 2000000 decode log")]
struct Cli {
    /// The suites to run. All of them unless given.
    suites: Vec<String>,
    /// How many messages a row handles.
    #[arg(long, default_value_t = 2_000_000)]
    messages: u64,
    /// How many the Python peers handle.
    #[arg(long, default_value_t = 200_000)]
    peer_messages: u64,
    /// Leave the Python peers out.
    #[arg(long)]
    no_python: bool,
    /// Also run the main job with ten times the messages; at the default that takes some minutes
    /// and 12 GB of disk.
    #[arg(long)]
    growth: bool,
    /// Run the suites against a real Kafka instead, which `dev/services` starts.
    #[arg(long)]
    kafka: bool,
    /// Run the suites against real stores instead, which `dev/services` starts.
    #[arg(long, conflicts_with = "kafka")]
    stores: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Does one piece of work and prints what it cost, as JSON.
    #[command(hide = true)]
    Job { job: String },
    /// Writes the generated records and the sites table: RECORDS has a little-endian u32 length
    /// before each record.
    Generate { records: std::path::PathBuf, sites: std::path::PathBuf },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Job { job }) => {
            let job: job::Job = serde_json::from_str(&job)?;
            println!("{}", serde_json::to_string(&job.run()?)?);
            Ok(())
        }
        Some(Command::Generate { records, sites }) => {
            let mut out = std::io::BufWriter::new(std::fs::File::create(records)?);
            generate::write_records(&mut out, generate::SEED, cli.messages)?;
            let mut out = std::io::BufWriter::new(std::fs::File::create(sites)?);
            Ok(generate::write_sites(&mut out)?)
        }
        None => {
            let setup = Setup {
                messages: cli.messages,
                peer_messages: cli.peer_messages,
                python: !cli.no_python,
                growth: cli.growth,
            };
            let suites: &[_] = match (cli.kafka, cli.stores) {
                (true, _) => &KAFKA_SUITES,
                (_, true) => &STORE_SUITES,
                _ => &SUITES,
            };
            run(suites, &cli.suites, &setup)
        }
    }
}

fn run(suites: &[(&str, Suite)], asked: &[String], setup: &Setup) -> Result<()> {
    let known: Vec<&str> = suites.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = asked.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("`{unknown}` is not a suite: there are {}", known.join(", "));
    }
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its numbers mean nothing, use --release");
    }
    for (name, suite) in suites {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            let rows = suite(setup)?;
            if rows.is_empty() {
                continue;
            }
            println!("{name}\n{}", report::table(&rows));
            println!("{}\n", report::save(name, &rows)?.display());
        }
    }
    Ok(())
}
