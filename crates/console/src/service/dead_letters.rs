//! Dead letters: what there is, one shown whole, replaying them.

use super::plans::load;
use super::rows::text;
use super::{Reply, Service, end, nothing, unknown};
use crate::answers;
use crate::protocol::{Elsewhere, PlanFiles, ReplayChoice};
use crate::{Error, Result};
use millstream_config::Mistakes;
use millstream_connectors::kafka::KafkaTopic;
use millstream_core::Headers;
use millstream_engine::{Catalog, Committer, DeadLetters, Letter, Letters, Metrics, Pipeline};
use millstream_log::Reader;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Which letters are listed.
pub struct Wanted {
    pub pipeline: Option<String>,
    pub topic: Option<String>,
    /// The newest so many.
    pub limit: Option<u64>,
}

impl Service {
    /// The newest letters, oldest first: of a pipeline, of a topic, or of all.
    pub async fn dead_letters(
        &self,
        wanted: Wanted,
        elsewhere: &Elsewhere,
        reply: Reply,
    ) -> Result<Value> {
        let Wanted { pipeline, topic, limit } = wanted;
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let mut newest: BTreeMap<(i64, usize, u32, i64), answers::Letter> = BTreeMap::new();
        let topics = self.letter_topics(topic.as_deref(), elsewhere).await?;
        for (at, topic) in topics.iter().enumerate() {
            let mut letters = Letters::open(self.home(), topic).await?;
            while let Some((letter, replayed)) = letters.next().await? {
                if pipeline.as_ref().is_some_and(|wanted| *wanted != letter.pipeline) {
                    continue;
                }
                let place = (letter.rejected_at, at, letter.partition, letter.offset);
                newest.insert(place, row(topic.name(), &letter, replayed));
                if newest.len() > limit {
                    newest.pop_first();
                }
            }
        }
        if let Some(name) = &pipeline
            && newest.is_empty()
            && limit > 0
            && elsewhere.is_here()
        {
            let known = self.known_pipelines();
            if !known.contains(name) {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(Error::mistake(unknown("pipeline", name, &known)));
            }
        }
        for letter in newest.into_values() {
            reply.row(letter).await?;
        }
        nothing()
    }

    /// The letter at a place of a topic, or of the topic that a pipeline's letters are in.
    pub async fn show_dead_letter(
        &self,
        of: String,
        partition: u32,
        offset: i64,
        elsewhere: &Elsewhere,
    ) -> Result<Value> {
        let named = match elsewhere.is_here() {
            true => self.home().log.topic(&of).map(DeadLetters::Log),
            false => None,
        };
        let others = self.letter_topics(None, elsewhere).await?;
        let mut belongs = named.is_some();
        for topic in named.iter().chain(&others) {
            let mut letters = Letters::open(self.home(), topic).await?;
            while let Some((letter, replayed)) = letters.next().await? {
                let wanted = topic.name() == of || letter.pipeline == of;
                belongs |= wanted;
                if wanted && letter.partition == partition && letter.offset == offset {
                    return end(whole(topic.name(), &letter, replayed));
                }
            }
        }
        let what = match belongs {
            true => format!("`{of}` has no letter {partition}:{offset}"),
            false => format!("no topic and no pipeline with dead letters is called `{of}`"),
        };
        Err(Error::mistake(format!("{what}; `millstream dead-letters list` shows what there is")))
    }

    pub async fn replay_dead_letters(
        &self,
        name: String,
        choice: ReplayChoice,
        file: Option<PlanFiles>,
    ) -> Result<Value> {
        let running = self.0.engine.as_ref().and_then(|engine| engine.pipeline(&name));
        let replayed = match running {
            Some(pipeline) => replay(&pipeline, choice).await?,
            None => {
                let pipeline = self.open_stopped(&name, file).await?;
                replay(&pipeline, choice).await?
            }
        };
        end(replayed)
    }

