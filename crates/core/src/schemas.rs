//! The schema registry as formats see it; the embedded one and a remote one answer alike.

use crate::{Error, Result};
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaKind {
    Avro,
    Json,
    Protobuf,
}

/// A schema's name in every registry that has it, made from what it says: ids are given by each
/// registry on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
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

    /// The schema of this GUID, as [`Schemas::by_id`]; `Stop` where the registry knows no GUIDs.
    async fn by_guid(&self, guid: Guid) -> Result<Arc<RegisteredSchema>> {
        let message = format!("the registry cannot be asked for GUIDs, and so not for {guid}");
        Err(Error::stop("no_guids", message))
    }

    /// The newest version of a subject, if there is one.
    async fn latest(&self, subject: &str) -> Result<Option<Arc<RegisteredSchema>>>;

    /// Registers a schema under a subject (or finds it there) and gives its id.
    async fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u32>;
}
