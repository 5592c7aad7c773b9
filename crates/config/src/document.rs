//! A file that was read: its options, and where each of them stands.

use crate::env::Env;
use crate::mistake::{Found, Mistake, Mistakes, TextMistake};
use crate::places::Places;
use crate::shape::Reader;
use crate::source::{Extent, Source};
use crate::{PipelineSpec, TestSpec, schema, semantics, yaml};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

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

/// Reads a pipeline from the text of a file.
pub fn parse(text: &str, file: &Path, env: &dyn Env) -> Result<Pipeline, Mistakes> {
    Ok(try_parse(text, file, env)?)
}

/// The same, with what could be read of a pipeline that has mistakes.
pub(crate) fn try_parse(text: &str, file: &Path, env: &dyn Env) -> Result<Pipeline, Box<Failed>> {
    parse_with(text, file, env, &PIPELINE_SCHEMA, "pipeline: NAME", semantics::pipeline)
}

/// Reads tests from the text of a file.
pub fn parse_tests(text: &str, file: &Path, env: &dyn Env) -> Result<TestFile, Mistakes> {
    Ok(parse_with(text, file, env, &TESTS_SCHEMA, "cases:", semantics::tests)?)
}

/// Reads options of any shape from the text of a file, as strictly as a pipeline.
pub fn parse_as<T>(text: &str, file: &Path, env: &dyn Env) -> Result<Document<T>, Mistakes>
where
    T: JsonSchema + DeserializeOwned,
{
    Ok(parse_with(text, file, env, &schema::of::<T>(), "a field", |_, _| {})?)
}

/// The JSON Schema of pipeline files, for editors.
pub fn json_schema() -> Value {
    schema::published::<PipelineSpec>("Millstream pipeline")
}

/// All options of pipeline files, as a page in Markdown.
pub fn reference() -> String {
    crate::reference::page(&schema::of::<PipelineSpec>(), include_str!("reference.md"))
}

/// The JSON Schema of tests files, for editors.
pub fn tests_json_schema() -> Value {
    schema::published::<TestSpec>("Millstream pipeline tests")
}

/// A file with mistakes, and what could be read of it all the same.
pub(crate) enum Failed {
    /// Of the whole file: nothing of it is known.
    Whole(Mistake),
    Within {
        source: Source,
        found: Vec<Found>,
        places: Places,
        value: Value,
    },
}

impl Failed {
    pub fn whole(mistake: Mistake) -> Box<Self> {
        Box::new(Failed::Whole(mistake))
    }

    fn within(source: Source, found: Vec<Found>, places: Places, value: Value) -> Box<Self> {
        Box::new(Failed::Within { source, found, places, value })
    }

    /// The options as far as they could be read.
    pub fn value(&self) -> &Value {
        match self {
            Failed::Whole(_) => &Value::Null,
            Failed::Within { value, .. } => value,
        }
    }

    /// Notes what is wrong with a text of the file.
    pub fn add(&mut self, path: &str, mistake: TextMistake) {
        if let Failed::Within { source, found, places, .. } = self {
            let extent = places.inside(source, path, mistake.line, mistake.column);
            found.push(Found { extent, message: mistake.message, hint: mistake.hint });
        }
    }
}

impl From<Box<Failed>> for Mistakes {
    fn from(failed: Box<Failed>) -> Self {
        match *failed {
            Failed::Whole(mistake) => mistake.into(),
            Failed::Within { source, found, .. } => Mistakes::collect(&source, found),
        }
    }
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
) -> Result<Document<T>, Box<Failed>>
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
            return Err(Failed::whole(Mistake::of_file(file, "the file is empty", Some(hint))));
        }
        return Err(Failed::within(source, found, Places::default(), Value::Null));
    };
    let mut reader = Reader { schema, env, source: &mut source, places: Places::default(), found };
    let value = reader.read(&root);
    checks(&value, &mut reader);
    let (places, found) = (reader.places, reader.found);
    if !found.is_empty() {
        return Err(Failed::within(source, found, places, value));
    }
    match serde_json::from_value(value) {
        Ok(spec) => Ok(Document { spec, places, source }),
        // The reader's checks are those of the types, so this says only that they have parted.
        Err(_) => {
            let message = "the file does not fit its options";
            Err(Failed::whole(Mistake::of_file(file, message, None)))
        }
    }
}