    /// A pipeline that does not run, opened from its file only for this.
    async fn open_stopped(&self, name: &str, file: Option<PlanFiles>) -> Result<Pipeline> {
        let Some(path) = file else {
            return Err(Error::needs_run(&format!(
                "replaying into `{name}` without --file, which names its pipeline file,"
            )));
        };
        let file = load(&path)?;
        if file.spec.pipeline != name {
            return Err(Error::mistake(format!(
                "{} is the pipeline `{}`, not `{name}`",
                file.file().display(),
                file.spec.pipeline
            )));
        }
        if let Some(elsewhere) = millstream_engine::check_bound(&file, self.home()) {
            return Err(Mistakes(vec![elsewhere]).into());
        }
        let mut catalog = Catalog::new(self.home().clone());
        let files = [file];
        let mut plans = millstream_engine::plan_all(&files, &mut catalog).await?;
        let plan = plans.pop().ok_or_else(|| Error::failure("the file has no pipeline"))?;
        let [file] = &files;
        // A replay marks its letters itself; there is nothing else to commit.
        let io = tokio::runtime::Handle::current();
        let (committer, _) = Committer::new(self.home().clone(), file.spec.commit_interval.0, io);
        Ok(millstream_engine::open(plan, file, self.home(), committer, &Metrics::new()).await?)
    }

    /// The topics with letters: the one that is named; that of a file; or those of the pipelines
    /// that run, and those of the embedded log whose records are some.
    async fn letter_topics(
        &self,
        named: Option<&str>,
        elsewhere: &Elsewhere,
    ) -> Result<Vec<DeadLetters>> {
        if !elsewhere.brokers.is_empty() {
            let Some(name) = named else {
                return Err(Error::mistake("--brokers needs --topic: the topic of the letters"));
            };
            let cluster = self.place_of_topic(elsewhere, name)?.cluster;
            let cluster = cluster.ok_or_else(|| Error::failure("there is no cluster"))?;
            return Ok(vec![DeadLetters::Kafka(KafkaTopic::open(cluster, name).await?)]);
        }
        if let Some(file) = &elsewhere.file {
            let found = self.letters_of_file(&load(file)?).await?;
            let mut found: Vec<DeadLetters> = found.into_iter().collect();
            found.retain(|topic| named.is_none_or(|named| topic.name() == named));
            if let (Some(named), true) = (named, found.is_empty()) {
                let message = format!("the dead letters of that file are not in topic `{named}`");
                return Err(Error::mistake(message));
            }
            return Ok(found);
        }
        let mut topics: Vec<DeadLetters> = Vec::new();
        if let Some(engine) = &self.0.engine {
            let running = engine.reports().into_iter();
            for pipeline in running.filter_map(|report| engine.pipeline(&report.name)) {
                if !topics.iter().any(|known| is_same(known, &pipeline.dead_letters)) {
                    topics.push(pipeline.dead_letters.clone());
                }
            }
        }
        if let Some(named) = named {
            topics.retain(|topic| topic.name() == named);
            if topics.is_empty() {
                topics.push(DeadLetters::Log(self.topic(named)?));
            }
            return Ok(topics);
        }
        for topic in self.home().log.topics() {
            let topic = DeadLetters::Log(topic);
            if !topics.iter().any(|known| is_same(known, &topic)) && holds_letters(&topic)? {
                topics.push(topic);
            }
        }
        topics.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(topics)
    }
}

fn is_same(one: &DeadLetters, other: &DeadLetters) -> bool {
    match (one, other) {
        (DeadLetters::Log(one), DeadLetters::Log(other)) => one.id() == other.id(),
        (DeadLetters::Kafka(one), DeadLetters::Kafka(other)) => {
            one.name() == other.name() && one.id() == other.id()
        }
        _ => false,
    }
}

/// Whether the first record of a topic is a letter.
fn holds_letters(topic: &DeadLetters) -> Result<bool> {
    const READ_BYTES: usize = 4 << 10;
    let DeadLetters::Log(topic) = topic else { return Ok(true) };
    for index in 0..topic.partitions() {
        let Some(partition) = topic.partition(index).filter(|p| p.refused().is_none()) else {
            continue;
        };
        let mut reader = Reader::new(&partition, partition.start_offset(), READ_BYTES)?;
        if let Some(records) = reader.try_next()?
            && !records.is_empty()
        {
            return Ok(Letter::read(index, records.get(0)).is_some());
        }
    }
    Ok(false)
}

