//! Pipeline files against what is really there: checked, explained, previewed, tested. Nothing is
//! changed.

use super::rows::objects;
use super::{Reply, Service, nothing};
use crate::answers;
use crate::protocol::PlanFiles;
use crate::{Error, Result};
use millstream_config::{
    Env, Loaded, Mistake, Mistakes, Pipeline, ProcessEnv, SinkTo, SourceFrom, TextMistake,
};
use millstream_engine::{Catalog, Plan};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The variables of the one who asks, which a running process does not share.
struct AskersEnv(BTreeMap<String, String>);

impl Env for AskersEnv {
    fn var(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned().or_else(|| ProcessEnv.var(name))
    }
}

impl Service {
    /// Everything that would keep `run` from starting, at once.
    pub async fn check(&self, files: PlanFiles, reply: Reply) -> Result<Value> {
        let (tests, pipelines): (Vec<PathBuf>, Vec<PathBuf>) =
            files.paths.iter().cloned().partition(|path| millstream_config::is_tests_path(path));
        let env = AskersEnv(files.variables.clone());
        let loaded = load_files(&pipelines, &env);
        let mut mistakes = loaded.mistakes.0.clone();
        mistakes.extend(self.plan(&loaded).await.err().into_iter().flat_map(|found| found.0));
        let bound = |file| millstream_engine::check_bound(file, self.home());
        mistakes.extend(loaded.pipelines.iter().filter_map(bound));
        let mut rows: Vec<answers::Checked> = loaded
            .pipelines
            .iter()
            .map(|file| answers::Checked {
                file: file.file().display().to_string(),
                pipeline: file.spec.pipeline.clone(),
                cases: None,
            })
            .collect();
        for path in &tests {
            match check_tests(path, &pipelines, &loaded.pipelines, &env) {
                Ok(row) => rows.push(row),
                Err(found) => mistakes.extend(found.0),
            }
        }
        if !mistakes.is_empty() {
            return Err(in_order(mistakes, &files.paths).into());
        }
        let place = |row: &answers::Checked| {
            files.paths.iter().position(|path| *path == Path::new(&row.file))
        };
        rows.sort_by_key(place);
        for row in rows {
            reply.row(row).await?;
        }
        nothing()
    }

    pub async fn explain(&self, files: PlanFiles, reply: Reply) -> Result<Value> {
        let (_, plans) = self.read_and_plan(&files).await?;
        for plan in plans {
            reply.row(plan.explain()).await?;
        }
        nothing()
    }

