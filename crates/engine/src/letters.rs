//! Letters read back, one after the other, from a topic of the embedded log or of a Kafka cluster,
//! each with whether it was replayed. In memory is the batch that they came in.
//!
//! Which letters were replayed is kept among the offsets of the data directory, wherever the letters
//! are: the commit that marks one also makes durable what its replay wrote to tables.

use crate::dead_letters::{DeadLetters, Letter};
use anyhow::Context;
use millstream_connectors::Home;
use millstream_connectors::kafka::{
    GroupOptions, KafkaSource, KafkaSourceOptions, KafkaTopic, OnLostOffset, Topics,
};
use millstream_core::{PartitionReader, Place, Records, RecordsBuilder, Source as _, Start};
use millstream_log::{Reader, Topic};
use millstream_tables::{Commit, Source};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

const READ_BYTES: usize = 1 << 20;
/// After so long without a record a partition is asked whether it still has what was there.
const QUIET: Duration = Duration::from_secs(1);
const BATCH_ROWS: usize = 1_000;

/// The letters that are in a topic when this is opened.
pub struct Letters {
    marks: Marks,
    from: From,
    /// What is still to be read, by partition.
    due: VecDeque<(u32, Range<i64>)>,
    now: Option<Reading>,
}

enum From {
    Log(Topic),
    Kafka(Box<KafkaSource>),
}

/// The partition that is being read.
struct Reading {
    partition: u32,
    next: i64,
    upto: i64,
    replayed: BTreeSet<i64>,
    reader: Side,
    records: Records,
    row: usize,
}

enum Side {
    Log(Reader),
    Kafka(Box<dyn PartitionReader>),
}

/// The notes of what was replayed of a topic.
#[derive(Clone)]
pub struct Marks {
    home: Home,
    topic: Source,
    /// What the names begin with under which they are kept.
    prefix: String,
}

impl Letters {
    pub async fn open(home: &Home, topic: &DeadLetters) -> anyhow::Result<Letters> {
        let marks = Marks::of(home, topic);
        let (from, due) = match topic {
            DeadLetters::Log(topic) => {
                let partitions = (0..topic.partitions()).filter_map(|at| topic.partition(at));
                let range = |partition: millstream_log::PartitionLog| {
                    (partition.index(), partition.start_offset()..partition.end_offset())
                };
                (From::Log(topic.clone()), partitions.map(range).collect())
            }
            DeadLetters::Kafka(topic) => {
                let source = reader_of(topic).await?;
                let mut due = VecDeque::new();
                for index in 0..source.partitions() {
                    let start = source.offset_of(index, Place::Earliest).await?;
                    due.push_back((index, start..source.offset_of(index, Place::Latest).await?));
                }
                (From::Kafka(Box::new(source)), due)
            }
        };
        Ok(Letters { marks, from, due, now: None })
    }

    /// The next letter, by partition and offset, and whether it was replayed. None after the last.
    /// What is in the topic and no letter is passed over.
    ///
    /// Not cancel safe.
    pub async fn next(&mut self) -> anyhow::Result<Option<(Letter, bool)>> {
        loop {
            let reading = match &mut self.now {
                Some(reading) => reading,
                None => match self.due.pop_front() {
                    Some((_, range)) if range.is_empty() => continue,
                    Some((partition, range)) => {
                        let reading = self.begin(partition, range).await?;
                        self.now.insert(reading)
                    }
                    None => return Ok(None),
                },
            };
            while reading.row < reading.records.len() {
                let record = reading.records.get(reading.row);
                reading.row += 1;
                if record.offset >= reading.upto {
                    break;
                }
                if let Some(letter) = Letter::read(reading.partition, record) {
                    let replayed = reading.replayed.contains(&letter.offset);
                    return Ok(Some((letter, replayed)));
                }
            }
            if !reading.advance(&self.from).await? {
                self.now = None;
            }
        }
    }

