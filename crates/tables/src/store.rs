//! The fjall database behind all handles: what is open now, the group commit, and the counters.
//!
//! A handle holds a [`Store`] and enters it for each call. Closing and reopening waits for the
//! calls under way and ends the store: its handles answer `Reopened` from then on, because rows
//! that they wrote and did not commit may be gone.

use crate::catalog::Layout;
use crate::error::Doing;
use crate::generation::Outside;
use crate::offsets::Positions;
use crate::options::Options;
use crate::{Error, Result};
use fjall::compaction::Leveled;
use fjall::config::FilterPolicy;
use fjall::{AbstractTree, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::{MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many bytes may be written between two looks at the free space and the journals.
const CHECK_BYTES: u64 = 4 * 1024 * 1024;

/// A journal is full after about twice this; one release for each is enough.
const RELEASE_BYTES: u64 = 32 * 1024 * 1024;

/// Merging takes memory by the size of a file, and files of 64 MiB, fjall's own, are merged oftener
/// than what the small memtables write would need.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// How long the end of a process waits for the tables to be written out.
const WRITE_OUT_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Store {
    pub dir: PathBuf,
    pub options: Options,
    pub read_only: bool,
    pub counters: Arc<Counters>,
    open: RwLock<Option<Open>>,
    /// Set by the first write that failed; fjall takes none after it.
    failed: AtomicBool,
    /// The largest write timestamp given out, so that later writes have later ones.
    stamp_us: AtomicU64,
    unchecked_bytes: AtomicU64,
    /// How many bytes had been written when journals were last released.
    released_at: AtomicU64,
    /// The generation that was committed to the journal last.
    pub written: AtomicU64,
    /// The generation that was synced last. Locked while syncing: who waits for the lock finds
    /// that it was synced along, or syncs for all that wait behind it.
    synced: Mutex<u64>,
    outside: Outside,
    pub positions: Mutex<Positions>,
}

/// What is open while a store lives.
pub(crate) struct Open {
    pub db: fjall::Database,
    pub catalog: Keyspace,
    pub offsets: Keyspace,
    pub tables: RwLock<BTreeMap<String, Arc<OpenTable>>>,
}

pub(crate) struct OpenTable {
    pub layout: Arc<Layout>,
    pub keyspace: Keyspace,
    /// Held shared while writing, and alone while a sweep removes what it has looked at, or while
    /// the table is dropped. True when it was.
    pub gate: Arc<RwLock<bool>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub rows_written: AtomicU64,
    pub bytes_written: AtomicU64,
    pub rows_rejected: AtomicU64,
    pub rows_read: AtomicU64,
    pub commits: AtomicU64,
    pub fsyncs: AtomicU64,
}

/// Counters since the process opened the database, and sizes now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub rows_written: u64,
    pub bytes_written: u64,
    pub rows_rejected: u64,
    pub rows_read: u64,
    pub commits: u64,
    pub fsyncs: u64,
    pub disk_bytes: u64,
    pub journals: u64,
    pub write_buffer_bytes: u64,
    pub cache_bytes: u64,
    pub cache_bytes_max: u64,
    pub generation: u64,
}

pub(crate) struct Opened {
    pub open: Open,
    pub outside: Outside,
    pub generation: u64,
    pub positions: Positions,
}

impl Store {
    pub fn new(
        dir: PathBuf,
        options: Options,
        read_only: bool,
        counters: Arc<Counters>,
        opened: Opened,
    ) -> Self {
        Self {
            dir,
            options,
            read_only,
            counters,
            open: RwLock::new(Some(opened.open)),
            failed: AtomicBool::new(false),
            stamp_us: AtomicU64::new(0),
            // The first write looks.
            unchecked_bytes: AtomicU64::new(CHECK_BYTES),
            released_at: AtomicU64::new(0),
            written: AtomicU64::new(opened.generation),
            synced: Mutex::new(opened.generation),
            outside: opened.outside,
            positions: Mutex::new(opened.positions),
        }
    }

    /// One that nothing is in yet: its handles answer `Reopened`.
    pub fn closed(dir: PathBuf, options: Options, counters: Arc<Counters>) -> Self {
        Self {
            dir,
            options,
            read_only: true,
            counters,
            open: RwLock::new(None),
            failed: AtomicBool::new(false),
            stamp_us: AtomicU64::new(0),
            unchecked_bytes: AtomicU64::new(0),
            released_at: AtomicU64::new(0),
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            outside: Outside::default(),
            positions: Mutex::default(),
        }
    }

    /// Enters the store. Not to be called while holding what it gave before.
    pub fn enter(&self) -> Result<MappedRwLockReadGuard<'_, Open>> {
        RwLockReadGuard::try_map(self.open.read(), Option::as_ref).map_err(|_| Error::Reopened)
    }

    pub fn enter_to_write(&self) -> Result<MappedRwLockReadGuard<'_, Open>> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Failed);
        }
        self.enter()
    }

    pub fn needs_reopen(&self) -> bool {
        self.failed.load(Ordering::Acquire) || self.open.read().is_none()
    }

    /// Writes all rows and then the offsets out of memory. Gives up after a while: what stays in the
    /// journal is read from there.
    pub fn write_out(&self) -> Result<()> {
        let open = self.enter_to_write()?;
        let _positions = self.positions.lock();
        let deadline = Instant::now() + WRITE_OUT_WITHIN;
        let tables: Vec<_> = open.tables.read().values().map(|t| t.keyspace.clone()).collect();
        for keyspaces in [tables, vec![open.catalog.clone(), open.offsets.clone()]] {
            for keyspace in &keyspaces {
                if keyspace.tree.active_memtable().size() > 0 {
                    keyspace.rotate_memtable().doing("cannot write out the tables")?;
                }
            }
            while keyspaces.iter().any(|keyspace| keyspace.tree.sealed_memtable_count() > 0) {
                if Instant::now() >= deadline {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Waits for the calls under way and closes the database. False when it was closed before.
    pub fn close(&self) -> bool {
        self.open.write().take().is_some()
    }

    pub fn now_ms(&self) -> i64 {
        self.options.clock.now_ms()
    }

    /// The first of `count` timestamps that are above all that were given out before.
    pub fn stamps(&self, count: usize) -> i64 {
        let now = u64::try_from(self.options.clock.now_us()).unwrap_or(0);
        let next = |last: u64| Some(now.max(last + 1) + count as u64 - 1);
        let last = self
            .stamp_us
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .expect("the update always gives a value");
        i64::try_from(now.max(last + 1)).unwrap_or(i64::MAX)
    }

    /// Refuses while the disk is nearly full, before fjall finds out and can only be reopened.
    pub fn check_space(&self, open: &Open) -> Result<()> {
        if millstream_core::fault::disk_is_full() {
            let wanted = self.options.free_bytes_min;
            return Err(Error::DiskFull { dir: self.dir.clone(), free: 0, wanted });
        }
        if self.unchecked_bytes.load(Ordering::Relaxed) < CHECK_BYTES {
            return Ok(());
        }
        if let Ok(disk) = rustix::fs::statvfs(&self.dir) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let wanted = self.options.free_bytes_min;
            if free < wanted {
                return Err(Error::DiskFull { dir: self.dir.clone(), free, wanted });
            }
        }
        self.unchecked_bytes.store(0, Ordering::Relaxed);
        if open.db.journal_count() > 1 {
            self.release_journals(open);
        }
        Ok(())
    }

    /// Writes out all that is in memory, foremost what is seldom written, such as the offsets: it
    /// holds back journals, which would all be read at the next start.
    ///
    /// The tables go before the offsets, and no commit comes between: should the journal be damaged
    /// later, the offsets that were written out still have all their rows.
    fn release_journals(&self, open: &Open) {
        let written = self.counters.bytes_written.load(Ordering::Relaxed);
        let last = self.released_at.load(Ordering::Relaxed);
        if written < last.saturating_add(RELEASE_BYTES)
            || self
                .released_at
                .compare_exchange(last, written, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let _positions = self.positions.lock();
        let tables: Vec<_> = open.tables.read().values().cloned().collect();
        let keyspaces = tables.iter().map(|table| &table.keyspace);
        for keyspace in keyspaces.chain([&open.catalog, &open.offsets]) {
            if keyspace.tree.active_memtable().size() > 0
                && let Err(error) = keyspace.rotate_memtable()
            {
                tracing::warn!(%error, "cannot write out the tables to release a journal");
                return;
            }
        }
    }

    /// Commits a batch to the journal; not durable yet.
    pub fn commit(&self, batch: fjall::OwnedWriteBatch, doing: &'static str) -> Result<()> {
        batch.commit().doing(doing).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    pub fn wrote(&self, open: &Open, rows: u64, bytes: u64) {
        self.counters.rows_written.fetch_add(rows, Ordering::Relaxed);
        self.counters.bytes_written.fetch_add(bytes, Ordering::Relaxed);
        self.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed);
        if open.db.write_buffer_size() > self.options.write_buffer_bytes {
            self.relieve(open);
        }
    }

    /// Writes the largest memtable out when all together are too large.
    fn relieve(&self, open: &Open) {
        let active = |keyspace: &Keyspace| keyspace.tree.active_memtable().size();
        let tables = open.tables.read();
        let largest = tables.values().max_by_key(|table| active(&table.keyspace));
        // Below this the rest is already on its way out.
        if let Some(table) = largest
            && active(&table.keyspace) > self.options.memtable_bytes / 4
            && let Err(error) = table.keyspace.rotate_memtable()
        {
            tracing::warn!(%error, "cannot write out a table early");
        }
    }

    /// Makes everything durable that was committed up to this generation, with one fsync for all
    /// callers that wait at the same time.
    pub fn sync_upto(&self, open: &Open, generation: u64) -> Result<()> {
        let mut synced = self.synced.lock();
        if *synced >= generation {
            return Ok(());
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Failed);
        }
        let upto = self.written.load(Ordering::Acquire);
        let unsynced = millstream_core::fault::bug("commit_without_persist");
        self.options
            .faults
            .sync()
            .map_err(fjall::Error::Io)
            .and_then(|()| if unsynced { Ok(()) } else { open.db.persist(PersistMode::SyncData) })
            .doing("cannot sync the journal of the tables")
            .inspect_err(|_| self.failed.store(true, Ordering::Release))?;
        self.counters.fsyncs.fetch_add(u64::from(!unsynced), Ordering::Relaxed);
        *synced = upto;
        if let Err(error) = self.outside.set(upto) {
            tracing::warn!(%error, "cannot note the generation of the tables; a journal that is cut short may go unnoticed");
        }
        Ok(())
    }

    pub fn stats(&self) -> Result<Stats> {
        let open = self.enter()?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Stats {
            rows_written: count(&self.counters.rows_written),
            bytes_written: count(&self.counters.bytes_written),
            rows_rejected: count(&self.counters.rows_rejected),
            rows_read: count(&self.counters.rows_read),
            commits: count(&self.counters.commits),
            fsyncs: count(&self.counters.fsyncs),
            disk_bytes: open.db.disk_space().doing("cannot measure the tables")?,
            journals: open.db.journal_count() as u64,
            write_buffer_bytes: open.db.write_buffer_size(),
            cache_bytes: open.db.cache_size(),
            cache_bytes_max: open.db.cache_capacity(),
            generation: count(&self.written),
        })
    }
}

impl Open {
    pub fn table(&self, name: &str) -> Option<Arc<OpenTable>> {
        self.tables.read().get(name).cloned()
    }
}

impl Options {
    /// Rows are found by seeking to a prefix, which no bloom filter answers: none is built.
    pub(crate) fn keyspace(&self) -> KeyspaceCreateOptions {
        KeyspaceCreateOptions::default()
            .max_memtable_size(self.memtable_bytes)
            .filter_policy(FilterPolicy::disabled())
            .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(FILE_BYTES)))
            .manual_journal_persist(true)
            .with_kv_separation(None)
    }
}
