//! The lines of a file as records. An offset is the byte at which the line starts (in the
//! decompressed text), so that it survives an append and names a place that `tail -c` finds. Behind
//! a rotation it goes on counting from the end of the file before: see [`super::trail`].

use super::lines::LineReader;
use super::trail::{Notes, Opened, Trail, noted};
use super::{is_gzip, open};
use async_trait::async_trait;
use millstream_core::{Error, PartitionReader, Place, Result, Source, Start};
use parking_lot::Mutex;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub struct FileSourceOptions {
    pub path: PathBuf,
    /// Waits for more lines at the end, instead of ending. A file that is renamed and made anew is
    /// read to its end, then the new one from its beginning.
    pub follow: bool,
    /// Where is kept which file the offsets of a followed one belong to. Without it a rotation is
    /// followed, but not across a restart.
    pub notes: Option<Notes>,
    /// Skips the first line.
    pub header: bool,
    pub line_bytes_max: usize,
    pub batch_rows: usize,
    pub batch_bytes: usize,
}

pub struct FileSource {
    pub(super) options: FileSourceOptions,
    name: String,
    /// Of a followed file.
    pub(super) trail: Option<Arc<Mutex<Trail>>>,
}

impl FileSource {
    pub fn open(options: FileSourceOptions) -> Result<Self, String> {
        open(&options.path)?;
        if options.follow && is_gzip(&options.path) {
            return Err(format!(
                "{} is compressed and cannot be followed: leave `follow` out",
                options.path.display()
            ));
        }
        let trail = match options.follow {
            true => {
                let trail = Trail::load(&options.path, options.notes.clone());
                Some(Arc::new(Mutex::new(trail.map_err(|error| error.chain())?)))
            }
            false => None,
        };
        let name = options.path.display().to_string();
        Ok(Self { options, name, trail })
    }

    /// For asking where a place is while no pipeline reads. `path` is what the source's identity
    /// names, and `notes` where a pipeline that followed it kept them.
    pub fn at_rest(path: &Path, notes: PathBuf) -> Result<Self, String> {
        let followed = noted(&notes)
            .filter(|noted| std::fs::canonicalize(noted).is_ok_and(|noted| noted == path));
        Self::open(FileSourceOptions {
            follow: followed.is_some(),
            path: followed.unwrap_or_else(|| path.to_owned()),
            notes: Some(Notes { path: notes, read_only: false }),
            header: false,
            line_bytes_max: usize::MAX,
            batch_rows: 1,
            batch_bytes: 1,
        })
    }

    /// The text and the offset of its first byte.
    pub(super) fn text_at(&self, offset: i64) -> Result<Text> {
        match &self.trail {
            Some(trail) => Ok(Text::Plain(trail.lock().at(offset)?)),
            None => whole(&self.options.path),
        }
    }

    /// The text that is there now, with the offsets of its first reading or of its last.
    fn current(&self, last: bool) -> Result<Text> {
        match &self.trail {
            Some(trail) if last => Ok(Text::Plain(trail.lock().current_last()?)),
            Some(trail) => Ok(Text::Plain(trail.lock().current()?)),
            None => whole(&self.options.path),
        }
    }

