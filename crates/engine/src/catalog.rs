//! What a plan may refer to: the topics, tables and schemas that are there, and those that the
//! pipelines planned before it will make. Planning looks here and changes nothing.

use crate::references;
use arrow_schema::SchemaRef;
use millstream_connectors::Home;
use millstream_core::{Result, Schemas};
use std::collections::{BTreeMap, BTreeSet};

pub struct Catalog {
    home: Home,
    topics: BTreeMap<String, u32>,
    tables: BTreeMap<String, TableShape>,
    subjects: BTreeMap<String, String>,
    /// Topics and tables that a pipeline with mistakes writes: what they will hold is not known.
    untold_topics: BTreeSet<String>,
    untold_tables: BTreeSet<String>,
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
            subjects: BTreeMap::new(),
            untold_topics: BTreeSet::new(),
            untold_tables: BTreeSet::new(),
        }
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

    /// The newest Avro schema of a subject, whole (its references put in place).
    pub async fn subject(&self, subject: &str) -> Result<Option<String>> {
        if let Some(planned) = self.subjects.get(subject) {
            return Ok(Some(planned.clone()));
        }
        let found = self.home.registry.latest(subject).await?;
        Ok(match found {
            Some(schema) => Some(references::inline(&schema)?),
            None => None,
        })
    }

    pub fn will_have_topic(&mut self, name: &str, partitions: u32) {
        self.topics.entry(name.to_owned()).or_insert(partitions);
    }

    pub fn will_have_table(&mut self, name: &str, shape: TableShape) {
        self.tables.insert(name.to_owned(), shape);
    }

    pub fn will_have_subject(&mut self, subject: &str, schema: &str) {
        self.subjects.insert(subject.to_owned(), schema.to_owned());
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
