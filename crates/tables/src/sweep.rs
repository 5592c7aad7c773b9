//! Sweeping: removing the versions that do not count any more, and the deleted and expired rows
//! whose grace is over.

use crate::error::Doing;
use crate::read::version;
use crate::store::{Open, OpenTable};
use crate::table::Table;
use crate::version::{Resolve, Resolved, Version};
use crate::{Result, catalog::millis, key::after_prefix};
use fjall::Readable;
use std::ops::Bound;

/// Writers wait while this many versions are looked at once more and removed.
const REMOVE_AT_ONCE: usize = 256;

/// After this many versions the sweep lets go of the database for a moment.
const LOOK_AT_ONCE: u64 = 50_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Versions that were looked at.
    pub looked_at: u64,
    /// Versions removed because another one of their row counts.
    pub superseded: u64,
    /// Rows removed because they were deleted or had expired, and their grace is over.
    pub rows: u64,
}

impl Table {
    /// Reads the whole table and removes what no reader sees and no write has to be compared with.
    /// Blocks for as long as that takes; others read and write meanwhile.
    pub fn sweep(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut from = Bound::Unbounded;
        while let Some(next) = self.sweep_from(from, &mut swept)? {
            from = Bound::Included(next);
        }
        Ok(swept)
    }

    /// Sweeps some rows; gives the key to go on from.
    fn sweep_from(&self, from: Bound<Vec<u8>>, swept: &mut Swept) -> Result<Option<Vec<u8>>> {
        let open = self.store.enter_to_write()?;
        let table = self.enter(&open)?;
        let now_ms = self.store.now_ms();
        let grace_ms = i64::try_from(millis(self.layout.spec.grace)).unwrap_or(i64::MAX);
        let over = |version: &Version| -> Result<bool> {
            let dead = version.state()?.dead_since(now_ms);
            Ok(dead.is_some_and(|since| since.saturating_add(grace_ms) <= now_ms))
        };

        let snapshot = open.db.snapshot();
        let range = (from.as_ref().map(Vec::as_slice), Bound::Unbounded);
        let mut resolve = Resolve::default();
        let mut remove: Vec<Version> = Vec::new();
        let mut looked_at = 0;
        let mut next = None;
        for guard in snapshot.range::<&[u8], _>(&table.keyspace, range) {
            looked_at += 1;
            match resolve.push(version(guard)?)? {
                Resolved::Nothing => {}
                Resolved::Superseded(version) => {
                    swept.superseded += 1;
                    remove.push(version);
                }
                Resolved::Row(version) => {
                    let row = version.row_key().to_vec();
                    if over(&version)? {
                        swept.rows += 1;
                        remove.push(version);
                    }
                    // A row's versions go together: the one that counts never before the others.
                    if remove.len() >= REMOVE_AT_ONCE {
                        self.remove(&open, &table, std::mem::take(&mut remove))?;
                    }
                    if looked_at >= LOOK_AT_ONCE {
                        next = after_prefix(row);
                        break;
                    }
                }
            }
        }
        if next.is_none()
            && let Some(version) = resolve.finish()
            && over(&version)?
        {
            swept.rows += 1;
            remove.push(version);
        }
        self.remove(&open, &table, remove)?;
        swept.looked_at += looked_at;
        Ok(next)
    }

    /// Removes versions in one step, but for those that were written again since they were read.
    fn remove(&self, open: &Open, table: &OpenTable, versions: Vec<Version>) -> Result<()> {
        if versions.is_empty() {
            return Ok(());
        }
        let mut batch = fjall::OwnedWriteBatch::with_capacity(open.db.clone(), versions.len());
        let dropped = table.gate.write();
        if *dropped {
            return Ok(());
        }
        for version in versions {
            let now = table.keyspace.get(&version.key).doing("cannot read a table")?;
            if now.is_some_and(|value| value == version.value) {
                batch.remove(&table.keyspace, version.key);
            }
        }
        self.store.commit(batch, "cannot remove rows from a table")
    }
}
