//! The lines of a file as records. An offset is the byte at which the line starts (in the
//! decompressed text), so that it survives an append and names a place that `tail -c` finds.

use super::{is_gzip, open};
use async_trait::async_trait;
use millstream_core::{
    Error, Header, Headers, PartitionReader, Place, Record, Records, RecordsBuilder, Result,
    Source, Start,
};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// On a line longer than the bound: its value is the line's beginning, and this header holds
/// `LENGTH CRC32C` of the whole, in decimal and hexadecimal.
pub const OVERSIZED_HEADER: &str = "millstream.oversized";
/// How much of an oversized line is kept.
const KEPT_BYTES: usize = 64 * 1024;
/// How often a followed file is looked at when no more lines are there.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
const CHUNK_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub struct FileSourceOptions {
    pub path: PathBuf,
    /// Waits for more lines at the end, instead of ending.
    pub follow: bool,
    /// Skips the first line.
    pub header: bool,
    pub line_bytes_max: usize,
    pub batch_rows: usize,
    pub batch_bytes: usize,
}

pub struct FileSource {
    options: FileSourceOptions,
    name: String,
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
        let name = options.path.display().to_string();
        Ok(Self { options, name })
    }
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
            Start::Earliest => 0,
            Start::Latest => self.offset_of(0, Place::Latest).await?,
            Start::Offset(offset) => offset,
        };
        Ok(Box::new(LineReader::open(self.options.clone(), at)?))
    }

    async fn offset_of(&self, _partition: u32, place: Place) -> Result<i64> {
        match place {
            Place::Earliest => Ok(0),
            Place::Offset(offset) => Ok(offset),
            Place::Time(_) => Err(Error::stop(
                "no_times",
                "a file's lines have no times: reset to earliest, latest or an offset (a byte)",
            )),
            Place::Latest => {
                let mut text = open(&self.options.path).map_err(|e| Error::stop("file", e))?;
                let length = std::io::copy(&mut text, &mut std::io::sink())
                    .map_err(|e| read_error(&self.options.path, e))?;
                Ok(length as i64)
            }
        }
    }
}

fn read_error(path: &Path, error: std::io::Error) -> Error {
    Error::retry("file_read", format!("reading {}", path.display())).because(error)
}

struct LineReader {
    options: FileSourceOptions,
    text: Box<dyn Read + Send>,
    /// Text that was read but not handed out; it starts at `position`.
    pending: Vec<u8>,
    position: i64,
    /// How much of `pending` is known to hold no line end.
    scanned: usize,
    at_end: bool,
    header_due: bool,
    end_hint: i64,
    /// Which file it was when it was opened.
    inode: Option<u64>,
}

impl LineReader {
    fn open(options: FileSourceOptions, at: i64) -> Result<Self> {
        let mut text = open(&options.path).map_err(|e| Error::stop("file", e))?;
        let before = (at as u64).saturating_sub(1);
        let mut skipped = std::io::copy(&mut (&mut text).take(before), &mut std::io::sink())
            .map_err(|e| read_error(&options.path, e))?;
        let mut last = Vec::new();
        if at > 0 && skipped == before {
            (&mut text).take(2).read_to_end(&mut last).map_err(|e| read_error(&options.path, e))?;
            skipped += u64::from(!last.is_empty());
        }
        if skipped < at as u64 {
            return Err(Error::stop(
                "offset_beyond_end",
                format!(
                    "the pipeline has read {} up to byte {at}, but it has only {skipped}: it was \
                     cut or replaced; `millstream offsets reset PIPELINE --to earliest` reads it \
                     again",
                    options.path.display()
                ),
            ));
        }
        // A line begins after the end of another. (The last line may have had no end when it was
        // read; then its end came since.)
        let (mut at, mut pending) = (at, last.get(1..).unwrap_or_default().to_vec());
        if !matches!(last.as_slice(), [] | [b'\n', ..] | [_]) {
            if pending != b"\n" {
                return Err(Error::stop(
                    "offset_within_line",
                    format!(
                        "byte {at} of {} is within a line: the file was replaced since the \
                         pipeline read it, or the offset was set by hand; `millstream offsets \
                         reset PIPELINE --to earliest` reads it again",
                        options.path.display()
                    ),
                ));
            }
            at += 1;
            pending.clear();
        }
        let end_hint = if is_gzip(&options.path) {
            at
        } else {
            std::fs::metadata(&options.path).map_or(at, |meta| meta.len() as i64)
        };
        let inode = std::fs::metadata(&options.path).ok().map(|meta| meta.ino());
        let header_due = options.header && at == 0;
        Ok(Self {
            options,
            text,
            pending,
            position: at,
            scanned: 0,
            at_end: false,
            header_due,
            end_hint,
            inode,
        })
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
                None if self.at_end && !self.options.follow && !rest.is_empty() => {
                    (rest, rest.len())
                }
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

    /// A followed file that was cut or replaced has lines that this reader would never see.
    fn check_still_there(&self) -> Result<()> {
        let Ok(now) = std::fs::metadata(&self.options.path) else { return Ok(()) };
        let replaced = self.inode.is_some_and(|inode| inode != now.ino());
        let cut = (now.len() as i64) < self.position;
        if !replaced && !cut {
            return Ok(());
        }
        Err(Error::stop(
            "file_replaced",
            format!(
                "{} was {} while it was followed: everything before that is read; `millstream \
                 offsets reset PIPELINE --to earliest` goes on with the file that is there now",
                self.options.path.display(),
                if replaced { "replaced" } else { "cut" }
            ),
        ))
    }

    fn drain(&mut self, bytes: usize) {
        self.pending.drain(..bytes);
        self.position += bytes as i64;
    }
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
            tokio::time::sleep(FOLLOW_EVERY).await;
            self.check_still_there()?;
            self.at_end = false;
        }
    }

    fn end_offset(&self) -> i64 {
        self.end_hint.max(self.position)
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
            header: false,
            line_bytes_max: 1024,
            batch_rows: 3,
            batch_bytes: 1 << 20,
        }
    }

    fn lines(options: FileSourceOptions, at: i64) -> Vec<(i64, String)> {
        let mut reader = LineReader::open(options, at).unwrap();
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
        assert!(LineReader::open(options(&path), 99).is_err(), "beyond the end is damage");
        assert!(LineReader::open(options(&path), 2).is_err(), "within a line is damage");
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
        let mut reader = LineReader::open(options(&path), 0).unwrap();
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
