//! `millstream schema`: the JSON Schema of pipeline files.

use crate::failure::Result;
use crate::output;
use clap::{Args, ValueEnum};

/// Print the JSON Schema of pipeline files, so that an editor completes them
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream schema > millstream.schema.json\n\nThen, as the first line of a pipeline file:\n  # yaml-language-server: $schema=millstream.schema.json"
)]
pub struct SchemaArgs {
    /// Which files
    #[arg(long = "for", value_enum, default_value = "pipeline")]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// Pipeline files
    Pipeline,
    /// Their tests
    Tests,
}

impl SchemaArgs {
    pub fn run(self) -> Result<()> {
        let schema = match self.of {
            Of::Pipeline => millstream_config::json_schema(),
            Of::Tests => millstream_config::tests_json_schema(),
        };
        output::line(serde_json::to_string_pretty(&schema)?)
    }
}
