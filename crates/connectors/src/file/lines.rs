//! Reads a file line by line: batches of whole lines, and lines that are too long. What happens at
//! the end of a file that is followed is in [`follow`].

mod follow;

use self::follow::{FOLLOW_EVERY, Left};
use super::source::{FileSource, FileSourceOptions, Text, read_error};
use super::trail::{Opened, Trail};
use super::{BOM, open};
use async_trait::async_trait;
use millstream_core::{
    Error, Header, Headers, PartitionReader, Record, Records, RecordsBuilder, Result,
};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// On a line longer than the bound: its value is the line's beginning, and this header holds
/// `LENGTH CRC32C` of the whole, in decimal and hexadecimal.
pub const OVERSIZED_HEADER: &str = "millstream.oversized";
/// How much of an oversized line is kept.
const KEPT_BYTES: usize = 64 * 1024;
const CHUNK_BYTES: usize = 256 * 1024;

pub(super) struct LineReader {
    options: FileSourceOptions,
    trail: Option<Arc<Mutex<Trail>>>,
    text: Box<dyn Read + Send>,
    /// What is read now, where it is not compressed.
    file: Option<File>,
    /// The offset of the file's first byte.
    base: i64,
    /// The offset from which on this part of the file is read.
    part: i64,
    /// Text that was read but not handed out; it starts at `position`.
    pending: Vec<u8>,
    position: i64,
    /// How much of `pending` is known to hold no line end.
    scanned: usize,
    at_end: bool,
    /// No more text comes, so that what is left is a line.
    finished: bool,
    header_due: bool,
    end: End,
    quiet_looks: u32,
    /// Where the text ended at the last look.
    seen: i64,
    left: Option<Left>,
}

/// The offset after the last byte.
enum End {
    At(i64),
    /// A thread counts what a compressed file holds; negative until it is done.
    Counted(Arc<AtomicI64>),
}

impl End {
    fn count(path: &Path) -> Self {
        let count = Arc::new(AtomicI64::new(-1));
        let (path, result) = (path.to_owned(), Arc::downgrade(&count));
        let counting = move || {
            let Ok(mut text) = open(&path) else { return };
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut length = 0;
            // Nobody waits for the count once the reader is gone.
            while result.strong_count() > 0 {
                match text.read(&mut chunk) {
                    Ok(0) => {
                        if let Some(result) = result.upgrade() {
                            result.store(length, Ordering::Relaxed);
                        }
                        return;
                    }
                    Ok(read) => length += read as i64,
                    Err(_) => return,
                }
            }
        };
        // Without the thread the end shows when it is reached.
        let _ = std::thread::Builder::new().name("gzip-length".into()).spawn(counting);
        End::Counted(count)
    }
}

impl LineReader {
    pub fn open(source: &FileSource, at: i64) -> Result<Self> {
        let options = source.options.clone();
        let (file, base, part, text, end) = match source.text_at(at)? {
            Text::Plain(Opened { file, base, first, end }) => {
                let (file, text) = halves(&options.path, file)?;
                (Some(file), base, first, text, end)
            }
            Text::Gzip(text) => (None, 0, 0, text, None),
        };
        let mut reader = Self {
            end: match &file {
                Some(_) => End::At(at),
                None => End::count(&options.path),
            },
            trail: source.trail.clone(),
            header_due: options.header && at == base,
            text,
            file,
            base,
            part,
            pending: Vec::new(),
            position: at,
            scanned: 0,
            at_end: false,
            finished: !options.follow,
            quiet_looks: 0,
            seen: at,
            left: None,
            options,
        };
        reader.begin((at - base) as u64)?;
        match end {
            Some(end) => reader.stop_at(end),
            None => reader.find_left(),
        }
        reader.look_at_end();
        Ok(reader)
    }

    /// Goes to a byte of the text, where a line must begin.
    fn begin(&mut self, at: u64) -> Result<()> {
        // What comes late to a file may go on in a line.
        let any = self.position == self.part;
        let before = if any { at } else { at.saturating_sub(1) };
        let failed = |e| read_error(&self.options.path, e);
        let mut skipped = match &mut self.file {
            Some(file) if before > 0 => {
                let there = file.metadata().map_err(failed)?.len().min(before);
                file.seek(SeekFrom::Start(there)).map_err(failed)?
            }
            _ => std::io::copy(&mut (&mut self.text).take(before), &mut std::io::sink())
                .map_err(failed)?,
        };
        let mut last = Vec::new();
        if !any && skipped == before {
            (&mut self.text).take(2).read_to_end(&mut last).map_err(failed)?;
            skipped += u64::from(!last.is_empty());
        }
        let path = self.options.path.display();
        if skipped < at {
            return Err(Error::stop(
                "offset_beyond_end",
                format!(
                    "the pipeline has read {path} up to byte {at}, but it has only {skipped}: it \
                     was cut or replaced; `millstream offsets reset PIPELINE --to earliest` reads \
                     it again"
                ),
            ));
        }
        self.pending = last.get(1..).unwrap_or_default().to_vec();
        // A line begins after the end of another. (The last line may have had no end when it was
        // read; then its end came since.)
        if !matches!(last.as_slice(), [] | [b'\n', ..] | [_]) {
            if self.pending != b"\n" {
                return Err(Error::stop(
                    "offset_within_line",
                    format!(
                        "byte {at} of {path} is within a line: the file was replaced since the \
                         pipeline read it, or the offset was set by hand; `millstream offsets \
                         reset PIPELINE --to earliest` reads it again"
                    ),
                ));
            }
            self.position += 1;
            self.pending.clear();
        }
        Ok(())
    }

