//! Which files the offsets of a followed source count in, when the file is rotated: renamed, and
//! made anew under its name.
//!
//! ```text
//!  access.log.1 (renamed)      access.log
//!  ├──────────────────────┤    ├──────────────►
//!  0                      base                    offsets: one row of bytes
//! ```
//!
//! Every file has a base, the offset of its first byte; each begins where the one before it ended.
//! A writer may go on with the renamed file after the new one was begun. What it writes is a part of
//! its own, and so is the rest of the new file:
//!
//! ```text
//!  access.log.1         access.log    access.log.1   access.log
//!  ├───────────────────┤├────────────┤├─────────────┤├──────────►
//!  from byte 0          from byte 0   from where     from where
//!                                     it was left    it was left
//! ```
//!
//! A file is known by its inode and by its first bytes. What is known is kept beside the tables, so
//! that a commit means the same bytes after a restart. It is on disk before a row of a new file is
//! handed out.

use millstream_core::{Error, Result};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How many of a file's first bytes tell it from another one.
const HEAD_BYTES: usize = 256;
/// How many parts are remembered, for commits that lag behind.
const PARTS_MAX: usize = 16;
const HEADING: &str = "millstream followed file 1";

/// Where a trail is kept.
#[derive(Debug, Clone)]
pub struct Notes {
    pub path: PathBuf,
    /// Only looked at: a preview writes nothing.
    pub read_only: bool,
}

/// The path of the followed file that notes are about.
pub(super) fn noted(notes: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(notes).ok()?;
    let mut lines = text.lines();
    (lines.next() == Some(HEADING)).then_some(())?;
    lines.next().map(PathBuf::from)
}

/// The files that one source was found in, in the order of their offsets.
#[derive(Debug)]
pub(super) struct Trail {
    path: PathBuf,
    notes: Option<Notes>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// The offset at which it begins.
    first: i64,
    /// The byte of the file at which it begins.
    from: i64,
    id: Id,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Id {
    device: u64,
    inode: u64,
    head_bytes: usize,
    head_crc: u32,
}

/// A part of the trail: its file, opened at its first byte.
pub(super) struct Opened {
    pub file: File,
    /// The offset that the file's first byte has or would have.
    pub base: i64,
    /// The offset at which the part begins.
    pub first: i64,
    /// The offset at which the next part begins, where that is known already.
    pub end: Option<i64>,
}

impl Trail {
    pub fn load(path: &Path, notes: Option<Notes>) -> Result<Trail> {
        let mut trail = Trail { path: path.to_owned(), notes, parts: Vec::new() };
        let Some(notes) = &trail.notes else { return Ok(trail) };
        let text = match std::fs::read_to_string(&notes.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(trail),
            Err(error) => return Err(unreadable(&notes.path).because(error)),
        };
        let mut lines = text.lines();
        if lines.next() != Some(HEADING) {
            return Err(unreadable(&notes.path));
        }
        // Of another file, before the pipeline's source was changed.
        if lines.next() != Some(&*trail.name()) {
            return Ok(trail);
        }
        for line in lines {
            trail.parts.push(part(line).ok_or_else(|| unreadable(&notes.path))?);
        }
        Ok(trail)
    }

    fn name(&self) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        path.to_string_lossy().into_owned()
    }

    /// The part that holds the byte at this offset, or ends there.
    pub fn at(&mut self, offset: i64) -> Result<Opened> {
        if self.parts.is_empty() {
            let (file, id) = self.open_path()?;
            self.push(vec![Part { first: 0, from: 0, id }])?;
            return Ok(Opened { file, base: 0, first: 0, end: None });
        }
        match self.parts.iter().rposition(|part| part.first <= offset) {
            Some(at) => self.open(at),
            None => Err(self.gone("the offset is before the first file that is known")),
        }
    }

    /// The file under the path now, from its first byte: a new one begins after all that were there
    /// before.
    pub fn current(&mut self) -> Result<Opened> {
        let (file, id) = self.open_path()?;
        let known = self.parts.iter().find(|part| part.from == 0 && part.id.is(&file, &id));
        let first = match known {
            Some(known) => known.first,
            None => self.begin_anew(id)?,
        };
        Ok(Opened { file, base: first, first, end: None })
    }

