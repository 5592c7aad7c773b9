//! What happens at the end of a file that is followed: it grows, it is renamed and the one after it
//! is turned to, or the one before it gets lines from a writer that still has it open.

use super::{End, LineReader, halves};
use crate::file::source::{line_start, read_error};
use crate::file::trail::{Opened, same};
use millstream_core::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How often a followed file is looked at when no more lines are there.
pub(super) const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// A file that was renamed has come to its end when it did not grow for so many looks while the new
/// one has lines: its writer may take a moment to turn to the new one.
const QUIET_LOOKS: u32 = 10;
/// After it was left it is looked at so many times more since it last grew: for 30 seconds.
const LATE_LOOKS: u32 = 150;

/// The file before the one that is read.
pub(super) struct Left {
    file: File,
    /// How many of its bytes were read.
    read: u64,
    /// How many looks have seen nothing new.
    quiet_looks: u32,
}

impl Left {
    /// The bytes of the lines that came since. A line that has no end may get it, but not for ever.
    fn grown(&mut self) -> std::io::Result<Range<u64>> {
        let length = self.file.metadata()?.len();
        self.quiet_looks += 1;
        if length <= self.read {
            return Ok(self.read..self.read);
        }
        let mut around = [b'\n'; 2];
        self.file
            .read_exact_at(&mut around[usize::from(self.read == 0)..], self.read.max(1) - 1)?;
        // The end of a line that was read without it.
        if self.read > 0 && around[0] != b'\n' && around[1] == b'\n' {
            self.read += 1;
        }
        let upto = match self.quiet_looks > LATE_LOOKS {
            true => length,
            false => line_start(&self.file, length)?.max(self.read),
        };
        Ok(self.read..upto)
    }
}

impl LineReader {
    /// At the end of a followed file: whether there may be more to read now.
    pub(super) fn look(&mut self) -> Result<bool> {
        if self.finished {
            return self.turn();
        }
        self.at_end = false;
        self.look_at_end();
        if self.look_back()? {
            return Ok(true);
        }
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
        // Its writer has turned from this one long ago when another was begun and renamed since.
        let is_whole = self.base + own.len() as i64 == read;
        if renamed && is_whole && self.is_followed_by_renamed()? {
            self.finished = true;
            return Ok(true);
        }
        if !renamed || there.len() == 0 || read != self.seen {
            self.quiet_looks = 0;
            self.seen = read;
            return Ok(false);
        }
        self.quiet_looks += 1;
        self.finished = self.quiet_looks >= QUIET_LOOKS;
        Ok(self.finished)
    }

    fn is_followed_by_renamed(&self) -> Result<bool> {
        let (Some(trail), Some(file)) = (&self.trail, &self.file) else { return Ok(false) };
        trail.lock().is_followed_by_renamed(self.part, file)
    }

    pub(super) fn look_at_end(&mut self) {
        if let (End::At(end), Some(file)) = (&mut self.end, &self.file)
            && let Ok(meta) = file.metadata()
        {
            *end = self.base + meta.len() as i64;
        }
    }

    /// What comes after this offset is in another file: reads no further.
    pub(super) fn stop_at(&mut self, end: i64) {
        let read = self.position + self.pending.len() as i64;
        let text = std::mem::replace(&mut self.text, Box::new(std::io::empty()));
        self.text = Box::new(text.take((end - read).max(0) as u64));
        self.finished = true;
    }

    /// The file before the one that is read is open still when it can be found.
    pub(super) fn find_left(&mut self) {
        let Some(trail) = &self.trail else { return };
        if let Some((file, read)) = trail.lock().before(self.part) {
            self.left = Some(Left { file, read, quiet_looks: 0 });
        }
    }

    /// Turns from what was read to its end to what comes after it.
    fn turn(&mut self) -> Result<bool> {
        let (Some(trail), Some(file)) = (&self.trail, &self.file) else { return Ok(false) };
        let Some(next) = trail.lock().next(self.part, self.position, file)? else {
            return Ok(false);
        };
        if next.first == next.base {
            tracing::info!(
                offset = next.base,
                "{} was rotated: the new file is read from its first line",
                self.options.path.display()
            );
        }
        let read = (self.position - self.base) as u64;
        if let Some(file) = self.go_to(next)? {
            self.left = Some(Left { file, read, quiet_looks: 0 });
        }
        Ok(true)
    }

    /// Whether the file that was left has grown since: its new lines come next, then the rest of
    /// the one that is read.
    fn look_back(&mut self) -> Result<bool> {
        let Some(left) = &mut self.left else { return Ok(false) };
        let late = left.grown().map_err(|e| read_error(&self.options.path, e))?;
        if late.is_empty() {
            if left.quiet_looks > LATE_LOOKS {
                self.left = None;
            }
            return Ok(false);
        }
        let (Some(trail), Some(left)) = (&self.trail, self.left.take()) else { return Ok(false) };
        let (bytes, first) = (late.end - late.start, self.position);
        let (base, end) = trail.lock().go_back(first, late, (first - self.base) as u64)?;
        tracing::info!(
            bytes,
            "{}: the renamed file has grown after the new one was begun; its lines are read now",
            self.options.path.display()
        );
        self.go_to(Opened { file: left.file, base, first, end: Some(end) })?;
        Ok(true)
    }

    /// Gives the file that was read until now.
    fn go_to(&mut self, next: Opened) -> Result<Option<File>> {
        let Opened { file, base, first, end } = next;
        let (mut file, text) = halves(&self.options.path, file)?;
        file.seek(SeekFrom::Start((first - base) as u64))
            .map_err(|e| read_error(&self.options.path, e))?;
        let left = self.file.replace(file);
        self.text = text;
        self.pending.clear();
        (self.base, self.part, self.position, self.seen) = (base, first, first, first);
        (self.quiet_looks, self.scanned) = (0, 0);
        (self.at_end, self.finished) = (false, false);
        self.header_due = self.options.header && first == base;
        if let Some(end) = end {
            self.stop_at(end);
        }
        self.look_at_end();
        Ok(left)
    }
}
