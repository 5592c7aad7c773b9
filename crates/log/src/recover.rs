//! What a partition's directory holds when it is opened: below the recovery point it must be there,
//! above it the first batch that is not whole and right ends the log.

use crate::error::{Error, Result};
use crate::files::{Files, How};
use crate::index::{self, INTERVAL_BYTES, IndexEntry};
use crate::options::Options;
use crate::point::{Point, PointFile};
use crate::segment::{Scan, Segment, Why, base_of, extend};
use millstream_core::fault;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub const POINT_NAME: &str = "recovery-point";

type Segments = Vec<Arc<Segment>>;

/// A partition as it stands after recovery; everything in it is synced (unless read-only).
pub struct Recovered {
    /// In offset order; the last one is active.
    pub segments: Segments,
    /// The index entries of the active segment.
    pub entries: Vec<IndexEntry>,
    /// The end of the log, in the active segment.
    pub end: IndexEntry,
    pub bytes_truncated: u64,
}

/// Makes the directory of a new partition, durable but for its own name.
pub fn create(files: &dyn Files, dir: &Path) -> Result<()> {
    files.create_dir(dir).map_err(|error| Error::io("cannot create", dir, error))?;
    let point = Point { start: 0, offset: 0, segment: 0, position: 0 };
    PointFile::create(files, &dir.join(POINT_NAME), point)?;
    let first = Segment::new(dir, 0, 0).path;
    let file = files.open(&first, How::Create);
    let file = file.map_err(|error| Error::io("cannot create", &first, error))?;
    file.sync_all().map_err(|error| Error::sync(&first, error))?;
    files.sync_dir(dir).map_err(|error| Error::sync(dir, error))
}

/// Brings a partition to a state that can be written to. With `read_only` nothing is changed.
pub fn recover(
    options: &Options,
    dir: &Path,
    point: &mut PointFile,
    read_only: bool,
) -> Result<Recovered> {
    let files = &*options.files;
    let saved = point.saved;
    let (mut segments, removable) = list(files, dir, saved)?;
    if !read_only && !removable.is_empty() {
        // The start was read, perhaps, from a page that a killed process did not live to sync.
        point.save(files, saved)?;
        for segment in &removable {
            remove(files, segment)?;
        }
    }
    let index = segments.iter().position(|segment| segment.base == saved.segment);
    let Some(index) = index else {
        let path = Segment::new(dir, saved.segment, 0).path;
        return Err(Error::damaged(&path, 0, saved.segment, "the segment is missing"));
    };

    let now = (options.clock)();
    let (mut entries, mut end) = below_point(files, &segments[index], saved, now)?;
    let mut touched = Vec::new();
    let mut last = index;
    // Where the first batch of the last segment was found, for the seeded bug.
    let mut first_batch = None;
    loop {
        let segment = &segments[last];
        let how = if read_only { How::Read } else { How::Write };
        let file = files.open(&segment.path, how);
        let file = file.map_err(|error| Error::io("cannot open", &segment.path, error))?;
        let mut scan = Scan::new(&*file, end.position, segment.len(), end.offset);
        let torn = loop {
            let (position, header, bytes) = match scan.next_batch() {
                Ok(Some(found)) => found,
                Ok(None) => break None,
                Err(stopped) => match stopped.why {
                    Why::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                        return Err(Error::io("cannot read", &segment.path, error));
                    }
                    why => break Some(why),
                },
            };
            if !read_only {
                // A page that an earlier, failed sync gave up on looks clean to the system. Written
                // again, it is part of the sync below.
                let written = file.write_at(&[bytes], position);
                written.map_err(|error| Error::io("cannot write", &segment.path, error))?;
            }
            first_batch.get_or_insert(IndexEntry { position, ..end });
            if position - entries.last().map_or(0, |last| last.position) >= INTERVAL_BYTES {
                entries.push(IndexEntry { position, ..end });
            }
            end.max_time = end.max_time.max(header.max_time);
            end.offset = header.next_offset();
            end.position = position + header.bytes as u64;
        };
        if end.position > 0 || torn.is_some() {
            touched.push((segment.clone(), file));
        }
        if let Some(why) = torn {
            let why = match why {
                Why::Invalid(why) => why.to_string(),
                Why::Io(error) => error.to_string(),
            };
            tracing::warn!(
                segment = %segment.path.display(),
                position = end.position,
                offset = end.offset,
                %why,
                "the log ends here: what follows was never synced"
            );
            break;
        }
        match segments.get(last + 1) {
            Some(next) if next.base == end.offset => {
                last += 1;
                entries.clear();
                first_batch = None;
                end.position = 0;
                end.max_time = i64::MIN;
            }
            _ => break,
        }
    }
    if options.bug("truncate_wrong")
        && let Some(wrong) = first_batch
    {
        end = wrong;
        entries.retain(|entry| entry.position < end.position);
    }

    let gone = segments.split_off(last + 1);
    let active = &segments[last];
    let torn_bytes = active.len() - end.position;
    let bytes_truncated = torn_bytes + gone.iter().map(|segment| segment.len()).sum::<u64>();
    active.set_len(end.position);
    if !read_only {
        let scanned = end.offset != saved.offset;
        if scanned || torn_bytes > 0 {
            fault::point("log.recovery");
            for (segment, file) in &touched {
                let is_active = segment.base == active.base;
                if is_active && torn_bytes > 0 {
                    let cut = file.set_len(end.position);
                    cut.map_err(|error| Error::io("cannot truncate", &segment.path, error))?;
                }
                let skip = options.bug("skip_fsync");
                let synced = if skip { Ok(()) } else { file.sync_all() };
                synced.map_err(|error| Error::sync(&segment.path, error))?;
            }
        }
        for segment in gone.iter().rev() {
            remove(files, segment)?;
        }
        fault::point("log.recovery");
        if scanned || last != index || !gone.is_empty() {
            files.sync_dir(dir).map_err(|error| Error::sync(dir, error))?;
        }
        let now = Point {
            start: saved.start,
            offset: end.offset,
            segment: active.base,
            position: end.position,
        };
        if now != saved {
            point.save(files, now)?;
        }
    }
    Ok(Recovered { segments, entries, end, bytes_truncated })
}