async fn replay(pipeline: &Pipeline, choice: ReplayChoice) -> Result<answers::Replayed> {
    let wanted = match choice {
        ReplayChoice::All => None,
        ReplayChoice::These(these) => {
            refuse_missing(pipeline, &these).await?;
            Some(these)
        }
        ReplayChoice::Kind(kind) => {
            let mut letters = letters_of(pipeline).await?;
            let (mut kinds, mut of_kind) = (BTreeSet::new(), Vec::new());
            while let Some((letter, replayed)) = letters.next().await? {
                if letter.pipeline != *pipeline.name {
                    continue;
                }
                if !replayed && letter.kind == kind {
                    of_kind.push((letter.partition, letter.offset));
                }
                kinds.insert(letter.kind);
            }
            if !kinds.contains(&kind) {
                let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
                let what = format!("kind of dead letter of `{}`", pipeline.name);
                return Err(Error::mistake(match kinds.is_empty() {
                    true => format!("`{}` has no dead letters", pipeline.name),
                    false => unknown(&what, &kind, &kinds),
                }));
            }
            Some(of_kind)
        }
    };
    let replayed = millstream_engine::replay(pipeline, wanted.as_deref()).await?;
    Ok(answers::Replayed {
        replayed: replayed.replayed,
        out: replayed.out,
        filtered: replayed.filtered,
        dead: replayed.dead,
        skipped: replayed.skipped,
    })
}

/// Places at which a pipeline has no letter are named before anything is replayed.
async fn refuse_missing(pipeline: &Pipeline, wanted: &[(u32, i64)]) -> Result<()> {
    let mut missing: BTreeSet<(u32, i64)> = wanted.iter().copied().collect();
    let mut letters = letters_of(pipeline).await?;
    while !missing.is_empty()
        && let Some((letter, _)) = letters.next().await?
    {
        if letter.pipeline == *pipeline.name {
            missing.remove(&(letter.partition, letter.offset));
        }
    }
    match missing.first() {
        None => Ok(()),
        Some((partition, offset)) => Err(Error::mistake(format!(
            "`{}` has no letter {partition}:{offset} in {}; `millstream dead-letters list \
             --pipeline {0}` shows what there is",
            pipeline.name,
            pipeline.dead_letters.name()
        ))),
    }
}

async fn letters_of(pipeline: &Pipeline) -> Result<Letters> {
    Ok(Letters::open(&pipeline.home, &pipeline.dead_letters).await?)
}

fn row(topic: &str, letter: &Letter, replayed: bool) -> answers::Letter {
    answers::Letter {
        topic: topic.to_owned(),
        partition: letter.partition,
        offset: letter.offset,
        rejected_at: letter.rejected_at,
        pipeline: letter.pipeline.clone(),
        step: letter.step.clone(),
        kind: letter.kind.clone(),
        reason: letter.reason.clone(),
        replayed,
        attempt: letter.attempt,
        source: letter.source.clone(),
        source_partition: letter.source_partition,
        source_offset: letter.source_offset,
        timestamp: letter.timestamp,
        schema_id: letter.schema_id,
        truncated: letter.truncated.clone(),
        key: None,
        value: None,
        value_is_base64: false,
        headers: Vec::new(),
    }
}

fn whole(topic: &str, letter: &Letter, replayed: bool) -> answers::Letter {
    let value = letter.value.as_deref().map(text);
    answers::Letter {
        key: letter.key.as_deref().map(|key| text(key).0),
        value_is_base64: value.as_ref().is_some_and(|(_, base64)| *base64),
        value: value.map(|(value, _)| value),
        headers: Headers(&letter.headers)
            .iter()
            .map(|header| (text(header.key).0, text(header.value.unwrap_or_default()).0))
            .collect(),
        ..row(topic, letter, replayed)
    }
}
