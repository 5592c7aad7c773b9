//! Dead letters: what there is, one shown whole, replaying them.

use super::plans::load;
use super::rows::text;
use super::{Reply, Service, blocking, end, nothing, unknown};
use crate::answers;
use crate::protocol::ReplayChoice;
use crate::{Error, Result};
use millstream_config::Mistakes;
use millstream_core::Headers;
use millstream_engine::{Catalog, Committer, Letter, Metrics, Pipeline};
use millstream_log::{Reader, Topic};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

impl Service {
    /// The newest `limit` letters of a pipeline, of a topic, or of all.
    pub async fn dead_letters(
        &self,
        pipeline: Option<String>,
        topic: Option<String>,
        limit: Option<u64>,
        reply: Reply,
    ) -> Result<Value> {
        let topics = match topic {
            Some(topic) => vec![self.topic(&topic)?.name().to_owned()],
            None => self.letter_topics()?,
        };
        let home = self.home().clone();
        let known = self.known_pipelines();
        blocking(move || {
            let mut found: Vec<answers::Letter> = Vec::new();
            for topic in topics {
                for (letter, replayed) in millstream_engine::letters(&home, &topic)? {
                    if pipeline.as_ref().is_none_or(|wanted| *wanted == letter.pipeline) {
                        found.push(row(&topic, &letter, replayed));
                    }
                }
            }
            if let Some(name) = &pipeline
                && found.is_empty()
                && !known.contains(name)
            {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(Error::mistake(unknown("pipeline", name, &known)));
            }
            found.sort_by_key(|letter| letter.rejected_at);
            let limit =
                limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
            for letter in found.split_off(found.len().saturating_sub(limit)) {
                reply.row_blocking(letter)?;
            }
            Ok(())
        })
        .await?;
        nothing()
    }

    /// The letter at a place of a topic, or of the topic that a pipeline's letters are in.
    pub async fn show_dead_letter(&self, of: String, partition: u32, offset: i64) -> Result<Value> {
        let named = self.home().log.topic(&of).map(|topic| topic.name().to_owned());
        let others = self.letter_topics()?;
        let home = self.home().clone();
        let found = blocking(move || {
            let mut belongs = named.is_some();
            let named = named.iter().map(|topic| (topic, true));
            let others = others.iter().map(|topic| (topic, false));
            for (topic, is_named) in named.chain(others) {
                for (letter, replayed) in millstream_engine::letters(&home, topic)? {
                    let wanted = is_named || letter.pipeline == of;
                    belongs |= wanted;
                    if wanted && letter.partition == partition && letter.offset == offset {
                        return Ok(whole(topic, &letter, replayed));
                    }
                }
            }
            let what = match belongs {
                true => format!("`{of}` has no letter {partition}:{offset}"),
                false => format!("no topic and no pipeline with dead letters is called `{of}`"),
            };
            Err(Error::mistake(format!(
                "{what}; `millstream dead-letters list` shows what there is"
            )))
        })
        .await?;
        end(found)
    }

    pub async fn replay_dead_letters(
        &self,
        name: String,
        choice: ReplayChoice,
        file: Option<PathBuf>,
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
    async fn open_stopped(&self, name: &str, file: Option<PathBuf>) -> Result<Pipeline> {
        let Some(path) = file else {
            return Err(Error::needs_run(&format!(
                "replaying into `{name}` without --file, which names its pipeline file,"
            )));
        };
        let file = load(&path)?;
        if file.spec.pipeline != name {
            return Err(Error::mistake(format!(
                "{} is the pipeline `{}`, not `{name}`",
                path.display(),
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

    /// The topics with letters: those of the pipelines that run, and those whose records are some.
    fn letter_topics(&self) -> Result<Vec<String>> {
        let mut topics = BTreeSet::new();
        if let Some(engine) = &self.0.engine {
            for report in engine.reports() {
                let running = engine.pipeline(&report.name);
                topics.extend(running.map(|running| running.dead_letters.name().to_owned()));
            }
        }
        for topic in self.home().log.topics() {
            if !topics.contains(topic.name()) && holds_letters(&topic)? {
                topics.insert(topic.name().to_owned());
            }
        }
        Ok(topics.into_iter().collect())
    }
}

/// Whether the first record of a topic is a letter.
fn holds_letters(topic: &Topic) -> Result<bool> {
    const READ_BYTES: usize = 4 << 10;
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
            refuse_missing(pipeline, &these)?;
            Some(these)
        }
        ReplayChoice::Kind(kind) => {
            let topic = pipeline.dead_letters.log()?.name();
            let mut letters = millstream_engine::letters(&pipeline.home, topic)?;
            letters.retain(|(letter, _)| letter.pipeline == *pipeline.name);
            let kinds: BTreeSet<&str> = letters.iter().map(|(l, _)| l.kind.as_str()).collect();
            if !kinds.contains(kind.as_str()) {
                let kinds: Vec<&str> = kinds.into_iter().collect();
                let what = format!("kind of dead letter of `{}`", pipeline.name);
                return Err(Error::mistake(match kinds.is_empty() {
                    true => format!("`{}` has no dead letters", pipeline.name),
                    false => unknown(&what, &kind, &kinds),
                }));
            }
            let of_kind: Vec<(u32, i64)> = letters
                .iter()
                .filter(|(letter, replayed)| !replayed && letter.kind == kind)
                .map(|(letter, _)| (letter.partition, letter.offset))
                .collect();
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
fn refuse_missing(pipeline: &Pipeline, wanted: &[(u32, i64)]) -> Result<()> {
    let topic = pipeline.dead_letters.log()?.name();
    let letters = millstream_engine::letters(&pipeline.home, topic)?;
    let there: BTreeSet<(u32, i64)> = letters
        .iter()
        .filter(|(letter, _)| letter.pipeline == *pipeline.name)
        .map(|(letter, _)| (letter.partition, letter.offset))
        .collect();
    match wanted.iter().find(|place| !there.contains(place)) {
        None => Ok(()),
        Some((partition, offset)) => Err(Error::mistake(format!(
            "`{}` has no letter {partition}:{offset} in {topic}; `millstream dead-letters list \
             --pipeline {0}` shows what there is",
            pipeline.name
        ))),
    }
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
