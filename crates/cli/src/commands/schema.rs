//! `millstream schema`: the options of pipeline files, for editors and for readers.

use crate::failure::{Mistake, Result};
use crate::output;
use clap::{Args, ValueEnum};

/// Print the JSON Schema of pipeline files, so that an editor completes them, or all options as a page
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millstream schema > millstream.schema.json\n  millstream schema --format markdown > reference.md\n\nWith the first of them, as the first line of a pipeline file:\n  # yaml-language-server: $schema=millstream.schema.json"
)]
pub struct SchemaArgs {
    /// Which files
    #[arg(long = "for", value_enum, default_value = "pipeline")]
    of: Of,
    /// As what
    #[arg(long, value_enum, default_value = "json")]
    format: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// Pipeline files
    Pipeline,
    /// Their tests
    Tests,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The JSON Schema
    Json,
    /// A page to read, with every option, its kind and its default
    Markdown,
}

impl SchemaArgs {
    pub fn run(self) -> Result<()> {
        if self.format == Form::Markdown {
            let Of::Pipeline = self.of else {
                return Err(Mistake::new("--format markdown is there for pipeline files only"));
            };
            return output::out(millstream_config::reference());
        }
        let schema = match self.of {
            Of::Pipeline => millstream_config::json_schema(),
            Of::Tests => millstream_config::tests_json_schema(),
        };
        output::line(serde_json::to_string_pretty(&schema)?)
    }
}