    pub async fn preview(&self, files: PlanFiles, rows: u64, reply: Reply) -> Result<Value> {
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let (read, plans) = self.read_and_plan(&files).await?;
        // It would go on from these offsets.
        let bound = |file| millstream_engine::check_bound(file, self.home());
        let elsewhere: Vec<Mistake> = read.iter().filter_map(bound).collect();
        if !elsewhere.is_empty() {
            return Err(Mistakes(elsewhere).into());
        }
        for plan in plans {
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
        let env = AskersEnv(files.variables.clone());
        let loaded = load_files(&files.paths, &env);
        let planned = self.plan_to_test(&loaded).await;
        let read = all_of(&loaded, planned, &files)?.0;
        for file in &read {
            let path = millstream_config::tests_path(file.file());
            if !path.exists() {
                return Err(Error::mistake(format!(
                    "{} has no tests: write them in {}",
                    file.file().display(),
                    path.display()
                )));
            }
            let tests = millstream_config::load_tests(&path, &env)?;
            for case in &tests.spec.cases {
                // A plan is used up by a case, and the files before may make what this one reads.
                let plans = self.plan_to_test(&loaded).await?;
                let plan = plans
                    .into_iter()
                    .find(|plan| plan.spec.pipeline == file.spec.pipeline)
                    .ok_or_else(|| Error::failure("a plan is missing"))?;
                let report = millstream_engine::run_case(plan, case).await;
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

    async fn read_and_plan(&self, files: &PlanFiles) -> Result<(Vec<Pipeline>, Vec<Plan>)> {
        let loaded = load_files(&files.paths, &AskersEnv(files.variables.clone()));
        let planned = self.plan(&loaded).await;
        all_of(&loaded, planned, files)
    }

    async fn plan(&self, loaded: &Loaded) -> Result<Vec<Plan>, Mistakes> {
        let mut catalog = self.catalog(loaded);
        millstream_engine::plan_all(&loaded.pipelines, &mut catalog).await
    }

    /// A case brings its own rows: the topic that they would come from need not be there.
    async fn plan_to_test(&self, loaded: &Loaded) -> Result<Vec<Plan>, Mistakes> {
        let mut catalog = self.catalog(loaded).asking_nobody();
        let written: Vec<&str> = loaded
            .pipelines
            .iter()
            .flat_map(|file| &file.spec.sinks)
            .filter_map(|sink| match &sink.to {
                SinkTo::Topic(to) => Some(to.topic.as_str()),
                _ => None,
            })
            .collect();
        for file in &loaded.pipelines {
            if let SourceFrom::Topic(from) = &file.spec.source.from
                && !written.contains(&from.topic.as_str())
            {
                catalog.will_have_topic(&from.topic, 1);
            }
        }
        millstream_engine::plan_all(&loaded.pipelines, &mut catalog).await
    }

    fn catalog(&self, loaded: &Loaded) -> Catalog {
        let mut catalog = Catalog::new(self.home().clone());
        loaded.other_topics.iter().for_each(|topic| catalog.cannot_tell_topic(topic));
        loaded.other_tables.iter().for_each(|table| catalog.cannot_tell_table(table));
        catalog
    }
}

/// Reads pipeline files, each as far as it goes: where a file cannot be planned, its SQL is still
/// read.
pub fn load_files<P: AsRef<Path>>(paths: &[P], env: &dyn Env) -> Loaded {
    millstream_config::load_each(paths, env, &|sql| {
        let errors = millstream_sql::check_syntax(sql).err().unwrap_or_default();
        let mistake = |error: millstream_sql::SqlError| TextMistake {
            line: error.line as u32,
            column: error.column as u32,
            message: error.message,
            hint: error.hint,
        };
        errors.into_iter().map(mistake).collect()
    })
}

/// Reads one pipeline file.
pub(super) fn load(files: &PlanFiles) -> Result<Pipeline> {
    let [path] = files.paths.as_slice() else {
        return Err(Error::mistake("name one pipeline file"));
    };
    Ok(millstream_config::load(path, &AskersEnv(files.variables.clone()))?)
}

/// The pipelines and their plans, or the mistakes of reading and planning together.
fn all_of(
    loaded: &Loaded,
    planned: Result<Vec<Plan>, Mistakes>,
    files: &PlanFiles,
) -> Result<(Vec<Pipeline>, Vec<Plan>)> {
    let mut mistakes = loaded.mistakes.0.clone();
    match planned {
        Ok(plans) if mistakes.is_empty() => return Ok((loaded.pipelines.clone(), plans)),
        Ok(_) => {}
        Err(found) => mistakes.extend(found.0),
    }
    Err(in_order(mistakes, &files.paths).into())
}

/// By file as they were given, then by line.
fn in_order(mut mistakes: Vec<Mistake>, files: &[PathBuf]) -> Mistakes {
    mistakes.sort_by_key(|mistake| {
        let file = files.iter().position(|path| *path == Path::new(&mistake.file));
        (file.unwrap_or(files.len()), mistake.line, mistake.column)
    });
    Mistakes(mistakes)
}

/// The shape of a tests file, and that its pipeline is there: one of `given`, or beside it.
fn check_tests(
    path: &Path,
    given: &[PathBuf],
    loaded: &[Pipeline],
    env: &dyn Env,
) -> Result<answers::Checked, Mistakes> {
    let beside = millstream_config::pipeline_path(path).unwrap_or_default();
    let tests = millstream_config::load_tests(path, env);
    let known = loaded.iter().find(|file| file.file() == beside);
    let pipeline = match known {
        Some(file) => Ok(file.spec.pipeline.clone()),
        // Its mistakes are told already.
        None if given.contains(&beside) => Ok(String::new()),
        None if beside.is_file() => {
            millstream_config::load(&beside, env).map(|file| file.spec.pipeline)
        }
        None => {
            let message = "these tests belong to no pipeline".to_owned();
            let hint = format!(
                "there is no {}: the tests of NAME.yaml are in NAME.test.yaml beside it",
                beside.display()
            );
            Err(Mistake::of_file(path, message, Some(hint)).into())
        }
    };
    match (tests, pipeline) {
        (Ok(tests), Ok(pipeline)) => Ok(answers::Checked {
            file: path.display().to_string(),
            pipeline,
            cases: Some(tests.spec.cases.len() as u64),
        }),
        (tests, pipeline) => {
            let all = tests.err().into_iter().chain(pipeline.err());
            Err(Mistakes(all.flat_map(|mistakes| mistakes.0).collect()))
        }
    }
}

fn document<'a>(files: &'a [Pipeline], plan: &Plan) -> Result<&'a Pipeline> {
    files
        .iter()
        .find(|file| file.spec.pipeline == plan.spec.pipeline)
        .ok_or_else(|| Error::failure("a plan without its file"))
}
