//! Versions: every write of a row is stored as one, and the newest by timestamp counts.
//!
//! ```text
//! fjall key:    key of the row │ timestamp, inverted (8) │ 0 delete, 1 row │ CRC-32C of the row (4)
//! fjall value:  format and flags (1) │ milliseconds since 1970 (8, where flagged) │ the row
//! ```
//!
//! The versions of a key lie together, the newest first, so that reading a row is one short seek.
//! Writing the same row with the same timestamp again replaces the version (and its expiry, which
//! counts from the write); different rows with the same timestamp stay apart, and the larger one
//! counts, whatever order they came in. The milliseconds are when the row expires, or when the
//! delete was written.

use crate::{Error, Result};
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::{UserKey, UserValue};

/// What a version adds to the key of its row.
pub(crate) const SUFFIX_BYTES: usize = 13;

const FORMAT: u8 = 1 << 4;
const FORMAT_BITS: u8 = 0xf0;
const DELETE: u8 = 1;
const EXPIRES: u8 = 2;

/// A stored version: its key and its value.
#[derive(Clone)]
pub(crate) struct Version {
    pub key: UserKey,
    pub value: UserValue,
}

/// What a version says about its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State<'a> {
    /// Never expires.
    Row(&'a [u8]),
    RowUntil(&'a [u8], i64),
    DeletedAt(i64),
}

#[inline]
pub(crate) fn start_row(expires_ms: Option<i64>, value: &mut Vec<u8>) {
    match expires_ms {
        Some(at) => {
            value.push(FORMAT | EXPIRES);
            value.extend_from_slice(&at.to_le_bytes());
        }
        None => value.push(FORMAT),
    }
}

pub(crate) fn start_delete(now_ms: i64, value: &mut Vec<u8>) {
    value.push(FORMAT | DELETE);
    value.extend_from_slice(&now_ms.to_le_bytes());
}

/// Completes the key of a row's version. `row` is the row alone, without what precedes it.
#[inline]
pub(crate) fn end_row_key(timestamp_us: i64, row: &[u8], key: &mut Vec<u8>) {
    end_key(timestamp_us, 1, crc32c::crc32c(row), key);
}

pub(crate) fn end_delete_key(timestamp_us: i64, key: &mut Vec<u8>) {
    end_key(timestamp_us, 0, 0, key);
}

#[inline]
fn end_key(timestamp_us: i64, kind: u8, tie: u32, key: &mut Vec<u8>) {
    let newest_first = !(timestamp_us as u64 ^ (1 << 63));
    key.extend_from_slice(&newest_first.to_be_bytes());
    key.push(kind);
    key.extend_from_slice(&tie.to_be_bytes());
}

impl Version {
    /// The key of the row.
    pub fn row_key(&self) -> &[u8] {
        &self.key[..self.key.len().saturating_sub(SUFFIX_BYTES)]
    }

    pub fn state(&self) -> Result<State<'_>> {
        let (&flags, rest) = self.value.split_first().ok_or_else(damaged)?;
        if flags & FORMAT_BITS != FORMAT {
            return Err(damaged());
        }
        if flags & (DELETE | EXPIRES) == 0 {
            return Ok(State::Row(rest));
        }
        let (at, row) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let at = i64::from_le_bytes(*at);
        Ok(if flags & DELETE != 0 { State::DeletedAt(at) } else { State::RowUntil(row, at) })
    }

    /// Whether this version counts rather than `other`, of the same row.
    fn beats(&self, other: &Version) -> Result<bool> {
        let at = |version: &Version| version.key.len().saturating_sub(SUFFIX_BYTES);
        let (mine, theirs) = (&self.key[at(self)..], &other.key[at(other)..]);
        if mine.get(..8) != theirs.get(..8) {
            return Ok(mine < theirs);
        }
        Ok(match (self.state()?, other.state()?) {
            (State::DeletedAt(_), _) => true,
            (_, State::DeletedAt(_)) => false,
            (mine, theirs) => mine.row() > theirs.row(),
        })
    }
}

impl<'a> State<'a> {
    fn row(self) -> Option<&'a [u8]> {
        match self {
            State::Row(row) | State::RowUntil(row, _) => Some(row),
            State::DeletedAt(_) => None,
        }
    }

    /// The row, if it is to be seen at this time.
    pub fn live(self, now_ms: i64) -> Option<&'a [u8]> {
        match self {
            State::Row(row) => Some(row),
            State::RowUntil(row, until) if now_ms < until => Some(row),
            State::RowUntil(..) | State::DeletedAt(_) => None,
        }
    }

    /// Since when the row is not to be seen.
    pub fn dead_since(self, now_ms: i64) -> Option<i64> {
        match self {
            State::Row(_) => None,
            State::RowUntil(_, until) => (until <= now_ms).then_some(until),
            State::DeletedAt(at) => Some(at),
        }
    }
}

/// Reduces versions in key order to the one of each row that counts.
#[derive(Default)]
pub(crate) struct Resolve {
    best: Option<Version>,
}

/// What [`Resolve::push`] found out.
pub(crate) enum Resolved {
    Nothing,
    /// This row's versions have all been seen; that one counts.
    Row(Version),
    /// This version does not count.
    Superseded(Version),
}

impl Resolve {
    pub fn push(&mut self, version: Version) -> Result<Resolved> {
        let Some(best) = self.best.take() else {
            self.best = Some(version);
            return Ok(Resolved::Nothing);
        };
        if best.row_key() != version.row_key() {
            self.best = Some(version);
            return Ok(Resolved::Row(best));
        }
        let (best, other) = if version.beats(&best)? { (version, best) } else { (best, version) };
        self.best = Some(best);
        Ok(Resolved::Superseded(other))
    }

    /// The version that counts of the row that was being read.
    pub fn finish(&mut self) -> Option<Version> {
        self.best.take()
    }
}

/// Drops versions with an older timestamp than another one of the same row in the same compaction.
/// Those with an equal timestamp are left to be compared when they are read.
pub(crate) struct DropSuperseded;

struct Filter {
    /// The newest version of the row that is being compacted.
    newest: Option<UserKey>,
    is_last_level: bool,
}

impl Factory for DropSuperseded {
    fn name(&self) -> &str {
        "millstream: superseded versions"
    }

    fn make_filter(&self, context: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter { newest: None, is_last_level: context.is_last_level })
    }
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let key = item.key();
        let Some(row) = key.len().checked_sub(SUFFIX_BYTES) else { return Ok(Verdict::Keep) };
        if let Some(newest) = &self.newest
            && newest.len() == key.len()
            && newest[..row] == key[..row]
        {
            let older = newest[row..row + 8] != key[row..row + 8];
            return Ok(match (older, self.is_last_level) {
                (false, _) => Verdict::Keep,
                (true, true) => Verdict::Destroy,
                // A copy of it, written before, may lie in a level below.
                (true, false) => Verdict::Remove,
            });
        }
        self.newest = Some(key.clone());
        Ok(Verdict::Keep)
    }
}

fn damaged() -> Error {
    Error::Damaged("a row's version has no known format".into())
}
