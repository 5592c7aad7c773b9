//! What a plan may refer to: the topics, tables and schemas that are there, and those that the
//! pipelines planned before it will make. Planning looks here and changes nothing.

use crate::references;
use crate::registries::{Registries, SchemaRegistry};
use arrow_schema::SchemaRef;
use millstream_config::{Pipeline as PipelineFile, RegistrySpec};
use millstream_connectors::Home;
use millstream_core::{RegisteredSchema, Result, SchemaKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub struct Catalog {
    home: Home,
    topics: BTreeMap<String, u32>,
    tables: BTreeMap<String, TableShape>,
    registries: Registries,
    /// By the place of their registry, none for the embedded one, and their name.
    subjects: BTreeMap<(Option<String>, String), Arc<RegisteredSchema>>,
    /// Topics and tables that a pipeline with mistakes writes: what they will hold is not known.
    untold_topics: BTreeSet<String>,
    untold_tables: BTreeSet<String>,
    asks_elsewhere: bool,
}

/// The columns of a table and its key.
#[derive(Debug, Clone)]
pub struct TableShape {
    pub columns: SchemaRef,
    pub partition_key: Vec<String>,
    pub clustering: Vec<String>,
}

impl Catalog {
    pub fn new(home: Home) -> Self {
        Self {
            home,
            topics: BTreeMap::new(),
            tables: BTreeMap::new(),
            registries: Registries::default(),
            subjects: BTreeMap::new(),
            untold_topics: BTreeSet::new(),
            untold_tables: BTreeSet::new(),
            asks_elsewhere: true,
        }
    }

    /// For those who read and write nothing: no cluster and no store is asked for what a file names
    /// of it.
    pub fn asking_nobody(mut self) -> Self {
        self.asks_elsewhere = false;
        self
    }

    pub fn asks_elsewhere(&self) -> bool {
        self.asks_elsewhere
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The number of partitions of a topic.
    pub fn topic(&self, name: &str) -> Option<u32> {
        self.home
            .log
            .topic(name)
            .map(|topic| topic.partitions())
            .or_else(|| self.topics.get(name).copied())
    }

    pub fn topic_names(&self) -> Vec<String> {
        let own = self.home.log.topics().into_iter().map(|t| t.name().to_owned());
        own.chain(self.topics.keys().cloned()).collect()
    }

    pub fn table(&self, name: &str) -> Option<TableShape> {
        if let Some(planned) = self.tables.get(name) {
            return Some(planned.clone());
        }
        let table = self.home.tables.table(name)?;
        let spec = table.spec();
        Some(TableShape {
            columns: spec.columns.clone(),
            partition_key: spec.partition_key.clone(),
            clustering: spec.clustering.clone(),
        })
    }

    pub fn table_names(&self) -> Vec<String> {
        let own = self.home.tables.tables().into_iter().map(|t| t.spec().name.clone());
        own.chain(self.tables.keys().cloned()).collect()
    }

    /// The registry that a file names, the embedded one when it names none.
    pub fn registry(
        &mut self,
        spec: Option<&RegistrySpec>,
        file: &PipelineFile,
    ) -> anyhow::Result<SchemaRegistry> {
        match spec {
            None => Ok(SchemaRegistry::Embedded(self.home.registry.clone())),
            Some(spec) => self.registries.get(spec, file),
        }
    }

    /// The newest Avro schema of a subject of the embedded registry, whole (its references put in
    /// place).
    pub async fn subject(&self, subject: &str) -> Result<Option<String>> {
        let embedded = SchemaRegistry::Embedded(self.home.registry.clone());
        Ok(match self.schema(&embedded, subject).await? {
            Some(schema) => Some(references::inline(&schema)?),
            None => None,
        })
    }

    /// The newest schema of a subject, of whatever kind.
    pub async fn schema(
        &self,
        registry: &SchemaRegistry,
        subject: &str,
    ) -> Result<Option<Arc<RegisteredSchema>>> {
        let key = (registry.place().map(str::to_owned), subject.to_owned());
        match self.subjects.get(&key) {
            Some(planned) => Ok(Some(planned.clone())),
            None => registry.latest(subject).await,
        }
    }

    pub fn will_have_topic(&mut self, name: &str, partitions: u32) {
        self.topics.entry(name.to_owned()).or_insert(partitions);
    }

    pub fn will_have_table(&mut self, name: &str, shape: TableShape) {
        self.tables.insert(name.to_owned(), shape);
    }

    pub fn will_have_subject(
        &mut self,
        registry: &SchemaRegistry,
        subject: &str,
        kind: SchemaKind,
        schema: &str,
    ) {
        // Its id is not known before it is registered, and planning does not ask for it.
        let (text, references) = (schema.into(), Vec::new());
        let planned = RegisteredSchema { id: 0, kind, text, references };
        let key = (registry.place().map(str::to_owned), subject.to_owned());
        self.subjects.insert(key, Arc::new(planned));
    }

    /// A topic that something with mistakes writes: that it is not there yet is no mistake of those
    /// who read it.
    pub fn cannot_tell_topic(&mut self, name: &str) {
        self.untold_topics.insert(name.to_owned());
    }

    /// The same of a table.
    pub fn cannot_tell_table(&mut self, name: &str) {
        self.untold_tables.insert(name.to_owned());
    }

    pub fn is_untold_topic(&self, name: &str) -> bool {
        self.untold_topics.contains(name)
    }

    pub fn is_untold_table(&self, name: &str) -> bool {
        self.untold_tables.contains(name)
    }
}
