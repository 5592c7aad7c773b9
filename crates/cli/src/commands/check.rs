//! `millstream check`: whether pipeline files would run, and their tests.

use crate::cli::Global;
use crate::failure::{self, Result};
use crate::output::{self, JsonArg};
use crate::plan_files::plan_files;
use crate::session::Session;
use clap::Args;
use millstream_config::ProcessEnv;
use millstream_console::answers::Checked;
use millstream_console::{Code, Request};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Check pipeline files and their tests: the options, the SQL, columns and types against the real schemas
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream check examples/demo/access.yaml examples/demo/enrich.yaml\n\nFiles are checked together: one may read what another writes. What is accepted here runs.\nNAME.test.yaml is checked as the tests of NAME.yaml."
)]
pub struct CheckArgs {
    /// The pipeline files, and tests of theirs
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl CheckArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let result = self.check(global);
        if !self.json.json {
            for (file, checked) in self.files.iter().zip(result?) {
                let what = match checked.cases {
                    Some(cases) => format!("{} of pipeline", output::counted(cases, "case")),
                    None => "pipeline".to_owned(),
                };
                output::line(format!("{}: ok, {what} {}", file.display(), checked.pipeline))?;
            }
            return Ok(());
        }
        match result {
            Ok(checked) => {
                let pipelines = checked.iter().filter(|file| file.cases.is_none());
                let pipelines: Vec<&str> = pipelines.map(|file| file.pipeline.as_str()).collect();
                output::json(&json!({"ok": true, "pipelines": pipelines, "files": checked}))
            }
            Err(error) => {
                output::json(&json!({"ok": false, "mistakes": as_json(&error)}))?;
                Err(error)
            }
        }
    }

    fn check(&self, global: &Global) -> Result<Vec<Checked>> {
        let request = Request::Check { files: plan_files(&self.files)? };
        let asked = Session::open(global, &request).and_then(|mut session| session.rows(&request));
        if let Err(error) = &asked
            && !is_of_files(error)
        {
            // What the files alone show needs no directory.
            let pipelines: Vec<&PathBuf> =
                self.files.iter().filter(|path| !millstream_config::is_tests_path(path)).collect();
            let loaded = millstream_console::load_files(&pipelines, &ProcessEnv);
            if !loaded.mistakes.0.is_empty() {
                return Err(loaded.mistakes.into());
            }
        }
        let here = std::env::current_dir()?;
        let mut checked: Vec<Checked> = asked?;
        for file in &mut checked {
            if let Ok(inside) = Path::new(&file.file).strip_prefix(&here) {
                file.file = inside.display().to_string();
            }
        }
        Ok(checked)
    }
}

fn is_of_files(error: &anyhow::Error) -> bool {
    error.downcast_ref::<millstream_console::Error>().is_some_and(|error| error.code == Code::File)
}

/// Each mistake with its file, line and column; what is no mistake of a file has only a message.
fn as_json(error: &anyhow::Error) -> Value {
    let mistakes = match error.downcast_ref::<millstream_config::Mistakes>() {
        Some(mistakes) => mistakes.0.clone(),
        None => match error.downcast_ref::<millstream_console::Error>() {
            Some(error) => error.mistakes.clone(),
            None => Vec::new(),
        },
    };
    if mistakes.is_empty() {
        return json!([{"message": error.to_string()}]);
    }
    let each = failure::relative(mistakes).0.into_iter().map(|mistake| {
        json!({
            "file": mistake.file,
            "line": mistake.line,
            "column": mistake.column,
            "message": mistake.message,
            "hint": mistake.hint,
            "excerpt": mistake.excerpt,
        })
    });
    each.collect()
}