    async fn begin(&mut self, partition: u32, range: Range<i64>) -> anyhow::Result<Reading> {
        let reader = match &self.from {
            From::Log(topic) => {
                let log = topic.partition(partition).context("a partition of letters is gone")?;
                Side::Log(Reader::new(&log, range.start, READ_BYTES)?)
            }
            From::Kafka(source) => {
                Side::Kafka(source.reader(partition, Start::Offset(range.start)).await?)
            }
        };
        Ok(Reading {
            partition,
            next: range.start,
            upto: range.end,
            replayed: self.marks.replayed(partition, &range),
            reader,
            records: RecordsBuilder::new().finish(0),
            row: 0,
        })
    }
}

impl Reading {
    /// Reads on; false at the end.
    async fn advance(&mut self, from: &From) -> anyhow::Result<bool> {
        if self.next >= self.upto {
            return Ok(false);
        }
        let records = match &mut self.reader {
            Side::Log(reader) => reader.try_next()?,
            Side::Kafka(reader) => match tokio::time::timeout(QUIET, reader.next()).await {
                Ok(records) => records?,
                Err(_) => {
                    // Retention may have taken what was there.
                    let From::Kafka(source) = from else { return Ok(false) };
                    let start = source.offset_of(self.partition, Place::Earliest).await?;
                    return Ok(start < self.upto);
                }
            },
        };
        let Some(records) = records else { return Ok(false) };
        (self.next, self.row) = (records.next_offset(), 0);
        self.records = records;
        Ok(true)
    }
}

/// Reads as a member of no group, and what was committed only.
async fn reader_of(topic: &KafkaTopic) -> millstream_core::Result<KafkaSource> {
    let options = KafkaSourceOptions {
        topics: Topics::Named(vec![topic.name().into()]),
        group: GroupOptions::new(""),
        committed_only: true,
        on_lost_offset: OnLostOffset::Earliest,
        batch_rows: BATCH_ROWS,
        batch_bytes: READ_BYTES,
    };
    KafkaSource::open(topic.cluster().clone(), options).await
}

impl Marks {
    pub fn of(home: &Home, topic: &DeadLetters) -> Marks {
        let (id, prefix) = match topic {
            DeadLetters::Log(topic) => (topic.id().to_string(), topic.name().to_owned()),
            // Topics of several clusters may have one name.
            DeadLetters::Kafka(topic) => {
                (topic.id().to_string(), format!("{}@{}", topic.name(), topic.id()))
            }
        };
        Marks { home: home.clone(), topic: Source { id, name: topic.name().to_owned() }, prefix }
    }

    /// The offsets in a range whose letters were replayed.
    fn replayed(&self, partition: u32, range: &Range<i64>) -> BTreeSet<i64> {
        let mut replayed = BTreeSet::new();
        for high in range.start >> 32..=range.end >> 32 {
            let known = self.home.tables.offsets().get(&self.name(partition, high));
            let known = known.filter(|known| known.source.id == self.topic.id);
            let low = known.into_iter().flat_map(|known| known.offsets.into_keys());
            replayed.extend(low.map(|low| high << 32 | i64::from(low)));
        }
        replayed
    }

    /// Durable when this returns.
    pub fn set(&self, letter: &Letter) -> anyhow::Result<()> {
        let name = self.name(letter.partition, letter.offset >> 32);
        let offsets = self.home.tables.offsets();
        if offsets.bind(&name, &self.topic).is_err() {
            // The topic was made again: marks of the old one mean nothing.
            offsets.reset(&name, &self.topic, &[])?;
        }
        let number = letter.offset as u32;
        offsets.commit(&[Commit { pipeline: &name, partition: number, next_offset: 1 }])?;
        Ok(())
    }

    /// Marks are committed as offsets of partitions, whose numbers are half of an offset.
    fn name(&self, partition: u32, high: i64) -> String {
        let high = if high > 0 { format!("+{high}") } else { String::new() };
        format!("{}/{partition}{high}/replayed", self.prefix)
    }
}

/// Whether a name among the offsets is a pipeline's, not the marks of dead letters.
pub fn is_pipeline(name: &str) -> bool {
    !name.ends_with("/replayed")
}
