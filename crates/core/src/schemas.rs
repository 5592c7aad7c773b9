//! The schema registry as formats see it; the embedded one and a remote one answer alike.

use crate::Result;
use async_trait::async_trait;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaKind {
    Avro,
    Json,
    Protobuf,
}

/// A schema under its id, with the texts of everything it references, dependencies first.
#[derive(Debug, Clone)]
pub struct RegisteredSchema {
    pub id: u32,
    pub kind: SchemaKind,
    pub text: Arc<str>,
    pub references: Vec<(String, Arc<str>)>,
}

#[async_trait]
pub trait Schemas: Send + Sync {
    /// The schema of this id. `Reject` when the registry knows no such id, `Retry` when it cannot
    /// be asked now.
    async fn by_id(&self, id: u32) -> Result<Arc<RegisteredSchema>>;

    /// The newest version of a subject, if there is one.
    async fn latest(&self, subject: &str) -> Result<Option<Arc<RegisteredSchema>>>;

    /// Registers a schema under a subject (or finds it there) and gives its id.
    async fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u32>;
}
