//! The writers' schemas of framed records: each is fetched once and made into what reads its records.

use crate::frame::{SchemaName, id_frame, unframe};
use crate::run::Refusal;
use millstream_core::{Disposition, Error, Records, RegisteredSchema, Result, SchemaKind, Schemas};
use std::collections::HashMap;
use std::sync::Arc;

/// What a decoder has for each schema, a `W`.
pub(crate) struct Writers<W> {
    schemas: Arc<dyn Schemas>,
    known: HashMap<SchemaName, W>,
    /// Those that the registry did not know when this run was prepared, and why.
    unknown: HashMap<SchemaName, String>,
}

/// Why a schema cannot be used.
pub(crate) enum Unusable {
    /// Its records are refused.
    Unreadable(String),
    /// The pipeline stops: the reader's schema has to be changed.
    Incompatible(String),
}

impl<W> Writers<W> {
    pub fn new(schemas: Arc<dyn Schemas>) -> Writers<W> {
        Writers { schemas, known: HashMap::new(), unknown: HashMap::new() }
    }

    /// Fetches the schemas that these records name and that are not known yet.
    pub async fn prepare<F>(&mut self, records: &Records, make: F) -> Result<()>
    where
        F: Fn(&RegisteredSchema) -> Result<W, Unusable>,
    {
        // Asked for again each time: someone may have registered it meanwhile.
        self.unknown.clear();
        let mut last = None;
        for row in 0..records.len() {
            let Some(value) = records.value(row) else { continue };
            let frame = id_frame(value, records.has_headers(row));
            if frame.is_some() && frame == last {
                continue;
            }
            last = frame;
            let Ok(framed) = unframe(value, records.get(row).headers) else { continue };
            let name = framed.schema;
            if !self.known.contains_key(&name) && !self.unknown.contains_key(&name) {
                self.fetch(name, &make).await?;
            }
        }
        Ok(())
    }

    async fn fetch<F>(&mut self, name: SchemaName, make: &F) -> Result<()>
    where
        F: Fn(&RegisteredSchema) -> Result<W, Unusable>,
    {
        let why = match name.fetch(&*self.schemas).await {
            Ok(registered) => match make(&registered) {
                Ok(writer) => {
                    self.known.insert(name, writer);
                    return Ok(());
                }
                Err(Unusable::Unreadable(why)) => format!("{name}: {why}"),
                Err(Unusable::Incompatible(why)) => return Err(incompatible(name, &why)),
            },
            Err(error) if error.disposition() == Disposition::Reject => {
                format!("{name} is unknown: {}", error.chain())
            }
            Err(error) => return Err(error),
        };
        self.unknown.insert(name, why);
        Ok(())
    }

    #[inline]
    pub fn get(&self, name: SchemaName) -> Result<&W, Refusal> {
        self.known.get(&name).ok_or_else(|| self.refusal(name))
    }

    #[cold]
    fn refusal(&self, name: SchemaName) -> Refusal {
        let why = self.unknown.get(&name).cloned();
        Refusal::new("unknown_schema", why.unwrap_or_else(|| format!("{name} was not fetched")))
    }
}

/// The error that stops a pipeline whose reader cannot read what `name` writes.
pub(crate) fn incompatible(name: impl std::fmt::Display, why: &str) -> Error {
    let message = format!("{name} cannot be read with the reader schema: {why}");
    Error::stop("incompatible_schema", message)
}

/// Refuses a schema of another kind.
pub(crate) fn must_be(kind: SchemaKind, registered: &RegisteredSchema) -> Result<(), Unusable> {
    let named = |kind| match kind {
        SchemaKind::Avro => "an Avro",
        SchemaKind::Json => "a JSON",
        SchemaKind::Protobuf => "a Protobuf",
    };
    if registered.kind == kind {
        return Ok(());
    }
    let (is, wanted) = (named(registered.kind), named(kind));
    Err(Unusable::Unreadable(format!("it is {is} schema, not {wanted} one")))
}
