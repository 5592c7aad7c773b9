//! The embedded registry as the formats see it.

use crate::content::NewSchema;
use crate::level::Version;
use crate::registry::Registry;
use async_trait::async_trait;
use millstream_core::{Error, Guid, RegisteredSchema, Result, SchemaKind, Schemas};
use std::sync::Arc;

#[async_trait]
impl Schemas for Registry {
    /// Cancel safe.
    async fn by_id(&self, id: u32) -> Result<Arc<RegisteredSchema>> {
        Ok(Registry::by_id(self, id)?.registered.clone())
    }

    /// Cancel safe.
    async fn by_guid(&self, guid: Guid) -> Result<Arc<RegisteredSchema>> {
        Ok(Registry::by_guid(self, guid)?.registered.clone())
    }

    /// Cancel safe.
    async fn latest(&self, subject: &str) -> Result<Option<Arc<RegisteredSchema>>> {
        let found = self.by_version(subject, Version::Latest, false).ok();
        Ok(found.map(|found| found.schema.registered.clone()))
    }

    /// Cancelled, the schema may or may not be registered; asking again gives the same id.
    async fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u32> {
        let (registry, subject) = (self.clone(), subject.to_owned());
        let new = NewSchema::of(kind, text);
        let task = move || Registry::register(&registry, &subject, &new, false);
        let registered = tokio::task::spawn_blocking(task)
            .await
            .map_err(|e| Error::stop("registry_panic", "registering a schema failed").because(e))?;
        Ok(registered?.id)
    }
}
