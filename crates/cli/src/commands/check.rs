//! `millstream check`: whether pipeline files would run.

use crate::cli::Global;
use crate::failure::Result;
use crate::output::{self, JsonArg};
use crate::plan_files::plan_files;
use crate::session;
use clap::Args;
use millstream_config::ProcessEnv;
use millstream_console::Request;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Check pipeline files: the options, the SQL, columns and types against the real schemas
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream check examples/demo/access.yaml examples/demo/enrich.yaml\n\nFiles are checked together: one may read what another writes. What is accepted here runs."
)]
pub struct CheckArgs {
    /// The pipeline files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl CheckArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let result = self.check(global);
        if !self.json.json {
            for (file, name) in self.files.iter().zip(result?) {
                output::line(format!("{}: ok, pipeline {name}", file.display()))?;
            }
            return Ok(());
        }
        if let Err(error) = &result {
            let mistakes = match error.downcast_ref::<millstream_config::Mistakes>() {
                Some(mistakes) => json!(mistakes),
                // What the real schemas showed comes as it is shown to people.
                None => json!([{"message": error.to_string()}]),
            };
            output::json(&json!({"ok": false, "mistakes": mistakes}))?;
            return result.map(drop);
        }
        output::json(&json!({"ok": true, "pipelines": result?}))
    }

    fn check(&self, global: &Global) -> Result<Vec<String>> {
        // What the file alone shows needs no directory, and is said with colours.
        let files = millstream_config::load_many(&self.files, &ProcessEnv)?;
        let request = Request::Explain { files: plan_files(&self.files)? };
        let _: Vec<Value> = session::rows(global, &request)?;
        Ok(files.iter().map(|file| file.spec.pipeline.clone()).collect())
    }
}
