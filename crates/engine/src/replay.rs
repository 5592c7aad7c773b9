//! Sends dead letters through their pipeline again: the raw record, from the first step on. A
//! letter that was replayed is marked, so that it is not replayed twice.

use crate::dead_letters::{Letter, Verdict};
use crate::letters::{Letters, Marks};
use crate::pipeline::Pipeline;
use crate::supervise::panic_text;
use anyhow::{Context, bail};
use futures::FutureExt;
use millstream_core::{Disposition, Partition, Records, RecordsBuilder, fault};
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

/// Replays these letters of a pipeline; all that were not replayed yet with `None`. What becomes a
/// letter again meanwhile is not among them.
pub async fn replay(
    pipeline: &Pipeline,
    wanted: Option<&[(u32, i64)]>,
) -> anyhow::Result<Replayed> {
    let mut outcome = Replayed::default();
    let (home, topic) = (&pipeline.home, &pipeline.dead_letters);
    if let Some(wanted) = wanted {
        let mut missing: BTreeSet<(u32, i64)> = wanted.iter().copied().collect();
        let mut letters = Letters::open(home, topic).await?;
        while !missing.is_empty()
            && let Some((letter, _)) = letters.next().await?
        {
            missing.remove(&(letter.partition, letter.offset));
        }
        if let Some((partition, offset)) = missing.first() {
            bail!("{} has no letter {partition}:{offset}", topic.name());
        }
    }
    let wanted: Option<BTreeSet<(u32, i64)>> =
        wanted.map(|wanted| wanted.iter().copied().collect());
    let marks = Marks::of(home, topic);
    let mut letters = Letters::open(home, topic).await?;
    while let Some((letter, replayed)) = letters.next().await? {
        let id = (letter.partition, letter.offset);
        let asked = wanted.as_ref().is_none_or(|wanted| wanted.contains(&id));
        if !asked || letter.pipeline != *pipeline.name {
            continue;
        }
        if replayed || letter.truncated.is_some() {
            outcome.skipped += 1;
            continue;
        }
        replay_one(pipeline, &marks, &letter, &mut outcome)
            .await
            .with_context(|| format!("replaying letter {}:{}", letter.partition, letter.offset))?;
    }
    Ok(outcome)
}

async fn replay_one(
    pipeline: &Pipeline,
    marks: &Marks,
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
        let mut writer = pipeline.letter_writer_aside(place.clone());
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
    marks.set(letter)
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
        // What an operator sends again is no part of the pipeline's transactions.
        let open = sink.aside.as_ref().unwrap_or(&sink.open);
        let refused = match open()?.write(rows).await {
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
