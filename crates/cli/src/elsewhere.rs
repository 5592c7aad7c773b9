//! The options that name what is not in the data directory, the same for every command.

use crate::failure::Result;
use crate::plan_files::plan_files;
use clap::Args;
use millstream_console::{Elsewhere, PlanFiles};
use std::path::{Path, PathBuf};

/// For commands about topics.
#[derive(Debug, Clone, Args)]
pub struct ElsewhereArgs {
    /// A pipeline file: the Kafka cluster and the schema registry that it names for this topic are
    /// used, with their TLS and logins
    #[arg(
        long = "file",
        value_name = "PIPELINE_FILE",
        help_heading = "Kafka and a schema registry elsewhere"
    )]
    pipeline_file: Option<PathBuf>,
    /// Brokers of a Kafka cluster, instead of those in a file
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Kafka and a schema registry elsewhere"
    )]
    brokers: Vec<String>,
    /// The address of a schema registry, instead of that in a file
    #[arg(long, value_name = "URL", help_heading = "Kafka and a schema registry elsewhere")]
    registry: Option<String>,
}

/// For commands about schemas.
#[derive(Debug, Clone, Args)]
pub struct RegistryArgs {
    /// A pipeline file: the schema registry that it names is used, with its TLS and login
    #[arg(
        long = "file",
        value_name = "PIPELINE_FILE",
        help_heading = "A schema registry elsewhere"
    )]
    pipeline_file: Option<PathBuf>,
    /// The address of a schema registry, instead of that in a file
    #[arg(long, value_name = "URL", help_heading = "A schema registry elsewhere")]
    registry: Option<String>,
}

/// For commands about dead letters.
#[derive(Debug, Clone, Args)]
pub struct LettersArgs {
    /// The pipeline's file: the topic of its dead letters, on Kafka where it says so
    #[arg(long = "file", value_name = "PIPELINE_FILE", help_heading = "Dead letters on Kafka")]
    pipeline_file: Option<PathBuf>,
}

impl ElsewhereArgs {
    pub fn place(&self) -> Result<Elsewhere> {
        Ok(Elsewhere {
            file: one_file(self.pipeline_file.as_deref())?,
            brokers: self.brokers.clone(),
            registry: self.registry.clone(),
        })
    }

    pub fn is_kafka(&self) -> bool {
        !self.brokers.is_empty() || self.pipeline_file.is_some()
    }
}

impl RegistryArgs {
    pub fn place(&self) -> Result<Elsewhere> {
        Ok(Elsewhere {
            file: one_file(self.pipeline_file.as_deref())?,
            registry: self.registry.clone(),
            ..Elsewhere::default()
        })
    }
}

impl LettersArgs {
    pub fn place(&self) -> Result<Elsewhere> {
        let file = one_file(self.pipeline_file.as_deref())?;
        Ok(Elsewhere { file, ..Elsewhere::default() })
    }
}

/// A file with the variables that it names.
pub fn one_file(file: Option<&Path>) -> Result<Option<PlanFiles>> {
    file.map(|file| plan_files(&[file.to_owned()])).transpose()
}
