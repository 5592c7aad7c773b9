//! What one partition has in its folders and under way, for whichever task has the partition now.
//!
//! ```text
//!  offset:   in place ─────────┐ open set ───┐ to come
//!  rows:     passed over       │ appended    │
//!  a record that had become a dead letter is neither: its rows get a file of their own
//! ```

use crate::folder::{self, Day};
use crate::scan::{InPlace, scan};
use crate::set::{DATES_MAX, OpenSet, Placed, Rows, Waiting};
use crate::sink::Files;
use crate::{names, place};
use millstream_core::{Batch, Disposition, Encoded, Error, Records, Result, fault};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::oneshot;

/// Rows that are written at a time, so that a file is not much longer than it should be.
const CHUNK_ROWS: u64 = 1024;

pub(crate) struct Shared {
    prefix: String,
    partition: String,
    /// Counts the tasks that have had the partition: only the last one may write.
    pub generation: AtomicU64,
    pub has_lists: AtomicBool,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    generation: u64,
    found: Option<InPlace>,
    /// Records that became dead letters, since the last set.
    dead: BTreeSet<i64>,
    set: Option<OpenSet>,
    sets: u64,
    /// Rows that were accepted are lost: nothing may come after them.
    broken: Option<String>,
    /// The lists of dead records that may be needed, by the offset below which they are.
    lists: Vec<(i64, PathBuf)>,
}

/// A batch to write.
pub(crate) struct Work {
    pub batch: Batch,
    pub encoded: Option<Encoded>,
    pub records: Option<Arc<Records>>,
    pub dead: Vec<i64>,
    pub settled: i64,
    pub generation: u64,
}

/// What became of it.
pub(crate) struct Appended {
    pub rejected: Vec<(u32, String)>,
    pub rows: u64,
    pub bytes: u64,
    /// `None` when all of it is durable.
    pub durable: Option<oneshot::Receiver<Result<()>>>,
    /// The set that it has begun.
    pub opened: Option<u64>,
}

impl Shared {
    pub fn of(prefix: String, partition: String) -> Self {
        let (generation, has_lists) = Default::default();
        Self { prefix, partition, generation, has_lists, slot: Mutex::default() }
    }

    /// For rows that an operator sends again: what was in place before says nothing of them.
    pub fn aside(prefix: String) -> Self {
        let aside = Self::of(prefix, "again".to_owned());
        aside.slot.lock().found = Some(InPlace::default());
        aside
    }

    /// Blocks.
    pub fn append(&self, files: &Files, work: Work) -> Result<Appended> {
        let mut slot = self.slot.lock();
        if self.generation.load(Ordering::SeqCst) != work.generation {
            return Err(Error::retry("lost", "another task has the partition now"));
        }
        if slot.generation != work.generation {
            *slot = Slot { generation: work.generation, ..Slot::default() };
        }
        if let Some(why) = &slot.broken {
            return Err(Error::retry("lost", why.clone()));
        }
        if slot.found.is_none() {
            let found = scan(&files.options.folder, &self.partition, &self.prefix, work.settled)?;
            slot.lists = found.lists.clone();
            if found.highest > work.settled {
                let (prefix, highest) = (&self.prefix, found.highest);
                tracing::info!("{prefix}: rows below offset {highest} are in place already");
            }
            slot.found = Some(found);
        }
        let appended = Appending { shared: self, files, slot: &mut slot }.append(work);
        self.has_lists.store(!slot.lists.is_empty(), Ordering::Relaxed);
        appended
    }

    /// Puts in place what is under way: the set of this number, or any. Blocks.
    pub fn close(&self, files: &Files, set: Option<u64>) {
        let mut slot = self.slot.lock();
        let open = slot.set.as_ref().map(|set| set.id);
        let is_meant = open.is_some() && (set.is_none() || set == open);
        // One that a task has left behind is nobody's.
        if is_meant && slot.generation == self.generation.load(Ordering::SeqCst) {
            // Those who wait are told.
            let _ = Appending { shared: self, files, slot: &mut slot }.close();
            self.has_lists.store(!slot.lists.is_empty(), Ordering::Relaxed);
        }
    }

    /// Removes the lists of records whose letters are durable. Blocks.
    pub fn forget_lists(&self, upto: i64) {
        let mut slot = self.slot.lock();
        slot.lists.retain(|(next, path)| {
            let is_needed = *next > upto;
            if !is_needed {
                // The next start removes what stays.
                let _ = fs::remove_file(path);
            }
            is_needed
        });
        self.has_lists.store(!slot.lists.is_empty(), Ordering::Relaxed);
    }

    /// A task ends: what it has under way comes again. Blocks.
    pub fn give_up(&self, generation: u64) {
        let mut slot = self.slot.lock();
        if slot.generation == generation {
            slot.set = None;
        }
    }
}

/// One turn with the slot.
struct Appending<'a> {
    shared: &'a Shared,
    files: &'a Files,
    slot: &'a mut Slot,
}

