//! Opening a directory of tables, and what is done with it as a whole.
//!
//! ```text
//! DIR/format       what wrote the directory
//! DIR/generation   the last commit that was durable, see the generation module
//! DIR/store/       the fjall database: catalog, offsets, a keyspace for each table, one journal
//! ```

use crate::catalog::{Layout, TableSpec};
use crate::error::{Doing, io};
use crate::generation::{JournalCut, OpenReport, Outside, check_format, write_format};
use crate::offsets::{Offsets, Positions, journal};
use crate::options::Options;
use crate::rewrite;
use crate::store::{Counters, Open, OpenTable, Opened, Stats, Store};
use crate::table::Table;
use crate::version::DropSuperseded;
use crate::{Error, Result};
use fjall::KeyspaceCreateOptions;
use fjall::compaction::filter::Factory;
use millstream_core::lock;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const STORE: &str = "store";
const CATALOG: &str = "catalog";
const OFFSETS: &str = "offsets";
const JOURNAL_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// The tables and offsets of a data directory. Cheap to clone.
#[derive(Clone)]
pub struct Database(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    options: Options,
    read_only: bool,
    counters: Arc<Counters>,
    report: RwLock<OpenReport>,
    store: RwLock<Arc<Store>>,
    /// It is opened by the first that needs it.
    later: Mutex<bool>,
}

