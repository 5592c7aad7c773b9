//! The arguments: what is global, and which command was asked for.

use crate::commands;
use crate::failure::{Mistake, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use millstream_host::{LogFormat, LogLayer};
use millstream_sentry::Sentry;
use std::path::PathBuf;

/// Takes events from where they arise to where they are kept, and loses none on the way.
#[derive(Debug, Parser)]
#[command(
    name = "millstream",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Examples:\n  millstream demo\n  millstream run examples/first/first.yaml\n  millstream topics list"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command knows.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The data directory: topics, tables, schemas, offsets
    #[arg(
        long,
        value_name = "DIR",
        env = "MILLSTREAM_DATA",
        default_value = "millstream-data",
        global = true,
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub data: PathBuf,
    /// How the process's own log is written
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        global = true,
        help_heading = "Global options"
    )]
    pub log_format: LogFormatArg,
    /// What is logged: a level, or `info,millstream_log=debug` and the like
    #[arg(
        long,
        value_name = "FILTER",
        env = "MILLSTREAM_LOG",
        global = true,
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub log: Option<String>,
    /// Let the system write a core file when the process crashes: it holds the secrets that are in
    /// memory
    #[arg(long, global = true, help_heading = "Global options")]
    pub allow_core_files: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(commands::run::RunArgs),
    Serve(commands::serve::ServeArgs),
    Check(commands::check::CheckArgs),
    Explain(commands::explain::ExplainArgs),
    Test(commands::test::TestArgs),
    Pipelines(commands::pipelines::PipelinesArgs),
    Offsets(commands::offsets::OffsetsArgs),
    Topics(commands::topics::TopicsArgs),
    Produce(commands::produce::ProduceArgs),
    Tap(commands::tap::TapArgs),
    Tables(commands::tables::TablesArgs),
    Schemas(commands::schemas::SchemasArgs),
    DeadLetters(commands::dead_letters::DeadLettersArgs),
    Migrate(commands::migrate::MigrateArgs),
    Schema(commands::schema::SchemaArgs),
    Completions(commands::completions::CompletionsArgs),
    Demo(commands::demo::DemoArgs),
}

pub fn run() -> Result<()> {
    let Cli { global, command } = Cli::parse();
    let sentry = command.sentry()?;
    let layers = sentry.iter().map(|sentry| sentry.handle().layer()).collect();
    global.init_logging(command.log_filter(), layers)?;
    if !global.allow_core_files
        && let Err(error) = millstream_host::process::forbid_core_files()
    {
        tracing::warn!(%error, "a crash may leave a core file, with the secrets that are in memory");
    }
    match command {
        Command::Run(args) => args.run(&global, sentry),
        Command::Serve(args) => args.run(&global),
        Command::Check(args) => args.run(&global),
        Command::Explain(args) => args.run(&global),
        Command::Test(args) => args.run(&global),
        Command::Pipelines(args) => args.run(&global),
        Command::Offsets(args) => args.run(&global),
        Command::Topics(args) => args.run(&global),
        Command::Produce(args) => args.run(&global),
        Command::Tap(args) => args.run(&global),
        Command::Tables(args) => args.run(&global),
        Command::Schemas(args) => args.run(&global),
        Command::DeadLetters(args) => args.run(&global),
        Command::Migrate(args) => args.run(&global),
        Command::Schema(args) => args.run(),
        Command::Completions(args) => args.run(),
        Command::Demo(args) => args.run(&global),
    }
}

impl Command {
    /// It has to be there before the first line of the log.
    fn sentry(&self) -> Result<Option<Sentry>> {
        match self {
            Command::Run(args) if args.preview.is_none() => args.sentry.start(),
            _ => Ok(None),
        }
    }

    /// A process that runs tells what it does; a command that answers says only what is wrong.
    fn log_filter(&self) -> &'static str {
        match self {
            Command::Run(args) if args.preview.is_none() => "info",
            Command::Serve(_) => "info",
            // A cluster that cannot be reached is waited for.
            Command::Migrate(_) => "warn",
            _ => "error",
        }
    }
}

impl Global {
    fn init_logging(&self, default: &str, more: Vec<LogLayer>) -> Result<()> {
        let format = match self.log_format {
            LogFormatArg::Text => LogFormat::Text,
            LogFormatArg::Json => LogFormat::Json,
        };
        let filter = self.log.as_deref().unwrap_or(default);
        millstream_host::init_logging(format, filter, more).map_err(|error| match error {
            millstream_host::LogError::Filter(_) => {
                Mistake::new(format!("--log {filter}: {error}"))
            }
            error => error.into(),
        })
    }
}
