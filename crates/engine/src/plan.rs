//! From a pipeline file to a plan: every name looked up, every type checked against the real
//! schemas, all mistakes found before a row flows. Planning changes nothing; `open` does.

use crate::catalog::{Catalog, TableShape};
use crate::flow::Node;
use crate::positions;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_config::{
    AvroDecode, Columns, DecodeSpec, EncodeSpec, Input, LookupFrom, LookupSpec, Mistake, Mistakes,
    Pipeline as PipelineFile, PipelineSpec, SinkSpec, SinkTo, SourceFrom,
};
use millstream_connectors::file::{FileLookup, FileLookupOptions, rows};
use millstream_connectors::table::TableSink;
use millstream_connectors::topic::TopicSink;
use millstream_core::{Encoder, LookupKey};
use millstream_formats::avro;
use millstream_formats::text::{TextDecoder, TextOptions};
use millstream_sql::{KEY_COLUMNS, KEY_RANGE, Query};
use millstream_tables::TableSpec;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A pipeline that was checked and can be opened.
pub struct Plan {
    pub spec: PipelineSpec,
    pub source: PlannedSource,
    /// The columns that are decoded.
    pub decoded: SchemaRef,
    /// How many columns the source's rows have in all.
    pub columns_there: usize,
    pub positions: Vec<&'static str>,
    /// The columns of each look-up.
    pub lookups: BTreeMap<String, SchemaRef>,
    pub steps: Vec<PlannedStep>,
    pub sinks: Vec<PlannedSink>,
}

pub struct PlannedSource {
    pub name: String,
    pub partitions: u32,
    /// The reader schema of an Avro source.
    pub reader_schema: Option<String>,
    /// The columns to decode, when not all are.
    pub columns: Option<Vec<String>>,
}

pub struct PlannedStep {
    pub name: Arc<str>,
    pub input: Node,
    pub query: Query,
}

pub struct PlannedSink {
    pub name: Arc<str>,
    pub input: Node,
    pub schema: SchemaRef,
    pub to: SinkPlan,
}

pub enum SinkPlan {
    Table(TableSpec),
    Topic {
        topic: String,
        partitions: u32,
        /// Subject and schema of an Avro topic.
        avro: Option<(String, String)>,
    },
    Discard,
}

/// Plans pipelines that may feed each other: one that writes a topic or table comes before those
/// that read it. The plans come in that order. A pipeline that reads what only something with
/// mistakes writes has no plan, and no mistake by that.
pub async fn plan_all(
    files: &[PipelineFile],
    catalog: &mut Catalog,
) -> Result<Vec<Plan>, Mistakes> {
    let mut plans = Vec::new();
    let mut mistakes = Vec::new();
    for file in in_order(files) {
        match plan(file, catalog).await {
            Ok(plan) => plans.push(plan),
            Err(found) => {
                for sink in &file.spec.sinks {
                    match &sink.to {
                        SinkTo::Topic(to) => catalog.cannot_tell_topic(&to.topic),
                        SinkTo::Table(to) => catalog.cannot_tell_table(&to.table),
                        SinkTo::Discard(_) => {}
                    }
                }
                mistakes.extend(found);
            }
        }
    }
    if mistakes.is_empty() { Ok(plans) } else { Err(Mistakes(mistakes)) }
}

/// Plans one pipeline, and notes in the catalog what it will make.
pub async fn plan(file: &PipelineFile, catalog: &mut Catalog) -> Result<Plan, Vec<Mistake>> {
    let mut planner = Planner { file, catalog, mistakes: Vec::new() };
    let planned = planner.plan().await;
    match planned {
        Some(plan) if planner.mistakes.is_empty() => Ok(plan),
        _ => {
            planner.mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
            Err(planner.mistakes)
        }
    }
}

