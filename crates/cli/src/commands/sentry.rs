//! The options of `run` that say whom to tell of errors.

use crate::failure::{Mistake, Result};
use anyhow::Context;
use clap::Args;
use millstream_core::Hidden;
use millstream_sentry::{Count, Dsn, Kind, Level, Options, Sentry, Tally};

#[derive(Debug, Args)]
pub struct SentryArgs {
    /// The DSN of a Sentry project to tell of errors; nobody is told unless given
    #[arg(
        long,
        value_name = "DSN",
        env = "SENTRY_DSN",
        hide_env_values = true,
        help_heading = "Sentry"
    )]
    sentry_dsn: Option<Hidden>,
    /// What Sentry calls where this runs
    #[arg(
        long,
        value_name = "NAME",
        env = "SENTRY_ENVIRONMENT",
        default_value = "production",
        hide_env_values = true,
        help_heading = "Sentry"
    )]
    sentry_environment: String,
}

impl SentryArgs {
    /// None where nobody is to be told.
    pub fn start(&self) -> Result<Option<Sentry>> {
        // Deployments switch it off by an empty variable.
        let Some(Hidden(text)) = self.sentry_dsn.as_ref().filter(|dsn| !dsn.0.trim().is_empty())
        else {
            return Ok(None);
        };
        let dsn: Dsn = text
            .parse()
            .map_err(|error| Mistake::new(format!("--sentry-dsn (or SENTRY_DSN): {error}")))?;
        let sentry = Sentry::start(Options {
            dsn,
            environment: self.sentry_environment.clone(),
            release: concat!("millstream@", env!("CARGO_PKG_VERSION")).into(),
        });
        let sentry = sentry.context("cannot start the thread that tells Sentry")?;
        sentry.handle().notice_panics();
        Ok(Some(sentry))
    }
}

/// The command ended before anything ran, and said why.
pub fn not_started() -> Tally {
    Tally {
        kind: Kind::of_process("run", "not_started"),
        level: Level::Fatal,
        says: "the pipelines could not be started",
        count: Count::Once,
    }
}
