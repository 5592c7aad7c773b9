//! Keys that the store has just failed on as often as the policy says: while a batch is halved to
//! find the rows that need them, it is not asked for them again.

use super::keys::{convert, converter};
use ahash::RandomState;
use arrow_array::RecordBatch;
use arrow_row::RowConverter;
use arrow_schema::DataType;
use millstream_core::Result;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a key counts as failed.
const FAILED_FOR: Duration = Duration::from_secs(1);

pub struct Failures {
    converter: RowConverter,
    keys: Mutex<HashMap<Box<[u8]>, Failure, RandomState>>,
}

#[derive(Clone)]
pub struct Failure {
    since: Instant,
    pub kind: &'static str,
    pub reason: String,
}

impl Failures {
    pub fn new(key_types: &[DataType]) -> Result<Self> {
        Ok(Self { converter: converter(key_types)?, keys: Mutex::default() })
    }

    /// Why one of these keys has failed just now.
    pub fn of(&self, keys: &RecordBatch) -> Result<Option<Failure>> {
        let mut known = self.keys.lock();
        known.retain(|_, failure| failure.since.elapsed() < FAILED_FOR);
        if known.is_empty() {
            return Ok(None);
        }
        let rows = convert(&self.converter, keys)?;
        Ok(rows.iter().find_map(|key| known.get(key.as_ref()).cloned()))
    }

    pub fn note(&self, keys: &RecordBatch, kind: &'static str, reason: &str) -> Result<()> {
        let failure = Failure { since: Instant::now(), kind, reason: reason.to_owned() };
        let rows = convert(&self.converter, keys)?;
        self.keys.lock().extend(rows.iter().map(|key| (key.as_ref().into(), failure.clone())));
        Ok(())
    }
}