/// Writers before readers, else as given.
fn in_order(files: &[PipelineFile]) -> Vec<&PipelineFile> {
    let writes = |file: &PipelineFile| -> Vec<String> {
        file.spec
            .sinks
            .iter()
            .filter_map(|sink| match &sink.to {
                SinkTo::Topic(to) => Some(format!("topic {}", to.topic)),
                SinkTo::Table(to) => Some(format!("table {}", to.table)),
                SinkTo::Discard(_) => None,
            })
            .collect()
    };
    let reads = |file: &PipelineFile| -> Vec<String> {
        let mut names: Vec<_> = file
            .spec
            .lookups
            .values()
            .filter_map(|lookup| match &lookup.from {
                LookupFrom::Table(from) => Some(format!("table {}", from.table)),
                LookupFrom::File(_) => None,
            })
            .collect();
        if let SourceFrom::Topic(from) = &file.spec.source.from {
            names.push(format!("topic {}", from.topic));
        }
        names
    };
    let mut left: Vec<&PipelineFile> = files.iter().collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let free = left.iter().position(|file| {
            let wanted = reads(file);
            !left.iter().any(|other| {
                !std::ptr::eq(*other, *file) && writes(other).iter().any(|w| wanted.contains(w))
            })
        });
        // In a circle the first one given goes first.
        ordered.push(left.remove(free.unwrap_or(0)));
    }
    ordered
}

struct Planner<'a> {
    file: &'a PipelineFile,
    catalog: &'a mut Catalog,
    mistakes: Vec<Mistake>,
}

