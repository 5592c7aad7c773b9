//! The files of a partition that are being written: one, or one a date. They are put in place
//! together, so that a receipt waits for one thing.

use crate::encode::{Format, Writer};
use crate::folder::Day;
use crate::{error, names, place};
use arrow_array::{Array, RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::take::take_record_batch;
use millstream_core::{Encoded, Error, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use tokio::sync::oneshot;

/// Files of different dates that are open together at most, but for one record's.
pub(crate) const DATES_MAX: usize = 32;

/// Who waits for a batch to be in place.
pub(crate) type Waiting = oneshot::Sender<Result<()>>;

pub(crate) struct OpenSet {
    /// Tells it from those before it.
    pub id: u64,
    pub rows: u64,
    files: BTreeMap<Day, OpenFile>,
    pub waiting: Vec<Waiting>,
}

struct OpenFile {
    writer: Option<Writer>,
    folder: PathBuf,
    part: PathBuf,
    first: i64,
    next: i64,
}

/// A file that is in place now.
pub(crate) struct Placed {
    pub folder: PathBuf,
    pub first: i64,
    pub next: i64,
}

/// The rows of a batch, in the form that they are written in.
pub(crate) enum Rows<'a> {
    Columns(&'a RecordBatch),
    Lines(&'a Encoded),
}

impl OpenSet {
    pub fn new(id: u64) -> Self {
        Self { id, rows: 0, files: BTreeMap::new(), waiting: Vec::new() }
    }

    pub fn dates(&self) -> usize {
        self.files.len()
    }

    pub fn has_date(&self, day: Day) -> bool {
        self.files.contains_key(&day)
    }

    /// How long the files are together, about.
    pub fn bytes(&self) -> u64 {
        self.files.values().filter_map(|file| Some(file.writer.as_ref()?.bytes())).sum()
    }

    /// The offsets of its rows: the first, and the one after the last.
    pub fn span(&self) -> Option<(i64, i64)> {
        let first = self.files.values().map(|file| file.first).min()?;
        let next = self.files.values().map(|file| file.next).max()?;
        Some((first, next))
    }

    /// Writes some rows of a batch, which stem from the records `first..next`.
    #[expect(clippy::too_many_arguments, reason = "what a file is made with, put together once")]
    pub fn write(
        &mut self,
        day: Day,
        folder: PathBuf,
        prefix: &str,
        format: Format,
        columns: &SchemaRef,
        rows: &Rows<'_>,
        which: &[u32],
        (first, next): (i64, i64),
    ) -> Result<u64> {
        let file = match self.files.entry(day) {
            std::collections::btree_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place::make_folder(&folder)?;
                let part = folder.join(names::part(prefix, first, format));
                let opened = File::create(&part).and_then(|f| Writer::new(f, format, columns));
                let writer = Some(opened.map_err(|e| error::of(e, "write", &part))?);
                place.insert(OpenFile { writer, folder, part, first, next })
            }
        };
        let writer = file.writer.as_mut().ok_or_else(|| gone(&file.part))?;
        let before = writer.bytes();
        let written = match rows {
            Rows::Lines(encoded) => {
                let mut text = Vec::new();
                for row in which {
                    text.extend_from_slice(encoded.row(*row as usize));
                    text.push(b'\n');
                }
                writer.lines(&text).map(|()| text.len() as u64)
            }
            Rows::Columns(rows) => {
                let picked = pick(rows, which)?;
                writer.rows(&picked).map(|()| writer.bytes().saturating_sub(before))
            }
        };
        let bytes = written.map_err(|e| error::of(e, "write", &file.part))?;
        file.next = next;
        self.rows += which.len() as u64;
        Ok(bytes)
    }

    /// Makes the files durable, still under their hidden names.
    pub fn finish(&mut self) -> Result<()> {
        for file in self.files.values_mut() {
            let writer = file.writer.take().ok_or_else(|| gone(&file.part))?;
            writer.finish().map_err(|e| error::of(e, "write", &file.part))?;
        }
        Ok(())
    }

    /// Puts them in place. Those that are there in spite of an error are told.
    pub fn put_in_place(
        &mut self,
        prefix: &str,
        format: Format,
        placed: &mut Vec<Placed>,
    ) -> Result<()> {
        while let Some((_, file)) = self.files.pop_first() {
            let OpenFile { folder, part, first, next, .. } = file;
            let to = folder.join(names::in_place(prefix, first, next, format));
            place::rename(&part, &to)?;
            placed.push(Placed { folder: folder.clone(), first, next });
            place::sync_folder(&folder)?;
        }
        Ok(())
    }
}

impl Drop for OpenSet {
    /// What was not put in place is nothing; what is left of it here the next start removes.
    fn drop(&mut self) {
        for file in self.files.values() {
            let _ = fs::remove_file(&file.part);
        }
    }
}

fn gone(part: &std::path::Path) -> Error {
    Error::retry("lost", format!("{} was ended before", part.display()))
}

fn pick(rows: &RecordBatch, which: &[u32]) -> Result<RecordBatch> {
    let (Some(first), Some(last)) = (which.first(), which.last()) else {
        return Ok(rows.slice(0, 0));
    };
    let (first, len) = (*first as usize, (last - first) as usize + 1);
    if len == which.len() {
        return Ok(rows.slice(first, len));
    }
    let which = UInt32Array::from(which.to_vec());
    debug_assert_eq!(which.null_count(), 0);
    take_record_batch(rows, &which)
        .map_err(|e| Error::stop("files", "picking a batch's rows").because(e))
}