    /// The file under the path now, from where it was gone on with for the last time.
    pub fn current_last(&mut self) -> Result<Opened> {
        let (file, id) = self.open_path()?;
        let known = self.parts.iter().rfind(|part| part.id.is(&file, &id));
        let (base, first) = match known {
            Some(known) => (known.base(), known.first),
            None => {
                let first = self.begin_anew(id)?;
                (first, first)
            }
        };
        Ok(Opened { file, base, first, end: None })
    }

    /// The first byte of the oldest file that is there: of those that were renamed and can be read,
    /// or of the one under the path.
    pub fn earliest(&mut self) -> Result<i64> {
        let (current, current_id) = self.open_path()?;
        let was = current.metadata().map_err(|e| self.failed(e))?;
        let mut renamed = self.beside()?;
        renamed.retain(|(_, meta)| !same(meta, &was) && meta.len() > 0);
        renamed.sort_by_key(|(_, meta)| written(meta));
        // What is older than one that is compressed would leave a gap.
        let readable = renamed.iter().rposition(|(path, _)| is_compressed(path));
        let mut files = Vec::new();
        for (path, meta) in renamed.drain(readable.map_or(0, |at| at + 1)..) {
            let file = File::open(path).map_err(|e| self.failed(e))?;
            let id = Id::of(&file).map_err(|e| self.failed(e))?;
            files.push((file, id, meta.len() as i64));
        }
        files.push((current, current_id, was.len() as i64));
        if let Some(first) = self.is_tail(&files) {
            return Ok(first);
        }
        let begin = self.beyond();
        let mut first = begin;
        let mut parts = Vec::new();
        for (_, id, bytes) in files {
            parts.push(Part { first, from: 0, id });
            first += bytes;
        }
        self.push(parts)?;
        Ok(begin)
    }

    /// Where the first of these files begins, when they are the last parts, each whole.
    fn is_tail(&self, files: &[(File, Id, i64)]) -> Option<i64> {
        let tail = &self.parts[self.parts.len().checked_sub(files.len())?..];
        let mut due = tail.first()?.first;
        for (part, (file, id, bytes)) in tail.iter().zip(files) {
            if part.first != due || part.from != 0 || !part.id.is(file, id) {
                return None;
            }
            due += bytes;
        }
        Some(tail[0].first)
    }

    fn begin_anew(&mut self, id: Id) -> Result<i64> {
        let first = self.beyond();
        self.push(vec![Part { first, from: 0, id }])?;
        Ok(first)
    }

    /// An offset behind all that were given.
    fn beyond(&mut self) -> i64 {
        match self.parts.len() {
            0 => 0,
            known => {
                let last = self.open(known - 1).ok().and_then(|last| last.file.metadata().ok());
                // How long a file was that is gone is not known, but less than this.
                const BEYOND: i64 = 1 << 44;
                let last_part = &self.parts[known - 1];
                let end = last_part.base() + last.map_or(BEYOND, |last| last.len() as i64);
                end.max(last_part.first)
            }
        }
    }

    /// The part after the one that began at `first`, which was read to its end, `end`. None while
    /// there is none with a byte in it.
    pub fn next(&mut self, first: i64, end: i64, before: &File) -> Result<Option<Opened>> {
        let at = self.parts.iter().rposition(|part| part.first <= first).unwrap_or(0);
        if at + 1 < self.parts.len() {
            return self.open(at + 1).map(Some);
        }
        let Some((file, id)) = self.successor(before)? else { return Ok(None) };
        self.push(vec![Part { first: end, from: 0, id }])?;
        Ok(Some(Opened { file, base: end, first: end, end: None }))
    }

    /// The file of the part before the one that begins at `first`, and how many of its bytes were
    /// read, where that one is the last. None when the file is gone.
    pub fn before(&mut self, first: i64) -> Option<(File, u64)> {
        let [.., before, last] = &*self.parts else { return None };
        if last.first != first || before.id.inode == last.id.inode {
            return None;
        }
        let read = last.first - before.base();
        let opened = self.open(self.parts.len() - 2).ok()?;
        Some((opened.file, read as u64))
    }

    /// Notes that behind `position` the bytes `late` of the file before come next, then the present
    /// one from its byte `at` on. Gives the offsets at which the first byte of the file before would
    /// lie and at which its part ends.
    pub fn go_back(&mut self, position: i64, late: Range<u64>, at: u64) -> Result<(i64, i64)> {
        let [.., before, last] = &*self.parts else {
            unreachable!("a file was left for the last one")
        };
        let end = position + (late.end - late.start) as i64;
        let late = Part { first: position, from: late.start as i64, id: before.id.clone() };
        let rest = Part { first: end, from: at as i64, id: last.id.clone() };
        let base = late.base();
        self.push(vec![late, rest])?;
        Ok((base, end))
    }