impl Planner<'_> {
    fn mistake(&mut self, path: &str, message: impl Into<String>, hint: Option<String>) {
        self.mistakes.push(self.file.mistake_at(path, message, hint));
    }

    async fn plan(&mut self) -> Option<Plan> {
        let spec = self.file.spec.clone();
        let source = self.source(&spec).await;
        let (lookups, untold) = self.lookup_schemas(&spec);
        let Some((partitions, whole, reader_schema)) = source else {
            for at in 0..spec.steps.len() {
                self.step(at, &spec, None, &lookups);
            }
            return None;
        };

        // What is decoded is what is used: plan on all columns first to learn which they are.
        let texts: Vec<&str> = spec.steps.iter().map(|s| s.sql.as_str()).collect();
        let positions = positions::named_in(&texts.join(" "));
        let mut used = self.used_columns(&spec, &whole, &positions, &lookups);
        let cut = match &spec.source.format {
            DecodeSpec::Avro(_) | DecodeSpec::Json(_) => used.take(),
            _ => None,
        };
        let decoded = match &cut {
            Some(columns) => cut_to(&whole, columns),
            None => whole.clone(),
        };

        let input = positions::schema_with(&decoded, &positions);
        // A step with a mistake hides only those below it.
        let mut steps: Vec<Option<PlannedStep>> = Vec::new();
        for (at, step) in spec.steps.iter().enumerate() {
            let schema = match node(spec.input_of_step(at)) {
                Node::Source => Some(input.clone()),
                Node::Step(before) => schema_of_step(&steps, before),
            };
            let schema = schema.filter(|_| !names_one_of(&step.sql, &untold));
            let step = self.step(at, &spec, schema, &lookups);
            steps.push(step);
        }

        let mut sinks = Vec::new();
        for (at, sink) in spec.sinks.iter().enumerate() {
            let node = node(spec.input_of_sink(at));
            let schema = match node {
                Node::Source => Some(decoded.clone()),
                Node::Step(step) => schema_of_step(&steps, step),
            };
            let Some(schema) = schema else { continue };
            if let Some(to) = self.sink(at, sink, &schema, partitions).await {
                sinks.push(PlannedSink {
                    name: spec.sink_label(at).into(),
                    input: node,
                    schema,
                    to,
                });
            }
        }
        self.catalog.will_have_topic(&spec.dead_letters_topic(), 1);
        let steps = steps.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Plan {
            source: PlannedSource {
                name: spec.source.name(),
                partitions,
                reader_schema,
                columns: cut,
            },
            columns_there: whole.fields().len(),
            decoded,
            positions,
            lookups,
            steps,
            sinks,
            spec,
        })
    }

    /// Plans a step on these columns; without them only its syntax is checked.
    fn step(
        &mut self,
        at: usize,
        spec: &PipelineSpec,
        input: Option<SchemaRef>,
        lookups: &BTreeMap<String, SchemaRef>,
    ) -> Option<PlannedStep> {
        let sql = &spec.steps[at].sql;
        let planned = match input {
            Some(input) => millstream_sql::plan(sql, &input, lookups).map(Some),
            None => millstream_sql::check_syntax(sql).map(|()| None),
        };
        match planned {
            Ok(query) => {
                let query = query?;
                self.check_keys(at, spec, &query);
                let (name, input) = (spec.step_label(at).into(), node(spec.input_of_step(at)));
                Some(PlannedStep { name, input, query })
            }
            Err(errors) => {
                let path = format!("/steps/{at}/sql");
                self.mistakes.extend(errors.into_iter().map(|error| {
                    let (line, column) = (error.line as u32, error.column as u32);
                    self.file.mistake_in_block(&path, line, column, error.message, error.hint)
                }));
                None
            }
        }
    }

    /// Partitions, all columns, and the reader schema of an Avro source.
    async fn source(&mut self, spec: &PipelineSpec) -> Option<(u32, SchemaRef, Option<String>)> {
        let partitions = match &spec.source.from {
            SourceFrom::Topic(from) => match self.catalog.topic(&from.topic) {
                Some(partitions) => partitions,
                None if self.catalog.is_untold_topic(&from.topic) => 1,
                None => {
                    let hint = nearest(&from.topic, self.catalog.topic_names()).unwrap_or_else(|| {
                        format!(
                            "make it with `millstream topics create {} --partitions 1`, or run the \
                             pipeline that writes it in the same command",
                            from.topic
                        )
                    });
                    let message = format!("there is no topic `{}`", from.topic);
                    self.mistake("/source/topic", message, Some(hint));
                    return None;
                }
            },
            SourceFrom::File(from) => {
                let path = self.file.resolve(&from.file);
                if let Err(error) = millstream_connectors::file::open(&path) {
                    self.mistake("/source/file", error, None);
                    return None;
                }
                1
            }
        };
        let (columns, reader) = match &spec.source.format {
            DecodeSpec::Avro(options) => {
                let text = self.reader_schema(spec, options).await?;
                match avro::arrow_schema(&text) {
                    Ok(columns) => (columns, Some(text)),
                    Err(error) => {
                        self.mistake("/source/format", error.chain(), None);
                        return None;
                    }
                }
            }
            DecodeSpec::Json(options) => match &options.columns {
                Some(columns) => (schema_of(columns), None),
                None => (one_column("value"), None),
            },
            DecodeSpec::Csv(options) => (schema_of(&options.columns), None),
            DecodeSpec::Text(options) => {
                let columns = match &options.pattern {
                    Some(pattern) => {
                        let typed = options.columns.as_ref().map(schema_of);
                        let options = TextOptions { record_bytes_max: usize::MAX };
                        let columns = groups_of(pattern, typed.as_deref());
                        if let Err(error) = TextDecoder::new(pattern, columns.clone(), options) {
                            self.mistake("/source/format/text/pattern", error.chain(), None);
                            return None;
                        }
                        columns
                    }
                    None => one_column("line"),
                };
                (columns, None)
            }
        };
        Some((partitions, columns, reader))
    }

    async fn reader_schema(&mut self, spec: &PipelineSpec, options: &AvroDecode) -> Option<String> {
        if let Some(path) = &options.schema_file {
            return self.schema_file("/source/format/avro/schema_file", path);
        }
        let subject =
            options.subject.clone().unwrap_or_else(|| format!("{}-value", spec.source.name()));
        if self.catalog.is_untold_topic(&spec.source.name()) {
            return None;
        }
        match self.catalog.subject(&subject).await {
            Ok(Some(schema)) => Some(schema),
            Ok(None) => {
                let hint = format!(
                    "register it with `millstream schemas register {subject} FILE`, or name a \
                     `schema_file`"
                );
                let message = format!("the registry has no subject `{subject}`");
                self.mistake("/source/format", message, Some(hint));
                None
            }
            Err(error) => {
                self.mistake("/source/format", error.chain(), None);
                None
            }
        }
    }

    fn schema_file(&mut self, place: &str, path: &std::path::Path) -> Option<String> {
        let path = self.file.resolve(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.mistake(place, format!("cannot read {}: {error}", path.display()), None);
                None
            }
        }
    }

    /// The columns of each look-up, and the names of those whose columns are not known.
    fn lookup_schemas(
        &mut self,
        spec: &PipelineSpec,
    ) -> (BTreeMap<String, SchemaRef>, Vec<String>) {
        let mut schemas = BTreeMap::new();
        for (name, lookup) in &spec.lookups {
            match &lookup.from {
                LookupFrom::Table(from) if self.catalog.is_untold_table(&from.table) => {}
                LookupFrom::Table(from) => match self.catalog.table(&from.table) {
                    Some(table) => {
                        let key = table.partition_key.iter().chain(&table.clustering);
                        let key = key.map(String::as_str).collect::<Vec<_>>().join(",");
                        let columns = declared(&table.columns, KEY_COLUMNS, key);
                        schemas.insert(name.clone(), columns);
                    }
                    None => {
                        let hint =
                            nearest(&from.table, self.catalog.table_names()).unwrap_or_else(|| {
                                format!(
                                    "load it with `millstream tables load {} FILE --key COLUMN`, \
                                     or run the pipeline that writes it in the same command",
                                    from.table
                                )
                            });
                        let message = format!("there is no table `{}`", from.table);
                        self.mistake(&format!("/lookups/{name}/table"), message, Some(hint));
                    }
                },
                LookupFrom::File(from) => {
                    let path = self.file.resolve(&from.file);
                    let columns = match &from.columns {
                        Some(columns) => {
                            let columns = schema_of(columns);
                            let there = rows::columns_of(&path, from.delimiter.0);
                            there.and_then(|there| has_all(&there, &columns).map(|()| columns))
                        }
                        None => rows::columns_of(&path, from.delimiter.0),
                    };
                    match columns {
                        Ok(columns) => {
                            let columns = match &lookup.range {
                                Some(range) => declared(&columns, KEY_RANGE, range.join(",")),
                                None => columns,
                            };
                            schemas.insert(name.clone(), columns);
                        }
                        Err(error) => {
                            self.mistake(&format!("/lookups/{name}/file"), error, None);
                        }
                    }
                }
            }
        }
        let untold = spec.lookups.keys().filter(|name| !schemas.contains_key(*name)).cloned();
        let untold = untold.collect();
        (schemas, untold)
    }

    /// The source's columns that the steps and sinks on it use; `None` when all are.
    fn used_columns(
        &mut self,
        spec: &PipelineSpec,
        whole: &SchemaRef,
        positions: &[&'static str],
        lookups: &BTreeMap<String, SchemaRef>,
    ) -> Option<Vec<String>> {
        let input = positions::schema_with(whole, positions);
        if (0..spec.sinks.len()).any(|at| spec.input_of_sink(at) == Input::Source) {
            return None;
        }
        let mut used = Vec::new();
        for (at, step) in spec.steps.iter().enumerate() {
            if spec.input_of_step(at) != Input::Source {
                continue;
            }
            // A mistake is reported by the real planning that follows.
            used.extend(millstream_sql::plan(&step.sql, &input, lookups).ok()?.input_columns());
        }
        let in_order = whole.fields().iter().map(|f| f.name().clone());
        let mut columns: Vec<_> = in_order.filter(|name| used.contains(name)).collect();
        if columns.is_empty() {
            // A row has to have something to be counted by.
            columns.extend(whole.fields().first().map(|f| f.name().clone()));
        }
        (columns.len() < whole.fields().len()).then_some(columns)
    }

    /// Whether each look-up can be asked by the columns that the SQL joins on.
    fn check_keys(&mut self, step: usize, spec: &PipelineSpec, query: &Query) {
        for used in query.lookups() {
            let Some(lookup) = spec.lookups.get(&used.name) else { continue };
            if let Err((message, hint)) = self.check_key(lookup, &used.name, &used.key) {
                let line = 0;
                let path = format!("/steps/{step}/sql");
                let mistake = self.file.mistake_in_block(&path, line, 1, message, Some(hint));
                self.mistakes.push(mistake);
            }
        }
    }

    fn check_key(
        &self,
        lookup: &LookupSpec,
        name: &str,
        key: &LookupKey,
    ) -> Result<(), (String, String)> {
        match (key, &lookup.range) {
            (LookupKey::Range { start, end }, Some([s, e])) if s == start && e == end => {}
            (LookupKey::Range { start, end }, _) => {
                return Err((
                    format!(
                        "`{name}` is joined by the range {start} to {end}, which it does not declare"
                    ),
                    format!("write `range: [{start}, {end}]` in the lookup"),
                ));
            }
            (LookupKey::Equal(columns), Some([s, e])) => {
                return Err((
                    format!("`{name}` is a range look-up but is joined by {}", columns.join(", ")),
                    format!("join it `ON value BETWEEN {name}.\"{s}\" AND {name}.\"{e}\"`"),
                ));
            }
            _ => {}
        }
        let (LookupFrom::Table(from), LookupKey::Equal(columns)) = (&lookup.from, key) else {
            return match &lookup.from {
                LookupFrom::Table(_) => Err((
                    format!("`{name}` is a table, which is asked by its key, not by a range"),
                    "use a file lookup for ranges".into(),
                )),
                LookupFrom::File(_) => Ok(()),
            };
        };
        let Some(table) = self.catalog.table(&from.table) else { return Ok(()) };
        let all: Vec<_> = table.partition_key.iter().chain(&table.clustering).collect();
        let prefix = columns.len() >= table.partition_key.len()
            && all.iter().take(columns.len()).all(|key| columns.contains(key));
        if prefix && columns.len() <= all.len() {
            return Ok(());
        }
        Err((
            format!("table `{}` cannot be asked by {}", from.table, columns.join(", ")),
            format!(
                "its key is {}: join on {}",
                all.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "),
                table.partition_key.join(" and ")
            ),
        ))
    }

    async fn sink(
        &mut self,
        at: usize,
        sink: &SinkSpec,
        schema: &SchemaRef,
        source_partitions: u32,
    ) -> Option<SinkPlan> {
        match &sink.to {
            SinkTo::Discard(_) => Some(SinkPlan::Discard),
            SinkTo::Table(to) => {
                let key: Vec<_> = to.key.iter().chain(&to.clustering).cloned().collect();
                if let Err(message) = TableSink::accepts(schema, &key, to.timestamp.as_deref()) {
                    self.mistake(&format!("/sinks/{at}"), message, None);
                    return None;
                }
                let spec = TableSpec {
                    name: to.table.clone(),
                    columns: schema.clone(),
                    partition_key: to.key.clone(),
                    clustering: to.clustering.clone(),
                    ttl: to.ttl.map(|p| p.0),
                    grace: to.grace.map_or(TableSpec::GRACE, |p| p.0),
                };
                if let Err(error) = self.catalog.home().tables.check_table(&spec) {
                    self.mistake(&format!("/sinks/{at}/table"), error.to_string(), None);
                    return None;
                }
                let shape = TableShape {
                    columns: schema.clone(),
                    partition_key: to.key.clone(),
                    clustering: to.clustering.clone(),
                };
                self.catalog.will_have_table(&to.table, shape);
                Some(SinkPlan::Table(spec))
            }
            SinkTo::Topic(to) => {
                let accepted =
                    TopicSink::accepts(schema, to.key.as_deref(), to.timestamp.as_deref());
                if let Err(message) = accepted {
                    self.mistake(&format!("/sinks/{at}"), message, None);
                    return None;
                }
                let there = self.catalog.topic(&to.topic);
                if let (Some(there), Some(wanted)) = (there, to.partitions)
                    && there != wanted
                {
                    let message =
                        format!("topic `{}` has {there} partitions, not {wanted}", to.topic);
                    let hint = format!("write `partitions: {there}`, or leave it out");
                    self.mistake(&format!("/sinks/{at}/partitions"), message, Some(hint));
                }
                let partitions = there.or(to.partitions).unwrap_or(source_partitions);
                let avro = match &to.format {
                    EncodeSpec::Json(_) => None,
                    EncodeSpec::Avro(options) => {
                        let subject =
                            options.subject.clone().unwrap_or(format!("{}-value", to.topic));
                        let text = match &options.schema_file {
                            Some(path) => self.schema_file(
                                &format!("/sinks/{at}/format/avro/schema_file"),
                                path,
                            )?,
                            None => {
                                let name = options.name.clone().unwrap_or(avro_name(&to.topic));
                                avro::avro_schema_for(&name, schema)
                            }
                        };
                        let encoder = avro::AvroEncoder::new(&text, Some(0), schema.clone());
                        if let Err(error) = encoder {
                            self.mistake(&format!("/sinks/{at}/format"), error.chain(), None);
                            return None;
                        }
                        if let Err(reason) = self.compatible(&subject, &text) {
                            let hint = format!(
                                "use another topic or subject, or relax the subject's \
                                 compatibility; `millstream schemas show {subject}` shows what is \
                                 there"
                            );
                            self.mistake(&format!("/sinks/{at}/format"), reason, Some(hint));
                        }
                        self.catalog.will_have_subject(&subject, &text);
                        Some((subject, text))
                    }
                };
                self.catalog.will_have_topic(&to.topic, partitions);
                Some(SinkPlan::Topic { topic: to.topic.clone(), partitions, avro })
            }
        }
    }

    fn compatible(&self, subject: &str, schema: &str) -> Result<(), String> {
        let new = millstream_registry::NewSchema::avro(schema);
        let reasons = self
            .catalog
            .home()
            .registry
            .compatibility(subject, None, &new, false)
            .map_err(|e| e.to_string())?;
        match reasons.as_slice() {
            [] => Ok(()),
            reasons => Err(format!(
                "the rows' schema is not compatible with subject `{subject}`: {}",
                reasons.join("; ")
            )),
        }
    }
}

