//! The writers' schemas of framed records: each is fetched once and made into what reads its records.

use crate::frame::{SchemaName, id_frame, unframe};
use crate::run::Refusal;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millstream_core::{Disposition, Error, Records, RegisteredSchema, Result, SchemaKind, Schemas};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How many schemas are asked for at the same time.
const AT_ONCE: usize = 1_024;

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

    /// Fetches the schemas that these records name and that are not known yet, all of them at the
    /// same time: a registry takes a while to say that it does not know one.
    pub async fn prepare<F>(&mut self, records: &Records, make: F) -> Result<()>
    where
        F: Fn(&RegisteredSchema) -> Result<W, Unusable>,
    {
        // Asked for again each time: someone may have registered it meanwhile.
        self.unknown.clear();
        let (mut due, mut seen) = (Vec::new(), HashSet::new());
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
            if !self.known.contains_key(&name) && seen.insert(name) {
                due.push(name);
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        let schemas = self.schemas.clone();
        let schemas = &*schemas;
        let mut fetches = FuturesUnordered::new();
        for name in due {
            while fetches.len() >= AT_ONCE
                && let Some((name, fetched)) = fetches.next().await
            {
                self.keep(name, fetched, &make)?;
            }
            fetches.push(async move { (name, name.fetch(schemas).await) });
        }
        while let Some((name, fetched)) = fetches.next().await {
            self.keep(name, fetched, &make)?;
        }
        Ok(())
    }

    fn keep<F>(
        &mut self,
        name: SchemaName,
        fetched: Result<Arc<RegisteredSchema>>,
        make: &F,
    ) -> Result<()>
    where
        F: Fn(&RegisteredSchema) -> Result<W, Unusable>,
    {
        let why = match fetched {
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

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use futures::FutureExt;
    use millstream_core::{Guid, Record, RecordsBuilder};
    use parking_lot::Mutex;

    /// Knows nothing, and says so when it was asked for everything.
    #[derive(Default)]
    struct Slow {
        asked: Mutex<HashSet<u32>>,
    }

    #[async_trait]
    impl Schemas for Slow {
        async fn by_id(&self, id: u32) -> Result<Arc<RegisteredSchema>> {
            self.asked.lock().insert(id);
            let all_asked = || self.asked.lock().len() == 40;
            futures::future::poll_fn(|context| match all_asked() {
                true => std::task::Poll::Ready(()),
                false => {
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                }
            })
            .await;
            Err(Error::reject("unknown_schema", "nobody knows it"))
        }

        async fn by_guid(&self, _: Guid) -> Result<Arc<RegisteredSchema>> {
            Err(Error::reject("unknown_schema", "nobody knows it"))
        }

        async fn latest(&self, _: &str) -> Result<Option<Arc<RegisteredSchema>>> {
            Ok(None)
        }

        async fn register(&self, _: &str, _: SchemaKind, _: &str) -> Result<u32> {
            Err(Error::stop("read_only", "it is for reading"))
        }
    }

    #[test]
    fn all_schemas_of_a_batch_are_asked_for_at_the_same_time() {
        let mut builder = RecordsBuilder::new();
        for id in 0..80u32 {
            let value = [&[0][..], &(id % 40).to_be_bytes(), b"rest"].concat();
            builder.push(Record {
                offset: i64::from(id),
                timestamp: 0,
                key: None,
                value: Some(&value),
                headers: millstream_core::Headers(&[0]),
            });
        }
        let records = builder.finish(80);
        let mut writers = Writers::<()>::new(Arc::new(Slow::default()));
        {
            let mut prepared = std::pin::pin!(writers.prepare(&records, |_| Ok(())));
            // One after the other would wait for ever.
            let done = (0..100).find_map(|_| prepared.as_mut().now_or_never());
            done.expect("all were asked for").unwrap();
        }
        assert_eq!(writers.unknown.len(), 40);
    }
}
