//! A file that was read: its options, and where each of them stands.

use crate::env::Env;
use crate::mistake::{Found, Mistake, Mistakes};
use crate::places::Places;
use crate::shape::Reader;
use crate::source::{Extent, Source};
use crate::{PipelineSpec, TestSpec, schema, semantics, yaml};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The largest pipeline file.
const PIPELINE_BYTES_MAX: u64 = 1 << 20;
/// The largest tests file.
const TESTS_BYTES_MAX: u64 = 16 << 20;

static PIPELINE_SCHEMA: LazyLock<Value> = LazyLock::new(schema::of::<PipelineSpec>);
static TESTS_SCHEMA: LazyLock<Value> = LazyLock::new(schema::of::<TestSpec>);

/// Options read from a file, with the place of every value.
#[derive(Debug, Clone)]
pub struct Document<T> {
    pub spec: T,
    places: Places,
    source: Source,
}

pub type Pipeline = Document<PipelineSpec>;
pub type TestFile = Document<TestSpec>;

/// Reads a pipeline file.
pub fn load(path: &Path, env: &dyn Env) -> Result<Pipeline, Mistakes> {
    parse(&read(path, PIPELINE_BYTES_MAX)?, path, env)
}

/// Reads a pipeline from the text of a file.
pub fn parse(text: &str, file: &Path, env: &dyn Env) -> Result<Pipeline, Mistakes> {
    parse_with(text, file, env, &PIPELINE_SCHEMA, "pipeline: NAME", semantics::pipeline)
}

/// Reads many pipeline files. Gives the mistakes of all, and pipelines that share a name.
pub fn load_many<P: AsRef<Path>>(paths: &[P], env: &dyn Env) -> Result<Vec<Pipeline>, Mistakes> {
    let mut pipelines: Vec<Pipeline> = Vec::new();
    let mut mistakes = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for path in paths {
        match load(path.as_ref(), env) {
            Ok(pipeline) => {
                let name = pipeline.spec.pipeline.clone();
                if let Some(first) = seen.get(&name) {
                    let first = &pipelines[*first];
                    let line = first.places.of("/pipeline").line;
                    let message = format!("two pipelines are named `{name}`");
                    let hint = format!(
                        "the other is {}:{line}; offsets belong to the name, so give each its own",
                        first.file().display()
                    );
                    mistakes.push(pipeline.mistake_at("/pipeline", message, Some(hint)));
                }
                seen.entry(name).or_insert(pipelines.len());
                pipelines.push(pipeline);
            }
            Err(more) => mistakes.extend(more.0),
        }
    }
    if mistakes.is_empty() { Ok(pipelines) } else { Err(Mistakes(mistakes)) }
}

/// Reads a tests file.
pub fn load_tests(path: &Path, env: &dyn Env) -> Result<TestFile, Mistakes> {
    parse_tests(&read(path, TESTS_BYTES_MAX)?, path, env)
}

/// Reads tests from the text of a file.
pub fn parse_tests(text: &str, file: &Path, env: &dyn Env) -> Result<TestFile, Mistakes> {
    parse_with(text, file, env, &TESTS_SCHEMA, "cases:", semantics::tests)
}

/// Reads options of any shape from the text of a file, as strictly as a pipeline.
pub fn parse_as<T>(text: &str, file: &Path, env: &dyn Env) -> Result<Document<T>, Mistakes>
where
    T: JsonSchema + DeserializeOwned,
{
    parse_with(text, file, env, &schema::of::<T>(), "a field", |_, _| {})
}

/// The JSON Schema of pipeline files, for editors.
pub fn json_schema() -> Value {
    schema::published::<PipelineSpec>("Millstream pipeline")
}

/// The JSON Schema of tests files, for editors.
pub fn tests_json_schema() -> Value {
    schema::published::<TestSpec>("Millstream pipeline tests")
}

/// Where the tests of a pipeline file lie: `x.test.yaml` beside `x.yaml`.
pub fn tests_path(pipeline: &Path) -> PathBuf {
    let extension = pipeline.extension().and_then(|e| e.to_str()).unwrap_or("yaml");
    pipeline.with_extension(format!("test.{extension}"))
}

impl<T> Document<T> {
    /// The file as it was named.
    pub fn file(&self) -> &Path {
        &self.source.file
    }

    /// A path that the file names, relative to the folder of the file itself.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.source.beside(path.as_ref())
    }

    /// Where each value stands, by JSON pointer.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// A mistake at a value: `/steps/0/sql`.
    pub fn mistake_at(
        &self,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Mistake {
        self.mistake(self.places.value(path), message, hint)
    }

    /// A mistake at a field's name.
    pub fn mistake_at_key(
        &self,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Mistake {
        self.mistake(self.places.key(path), message, hint)
    }

    /// A mistake at a line and column (in characters, both from one) of a text value, such as SQL
    /// in a block. Line 0 is the whole text.
    pub fn mistake_in_block(
        &self,
        path: &str,
        line: u32,
        column: u32,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Mistake {
        self.mistake(self.places.inside(&self.source, path, line, column), message, hint)
    }

    fn mistake(&self, extent: Extent, message: impl Into<String>, hint: Option<String>) -> Mistake {
        Mistake::new(&self.source, Found { extent, message: message.into(), hint })
    }
}

fn parse_with<T>(
    text: &str,
    file: &Path,
    env: &dyn Env,
    schema: &Value,
    begin: &str,
    checks: fn(&Value, &mut Reader),
) -> Result<Document<T>, Mistakes>
where
    T: DeserializeOwned,
{
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut source = Source::new(file.to_owned(), text);
    let mut found = Vec::new();
    let secrets = schema::secret_names(schema);
    let document = yaml::parse(text, &source, &mut found);
    for (name, extent) in document.dropped {
        if secrets.contains(&name) {
            source.hide(extent);
        }
    }
    let Some(root) = document.root else {
        source.hide_named(&secrets);
        if found.is_empty() {
            let hint = format!("begin with `{begin}`");
            return Err(Mistake::of_file(file, "the file is empty", Some(hint)).into());
        }
        return Err(Mistakes::collect(&source, found));
    };
    let mut reader = Reader { schema, env, source: &mut source, places: Places::default(), found };
    let value = reader.read(&root);
    checks(&value, &mut reader);
    let (places, found) = (reader.places, reader.found);
    if !found.is_empty() {
        return Err(Mistakes::collect(&source, found));
    }
    match serde_json::from_value(value) {
        Ok(spec) => Ok(Document { spec, places, source }),
        // The reader's checks are those of the types, so this says only that they have parted.
        Err(_) => Err(Mistake::of_file(file, "the file does not fit its options", None).into()),
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<String, Mistakes> {
    let wrong = |message: String, hint: Option<&str>| {
        Mistakes::from(Mistake::of_file(path, message, hint.map(str::to_owned)))
    };
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => wrong("there is no such file".into(), None),
        ErrorKind::PermissionDenied => {
            wrong("the file may not be read".into(), Some("give this user the right to read it"))
        }
        ErrorKind::IsADirectory => is_folder(path),
        _ => wrong(format!("the file cannot be read: {error}"), None),
    };
    if path.is_dir() {
        return Err(is_folder(path));
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

fn is_folder(path: &Path) -> Mistakes {
    let hint = "name a file in it".to_owned();
    Mistake::of_file(path, "this is a directory, not a file", Some(hint)).into()
}