/// Opens a file look-up by its spec and key.
pub fn open_file_lookup(
    file: &millstream_config::FileLookup,
    path: PathBuf,
    key: &LookupKey,
) -> Result<FileLookup, String> {
    let options = FileLookupOptions {
        path,
        columns: file.columns.as_ref().map(schema_of),
        delimiter: file.delimiter.0,
        reload: file.reload.0,
    };
    FileLookup::open(options, key)
}

pub fn node(input: Input) -> Node {
    match input {
        Input::Source => Node::Source,
        Input::Step(at) => Node::Step(at),
    }
}

pub fn schema_of(columns: &Columns) -> SchemaRef {
    columns.schema()
}

/// A column for each named group of a pattern: text, where no type is given. A type that is given
/// for no group is kept, for the decoder to refuse.
fn groups_of(pattern: &str, typed: Option<&Schema>) -> SchemaRef {
    let names: Vec<String> = regex::Regex::new(pattern)
        .map(|compiled| compiled.capture_names().flatten().map(str::to_owned).collect())
        .unwrap_or_default();
    let mut fields: Vec<Field> = names
        .iter()
        .map(|name| match typed.and_then(|typed| typed.field_with_name(name).ok()) {
            Some(field) => field.clone(),
            None => Field::new(name, DataType::Utf8, true),
        })
        .collect();
    let stray = typed.into_iter().flat_map(|typed| typed.fields().iter());
    fields.extend(
        stray.filter(|field| !names.contains(field.name())).map(|field| field.as_ref().clone()),
    );
    Arc::new(Schema::new(fields))
}

