//! A disk in memory that loses what real ones may lose.
//!
//! A write is in `live` at once (the page cache) and in `durable` after a sync. At a crash each
//! 512-byte piece of what was not synced lands or is lost by itself, in any order; names land as a
//! prefix of each directory's changes. A sync that fails leaves its bytes in `live`, clean as the
//! kernel sees them: a later sync that succeeds does not bring them to the disk.

use millstream_log::files::{Entry, File, Files, How};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

/// What happens to the operation that is counted as the `at`-th, and to those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Everything fails from here on.
    Crash,
    /// This one operation fails, and so do the next ones up to the count.
    Eio(u64),
    Full(u64),
}

#[derive(Debug, Clone)]
struct State {
    files: BTreeMap<u64, Inode>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    names: Vec<Name>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    crashed: bool,
    rng: StdRng,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Size(usize),
}

/// A change of names that its directory's sync makes durable.
#[derive(Debug, Clone)]
enum Name {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    inode: u64,
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        let root: BTreeMap<_, _> =
            [("/", Node::Dir), ("/disk", Node::Dir)].map(|(p, n)| (PathBuf::from(p), n)).into();
        Disk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            live: root.clone(),
            durable: root,
            names: Vec::new(),
            operations: 0,
            fault: None,
            crashed: false,
            rng: StdRng::seed_from_u64(seed),
        })))
    }

    pub fn set_fault(&self, fault: Option<(u64, Fault)>) {
        let mut state = self.0.lock();
        state.fault = fault;
        state.operations = 0;
    }

    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// What the machine finds after the power came back.
    pub fn power_lost(&self, seed: u64) -> Disk {
        let mut state = self.0.lock().clone();
        state.rng = StdRng::seed_from_u64(seed);
        state.lose();
        state.revive()
    }

    /// What the next process finds after this one was killed: the page cache is still there.
    pub fn killed(&self) -> Disk {
        self.0.lock().clone().revive()
    }

    /// The files whose name ends so, with their durable size.
    pub fn files_ending(&self, suffix: &str) -> Vec<(PathBuf, usize)> {
        let state = self.0.lock();
        let files = state.live.iter().filter_map(|(path, node)| match node {
            Node::File(inode) if path.to_string_lossy().ends_with(suffix) => {
                Some((path.clone(), state.files[inode].durable.len()))
            }
            _ => None,
        });
        files.collect()
    }

    pub fn flip(&self, path: &Path, bit: usize) {
        let mut state = self.0.lock();
        let Some(Node::File(inode)) = state.live.get(path).copied() else {
            panic!("{} is not a file", path.display());
        };
        let file = state.files.get_mut(&inode).unwrap();
        for bytes in [&mut file.live, &mut file.durable] {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

impl State {
    /// Counts an operation; what is to go wrong with it.
    fn begin(&mut self) -> Result<Option<Fault>, io::Error> {
        if self.crashed {
            return Err(io::Error::other("the machine is off"));
        }
        self.operations += 1;
        let now = self.operations;
        Ok(match self.fault {
            Some((at, Fault::Crash)) if now == at => {
                self.crashed = true;
                Some(Fault::Crash)
            }
            Some((at, fault @ (Fault::Eio(count) | Fault::Full(count))))
                if (at..at + count).contains(&now) =>
            {
                Some(fault)
            }
            _ => None,
        })
    }

    /// For operations that happen or do not.
    fn begin_plain(&mut self) -> io::Result<()> {
        match self.begin()? {
            // At a crash it may still happen.
            Some(Fault::Crash) | None => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }

    fn end_plain(&self) -> io::Result<()> {
        if self.crashed { Err(Fault::Crash.error()) } else { Ok(()) }
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.files.get_mut(&inode).expect("handles keep their file")
    }

    fn lose(&mut self) {
        let how = self.rng.random_range(0..5);
        let mut files = std::mem::take(&mut self.files);
        for file in files.values_mut() {
            let pending = std::mem::take(&mut file.pending);
            let kept = self.rng.random_range(0..=pending.len());
            let live_len = file.live.len();
            for (at, change) in pending.into_iter().enumerate() {
                match how {
                    0 => {}
                    1 => apply(&mut file.durable, &change),
                    2 => self.land_some(&mut file.durable, &change, 0.5),
                    3 if at < kept => apply(&mut file.durable, &change),
                    3 if at == kept => self.land_some(&mut file.durable, &change, 0.7),
                    3 => {}
                    // The size came to the disk before the bytes.
                    _ => {
                        self.land_some(&mut file.durable, &change, 0.2);
                        let len = file.durable.len().max(live_len);
                        file.durable.resize(len, 0);
                    }
                }
            }
        }
        self.files = files;
        let names = std::mem::take(&mut self.names);
        let mut kept: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for name in &names {
            *kept.entry(name.dir()).or_default() += 1;
        }
        for left in kept.values_mut() {
            *left = self.rng.random_range(0..=*left);
        }
        for name in names {
            let left = kept.get_mut(&name.dir()).unwrap();
            if *left > 0 {
                *left -= 1;
                name.apply(&mut self.durable);
            }
        }
        let durable = self.durable.clone();
        self.durable.retain(|path, _| path.ancestors().all(|above| durable.contains_key(above)));
        self.live = self.durable.clone();
        for file in self.files.values_mut() {
            file.live = file.durable.clone();
        }
    }

    fn land_some(&mut self, durable: &mut Vec<u8>, change: &Change, chance: f64) {
        match change {
            Change::Size(_) => {
                if self.rng.random_bool(chance) {
                    apply(durable, change);
                }
            }
            Change::Write { at, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let sector_end = (at + from) / SECTOR * SECTOR + SECTOR - at;
                    let to = sector_end.min(bytes.len());
                    if self.rng.random_bool(chance) {
                        let piece = bytes[from..to].to_vec();
                        apply(durable, &Change::Write { at: at + from, bytes: piece });
                    }
                    from = to;
                }
            }
        }
    }

    fn revive(mut self) -> Disk {
        (self.crashed, self.fault, self.operations) = (false, None, 0);
        Disk(Arc::new(Mutex::new(self)))
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::Crash => io::Error::other("the machine is off"),
            Fault::Eio(_) => io::Error::from_raw_os_error(5),
            Fault::Full(_) => io::Error::from_raw_os_error(28),
        }
    }
}

impl Name {
    fn dir(&self) -> PathBuf {
        let (Name::Add(path, _) | Name::Remove(path) | Name::Rename(path, _)) = self;
        path.parent().unwrap().to_owned()
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Name::Add(path, node) => drop(names.insert(path.clone(), *node)),
            Name::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
            Name::Rename(from, to) => {
                let moved: Vec<PathBuf> =
                    names.keys().filter(|name| name.starts_with(from)).cloned().collect();
                for path in moved {
                    let node = names.remove(&path).unwrap();
                    let rest = path.strip_prefix(from).unwrap();
                    let to = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    names.insert(to, node);
                }
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Size(len) => bytes.resize(*len, 0),
        Change::Write { at, bytes: new } => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
    }
}

impl Files for Disk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.live.contains_key(dir) {
            return Ok(());
        }
        state.begin_plain()?;
        let name = Name::Add(dir.to_owned(), Node::Dir);
        name.apply(&mut state.live);
        state.names.push(name);
        state.end_plain()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.0.lock();
        if state.crashed {
            return Err(Fault::Crash.error());
        }
        if !state.live.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entries = state.live.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entries = entries.map(|(path, node)| Entry {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            is_dir: *node == Node::Dir,
            len: match node {
                Node::Dir => 0,
                Node::File(inode) => state.files[inode].live.len() as u64,
            },
        });
        Ok(entries.collect())
    }

    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        if state.crashed {
            return Err(Fault::Crash.error());
        }
        let inode = match (state.live.get(path).copied(), how) {
            (Some(Node::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, How::Read | How::Write) => return Err(io::ErrorKind::NotFound.into()),
            (Some(Node::File(inode)), How::Create) => {
                state.begin_plain()?;
                let file = state.inode(inode);
                file.live.clear();
                file.pending.push(Change::Size(0));
                inode
            }
            (Some(Node::File(inode)), _) => inode,
            (None, How::Create) => {
                state.begin_plain()?;
                let inode = state.files.keys().last().map_or(1, |last| last + 1);
                state.files.insert(inode, Inode::default());
                let name = Name::Add(path.to_owned(), Node::File(inode));
                name.apply(&mut state.live);
                state.names.push(name);
                inode
            }
        };
        state.end_plain()?;
        Ok(Arc::new(Handle { disk: self.clone(), inode }))
    }

    fn modified_ms(&self, _path: &Path) -> io::Result<i64> {
        Ok(0)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.begin_plain()?;
        let name = Name::Rename(from.to_owned(), to.to_owned());
        name.apply(&mut state.live);
        state.names.push(name);
        state.end_plain()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.live.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.begin_plain()?;
        let name = Name::Remove(path.to_owned());
        name.apply(&mut state.live);
        state.names.push(name);
        state.end_plain()
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.remove_file(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        match state.begin()? {
            None => {}
            Some(fault) => return Err(fault.error()),
        }
        let (now, later) =
            std::mem::take(&mut state.names).into_iter().partition(|name| name.dir() == dir);
        state.names = later;
        let now: Vec<Name> = now;
        now.iter().for_each(|name| name.apply(&mut state.durable));
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }
}

impl File for Handle {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        if state.crashed {
            return Err(Fault::Crash.error());
        }
        let bytes = &state.inode(self.inode).live;
        let found = bytes.get(at as usize..at as usize + into.len());
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, parts: &[&[u8]], at: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let fault = state.begin()?;
        let mut bytes = parts.concat();
        if fault.is_some() {
            let written = state.rng.random_range(0..=bytes.len());
            bytes.truncate(written);
        }
        let change = Change::Write { at: at as usize, bytes };
        let file = state.inode(self.inode);
        apply(&mut file.live, &change);
        file.pending.push(change);
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.0.lock();
        Ok(state.inode(self.inode).live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.begin_plain()?;
        let change = Change::Size(len as usize);
        let file = state.inode(self.inode);
        apply(&mut file.live, &change);
        file.pending.push(change);
        state.end_plain()
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let fault = state.begin()?;
        if fault == Some(Fault::Crash) {
            return Err(Fault::Crash.error());
        }
        let pending = std::mem::take(&mut state.inode(self.inode).pending);
        let mut durable = std::mem::take(&mut state.inode(self.inode).durable);
        for change in &pending {
            match fault {
                None => apply(&mut durable, change),
                Some(_) => state.land_some(&mut durable, change, 0.3),
            }
        }
        state.inode(self.inode).durable = durable;
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