/// Rows that go into the open set next, by date, with the offsets they stem from.
#[derive(Default)]
struct Chunk {
    rows: u64,
    dates: BTreeMap<Day, (Vec<u32>, i64, i64)>,
}

/// What of a batch went into files.
struct Written {
    rejected: Vec<(u32, String)>,
    rows: u64,
    bytes: u64,
}

impl Appending<'_> {
    fn append(&mut self, work: Work) -> Result<Appended> {
        let mut opened = None;
        match self.rows_of(&work, &mut opened) {
            Ok(Written { rejected, rows, bytes }) => {
                let durable = self.slot.set.as_mut().filter(|set| set.rows > 0).map(|set| {
                    let (done, durable) = oneshot::channel();
                    set.waiting.push(done);
                    durable
                });
                let opened = opened.filter(|_| durable.is_some());
                Ok(Appended { rejected, rows, bytes, durable, opened })
            }
            Err(error) => {
                self.give_up(&error);
                Err(error)
            }
        }
    }

    fn rows_of(&mut self, work: &Work, opened: &mut Option<u64>) -> Result<Written> {
        let Work { batch, encoded, records, .. } = work;
        let offset_of = |row: usize| match records {
            Some(records) => records.offset(batch.origin.of(row) as usize),
            None => batch.origin.of(row).into(),
        };
        let rejected = encoded.as_ref().map(|e| e.rejected.clone()).unwrap_or_default();
        let refused: HashSet<u32> = rejected.iter().map(|(row, _)| *row).collect();
        let dead = work.dead.iter().copied();
        let dead: Vec<i64> =
            dead.chain(rejected.iter().map(|(row, _)| offset_of(*row as usize))).collect();
        if records.is_some() {
            self.note_dead(dead, work.settled);
        }
        let rows = match encoded {
            Some(encoded) => Rows::Lines(encoded),
            None => Rows::Columns(&batch.rows),
        };

        let by_row = self.days(batch)?;
        let now = match self.files.options.folder.has_date() {
            true => folder::today(),
            false => None,
        };
        let day_of = |row: usize| by_row.as_ref().map_or(now, |days| days[row]);
        let other_day = |set: &OpenSet| by_row.is_none() && set.dates() > 0 && !set.has_date(now);
        if self.slot.set.as_ref().is_some_and(other_day) {
            self.close()?;
        }

        let mut upto: BTreeMap<Day, (PathBuf, i64)> = BTreeMap::new();
        let mut chunk = Chunk::default();
        let (mut count, mut bytes, mut row) = (0, 0, 0);
        while row < batch.len() {
            let offset = offset_of(row);
            let same = (row..batch.len()).take_while(|r| offset_of(*r) == offset);
            let end = row + same.count();
            let mut alone = Chunk::default();
            for row in row..end {
                if refused.contains(&(row as u32)) {
                    continue;
                }
                let day = day_of(row);
                let (folder, upto) = upto.entry(day).or_insert_with(|| self.upto(day));
                match self.is_due(folder, *upto, offset) {
                    Due::InPlace => {}
                    Due::Next => chunk.add(day, row as u32, offset),
                    Due::Alone => alone.add(day, row as u32, offset),
                }
            }
            row = end;
            if alone.rows > 0 {
                bytes += self.write(&mut chunk, &rows, &mut count, opened)?;
                self.close()?;
                bytes += self.write(&mut alone, &rows, &mut count, opened)?;
                self.close()?;
            }
            let due = self.slot.set.as_ref().map_or(0, |set| set.rows) + chunk.rows;
            let is_long = chunk.rows >= CHUNK_ROWS || due >= self.files.options.roll.rows;
            if is_long || chunk.dates.len() >= DATES_MAX {
                bytes += self.write(&mut chunk, &rows, &mut count, opened)?;
                self.close_when_full()?;
            }
        }
        bytes += self.write(&mut chunk, &rows, &mut count, opened)?;
        match records {
            Some(_) => self.close_when_full()?,
            None => self.close()?,
        }
        Ok(Written { rejected, rows: count, bytes })
    }

    /// Records that become dead letters: they are below the end of the next set, and not in it. Where
    /// a column says the folder some rows below the highest offset may not be in place.
    fn note_dead(&mut self, dead: Vec<i64>, settled: i64) {
        let highest = self.slot.found.as_ref().map_or(0, |found| found.highest);
        let by_column = self.files.options.date.is_some();
        let dead = dead.into_iter().filter(|offset| by_column || *offset >= highest);
        self.slot.dead.extend(dead);
        self.slot.dead = self.slot.dead.split_off(&settled);
    }

    /// The day of every row, where a column says it.
    fn days(&self, batch: &Batch) -> Result<Option<Vec<Day>>> {
        let Some(name) = &self.files.options.date else { return Ok(None) };
        let column = batch.rows.column_by_name(name);
        let gone = || Error::stop("sink", format!("the rows have no column `{name}`"));
        Ok(Some(folder::days(column.ok_or_else(gone)?)))
    }

    /// The folder of a day, and the offset below which its rows are in place.
    fn upto(&self, day: Day) -> (PathBuf, i64) {
        let folder = self.files.options.folder.of(&self.shared.partition, day);
        let Some(found) = &self.slot.found else { return (folder, 0) };
        let upto = match self.files.options.date {
            Some(_) => found.upto.get(&folder).copied().unwrap_or(0),
            // Another day may have come since.
            None => found.highest,
        };
        (folder, upto)
    }

    fn is_due(&self, folder: &PathBuf, upto: i64, offset: i64) -> Due {
        let Some(found) = &self.slot.found else { return Due::Next };
        if found.dead.contains(&offset) && !fault::bug("files_forget_dead") {
            let by_column = self.files.options.date.is_some();
            let mut singles = found.singles.iter();
            return match singles.any(|(f, at)| *at == offset && (!by_column || f == folder)) {
                true => Due::InPlace,
                false => Due::Alone,
            };
        }
        match offset < upto && !fault::bug("files_write_again") {
            true => Due::InPlace,
            false => Due::Next,
        }
    }

    fn write(
        &mut self,
        chunk: &mut Chunk,
        rows: &Rows<'_>,
        count: &mut u64,
        opened: &mut Option<u64>,
    ) -> Result<u64> {
        let mut bytes = 0;
        *count += std::mem::take(&mut chunk.rows);
        while let Some((day, (which, first, next))) = chunk.dates.pop_first() {
            let slot = &mut *self.slot;
            let set = slot.set.get_or_insert_with(|| {
                slot.sets += 1;
                *opened = Some(slot.sets);
                OpenSet::new(slot.sets)
            });
            let options = &self.files.options;
            let folder = options.folder.of(&self.shared.partition, day);
            let (prefix, columns) = (&self.shared.prefix, &self.files.columns);
            bytes += set.write(
                day,
                folder,
                prefix,
                options.format,
                columns,
                rows,
                &which,
                (first, next),
            )?;
        }
        Ok(bytes)
    }

    fn close_when_full(&mut self) -> Result<()> {
        let roll = self.files.options.roll;
        let is_full = |set: &OpenSet| {
            set.rows >= roll.rows || set.bytes() >= roll.bytes || set.dates() >= DATES_MAX
        };
        match self.slot.set.as_ref().is_some_and(is_full) {
            true => self.close(),
            false => Ok(()),
        }
    }

    /// Puts the open set in place.
    fn close(&mut self) -> Result<()> {
        let Some(mut set) = self.slot.set.take() else { return Ok(()) };
        let closed = self.complete(&mut set);
        match &closed {
            Ok(()) => set.waiting.drain(..).for_each(|waiting| drop(waiting.send(Ok(())))),
            Err(error) => {
                let waiting = set.waiting.drain(..).collect();
                self.lose(waiting, error);
            }
        }
        closed
    }

    fn complete(&mut self, set: &mut OpenSet) -> Result<()> {
        let Some((first, next)) = set.span() else { return Ok(()) };
        let (options, prefix) = (&self.files.options, &self.shared.prefix);
        set.finish()?;
        fault::point("files.written");
        let dead: Vec<String> = self.slot.dead.range(..next).map(i64::to_string).collect();
        if !dead.is_empty() && !fault::bug("files_forget_dead") {
            let path = names::dead_list(options.folder.base(), prefix, first, next);
            place::write_whole(&path, &dead.join("\n"))?;
            self.slot.lists.push((next, path));
        }
        self.slot.dead = self.slot.dead.split_off(&next);
        fault::point("files.listed");
        let mut placed = Vec::new();
        set.put_in_place(prefix, options.format, &mut placed)?;
        fault::point("files.placed");
        if let Some(found) = &mut self.slot.found {
            for Placed { folder, first, next } in placed {
                found.add(&folder, first, next);
            }
        }
        Ok(())
    }

    /// The batch that is being written is not accepted, and what came before it in its set is lost.
    fn give_up(&mut self, error: &Error) {
        if let Some(mut set) = self.slot.set.take() {
            let waiting = set.waiting.drain(..).collect();
            self.lose(waiting, error);
        }
    }

    fn lose(&mut self, waiting: Vec<Waiting>, error: &Error) {
        // Whatever is in place now is looked at anew.
        self.slot.found = None;
        let why = error.chain();
        if !waiting.is_empty() && !fault::bug("files_go_on_after_loss") {
            self.slot.broken = Some(why.clone());
        }
        for waiting in waiting {
            let disposition = match error.disposition() {
                Disposition::Reject => Disposition::Stop,
                other => other,
            };
            let _ = waiting.send(Err(Error::new(disposition, error.kind(), why.clone())));
        }
    }
}

enum Due {
    InPlace,
    Next,
    /// In a file that holds nothing else.
    Alone,
}

impl Chunk {
    fn add(&mut self, day: Day, row: u32, offset: i64) {
        self.rows += 1;
        let (rows, _, next) = self.dates.entry(day).or_insert_with(|| (Vec::new(), offset, 0));
        rows.push(row);
        *next = offset + 1;
    }
}
