//! A topic whose records name the keys of rows that changed: what a cache knows of them is forgotten.
//!
//! Changes are read from where the topic ends when the pipeline starts: the cache is empty then.
//! Whoever writes them changes the store first. Where changes may have been missed (the topic was
//! away and its next offset is gone, a key cannot be read), everything is forgotten.

use super::cache::Cache;
use arrow_array::{ArrayRef, StringArray};
use arrow_cast::cast;
use arrow_schema::DataType;
use millstream_core::{LookupKey, PartitionReader, Place, Records, Source, Start};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the key of a look-up is, to read it from a record's key.
#[derive(Debug, Clone)]
pub struct KeyColumns {
    names: Vec<String>,
    types: Vec<DataType>,
}

/// Follows a topic until this is dropped.
pub struct Following {
    _tasks: JoinSet<()>,
}

impl KeyColumns {
    /// None for a range, which no key names.
    pub fn of(key: &LookupKey, types: &[DataType]) -> Option<Self> {
        match key {
            LookupKey::Equal(names) => Some(Self { names: names.clone(), types: types.to_vec() }),
            LookupKey::Range { .. } => None,
        }
    }

    /// The keys of records, column by column; none when one of them cannot be read.
    fn read(&self, records: &Records) -> Option<Vec<ArrayRef>> {
        let mut texts: Vec<Vec<String>> = vec![Vec::new(); self.names.len()];
        for row in 0..records.len() {
            let values = self.parts(records.get(row).key?)?;
            texts.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
        texts
            .into_iter()
            .zip(&self.types)
            .map(|(texts, data_type)| {
                let texts: ArrayRef = Arc::new(StringArray::from(texts));
                let column = cast(&texts, data_type).ok()?;
                (column.null_count() == 0).then_some(column)
            })
            .collect()
    }

    /// A key is a JSON object of the columns (perhaps as Debezium's `payload`), or, where there is
    /// one column, its text.
    fn parts(&self, key: &[u8]) -> Option<Vec<String>> {
        let text = std::str::from_utf8(key).ok()?;
        let object = match text.trim_start().starts_with('{') {
            true => serde_json::from_str::<Value>(text).ok(),
            false => None,
        };
        let Some(object) = object else {
            return (self.names.len() == 1).then(|| vec![text.to_owned()]);
        };
        let object = if object["payload"].is_object() { &object["payload"] } else { &object };
        self.names
            .iter()
            .map(|name| match object.get(name)? {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            })
            .collect()
    }
}

impl Following {
    pub fn start(
        source: Arc<dyn Source>,
        key: KeyColumns,
        cache: &Arc<Cache>,
        name: &str,
        io: &Handle,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for partition in 0..source.partitions() {
            let (source, key, cache) = (source.clone(), key.clone(), cache.clone());
            let name = name.to_owned();
            tasks.spawn_on(
                async move { follow(&*source, partition, &key, &cache, &name).await },
                io,
            );
        }
        Self { _tasks: tasks }
    }
}

async fn follow(source: &dyn Source, partition: u32, key: &KeyColumns, cache: &Cache, name: &str) {
    let mut said = false;
    // Where to go on; none while it is not known.
    let mut next = None;
    let mut pause = PAUSE;
    loop {
        let failed = match reader(source, partition, &mut next).await {
            Ok(mut reader) => loop {
                match reader.next().await {
                    Ok(Some(records)) => {
                        pause = PAUSE;
                        next = Some(records.next_offset());
                        match key.read(&records) {
                            Some(columns) => cache.forget(&columns),
                            None => {
                                if !std::mem::replace(&mut said, true) {
                                    tracing::warn!(
                                        "lookup {name}: a key in {} cannot be read: whenever \
                                         that happens the whole cache is forgotten",
                                        source.name()
                                    );
                                }
                                cache.forget_all();
                            }
                        }
                    }
                    Ok(None) => return,
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        tracing::warn!(
            "lookup {name}: changes of {} are not heard, rows are as old as `ttl` lets them be: {}",
            source.name(),
            failed.chain()
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        // What is gone from the topic was not heard.
        if let (Some(at), Ok(earliest)) = (next, source.offset_of(partition, Place::Earliest).await)
            && at < earliest
        {
            cache.forget_all();
            next = Some(earliest);
        }
    }
}

async fn reader(
    source: &dyn Source,
    partition: u32,
    next: &mut Option<i64>,
) -> millstream_core::Result<Box<dyn PartitionReader>> {
    let at = match *next {
        Some(at) => at,
        None => source.offset_of(partition, Place::Latest).await?,
    };
    *next = Some(at);
    source.reader(partition, Start::Offset(at)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(names: &[&str]) -> KeyColumns {
        let types = vec![DataType::Int64; names.len()];
        KeyColumns { names: names.iter().map(|name| (*name).to_owned()).collect(), types }
    }

    #[test]
    fn keys_are_texts_objects_and_payloads() {
        let one = key(&["id"]);
        assert_eq!(one.parts(b"17"), Some(vec!["17".into()]));
        assert_eq!(one.parts(br#"{"id": 17}"#), Some(vec!["17".into()]));
        let debezium = br#"{"schema": {}, "payload": {"id": 17}}"#;
        assert_eq!(one.parts(debezium), Some(vec!["17".into()]));
        assert_eq!(one.parts(br#"{"other": 17}"#), None);
        let two = key(&["a", "b"]);
        assert_eq!(two.parts(br#"{"b": "x", "a": 1}"#), Some(vec!["1".into(), "x".into()]));
        assert_eq!(two.parts(b"17"), None, "which of the two it is cannot be known");
        assert_eq!(two.parts(b"\xff"), None);
    }
}