fn schema_of_step(steps: &[Option<PlannedStep>], at: usize) -> Option<SchemaRef> {
    Some(steps.get(at)?.as_ref()?.query.schema())
}

/// Whether a text names one of these as a word.
fn names_one_of(sql: &str, names: &[String]) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| names.iter().any(|n| n == w))
}

fn one_column(name: &str) -> SchemaRef {
    let field = Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![field]))
}

fn cut_to(whole: &Schema, columns: &[String]) -> SchemaRef {
    let fields = whole.fields().iter().filter(|f| columns.contains(f.name())).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Tells the SQL by which columns a look-up can be asked.
fn declared(columns: &Schema, what: &str, names: String) -> SchemaRef {
    let metadata = [(what.to_owned(), names)].into();
    Arc::new(Schema::new_with_metadata(columns.fields().clone(), metadata))
}

fn has_all(there: &Schema, wanted: &Schema) -> Result<(), String> {
    for field in wanted.fields() {
        if there.field_with_name(field.name()).is_err() {
            let known: Vec<_> = there.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(format!(
                "the file has no column `{}`; it has {}",
                field.name(),
                known.join(", ")
            ));
        }
    }
    Ok(())
}

/// A topic's name as the name of an Avro record.
fn avro_name(topic: &str) -> String {
    let mut name: String =
        topic.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

fn nearest(wanted: &str, known: Vec<String>) -> Option<String> {
    let best = known.into_iter().max_by(|a, b| {
        strsim::jaro_winkler(a, wanted).total_cmp(&strsim::jaro_winkler(b, wanted))
    })?;
    (strsim::jaro_winkler(&best, wanted) > 0.85).then(|| format!("did you mean `{best}`?"))
}

/// Encoders are made in one place, for sinks and for previews.
pub fn encoder(
    avro: Option<&(String, String)>,
    id: Option<u32>,
    schema: SchemaRef,
) -> millstream_core::Result<Box<dyn Encoder>> {
    Ok(match avro {
        Some((_, text)) => Box::new(avro::AvroEncoder::new(text, id, schema)?),
        None => Box::new(millstream_formats::json::JsonEncoder::new(schema)?),
    })
}
