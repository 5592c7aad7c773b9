//! Pipeline files against what is really there: explained, previewed, tested. Nothing is changed.

use super::rows::objects;
use super::{Reply, Service, nothing};
use crate::answers;
use crate::protocol::PlanFiles;
use crate::{Code, Error, Result};
use millstream_config::{Env, Mistakes, Pipeline, ProcessEnv};
use millstream_engine::{Catalog, Plan};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The variables of the one who asks, which a running process does not share.
struct AskersEnv(BTreeMap<String, String>);

impl Env for AskersEnv {
    fn var(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned().or_else(|| ProcessEnv.var(name))
    }
}

impl Service {
    pub async fn explain(&self, files: PlanFiles, reply: Reply) -> Result<Value> {
        let read = self.read(&files)?;
        for plan in self.plan(&read).await? {
            reply.row(plan.explain()).await?;
        }
        nothing()
    }

    pub async fn preview(&self, files: PlanFiles, rows: u64, reply: Reply) -> Result<Value> {
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let read = self.read(&files)?;
        for plan in self.plan(&read).await? {
            let file = document(&read, &plan)?;
            let name = plan.spec.pipeline.clone();
            let preview = millstream_engine::preview(plan, file, self.home(), rows).await?;
            for (sink, batches) in preview.sinks {
                for batch in batches {
                    for row in objects(&batch)? {
                        reply.row(json!({"pipeline": name, "sink": sink, "row": row})).await?;
                    }
                }
            }
            for dead in preview.dead {
                reply.row(json!({"pipeline": name, "dead": dead})).await?;
            }
        }
        nothing()
    }

    pub async fn test(&self, files: PlanFiles, reply: Reply) -> Result<Value> {
        let read = self.read(&files)?;
        self.plan(&read).await?;
        for file in &read {
            let path = millstream_config::tests_path(file.file());
            if !path.exists() {
                return Err(Error::mistake(format!(
                    "{} has no tests: write them in {}",
                    file.file().display(),
                    path.display()
                )));
            }
            let env = AskersEnv(files.variables.clone());
            let tests = millstream_config::load_tests(&path, &env).map_err(mistakes)?;
            for case in &tests.spec.cases {
                // A plan is used up by a case, and the files before may make what this one reads.
                let plans = self.plan(&read).await?;
                let plan = plans
                    .into_iter()
                    .find(|plan| plan.spec.pipeline == file.spec.pipeline)
                    .ok_or_else(|| Error::failure("a plan is missing"))?;
                let report = millstream_engine::run_case(plan, self.home(), case).await;
                let differences = match report {
                    Ok(report) => report.differences,
                    Err(error) => vec![Error::from(error).message],
                };
                reply
                    .row(answers::Case {
                        pipeline: file.spec.pipeline.clone(),
                        file: path.display().to_string(),
                        name: case.name.clone(),
                        differences,
                    })
                    .await?;
            }
        }
        nothing()
    }

    fn read(&self, files: &PlanFiles) -> Result<Vec<Pipeline>> {
        let env = AskersEnv(files.variables.clone());
        millstream_config::load_many(&files.paths, &env).map_err(mistakes)
    }

    async fn plan(&self, files: &[Pipeline]) -> Result<Vec<Plan>> {
        let mut catalog = Catalog::new(self.home().clone());
        millstream_engine::plan_all(files, &mut catalog).await.map_err(mistakes)
    }
}

/// Reads one pipeline file, for those who have it at hand here.
pub(super) fn load(path: &Path) -> Result<Pipeline> {
    millstream_config::load(path, &ProcessEnv).map_err(mistakes)
}

pub(super) fn mistakes(mistakes: Mistakes) -> Error {
    Error { code: Code::File, message: mistakes.render(false) }
}

fn document<'a>(files: &'a [Pipeline], plan: &Plan) -> Result<&'a Pipeline> {
    files
        .iter()
        .find(|file| file.spec.pipeline == plan.spec.pipeline)
        .ok_or_else(|| Error::failure("a plan without its file"))
}
