//! Reads files by their paths: one, many at once with the mistakes of all, and the tests beside them.

use crate::document::{Failed, Pipeline, TestFile, parse, parse_tests, try_parse};
use crate::env::Env;
use crate::mistake::{Mistake, Mistakes, TextMistake};
use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The largest pipeline file.
const PIPELINE_BYTES_MAX: u64 = 1 << 20;
/// The largest tests file.
const TESTS_BYTES_MAX: u64 = 16 << 20;

/// What was read of many pipeline files.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Those without mistakes.
    pub pipelines: Vec<Pipeline>,
    /// The mistakes of the others, in the order of the files.
    pub mistakes: Mistakes,
    /// What the sinks of the others write, as far as it could be read.
    pub other_topics: Vec<String>,
    pub other_tables: Vec<String>,
}

/// Reads a pipeline file.
pub fn load(path: &Path, env: &dyn Env) -> Result<Pipeline, Mistakes> {
    parse(&read(path, PIPELINE_BYTES_MAX)?, path, env)
}

/// Reads many pipeline files. Gives the mistakes of all, and pipelines that share a name.
pub fn load_many<P: AsRef<Path>>(paths: &[P], env: &dyn Env) -> Result<Vec<Pipeline>, Mistakes> {
    let loaded = load_each(paths, env, &|_| Vec::new());
    if loaded.mistakes.0.is_empty() { Ok(loaded.pipelines) } else { Err(loaded.mistakes) }
}

/// Reads many pipeline files, each as far as it goes. `sql` says what is wrong with a step's text
/// by itself; it is asked where other mistakes keep the file from being planned.
pub fn load_each<P: AsRef<Path>>(
    paths: &[P],
    env: &dyn Env,
    sql: &dyn Fn(&str) -> Vec<TextMistake>,
) -> Loaded {
    let mut loaded = Loaded::default();
    let mut seen: HashMap<String, String> = HashMap::new();
    for path in paths {
        let path = path.as_ref();
        if let Some(pipeline) = pipeline_path(path) {
            let hint = format!("name {}; `check` and `test` take both", pipeline.display());
            let message = "this file holds the tests of a pipeline";
            loaded.mistakes.0.push(Mistake::of_file(path, message, Some(hint)));
            continue;
        }
        let pipeline = read(path, PIPELINE_BYTES_MAX)
            .map_err(Failed::whole)
            .and_then(|text| try_parse(&text, path, env));
        match pipeline {
            Ok(pipeline) => {
                let name = pipeline.spec.pipeline.clone();
                let line = pipeline.places().of("/pipeline").line;
                let place = format!("{}:{line}", pipeline.file().display());
                if let Some(first) = seen.get(&name) {
                    let message = format!("two pipelines are named `{name}`");
                    let hint = format!(
                        "the other is {first}; offsets belong to the name, so give each its own"
                    );
                    let mistake = pipeline.mistake_at("/pipeline", message, Some(hint));
                    loaded.mistakes.0.push(mistake);
                } else {
                    seen.insert(name, place);
                    loaded.pipelines.push(pipeline);
                }
            }
            Err(failed) => loaded.failed(failed, sql),
        }
    }
    loaded
}

impl Loaded {
    fn failed(&mut self, mut failed: Box<Failed>, sql: &dyn Fn(&str) -> Vec<TextMistake>) {
        let value = failed.value().clone();
        for (at, step) in value["steps"].as_array().into_iter().flatten().enumerate() {
            for mistake in step["sql"].as_str().map(sql).unwrap_or_default() {
                failed.add(&format!("/steps/{at}/sql"), mistake);
            }
        }
        for sink in value["sinks"].as_array().into_iter().flatten() {
            self.other_topics.extend(sink["topic"].as_str().map(str::to_owned));
            self.other_tables.extend(sink["table"].as_str().map(str::to_owned));
        }
        self.mistakes.0.extend(Mistakes::from(failed).0);
    }
}

/// Reads a tests file.
pub fn load_tests(path: &Path, env: &dyn Env) -> Result<TestFile, Mistakes> {
    parse_tests(&read(path, TESTS_BYTES_MAX)?, path, env)
}

/// Where the tests of a pipeline file lie: `x.test.yaml` beside `x.yaml`.
pub fn tests_path(pipeline: &Path) -> PathBuf {
    let extension = pipeline.extension().and_then(|e| e.to_str()).unwrap_or("yaml");
    pipeline.with_extension(format!("test.{extension}"))
}

/// Whether a file holds tests rather than a pipeline, by its name.
pub fn is_tests_path(path: &Path) -> bool {
    pipeline_path(path).is_some()
}

/// The pipeline file that a tests file lies beside; none when it is no tests file.
pub fn pipeline_path(tests: &Path) -> Option<PathBuf> {
    let extension = tests.extension()?.to_str()?;
    let stem = tests.file_stem()?.to_str()?.strip_suffix(".test").filter(|s| !s.is_empty())?;
    Some(tests.with_file_name(format!("{stem}.{extension}")))
}

fn read(path: &Path, bytes_max: u64) -> Result<String, Mistake> {
    let wrong = |message: String, hint: Option<&str>| {
        Mistake::of_file(path, message, hint.map(str::to_owned))
    };
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => wrong("there is no such file".into(), None),
        ErrorKind::PermissionDenied => {
            wrong("the file may not be read".into(), Some("give this user the right to read it"))
        }
        ErrorKind::IsADirectory => is_folder(path),
        _ => wrong(format!("the file cannot be read: {error}"), None),
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.is_dir() {
        return Err(is_folder(path));
    }
    // A pipe could keep its reader waiting for ever, a device never end.
    if !meta.is_file() {
        let hint = "write it to a file and name that";
        return Err(wrong("this is a pipe or a device, not a file".into(), Some(hint)));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        let message = format!("the file is larger than {} MiB", bytes_max >> 20);
        return Err(wrong(message, Some("is it the data rather than the pipeline?")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return wrong("the file is UTF-16".into(), Some("save it as UTF-8"));
        }
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("the file is not UTF-8: the byte {:#04x} on line {line}", bytes[at]);
        wrong(message, Some("save it as UTF-8"))
    })
}

fn is_folder(path: &Path) -> Mistake {
    let hint = "name a file in it".to_owned();
    Mistake::of_file(path, "this is a directory, not a file", Some(hint))
}