impl Database {
    /// Opens the tables in a directory, or makes them. They belong to this process until the
    /// database and every handle of it are dropped.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::open_as(dir.as_ref(), options, false)
    }

    /// Opens tables that are there and refuses every write to them. They belong to this process
    /// meanwhile as well, and fjall may still tidy its files (the torn end of a journal, a
    /// compaction): what they say stays the same.
    pub fn open_read_only(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::open_as(dir.as_ref(), options, true)
    }

    /// The same, but nothing is opened before [`ready`](Self::ready) or the first use: for those who
    /// may not need the tables at all.
    pub fn open_read_only_later(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        let dir = dir.as_ref();
        if check_format(dir)?.is_none() {
            return Err(Error::NotThere { dir: dir.to_owned() });
        }
        let counters = Arc::<Counters>::default();
        let store = Store::closed(dir.to_owned(), options.clone(), counters.clone());
        Ok(Self(Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            read_only: true,
            counters,
            report: RwLock::default(),
            store: RwLock::new(Arc::new(store)),
            later: Mutex::new(true),
        })))
    }

    /// Opens what was left for later. Who uses it without asking finds nothing in it where this
    /// fails.
    pub fn ready(&self) -> Result<()> {
        let mut later = self.0.later.lock();
        if *later {
            self.open_again()?;
            *later = false;
        }
        Ok(())
    }

    fn open_as(dir: &Path, options: Options, read_only: bool) -> Result<Self> {
        let counters = Arc::<Counters>::default();
        let (opened, report) = open(dir, &options, read_only)?;
        let dir = dir.to_owned();
        let store = Store::new(dir.clone(), options.clone(), read_only, counters.clone(), opened);
        Ok(Self(Arc::new(Shared {
            dir,
            options,
            read_only,
            counters,
            report: RwLock::new(report),
            store: RwLock::new(Arc::new(store)),
            later: Mutex::new(false),
        })))
    }

    /// What the last opening found.
    pub fn report(&self) -> OpenReport {
        self.0.report.read().clone()
    }

    /// Whether a write has failed, so that nothing can be written before a [`reopen`](Self::reopen).
    pub fn needs_reopen(&self) -> bool {
        self.store().needs_reopen()
    }

    /// Closes the database and opens it again, as after a write that failed. Rows that were
    /// written and not committed may be gone: handles from before answer `Reopened`, and whoever
    /// wrote through them goes on from the last commit. When it fails it may be tried again.
    pub fn reopen(&self) -> Result<OpenReport> {
        *self.0.later.lock() = false;
        self.open_again()
    }

    fn open_again(&self) -> Result<OpenReport> {
        let shared = &*self.0;
        let mut store = shared.store.write();
        store.close();
        if millstream_core::fault::journal_fails() {
            let error = std::io::Error::other("the journal is made to fail");
            return Err(io("cannot open the tables in", &shared.dir)(error));
        }
        if !shared.read_only {
            let synced = shared.options.faults.sync();
            synced.map_err(io("cannot rewrite the journal in", &shared.dir))?;
            rewrite::journals(&shared.dir.join(STORE))?;
        }
        let (opened, report) = open(&shared.dir, &shared.options, shared.read_only)?;
        *store = Arc::new(Store::new(
            shared.dir.clone(),
            shared.options.clone(),
            shared.read_only,
            shared.counters.clone(),
            opened,
        ));
        *shared.report.write() = report.clone();
        Ok(report)
    }

    /// Makes a table, or finds it. A table that is there may get further columns and another
    /// time-to-live or grace for what is written from then on; any other difference is refused.
    pub fn create_table(&self, spec: TableSpec) -> Result<Table> {
        let store = self.store();
        let open = store.enter_to_write()?;
        let mut tables = open.tables.write();
        let positions = store.positions.lock();
        let known = tables.get(&spec.name).cloned();
        let layout = match &known {
            Some(known) => match known.layout.evolve(spec)? {
                Some(layout) => layout,
                None => return Ok(Table::new(store.clone(), known.layout.clone())),
            },
            None => {
                let next = store.written.load(Ordering::Acquire) + 1;
                Layout::new(next, spec)?
            }
        };
        let layout = Arc::new(layout);
        let keyspace = open
            .db
            .keyspace(&layout.keyspace(), || store.options.keyspace())
            .doing("cannot make a table")?;
        let mut batch = fjall::OwnedWriteBatch::with_capacity(open.db.clone(), 2);
        batch.insert(&open.catalog, layout.spec.name.as_bytes(), layout.encode()?);
        let generation = journal(&store, &open, batch)?;
        let gate = known.map(|known| known.gate.clone()).unwrap_or_default();
        let table = OpenTable { layout: layout.clone(), keyspace, gate };
        tables.insert(layout.spec.name.clone(), Arc::new(table));
        drop((positions, tables));
        store.sync_upto(&open, generation)?;
        drop(open);
        Ok(Table::new(store, layout))
    }

    /// Whether [`create_table`](Self::create_table) would take this. Changes nothing.
    pub fn check_table(&self, spec: &TableSpec) -> Result<()> {
        let known = self.table(&spec.name);
        match known {
            Some(known) => known.layout.evolve(spec.clone()).map(drop),
            None => Layout::new(0, spec.clone()).map(drop),
        }
    }

    pub fn table(&self, name: &str) -> Option<Table> {
        let store = self.store();
        let layout = store.enter().ok()?.table(name)?.layout.clone();
        Some(Table::new(store, layout))
    }

    /// All tables, by name.
    pub fn tables(&self) -> Vec<Table> {
        let store = self.store();
        let Ok(open) = store.enter() else { return Vec::new() };
        let tables = open.tables.read();
        tables.values().map(|table| Table::new(store.clone(), table.layout.clone())).collect()
    }

    /// Removes a table with all its rows, durably. True when it was there.
    pub fn drop_table(&self, name: &str) -> Result<bool> {
        let store = self.store();
        let open = store.enter_to_write()?;
        let Some(table) = open.tables.write().remove(name) else { return Ok(false) };
        // Waits for the writers, and turns away those that come.
        *table.gate.write() = true;
        let generation = {
            let _positions = store.positions.lock();
            let mut batch = fjall::OwnedWriteBatch::with_capacity(open.db.clone(), 2);
            batch.remove(&open.catalog, name.as_bytes());
            journal(&store, &open, batch)?
        };
        store.sync_upto(&open, generation)?;
        open.db.delete_keyspace(table.keyspace.clone()).doing("cannot remove a table's files")?;
        Ok(true)
    }

    pub fn offsets(&self) -> Offsets {
        Offsets::new(self.store())
    }

    /// Makes everything durable that was written before.
    pub fn persist(&self) -> Result<()> {
        let store = self.store();
        let open = store.enter_to_write()?;
        let generation = {
            let _positions = store.positions.lock();
            let batch = fjall::OwnedWriteBatch::with_capacity(open.db.clone(), 1);
            journal(&store, &open, batch)?
        };
        store.sync_upto(&open, generation)
    }

    /// Persists everything and writes it out of memory, so that the next opening has little to read
    /// from the journal. For the end of a process; nothing else needs it.
    pub fn write_out(&self) -> Result<()> {
        self.persist()?;
        self.store().write_out()
    }

    pub fn stats(&self) -> Result<Stats> {
        self.store().stats()
    }

    fn store(&self) -> Arc<Store> {
        if let Err(error) = self.ready() {
            tracing::error!(%error, "the tables cannot be opened");
        }
        self.0.store.read().clone()
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

fn open(dir: &Path, options: &Options, read_only: bool) -> Result<(Opened, OpenReport)> {
    let format = match check_format(dir) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(Error::Refused(format!("{} is not a directory", dir.display())));
        }
        format => format?,
    };
    if format.is_none() {
        if read_only {
            return Err(Error::NotThere { dir: dir.to_owned() });
        }
        if dir.exists() && !dir.is_dir() {
            return Err(Error::Refused(format!("{} is not a directory", dir.display())));
        }
        fs::create_dir_all(dir).map_err(io("cannot make the directory", dir))?;
    }

    // fjall asserts what it believes of its own files, so that damage there may be a panic.
    let opening = AssertUnwindSafe(|| {
        lock::retry(|| match open_fjall(&dir.join(STORE), options) {
            Err(fjall::Error::Locked) => Ok(None),
            opened => opened.map(Some),
        })
    });
    let opening = catch_unwind(opening).map_err(|_| {
        Error::Damaged(format!("the database in {} cannot be read", dir.join(STORE).display()))
    })?;
    let db = opening
        .map_err(|error| match error {
            fjall::Error::Io(source) => {
                Error::Io { doing: "cannot open the tables in", path: dir.to_owned(), source }
            }
            source => Error::Storage { doing: "cannot open the tables", source },
        })?
        .ok_or_else(|| Error::Locked { dir: dir.to_owned() })?;
    if format.is_none() {
        write_format(dir)?;
    }
    // The lock is held from here on.
    let (outside, expected) = Outside::open(dir, read_only)?;

    let small = || KeyspaceCreateOptions::default().manual_journal_persist(true);
    let catalog = db.keyspace(CATALOG, small).doing("cannot open the catalog of the tables")?;
    let offsets = db.keyspace(OFFSETS, small).doing("cannot open the offsets")?;
    let mut tables = BTreeMap::new();
    for item in catalog.iter() {
        let (name, value) = item.into_inner().doing("cannot read the catalog of the tables")?;
        let name = String::from_utf8(name.to_vec())
            .map_err(|_| Error::Damaged("the catalog names a table that is not text".into()))?;
        let layout = Layout::decode(&name, &value)?;
        let keyspace =
            db.keyspace(&layout.keyspace(), || options.keyspace()).doing("cannot open a table")?;
        let table = OpenTable { layout: Arc::new(layout), keyspace, gate: Arc::default() };
        tables.insert(name, Arc::new(table));
    }

    let (positions, found) = Positions::load(&offsets)?;
    let expected = expected.unwrap_or(found);
    let mut report = OpenReport { created: format.is_none(), journal_cut: None };
    if expected > found {
        let cut = JournalCut { expected_generation: expected, found_generation: found };
        tracing::warn!(dir = %dir.display(), "{cut}");
        report.journal_cut = Some(cut);
    }
    let opened = Opened {
        open: Open { db, catalog, offsets, tables: RwLock::new(tables) },
        outside,
        generation: expected.max(found),
        positions,
    };
    Ok((opened, report))
}

fn open_fjall(path: &Path, options: &Options) -> fjall::Result<fjall::Database> {
    let superseded: Arc<dyn Factory> = Arc::new(DropSuperseded);
    fjall::Database::builder(path)
        .cache_size(options.cache_bytes)
        .worker_threads(options.workers.max(1))
        .max_journaling_size(options.journal_bytes.max(JOURNAL_BYTES_MIN))
        .max_cached_files(Some(256))
        .manual_journal_persist(true)
        .with_compaction_filter_factories(Arc::new(move |keyspace| {
            keyspace.starts_with("table.").then(|| superseded.clone())
        }))
        .open()
}