    fn push(&mut self, parts: Vec<Part>) -> Result<()> {
        let known = self.parts.clone();
        let kept = PARTS_MAX.max(parts.len() + 1);
        self.parts.extend(parts);
        self.parts.drain(..self.parts.len().saturating_sub(kept));
        self.save().inspect_err(|_| self.parts = known)
    }

    fn open(&mut self, at: usize) -> Result<Opened> {
        let part = self.parts[at].clone();
        let (base, first) = (part.base(), part.first);
        let end = self.parts.get(at + 1).map(|next| next.first);
        let (there, there_id) = self.open_path()?;
        if part.id.is(&there, &there_id) {
            // A file that was short when it was met is known better now.
            if part.id.head_bytes != there_id.head_bytes {
                self.parts[at].id = there_id;
                self.save()?;
            }
            return Ok(Opened { file: there, base, first, end });
        }
        for (path, _) in self.beside()? {
            let Ok(file) = File::open(path) else { continue };
            if Id::of(&file).is_ok_and(|found| part.id.is(&file, &found)) {
                return Ok(Opened { file, base, first, end });
            }
        }
        Err(self.gone("the file that was read before is not there any more"))
    }

    /// Whether the part that began at `first`, the file `before`, is followed by one that was renamed
    /// too, and not by the one under the path.
    pub fn is_followed_by_renamed(&self, first: i64, before: &File) -> Result<bool> {
        let at = self.parts.iter().rposition(|part| part.first <= first).unwrap_or(0);
        match self.parts.get(at + 1) {
            Some(next) => {
                let (there, id) = self.open_path()?;
                Ok(!next.id.is(&there, &id))
            }
            None => Ok(!self.renamed_since(before)?.is_empty()),
        }
    }

    /// Files with a byte in them that were written since `before` was and renamed, and that are not
    /// known: the oldest first.
    fn renamed_since(&self, before: &File) -> Result<Vec<(PathBuf, Metadata)>> {
        let was = before.metadata().map_err(|e| self.failed(e))?;
        let mut between: Vec<_> = self
            .beside()?
            .into_iter()
            .filter(|(_, meta)| {
                !same(meta, &was) && meta.len() > 0 && written(meta) > written(&was)
            })
            .filter(|(path, meta)| !self.knows(path, meta))
            .collect();
        between.sort_by_key(|(_, meta)| written(meta));
        Ok(between)
    }

    /// The oldest of the files that were written since `before` was: those renamed while nobody
    /// looked come before the one under the path.
    fn successor(&self, before: &File) -> Result<Option<(File, Id)>> {
        let was = before.metadata().map_err(|e| self.failed(e))?;
        let between = self.renamed_since(before)?;
        if let Some((path, _)) = between.first() {
            if is_compressed(path) {
                let why = format!("{} was made and compressed since", path.display());
                return Err(self.gone(&why));
            }
            let file = File::open(path).map_err(|e| self.failed(e))?;
            let id = Id::of(&file).map_err(|e| self.failed(e))?;
            return Ok(Some((file, id)));
        }
        let (file, id) = self.open_path()?;
        let meta = file.metadata().map_err(|e| self.failed(e))?;
        Ok((!same(&meta, &was) && meta.len() > 0).then_some((file, id)))
    }

    /// Whether a file was met before; one that is gone may have had the same inode.
    fn knows(&self, path: &Path, meta: &Metadata) -> bool {
        let mut alike = self.parts.iter().filter(|part| part.id.inode == meta.ino()).peekable();
        if alike.peek().is_none() {
            return false;
        }
        let Ok(file) = File::open(path) else { return false };
        Id::of(&file).is_ok_and(|found| alike.any(|part| part.id.is(&file, &found)))
    }

