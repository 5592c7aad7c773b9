//! `millstream test`: the user's own cases beside a pipeline.

use crate::cli::Global;
use crate::failure::{Result, Said};
use crate::output::{self, JsonArg};
use crate::plan_files::plan_files;
use crate::session::Session;
use clap::Args;
use millstream_console::Request;
use millstream_console::answers::Case;
use std::path::PathBuf;

/// Run the cases in NAME.test.yaml beside each pipeline file
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream test examples/first/first.yaml\n\nRows in, look-ups stubbed, expected rows and dead letters. The topic that a pipeline reads need not\nbe there; a table that it looks up, or a schema that only the registry would have, must. The exit code is 1 when a case fails."
)]
pub struct TestArgs {
    /// The pipeline files; those before may make what the others read
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl TestArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let mut files: Vec<PathBuf> = Vec::new();
        for file in self.files {
            // A tests file stands for its pipeline, so that a folder can be named by `*.yaml`.
            let file = millstream_config::pipeline_path(&file).unwrap_or(file);
            if !files.contains(&file) {
                files.push(file);
            }
        }
        let request = Request::Test { files: plan_files(&files)? };
        let mut cases: Vec<Case> = Vec::new();
        Session::open(global, &request)?.each(&request, |row| {
            let case: Case = serde_json::from_value(row)?;
            if !self.json.json {
                show(&case)?;
            }
            cases.push(case);
            Ok(())
        })?;
        let failed = cases.iter().filter(|case| !case.differences.is_empty()).count();
        if self.json.json {
            output::json(&cases)?;
        } else {
            output::line(format!(
                "{}, {failed} failed",
                output::counted(cases.len() as u64, "case")
            ))?;
        }
        if failed > 0 { Err(Said(1).into()) } else { Ok(()) }
    }
}

fn show(case: &Case) -> Result<()> {
    let (green, red, plain) = match output::colours() {
        true => ("\x1b[32m", "\x1b[31m", "\x1b[0m"),
        false => ("", "", ""),
    };
    if case.differences.is_empty() {
        return output::line(format!("{green}ok{plain}      {}: {}", case.pipeline, case.name));
    }
    output::line(format!("{red}failed{plain}  {}: {}", case.pipeline, case.name))?;
    for line in case.differences.iter().flat_map(|difference| difference.lines()) {
        let colour = match line.trim_start().chars().next() {
            Some('+') => green,
            Some('-') => red,
            _ => "",
        };
        output::line(format!(
            "          {colour}{line}{}",
            if colour.is_empty() { "" } else { plain }
        ))?;
    }
    Ok(())
}