    /// The start of the line that holds a byte.
    fn line_of(&self, offset: i64) -> Result<i64> {
        let beyond = |end: i64| {
            Err(Error::stop(
                "bad_offset",
                format!(
                    "{} ends at byte {end}: an offset is at most that, not {offset}",
                    self.options.path.display()
                ),
            ))
        };
        if offset < 0 {
            return Err(Error::stop("bad_offset", "an offset is a byte, from 0 on"));
        }
        match self.text_at(offset)? {
            Text::Plain(Opened { file, base, first, end }) => {
                let meta = file.metadata().map_err(|e| read_error(&self.options.path, e))?;
                let end = end.unwrap_or(base + meta.len() as i64);
                match offset {
                    offset if offset > end => beyond(end),
                    offset if offset == end => Ok(offset),
                    offset => {
                        let start = line_start(&file, (offset - base) as u64);
                        let start = start.map_err(|e| read_error(&self.options.path, e))?;
                        Ok((base + start as i64).max(first))
                    }
                }
            }
            Text::Gzip(mut text) => {
                let (mut at, mut start) = (0, 0);
                let mut chunk = vec![0; CHUNK_BYTES];
                while at < offset {
                    let due = chunk.len().min((offset - at) as usize);
                    let read = text
                        .read(&mut chunk[..due])
                        .map_err(|e| read_error(&self.options.path, e))?;
                    if read == 0 {
                        return beyond(at);
                    }
                    if let Some(end) = memchr::memrchr(b'\n', &chunk[..read]) {
                        start = at + end as i64 + 1;
                    }
                    at += read as i64;
                }
                let more = text.read(&mut chunk).map_err(|e| read_error(&self.options.path, e))?;
                Ok(if more == 0 { offset } else { start })
            }
        }
    }
}

/// A file's text, at its beginning.
pub(super) enum Text {
    Plain(Opened),
    Gzip(Box<dyn Read + Send>),
}

fn whole(path: &Path) -> Result<Text> {
    let text = open(path).map_err(|e| Error::stop("file", e))?;
    if is_gzip(path) {
        return Ok(Text::Gzip(text));
    }
    let file = File::open(path).map_err(|e| read_error(path, e))?;
    Ok(Text::Plain(Opened { file, base: 0, first: 0, end: None }))
}

/// The byte after the last line end before `at`.
pub(super) fn line_start(file: &File, at: u64) -> std::io::Result<u64> {
    let mut chunk = vec![0; 64 * 1024];
    let mut upto = at;
    while upto > 0 {
        let from = upto.saturating_sub(chunk.len() as u64);
        let part = &mut chunk[..(upto - from) as usize];
        file.read_exact_at(part, from)?;
        if let Some(end) = memchr::memrchr(b'\n', part) {
            return Ok(from + end as u64 + 1);
        }
        upto = from;
    }
    Ok(0)
}

#[async_trait]
impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> String {
        let path = std::fs::canonicalize(&self.options.path).unwrap_or(self.options.path.clone());
        format!("file:{}", path.display())
    }

    fn partitions(&self) -> u32 {
        1
    }

    async fn reader(&self, _partition: u32, start: Start) -> Result<Box<dyn PartitionReader>> {
        let at = match start {
            Start::Earliest => self.beginning(0).await?,
            Start::Latest => self.offset_of(0, Place::Latest).await?,
            Start::Offset(offset) => offset,
        };
        Ok(Box::new(LineReader::open(self, at)?))
    }

    /// The first line of the file that was named, not of those renamed before.
    async fn beginning(&self, _partition: u32) -> Result<i64> {
        match self.current(false)? {
            Text::Plain(opened) => Ok(opened.base),
            Text::Gzip(_) => Ok(0),
        }
    }

    /// For a byte that the file has, the start of the line that holds it. The earliest place is in
    /// the oldest of the renamed files that lie beside a followed one.
    async fn offset_of(&self, _partition: u32, place: Place) -> Result<i64> {
        match place {
            Place::Earliest => match &self.trail {
                Some(trail) => trail.lock().earliest(),
                None => Ok(0),
            },
            Place::Offset(offset) => self.line_of(offset),
            Place::Time(_) => Err(Error::stop(
                "no_times",
                "a file's lines have no times: reset to earliest, latest or an offset (a byte)",
            )),
            Place::Latest => {
                let failed = |e| read_error(&self.options.path, e);
                match self.current(true)? {
                    Text::Plain(Opened { file, base, .. }) => {
                        Ok(base + file.metadata().map_err(failed)?.len() as i64)
                    }
                    Text::Gzip(mut text) => {
                        Ok(std::io::copy(&mut text, &mut std::io::sink()).map_err(failed)? as i64)
                    }
                }
            }
        }
    }
}

pub(super) fn read_error(path: &Path, error: std::io::Error) -> Error {
    Error::retry("file_read", format!("reading {}", path.display())).because(error)
}