/// The segments from the recovery point's start on, and those before it, which were about to be
/// removed.
fn list(files: &dyn Files, dir: &Path, point: Point) -> Result<(Segments, Segments)> {
    let listed = files.list(dir).map_err(|error| Error::io("cannot list", dir, error))?;
    let mut segments: Segments = listed
        .iter()
        .filter_map(|entry| Some(Segment::new(dir, base_of(&entry.name)?, entry.len)))
        .map(Arc::new)
        .collect();
    segments.sort_by_key(|segment| segment.base);
    let after = segments.partition_point(|segment| segment.base <= point.start);
    let kept = segments.split_off(after.saturating_sub(1));
    match kept.first() {
        Some(first) if first.base <= point.start => Ok((kept, segments)),
        _ => {
            let path = Segment::new(dir, point.start, 0).path;
            Err(Error::damaged(&path, 0, point.start, "the segment is missing"))
        }
    }
}

/// The index entries of the segment that holds the recovery point, and the point as an entry. Only
/// headers after the last entry are looked at.
fn below_point(
    files: &dyn Files,
    segment: &Segment,
    point: Point,
    now: i64,
) -> Result<(Vec<IndexEntry>, IndexEntry)> {
    if segment.len() < point.position {
        return Err(Error::damaged(
            &segment.path,
            segment.len(),
            point.offset,
            format!("the file ends before byte {}, which was synced", point.position),
        ));
    }
    let mut entries = index::load(files, &segment.index_path());
    entries.retain(|entry| entry.position < point.position);
    let file = segment.open(files);
    let file = file.map_err(|error| Error::io("cannot open", &segment.path, error))?;
    let end = extend(&*file, segment.base, point.position, now, &mut entries);
    let end = end.map_err(|stopped| stopped.into_error(&segment.path))?;
    if end.offset != point.offset {
        let what = format!("offset {} was synced here, {} was found", point.offset, end.offset);
        return Err(Error::damaged(&segment.path, point.position, point.offset, what));
    }
    Ok((entries, end))
}

pub fn remove(files: &dyn Files, segment: &Segment) -> Result<()> {
    for path in [segment.index_path(), segment.path.clone()] {
        match files.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("cannot remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}