    /// Reads one chunk more. False at the end of the text.
    fn fill(&mut self) -> Result<bool> {
        let from = self.pending.len();
        self.pending.resize(from + CHUNK_BYTES, 0);
        let read = loop {
            match self.text.read(&mut self.pending[from..]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = match read {
            Ok(read) => read,
            Err(e) => {
                self.pending.truncate(from);
                return Err(read_error(&self.options.path, e));
            }
        };
        self.pending.truncate(from + read);
        Ok(read > 0)
    }

    /// As many whole lines as a batch holds; empty when more text is needed and none is there.
    fn batch(&mut self) -> Result<Records> {
        let mut builder = RecordsBuilder::new();
        let now = now_ms();
        let mut taken = 0;
        while builder.len() < self.options.batch_rows && builder.bytes() < self.options.batch_bytes
        {
            let rest = &self.pending[taken..];
            let scanned = self.scanned.min(rest.len());
            let end = memchr(&rest[scanned..]).map(|at| scanned + at);
            let (line, advance) = match end {
                Some(end) => (&rest[..end], end + 1),
                None if self.at_end && self.finished && !rest.is_empty() => (rest, rest.len()),
                None if rest.len() > self.options.line_bytes_max => {
                    self.drain(taken);
                    if builder.is_empty() {
                        return self.oversized(now);
                    }
                    return Ok(builder.finish(self.position));
                }
                None if !self.at_end => {
                    self.scanned = rest.len();
                    self.drain(taken);
                    taken = 0;
                    self.at_end = !self.fill()?;
                    continue;
                }
                None => {
                    self.scanned = rest.len();
                    break;
                }
            };
            self.scanned = 0;
            let offset = self.position + taken as i64;
            taken += advance;
            if std::mem::take(&mut self.header_due) {
                continue;
            }
            let line = match offset == self.base {
                true => line.strip_prefix(BOM).unwrap_or(line),
                false => line,
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > self.options.line_bytes_max {
                push_oversized(
                    &mut builder,
                    offset,
                    now,
                    line,
                    line.len() as u64,
                    crc32c::crc32c(line),
                );
                continue;
            }
            builder.push(Record {
                offset,
                timestamp: now,
                key: None,
                value: Some(line),
                headers: Headers(&[]),
            });
        }
        self.drain(taken);
        Ok(builder.finish(self.position))
    }

    /// The line at the start of `pending` is longer than the bound: keeps its beginning and passes
    /// over the rest without holding it.
    fn oversized(&mut self, now: i64) -> Result<Records> {
        let offset = self.position;
        let mut crc = 0;
        let mut length = 0u64;
        let head = self.pending[..KEPT_BYTES.min(self.pending.len())].to_vec();
        loop {
            let end = memchr(&self.pending);
            let part = end.unwrap_or(self.pending.len());
            crc = crc32c::crc32c_append(crc, &self.pending[..part]);
            length += part as u64;
            self.drain(end.map_or(part, |end| end + 1));
            if end.is_some() {
                break;
            }
            if !self.fill()? {
                self.at_end = true;
                break;
            }
        }
        self.scanned = 0;
        let mut builder = RecordsBuilder::new();
        push_oversized(&mut builder, offset, now, &head, length, crc);
        Ok(builder.finish(self.position))
    }

    fn drain(&mut self, bytes: usize) {
        self.pending.drain(..bytes);
        self.position += bytes as i64;
    }
}

/// A handle to ask and one to read, which share their place.
fn halves(path: &Path, file: File) -> Result<(File, Box<dyn Read + Send>)> {
    let text = file.try_clone().map_err(|e| read_error(path, e))?;
    Ok((file, Box::new(text)))
}

fn push_oversized(
    builder: &mut RecordsBuilder,
    offset: i64,
    timestamp: i64,
    line: &[u8],
    length: u64,
    crc: u32,
) {
    let note = format!("{length} {crc:08x}");
    let header = Header { key: OVERSIZED_HEADER.as_bytes(), value: Some(note.as_bytes()) };
    let mut headers = Vec::new();
    Headers::encode([header].into_iter(), &mut headers);
    let value = Some(&line[..KEPT_BYTES.min(line.len())]);
    builder.push(Record { offset, timestamp, key: None, value, headers: Headers(&headers) });
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[async_trait]
impl PartitionReader for LineReader {
    async fn next(&mut self) -> Result<Option<Records>> {
        loop {
            let records = self.batch()?;
            if !records.is_empty() {
                return Ok(Some(records));
            }
            if !self.options.follow {
                return Ok(None);
            }
            if !self.look()? {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
        }
    }

    /// Of a compressed file that is still being counted, at least one byte more than was read.
    fn end_offset(&self) -> i64 {
        let end = match &self.end {
            End::At(end) => *end,
            End::Counted(count) => match count.load(Ordering::Relaxed) {
                ..0 if self.at_end => self.position,
                ..0 => self.position + 1,
                counted => counted,
            },
        };
        end.max(self.position)
    }
}

#[cfg(test)]
mod tests;
