//! Checkpoints: up to which offset each pipeline is done with each partition of its source.
//!
//! Offsets belong to a pipeline's name. They are bound to one source, by the id and name of its
//! topic; a pipeline that reads another one has to reset them first.

use crate::error::Doing;
use crate::key::{escape, unescape};
use crate::store::{Open, Store};
use crate::{Error, Result};
use fjall::Keyspace;
use millstream_core::fault;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const GENERATION_KEY: &[u8] = b"g";
const PIPELINE: u8 = b'p';
const OFFSET: u8 = b'o';

/// What offsets count in: a topic by its stable id; the name is for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub id: String,
    pub name: String,
}

/// What a pipeline has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub source: Source,
    /// Partition to next offset: every row below it is done. No entry: nothing was committed.
    pub offsets: BTreeMap<u32, i64>,
}

/// One partition's part of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit<'a> {
    pub pipeline: &'a str,
    pub partition: u32,
    pub next_offset: i64,
}

/// The offsets of all pipelines. Cheap to clone.
#[derive(Clone)]
pub struct Offsets {
    store: Arc<Store>,
}

/// The offsets as they are in the journal, read once when the database is opened.
#[derive(Default)]
pub(crate) struct Positions {
    pipelines: BTreeMap<String, Committed>,
}

impl Offsets {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// The pipelines that have offsets, by name.
    pub fn pipelines(&self) -> Vec<String> {
        self.store.positions.lock().pipelines.keys().cloned().collect()
    }

    pub fn get(&self, pipeline: &str) -> Option<Committed> {
        self.store.positions.lock().pipelines.get(pipeline).cloned()
    }

    /// Binds a pipeline to its source, or checks that it is bound to it, and gives what it has
    /// committed. A topic that was renamed is the same source.
    pub fn bind(&self, pipeline: &str, source: &Source) -> Result<Committed> {
        if let Some(known) = self.get(pipeline) {
            if known.source.id != source.id {
                return Err(Error::SourceChanged {
                    pipeline: pipeline.to_owned(),
                    was: known.source.name,
                    is: source.name.clone(),
                });
            }
            return Ok(known);
        }
        self.reset(pipeline, source, &[])?;
        Ok(Committed { source: source.clone(), offsets: BTreeMap::new() })
    }

