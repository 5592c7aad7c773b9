//! Reads every batch of a topic and says what is not as it was written.

use crate::codec;
use crate::error::{Damage, Error, Result};
use crate::files::File;
use crate::index;
use crate::partition::Partition;
use crate::segment::{Scan, Segment, Stopped, Why, base_of};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What reading everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub partitions: Vec<PartitionReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionReport {
    pub partition: u32,
    pub start_offset: i64,
    pub end_offset: i64,
    pub segments: u64,
    pub batches: u64,
    pub records: u64,
    pub bytes: u64,
    /// In the order of the log. After one the walk goes on at the next place that the index knows,
    /// or with the next segment.
    pub damage: Vec<Damage>,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.partitions.iter().all(|partition| partition.damage.is_empty())
    }
}

impl Partition {
    pub fn verify(&self) -> Result<PartitionReport> {
        let synced = *self.synced.borrow();
        let mut report = PartitionReport {
            partition: self.index,
            start_offset: self.start.load(Ordering::Acquire),
            end_offset: synced.end,
            ..PartitionReport::default()
        };
        let segments = match &self.refused {
            None => self.segments.read().clone(),
            Some(refused) => {
                report.damage.extend(refused.damage().cloned());
                self.segments_on_disk()?
            }
        };
        for (at, segment) in segments.iter().enumerate() {
            let limit = if self.refused.is_some() { segment.len() } else { synced.limit(segment) };
            let next = segments.get(at + 1).map(|next| next.base);
            self.verify_segment(segment, limit, next, &mut report)?;
        }
        if let Some(Error::Damage(damage)) = &self.refused {
            // Found again by the walk, perhaps.
            report.damage.dedup_by(|later, first| {
                first == &**damage
                    && later.segment == first.segment
                    && later.position == first.position
            });
        }
        Ok(report)
    }

    fn verify_segment(
        &self,
        segment: &Segment,
        limit: u64,
        next: Option<i64>,
        report: &mut PartitionReport,
    ) -> Result<()> {
        let file = match self.open_segment(segment) {
            Ok(file) => file,
            Err(Error::Damage(damage)) => {
                report.damage.push((*damage).clone());
                return Ok(());
            }
            // Retention took it meanwhile.
            Err(_) if segment.base < self.start.load(Ordering::Acquire) => return Ok(()),
            Err(error) => return Err(error),
        };
        report.segments += 1;
        report.bytes += limit;
        let mut scan = Scan::new(&*file, 0, limit, segment.base);
        loop {
            let stopped = match scan.next_batch() {
                Ok(Some((position, header, bytes))) => {
                    report.batches += 1;
                    report.records += u64::from(header.records);
                    let Err(why) = codec::check_records(&header, bytes) else { continue };
                    Stopped { position, expected: header.base_offset, why: Why::Invalid(why) }
                }
                Ok(None) => break,
                Err(stopped) => stopped,
            };
            let position = stopped.position;
            report.damage.push(damage_of(stopped, segment));
            match self.resume_after(segment, &file, position, limit) {
                Some((position, expected)) => scan = Scan::new(&*file, position, limit, expected),
                None => return Ok(()),
            }
        }
        if let Some(next) = next
            && scan.expected != next
            && limit == segment.len()
        {
            let what = format!("records up to offset {next} are missing");
            report.damage.push(Damage {
                segment: segment.path.clone(),
                position: limit,
                offset: scan.expected,
                what,
            });
        }
        Ok(())
    }

    /// The next place that the index knows and the log confirms.
    fn resume_after(
        &self,
        segment: &Segment,
        file: &Arc<dyn File>,
        position: u64,
        limit: u64,
    ) -> Option<(u64, i64)> {
        let mut entries = index::load(&*self.shared.options.files, &segment.index_path());
        if entries.is_empty() {
            entries = segment.entries(&*self.shared.options.files, limit, false);
        }
        let later = entries.iter().filter(|e| e.position > position && e.position < limit);
        later.map(|entry| (entry.position, entry.offset)).find(|(position, expected)| {
            let mut scan = Scan::new(&**file, *position, limit, *expected);
            matches!(scan.next_header(), Ok(Some(_)))
        })
    }

    fn segments_on_disk(&self) -> Result<Vec<Arc<Segment>>> {
        let listed = self.shared.options.files.list(&self.dir);
        let listed = match listed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|error| Error::io("cannot list", &self.dir, error))?,
        };
        let mut segments: Vec<Arc<Segment>> = listed
            .iter()
            .filter_map(|entry| Some((base_of(&entry.name)?, entry.len)))
            .map(|(base, len)| Arc::new(Segment::new(&self.dir, base, len)))
            .collect();
        segments.sort_by_key(|segment| segment.base);
        Ok(segments)
    }
}

fn damage_of(stopped: Stopped, segment: &Segment) -> Damage {
    Damage {
        segment: segment.path.clone(),
        position: stopped.position,
        offset: stopped.expected,
        what: match stopped.why {
            Why::Invalid(why) => why.to_string(),
            Why::Io(error) => format!("it cannot be read: {error}"),
        },
    }
}
