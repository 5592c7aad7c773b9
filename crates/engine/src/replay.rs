//! Sends dead letters through their pipeline again: the raw record, from the first step on. A
//! letter that was replayed is marked, so that it is not replayed twice.

use crate::dead_letters::{Letter, Verdict};
use crate::engine::panic_text;
use crate::pipeline::Pipeline;
use anyhow::{Context, bail};
use futures::FutureExt;
use millstream_connectors::Home;
use millstream_core::{Disposition, Partition, Records, RecordsBuilder, fault};
use millstream_log::{Reader, Topic};
use millstream_tables::{Commit, Source};
use serde::Serialize;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

/// How a replay went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Replayed {
    pub replayed: u64,
    pub out: u64,
    pub filtered: u64,
    /// Became letters again, with one attempt more.
    pub dead: u64,
    /// Were replayed before, or cannot be: they were kept in part only.
    pub skipped: u64,
}

/// All letters of a topic that are there now, with whether each was replayed.
pub fn letters(home: &Home, topic: &str) -> anyhow::Result<Vec<(Letter, bool)>> {
    let topic = home
        .log
        .topic(topic)
        .with_context(|| format!("there is no topic {topic}: no row has been a dead letter yet"))?;
    let mut all = Vec::new();
    for index in 0..topic.partitions() {
        let Some(partition) = topic.partition(index) else { continue };
        let done = marks(home, &topic, index);
        let mut reader = Reader::new(&partition, partition.start_offset(), 1 << 20)?;
        while let Some(records) = reader.try_next()? {
            for record in records.iter() {
                if let Some(letter) = Letter::read(index, record) {
                    let replayed = done.contains(&letter.offset);
                    all.push((letter, replayed));
                }
            }
        }
    }
    Ok(all)
}

/// Replays these letters of a pipeline; all that were not replayed yet with `None`.
pub async fn replay(
    pipeline: &Pipeline,
    wanted: Option<&[(u32, i64)]>,
) -> anyhow::Result<Replayed> {
    let mut outcome = Replayed::default();
    let topic = pipeline.dead_letters.log()?;
    let mut chosen = Vec::new();
    let mut missing: BTreeSet<(u32, i64)> = wanted.unwrap_or_default().iter().copied().collect();
    for (letter, replayed) in letters(&pipeline.home, topic.name())? {
        let id = (letter.partition, letter.offset);
        let asked = wanted.is_none_or(|wanted| wanted.contains(&id));
        missing.remove(&id);
        if !asked || letter.pipeline != *pipeline.name {
            continue;
        }
        if replayed || letter.truncated.is_some() {
            outcome.skipped += 1;
        } else {
            chosen.push(letter);
        }
    }
    if let Some((partition, offset)) = missing.first() {
        bail!("{} has no letter {partition}:{offset}", topic.name());
    }
    for letter in chosen {
        replay_one(pipeline, &letter, &mut outcome)
            .await
            .with_context(|| format!("replaying letter {}:{}", letter.partition, letter.offset))?;
    }
    Ok(outcome)
}

async fn replay_one(
    pipeline: &Pipeline,
    letter: &Letter,
    outcome: &mut Replayed,
) -> anyhow::Result<()> {
    let mut builder = RecordsBuilder::new();
    builder.push(letter.record());
    let records = builder.finish(letter.source_offset + 1);
    let place = Partition { source: letter.source.as_str().into(), index: letter.source_partition };
    let tried = AssertUnwindSafe(go_through(pipeline, &records, &place));
    let (written, verdict) = match tried.catch_unwind().await {
        Ok(done) => done?,
        Err(panic) => {
            let reason = format!("processing it panics: {}", panic_text(&panic));
            let step = pipeline.decode_step.clone();
            (0, Some(Verdict { source_row: 0, step, kind: "panic", reason }))
        }
    };
    if let Some(verdict) = &verdict {
        let mut writer = pipeline.letter_writer(place.clone());
        writer.attempt = letter.attempt + 1;
        writer.append(&records, std::slice::from_ref(verdict))?.await?;
        outcome.dead += 1;
    } else if written > 0 {
        outcome.out += 1;
    } else {
        outcome.filtered += 1;
    }
    outcome.replayed += 1;
    fault::point("engine.replayed");
    mark(&pipeline.home, pipeline.dead_letters.log()?, letter)
}

/// Rows written for one record, durably but for the tables' sync, and the first reason against it.
async fn go_through(
    pipeline: &Pipeline,
    records: &Records,
    place: &Partition,
) -> anyhow::Result<(u64, Option<Verdict>)> {
    fault::panic_on(|| records.iter().filter_map(|r| r.value));
    let mut decoder = (pipeline.decoder)()?;
    decoder.prepare(records).await?;
    let decoded = decoder.decode(records)?;
    let rejected = decoded.rejected.into_iter();
    let mut verdicts: Vec<Verdict> = rejected.map(|r| (&pipeline.decode_step, r).into()).collect();
    let input = pipeline.positions.add(decoded.batch, records, place)?;
    let flowed = pipeline.flow.run(input, &pipeline.metrics).await?;
    verdicts.extend(flowed.verdicts);
    let mut written = 0;
    for (sink, rows) in pipeline.sinks.iter().zip(&flowed.outputs) {
        if rows.is_empty() {
            continue;
        }
        let refused = match (sink.open)()?.write(rows).await {
            Ok(receipt) => {
                receipt.durable.await?;
                written += receipt.rows;
                receipt.rejected.into_iter().map(|(_, reason)| ("unencodable", reason)).collect()
            }
            Err(error) if error.disposition() == Disposition::Reject => {
                vec![(error.kind(), error.chain())]
            }
            Err(error) => return Err(error.into()),
        };
        verdicts.extend(refused.into_iter().map(|(kind, reason)| Verdict {
            source_row: 0,
            step: sink.name.clone(),
            kind,
            reason,
        }));
    }
    Ok((written, verdicts.into_iter().next()))
}

/// The name under which the marks of a dead-letter partition are kept among the offsets: the
/// commit that marks a letter also makes durable what its replay wrote to tables.
fn marks_name(topic: &Topic, partition: u32) -> String {
    format!("{}/{partition}/replayed", topic.name())
}

fn marks(home: &Home, topic: &Topic, partition: u32) -> BTreeSet<i64> {
    let known = home.tables.offsets().get(&marks_name(topic, partition));
    let known = known.filter(|known| known.source.id == topic.id().to_string());
    known.map(|k| k.offsets.into_keys().map(i64::from).collect()).unwrap_or_default()
}

fn mark(home: &Home, topic: &Topic, letter: &Letter) -> anyhow::Result<()> {
    let name = marks_name(topic, letter.partition);
    let source = Source { id: topic.id().to_string(), name: topic.name().to_owned() };
    let offsets = home.tables.offsets();
    if offsets.bind(&name, &source).is_err() {
        // The topic was made again: marks of the old one mean nothing.
        offsets.reset(&name, &source, &[])?;
    }
    let number = u32::try_from(letter.offset).context("a letter's offset is out of range")?;
    offsets.commit(&[Commit { pipeline: &name, partition: number, next_offset: 1 }])?;
    Ok(())
}

/// Whether a name among the offsets is a pipeline's, not the marks of dead letters.
pub fn is_pipeline(name: &str) -> bool {
    !name.ends_with("/replayed")
}