    /// Commits offsets, and with them every row that was written before, on one fsync that is
    /// shared with other callers. A partition may only go forward. Blocks until it is durable.
    pub fn commit(&self, commits: &[Commit<'_>]) -> Result<()> {
        if commits.is_empty() {
            return Ok(());
        }
        let open = self.store.enter_to_write()?;
        let generation = {
            let mut positions = self.store.positions.lock();
            for commit in commits {
                positions.check(commit)?;
            }
            let mut batch =
                fjall::OwnedWriteBatch::with_capacity(open.db.clone(), commits.len() + 1);
            for commit in commits {
                let key = offset_key(commit.pipeline, commit.partition);
                batch.insert(&open.offsets, key, commit.next_offset.to_le_bytes());
            }
            let generation = self.journal(&open, batch)?;
            for commit in commits {
                if let Some(known) = positions.pipelines.get_mut(commit.pipeline) {
                    known.offsets.insert(commit.partition, commit.next_offset);
                }
            }
            generation
        };
        self.store.counters.commits.fetch_add(1, Ordering::Relaxed);
        fault::point("tables.commit.written");
        self.store.sync_upto(&open, generation)?;
        fault::point("tables.commit.persisted");
        Ok(())
    }

    /// Makes every row that was written before durable, with no offset beside it: for offsets that
    /// are kept elsewhere. Blocks.
    pub fn sync(&self) -> Result<()> {
        let open = self.store.enter_to_write()?;
        let generation = {
            let _positions = self.store.positions.lock();
            self.journal(&open, fjall::OwnedWriteBatch::with_capacity(open.db.clone(), 1))?
        };
        self.store.sync_upto(&open, generation)
    }

    /// Sets a pipeline's source and offsets to these and no others, durably.
    pub fn reset(&self, pipeline: &str, source: &Source, offsets: &[(u32, i64)]) -> Result<()> {
        let committed =
            Committed { source: source.clone(), offsets: offsets.iter().copied().collect() };
        self.replace(pipeline, Some(committed))
    }

    /// Removes all that is known of a pipeline, durably. True when there was something.
    pub fn forget(&self, pipeline: &str) -> Result<bool> {
        let known = self.get(pipeline).is_some();
        if known {
            self.replace(pipeline, None)?;
        }
        Ok(known)
    }

    fn replace(&self, pipeline: &str, committed: Option<Committed>) -> Result<()> {
        if pipeline.is_empty() || pipeline.len() > 1024 {
            return Err(Error::refused("a pipeline's name has 1 to 1,024 bytes"));
        }
        let open = self.store.enter_to_write()?;
        let generation = {
            let mut positions = self.store.positions.lock();
            let mut batch = fjall::OwnedWriteBatch::with_capacity(open.db.clone(), 8);
            if let Some(known) = positions.pipelines.get(pipeline) {
                for partition in known.offsets.keys() {
                    batch.remove(&open.offsets, offset_key(pipeline, *partition));
                }
            }
            match &committed {
                Some(committed) => {
                    let source = serde_json::to_vec(&committed.source)
                        .map_err(|error| Error::Damaged(error.to_string()))?;
                    batch.insert(&open.offsets, pipeline_key(pipeline), source);
                    for (partition, offset) in &committed.offsets {
                        let key = offset_key(pipeline, *partition);
                        batch.insert(&open.offsets, key, offset.to_le_bytes());
                    }
                }
                None => batch.remove(&open.offsets, pipeline_key(pipeline)),
            }
            let generation = self.journal(&open, batch)?;
            match committed {
                Some(committed) => positions.pipelines.insert(pipeline.to_owned(), committed),
                None => positions.pipelines.remove(pipeline),
            };
            generation
        };
        self.store.sync_upto(&open, generation)
    }

    fn journal(&self, open: &Open, batch: fjall::OwnedWriteBatch) -> Result<u64> {
        journal(&self.store, open, batch)
    }
}

/// Commits a batch together with the next generation. The positions are locked, so that
/// generations are in the journal in their order.
pub(crate) fn journal(
    store: &Store,
    open: &Open,
    mut batch: fjall::OwnedWriteBatch,
) -> Result<u64> {
    let generation = store.written.load(Ordering::Acquire) + 1;
    batch.insert(&open.offsets, GENERATION_KEY, generation.to_le_bytes());
    store.commit(batch, "cannot write a commit to the journal of the tables")?;
    store.written.store(generation, Ordering::Release);
    Ok(generation)
}

impl Positions {
    /// Reads all offsets and the generation.
    pub fn load(keyspace: &Keyspace) -> Result<(Self, u64)> {
        let mut positions = Positions::default();
        let mut generation = 0;
        let mut offsets = Vec::new();
        let mut name = Vec::new();
        for item in keyspace.iter() {
            let (key, value) = item.into_inner().doing("cannot read the offsets")?;
            match key.split_first() {
                Some((&PIPELINE, rest)) => {
                    unescape(rest, &mut name)?;
                    let source = serde_json::from_slice(&value).map_err(|_| damaged())?;
                    let committed = Committed { source, offsets: BTreeMap::new() };
                    positions.pipelines.insert(text(&name)?, committed);
                }
                Some((&OFFSET, rest)) => {
                    let partition = unescape(rest, &mut name)?;
                    let partition = partition.try_into().map_err(|_| damaged())?;
                    offsets.push((text(&name)?, u32::from_be_bytes(partition), number(&value)?));
                }
                _ if &*key == GENERATION_KEY => generation = number(&value)? as u64,
                _ => return Err(damaged()),
            }
        }
        for (pipeline, partition, offset) in offsets {
            let known = positions.pipelines.get_mut(&pipeline).ok_or_else(damaged)?;
            known.offsets.insert(partition, offset);
        }
        Ok((positions, generation))
    }

    fn check(&self, commit: &Commit<'_>) -> Result<()> {
        let Some(known) = self.pipelines.get(commit.pipeline) else {
            return Err(Error::Unbound(commit.pipeline.to_owned()));
        };
        match known.offsets.get(&commit.partition) {
            Some(&committed) if commit.next_offset < committed => Err(Error::Backwards {
                pipeline: commit.pipeline.to_owned(),
                partition: commit.partition,
                committed,
                asked: commit.next_offset,
            }),
            _ => Ok(()),
        }
    }
}

fn pipeline_key(pipeline: &str) -> Vec<u8> {
    let mut key = vec![PIPELINE];
    escape(pipeline.as_bytes(), &mut key);
    key
}

fn offset_key(pipeline: &str, partition: u32) -> Vec<u8> {
    let mut key = vec![OFFSET];
    escape(pipeline.as_bytes(), &mut key);
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

fn number(value: &[u8]) -> Result<i64> {
    value.try_into().map(i64::from_le_bytes).map_err(|_| damaged())
}

fn text(name: &[u8]) -> Result<String> {
    String::from_utf8(name.to_vec()).map_err(|_| damaged())
}

fn damaged() -> Error {
    Error::Damaged("the offsets of the pipelines cannot be read".into())
}
