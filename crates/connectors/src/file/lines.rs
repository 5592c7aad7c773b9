//! Reads a file line by line: batches of whole lines, lines that are too long, and what happens at
//! the end of a file that is followed.

use super::source::{FileSource, FileSourceOptions, Text, read_error};
use super::trail::{Trail, same};
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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// On a line longer than the bound: its value is the line's beginning, and this header holds
/// `LENGTH CRC32C` of the whole, in decimal and hexadecimal.
pub const OVERSIZED_HEADER: &str = "millstream.oversized";
/// How much of an oversized line is kept.
const KEPT_BYTES: usize = 64 * 1024;
/// How often a followed file is looked at when no more lines are there.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// A file that was renamed has come to its end when it did not grow for so many looks while the new
/// one has lines: its writer may take a moment to turn to the new one.
const QUIET_LOOKS: u32 = 10;
const CHUNK_BYTES: usize = 256 * 1024;

pub(super) struct LineReader {
    options: FileSourceOptions,
    trail: Option<Arc<Mutex<Trail>>>,
    text: Box<dyn Read + Send>,
    /// What is read now, where it is not compressed.
    file: Option<File>,
    /// The offset of the file's first byte.
    base: i64,
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
    /// The file before this one and how much of it was read.
    before: Option<(File, u64)>,
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
        let (file, base, text, end): (_, _, Box<dyn Read + Send>, _) = match source.text_at(at)? {
            Text::Plain(opened) => {
                let end = opened.end;
                let (file, text) = halves(&options.path, opened.file)?;
                (Some(file), opened.base, text, end)
            }
            Text::Gzip(text) => (None, 0, text, None),
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
            pending: Vec::new(),
            position: at,
            scanned: 0,
            at_end: false,
            finished: !options.follow,
            quiet_looks: 0,
            seen: at,
            before: None,
            options,
        };
        reader.begin((at - base) as u64)?;
        if let Some(end) = end {
            reader.stop_at(end);
        }
        reader.look_at_end();
        Ok(reader)
    }

    /// Goes to a byte of the text, where a line must begin.
    fn begin(&mut self, at: u64) -> Result<()> {
        let before = at.saturating_sub(1);
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
        if at > 0 && skipped == before {
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

    /// The file's next one is known to begin at this offset: reads no further.
    fn stop_at(&mut self, end: i64) {
        let read = self.position + self.pending.len() as i64;
        let text = std::mem::replace(&mut self.text, Box::new(std::io::empty()));
        self.text = Box::new(text.take((end - read).max(0) as u64));
        self.finished = true;
    }

    fn look_at_end(&mut self) {
        if let (End::At(end), Some(file)) = (&mut self.end, &self.file)
            && let Ok(meta) = file.metadata()
        {
            *end = self.base + meta.len() as i64;
        }
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

    /// At the end of a followed file: whether there may be more to read now.
    fn look(&mut self) -> Result<bool> {
        if self.finished {
            return self.turn();
        }
        self.at_end = false;
        self.look_at_end();
        self.look_at_the_one_before();
        let (Some(file), Ok(there)) = (&self.file, std::fs::metadata(&self.options.path)) else {
            return Ok(false);
        };
        let own = file.metadata().map_err(|e| read_error(&self.options.path, e))?;
        let read = self.position + self.pending.len() as i64;
        if self.base + (own.len() as i64) < read {
            return Err(Error::stop(
                "file_cut",
                format!(
                    "{} was cut while it was followed: all that was read before is handled, what \
                     came between may be lost; `millstream offsets reset PIPELINE --to earliest` \
                     goes on with the file that is there now",
                    self.options.path.display()
                ),
            ));
        }
        let renamed = !same(&own, &there);
        if !renamed || there.len() == 0 || read != self.seen {
            self.quiet_looks = 0;
            self.seen = read;
            return Ok(false);
        }
        self.quiet_looks += 1;
        self.finished = self.quiet_looks >= QUIET_LOOKS;
        Ok(self.finished)
    }

    /// Turns from a file that was read to its end to the one after it.
    fn turn(&mut self) -> Result<bool> {
        let (Some(trail), Some(file)) = (&self.trail, &self.file) else { return Ok(false) };
        let Some(next) = trail.lock().next(self.base, self.position, file)? else {
            return Ok(false);
        };
        tracing::info!(
            offset = next.base,
            "{} was rotated: the new file is read from its first line",
            self.options.path.display()
        );
        let (file, text) = halves(&self.options.path, next.file)?;
        self.text = text;
        let read = (self.position - self.base) as u64;
        self.before = self.file.replace(file).map(|file| (file, read));
        self.base = next.base;
        self.position = next.base;
        self.seen = next.base;
        (self.quiet_looks, self.at_end, self.finished) = (0, false, false);
        self.header_due = self.options.header;
        if let Some(end) = next.end {
            self.stop_at(end);
        }
        self.look_at_end();
        Ok(true)
    }

    /// Lines that were written to the old file after it was left are told of, not read.
    fn look_at_the_one_before(&mut self) {
        if let Some((file, read)) = &mut self.before
            && let Ok(meta) = file.metadata()
            && meta.len() > *read
        {
            tracing::warn!(
                bytes = meta.len() - *read,
                "{}: the renamed file has grown after the new one was begun; these bytes are not \
                 read",
                self.options.path.display()
            );
            *read = meta.len();
        }
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
mod tests {
    use super::*;
    use std::io::Write;

    fn options(path: &Path) -> FileSourceOptions {
        FileSourceOptions {
            path: path.to_owned(),
            follow: false,
            notes: None,
            header: false,
            line_bytes_max: 1024,
            batch_rows: 3,
            batch_bytes: 1 << 20,
        }
    }

    fn opened(options: FileSourceOptions, at: i64) -> Result<LineReader> {
        LineReader::open(&FileSource::open(options).unwrap(), at)
    }

    fn lines(options: FileSourceOptions, at: i64) -> Vec<(i64, String)> {
        let mut reader = opened(options, at).unwrap();
        let mut lines = Vec::new();
        loop {
            let records = reader.batch().unwrap();
            if records.is_empty() {
                return lines;
            }
            for r in records.iter() {
                let text = String::from_utf8_lossy(r.value.unwrap()).into_owned();
                lines.push((r.offset, text));
            }
        }
    }

    #[test]
    fn lines_with_their_byte_offsets_from_any_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "one\ntwo\r\n\nfour\nfive").unwrap();
        let all = [(0, "one"), (4, "two"), (9, ""), (10, "four"), (15, "five")];
        for from in 0..all.len() {
            let got = lines(options(&path), all[from].0);
            let want: Vec<_> = all[from..].iter().map(|(o, t)| (*o, (*t).to_owned())).collect();
            assert_eq!(got, want);
        }
        assert!(opened(options(&path), 99).is_err(), "beyond the end is damage");
        assert!(opened(options(&path), 2).is_err(), "within a line is damage");
        assert_eq!(lines(options(&path), 19), [], "the end of a file without a last line end");
        std::fs::write(&path, "one\ntwo\r\n\nfour\nfive\nsix\n").unwrap();
        assert_eq!(lines(options(&path), 19), [(20, "six".to_owned())], "its end came since");
        std::fs::write(&path, "one\ntwo\r\n\nfour\nfive").unwrap();
        let header = FileSourceOptions { header: true, ..options(&path) };
        assert_eq!(lines(header, 0).len(), 4);
    }

    #[test]
    fn a_long_line_costs_bounded_memory_and_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut file = std::fs::File::create(&path).unwrap();
        let long = vec![b'x'; 3 << 20];
        for part in [&b"before\n"[..], &long, b"\nafter\n"] {
            file.write_all(part).unwrap();
        }
        let mut reader = opened(options(&path), 0).unwrap();
        let mut seen = Vec::new();
        loop {
            let records = reader.batch().unwrap();
            if records.is_empty() {
                break;
            }
            assert!(reader.pending.capacity() < 1 << 20);
            for record in records.iter() {
                let header = record.headers.iter().next();
                seen.push((
                    record.value.unwrap().len(),
                    header.map(|h| String::from_utf8_lossy(h.value.unwrap()).into_owned()),
                ));
            }
        }
        let note = format!("{} {:08x}", 3 << 20, crc32c::crc32c(&long));
        assert_eq!(seen, [(6, None), (KEPT_BYTES, Some(note)), (5, None)]);
    }
}
