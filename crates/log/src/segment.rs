//! A segment file: batches one after the other from its base offset on, and how they are walked.

use crate::codec::{HEADER_BYTES, Header, Invalid};
use crate::error::{Error, Result};
use crate::files::{File, Files, How};
use crate::index::{self, INTERVAL_BYTES, IndexEntry};
use millstream_core::fault;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

#[derive(Debug)]
pub struct Segment {
    pub base: i64,
    pub path: PathBuf,
    /// Bytes written.
    len: AtomicU64,
    /// Shared by its readers, and by the writer of an active segment.
    file: Mutex<Option<Weak<dyn File>>>,
    /// The entries of an active segment; a sealed one's are in the file.
    entries: Mutex<Option<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    all: Vec<IndexEntry>,
    /// How many of them are in the file.
    saved: usize,
}

impl Segment {
    pub fn new(dir: &Path, base: i64, len: u64) -> Segment {
        Segment {
            base,
            path: dir.join(log_name(base)),
            len: AtomicU64::new(len),
            file: Mutex::new(None),
            entries: Mutex::new(None),
        }
    }

    pub fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    pub fn open(&self, files: &dyn Files) -> io::Result<Arc<dyn File>> {
        let mut held = self.file.lock();
        if let Some(file) = held.as_ref().and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = files.open(&self.path, How::Read)?;
        *held = Some(Arc::downgrade(&file));
        Ok(file)
    }

    /// Readers share the writer's file from now on.
    pub fn share(&self, file: &Arc<dyn File>) {
        *self.file.lock() = Some(Arc::downgrade(file));
    }

    /// Makes this the active segment, of which these entries are known.
    pub fn activate(&self, entries: Vec<IndexEntry>) {
        *self.entries.lock() = Some(Entries { all: entries, saved: 0 });
    }

    pub fn add_entry(&self, entry: IndexEntry) {
        if let Some(entries) = self.entries.lock().as_mut() {
            entries.all.push(entry);
        }
    }

    /// Writes the last entry, which says where the segment ends, and lets go of the others.
    pub fn seal(&self, files: &dyn Files, end: IndexEntry) {
        if let Some(mut entries) = self.entries.lock().take() {
            entries.all.push(end);
            self.save(files, &mut entries);
        }
    }

    /// Brings the index file up to date. A failure to write costs nothing but the time to make the
    /// index again, so it is not an error.
    pub fn flush_index(&self, files: &dyn Files) {
        if let Some(entries) = self.entries.lock().as_mut() {
            self.save(files, entries);
        }
    }

    fn save(&self, files: &dyn Files, entries: &mut Entries) {
        if entries.saved == entries.all.len() {
            return;
        }
        fault::point("log.index");
        let how = if entries.saved == 0 { How::Create } else { How::Write };
        let path = self.index_path();
        let done = files
            .open(&path, how)
            .and_then(|file| index::save(&*file, &entries.all, entries.saved));
        match done {
            Ok(()) => entries.saved = entries.all.len(),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "the index could not be written");
            }
        }
    }

    /// The entries of the whole segment as far as `limit`, from memory, from the file, or, where
    /// the file is not whole, from the log. What the log itself says wrong is left to the reader.
    pub fn entries(&self, files: &dyn Files, limit: u64, heal: bool) -> Vec<IndexEntry> {
        if let Some(entries) = &*self.entries.lock() {
            return entries.all.iter().filter(|e| e.position < limit).copied().collect();
        }
        let mut entries = index::load(files, &self.index_path());
        if entries.last().is_some_and(|last| last.position == self.len()) {
            return entries;
        }
        entries.retain(|entry| entry.position < limit);
        let Ok(file) = self.open(files) else { return Vec::new() };
        let appended_ms = files.modified_ms(&self.path).unwrap_or(i64::MAX);
        let walked = extend(&*file, self.base, limit, appended_ms, &mut entries);
        if let Ok(end) = walked
            && heal
            && limit == self.len()
        {
            entries.push(end);
            let file = files.open(&self.index_path(), How::Create);
            if let Err(error) = file.and_then(|file| index::save(&*file, &entries, 0)) {
                tracing::debug!(path = %self.path.display(), %error, "the index was not remade");
            }
        }
        entries
    }

    /// What the index knows of a sealed segment as a whole.
    pub fn summary(&self, files: &dyn Files) -> Option<IndexEntry> {
        let len = self.len();
        if let Some(last) = index::load_last(files, &self.index_path())
            && last.position == len
        {
            return Some(last);
        }
        let mut entries = Vec::new();
        let file = self.open(files).ok()?;
        let appended_ms = files.modified_ms(&self.path).unwrap_or(i64::MAX);
        extend(&*file, self.base, len, appended_ms, &mut entries).ok()
    }
}