    /// The files beside the path whose names are its own with a number or a date behind it.
    fn beside(&self) -> Result<Vec<(PathBuf, Metadata)>> {
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let name = self.path.file_name().unwrap_or_default();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|e| self.failed(e))? {
            let entry = entry.map_err(|e| self.failed(e))?;
            if is_rotated(&entry.file_name(), name)
                && let Ok(meta) = entry.metadata()
                && meta.is_file()
            {
                found.push((entry.path(), meta));
            }
        }
        Ok(found)
    }

    fn open_path(&self) -> Result<(File, Id)> {
        let file = File::open(&self.path).map_err(|e| self.failed(e))?;
        let id = Id::of(&file).map_err(|e| self.failed(e))?;
        Ok((file, id))
    }

    fn save(&self) -> Result<()> {
        let Some(Notes { path, read_only: false }) = &self.notes else { return Ok(()) };
        let mut text = format!("{HEADING}\n{}\n", self.name());
        for Part { first, from, id } in &self.parts {
            let Id { device, inode, head_bytes, head_crc } = id;
            text.push_str(&format!("{first} {device} {inode} {head_bytes} {head_crc} {from}\n"));
        }
        let write = || -> std::io::Result<()> {
            let dir = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir)?;
            let mut new = path.clone().into_os_string();
            new.push("~");
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| {
            Error::retry("file_notes", format!("writing {}", path.display())).because(error)
        })
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::retry("file_read", format!("reading {}", self.path.display())).because(error)
    }

    fn gone(&self, why: &str) -> Error {
        Error::stop(
            "file_gone",
            format!(
                "{} was rotated while nobody read it, and {why}: its lines cannot be read; \
                 `millstream offsets reset PIPELINE --to earliest` goes on with the first line of \
                 the file that is there now",
                self.path.display()
            ),
        )
    }
}

impl Part {
    fn base(&self) -> i64 {
        self.first - self.from
    }
}

impl Id {
    fn of(file: &File) -> std::io::Result<Id> {
        let meta = file.metadata()?;
        let head = head(file, HEAD_BYTES)?;
        let head_crc = crc32c::crc32c(&head);
        Ok(Id { device: meta.dev(), inode: meta.ino(), head_bytes: head.len(), head_crc })
    }

    /// Whether a file, whose identity now is `found`, is the one that had this identity.
    fn is(&self, file: &File, found: &Id) -> bool {
        let known = || head(file, self.head_bytes);
        (self.device, self.inode) == (found.device, found.inode)
            && known().is_ok_and(|head| {
                head.len() == self.head_bytes && crc32c::crc32c(&head) == self.head_crc
            })
    }
}

fn head(file: &File, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; bytes];
    let mut len = 0;
    while len < bytes {
        match file.read_at(&mut head[len..], len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(len);
    Ok(head)
}

fn part(line: &str) -> Option<Part> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let first = word()?.parse().ok()?;
    let (device, inode) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let (head_bytes, head_crc) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let from = word().map_or(Some(0), |word| word.parse().ok())?;
    let known = head_bytes <= HEAD_BYTES && (0..=first).contains(&from);
    known.then_some(Part { first, from, id: Id { device, inode, head_bytes, head_crc } })
}

fn unreadable(path: &Path) -> Error {
    Error::stop(
        "file_notes",
        format!("{} cannot be read: it tells which file the offsets belong to", path.display()),
    )
}

pub(super) fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn written(meta: &Metadata) -> (i64, i64) {
    (meta.mtime(), meta.mtime_nsec())
}

/// `access.log.1`, `access.log-20240131`, `access.log.2.gz` of `access.log`.
fn is_rotated(name: &OsStr, of: &OsStr) -> bool {
    let (name, of) = (name.to_string_lossy(), of.to_string_lossy());
    let Some(rest) = name.strip_prefix(&*of) else { return false };
    let rest = match rest.rsplit_once('.') {
        Some((rest, extension)) if COMPRESSED.contains(&extension) => rest,
        _ => rest,
    };
    rest.starts_with(['.', '-', '_'])
        && rest.contains(|c: char| c.is_ascii_digit())
        && rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | ':' | 'T'))
}

const COMPRESSED: [&str; 4] = ["gz", "bz2", "xz", "zst"];

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|e| COMPRESSED.contains(&&*e.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rotated_files() {
        for (name, rotated) in [
            ("a.log", false),
            ("a.log.1", true),
            ("a.log-20240131", true),
            ("a.log.2.gz", true),
            ("a.log.bak", false),
            ("a.log.gz", false),
            ("b.log.1", false),
            ("a.log1", false),
        ] {
            assert_eq!(is_rotated(OsStr::new(name), OsStr::new("a.log")), rotated, "{name}");
        }
    }
}