/// Walks the headers from the last of `entries` to `limit`, adding what is missing, and gives the
/// entry of the end. Entries that the log contradicts are dropped.
pub fn extend(
    file: &dyn File,
    base: i64,
    limit: u64,
    appended_ms: i64,
    entries: &mut Vec<IndexEntry>,
) -> Result<IndexEntry, Stopped> {
    let start = IndexEntry { offset: base, position: 0, max_time: i64::MIN, appended_ms };
    loop {
        let from = entries.last().copied().unwrap_or(start);
        let known = entries.len();
        let mut scan = Scan::new(file, from.position, limit, from.offset);
        let mut now = from;
        let failed = loop {
            match scan.next_header() {
                Ok(Some((position, header))) => {
                    let last = entries.last().map_or(0, |last| last.position);
                    if position - last >= INTERVAL_BYTES {
                        entries.push(IndexEntry { position, offset: header.base_offset, ..now });
                    }
                    now.max_time = now.max_time.max(header.max_time);
                    now.offset = header.next_offset();
                    now.position = position + header.bytes as u64;
                    now.appended_ms = appended_ms;
                }
                Ok(None) => return Ok(now),
                Err(stopped) => break stopped,
            }
        };
        // Where not even the entry's own batch is there, it is the entry that is wrong.
        if known == 0 || failed.position != from.position {
            return Err(failed);
        }
        entries.truncate(known - 1);
    }
}

/// Walks the batches of a file.
pub struct Scan<'a> {
    file: &'a dyn File,
    pub position: u64,
    limit: u64,
    /// The base offset that the next batch must have.
    pub expected: i64,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file.
    buffer_at: u64,
}

/// A batch's place, header and bytes.
pub type Found<'a> = (u64, Header, &'a [u8]);

/// Where a walk could not go on, and why.
#[derive(Debug)]
pub struct Stopped {
    pub position: u64,
    pub expected: i64,
    pub why: Why,
}

#[derive(Debug)]
pub enum Why {
    Invalid(Invalid),
    Io(io::Error),
}

const CHUNK_BYTES: u64 = 256 << 10;

impl<'a> Scan<'a> {
    pub fn new(file: &'a dyn File, position: u64, limit: u64, expected: i64) -> Self {
        Self { file, position, limit, expected, buffer: Vec::new(), buffer_at: position }
    }

    /// The next batch's place and header; its bytes are not looked at.
    pub fn next_header(&mut self) -> Result<Option<(u64, Header)>, Stopped> {
        self.advance(false).map(|found| found.map(|(position, header, _)| (position, header)))
    }

    /// The next batch, whole and right by its checksum.
    pub fn next_batch(&mut self) -> Result<Option<Found<'_>>, Stopped> {
        self.advance(true)
    }

    fn advance(&mut self, whole: bool) -> Result<Option<Found<'_>>, Stopped> {
        let position = self.position;
        if position >= self.limit {
            return Ok(None);
        }
        let left = self.limit - position;
        let have = left.min(HEADER_BYTES as u64) as usize;
        self.fill(have)?;
        let header = Header::read_at(self.view(have), self.expected);
        let header = header.map_err(|why| self.stopped(Why::Invalid(why)))?;
        if header.bytes as u64 > left {
            let why = Invalid::Short { have: left as usize, need: header.bytes };
            return Err(self.stopped(Why::Invalid(why)));
        }
        if whole {
            self.fill(header.bytes)?;
            let checked = header.check(self.view(header.bytes));
            checked.map_err(|why| self.stopped(Why::Invalid(why)))?;
        }
        self.expected = header.next_offset();
        self.position += header.bytes as u64;
        let from = (position - self.buffer_at) as usize;
        let bytes = if whole { &self.buffer[from..from + header.bytes] } else { &[] };
        Ok(Some((position, header, bytes)))
    }

    /// Makes the buffer hold `len` bytes at the position.
    fn fill(&mut self, len: usize) -> Result<(), Stopped> {
        let end = self.position + len as u64;
        if self.position >= self.buffer_at && end <= self.buffer_at + self.buffer.len() as u64 {
            return Ok(());
        }
        let want = (self.limit - self.position).min(CHUNK_BYTES.max(len as u64));
        self.buffer.resize(want as usize, 0);
        self.buffer_at = self.position;
        let read = self.file.read_at(&mut self.buffer, self.position);
        read.map_err(|error| {
            self.buffer.clear();
            self.stopped(Why::Io(error))
        })
    }

    fn view(&self, len: usize) -> &[u8] {
        let from = (self.position - self.buffer_at) as usize;
        &self.buffer[from..from + len]
    }

    fn stopped(&self, why: Why) -> Stopped {
        Stopped { position: self.position, expected: self.expected, why }
    }
}

impl Stopped {
    /// As the damage of a place that must be right.
    pub fn into_error(self, path: &Path) -> Error {
        match self.why {
            Why::Invalid(why) => {
                Error::damaged(path, self.position, self.expected, why.to_string())
            }
            Why::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Error::damaged(path, self.position, self.expected, "the file ends before the log")
            }
            Why::Io(error) => Error::io("cannot read", path, error),
        }
    }
}

pub fn log_name(base: i64) -> String {
    format!("{base:020}.log")
}

/// The base offset that a file's name says.
pub fn base_of(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}
