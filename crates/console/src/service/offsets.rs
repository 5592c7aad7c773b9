//! How far pipelines have come, and setting that by hand.

use super::plans::load;
use super::topics::no_partition;
use super::{Reply, Service, blocking, nothing, unknown};
use crate::answers;
use crate::protocol::{PlanFiles, Position};
use crate::{Error, Result};
use millstream_config::SourceFrom;
use millstream_connectors::file::FileSource;
use millstream_core::{Partition, Place, Source as _};
use millstream_log::{PartitionLog, Topic};
use millstream_tables::{Committed, Source};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub struct Reset {
    pub pipeline: String,
    pub to: Position,
    pub partition: Option<u32>,
    pub file: Option<PlanFiles>,
}

impl Service {
    pub async fn offsets(&self, pipeline: Option<String>, reply: Reply) -> Result<Value> {
        let offsets = self.home().tables.offsets();
        let mut grouped = false;
        for report in self.0.engine.iter().flat_map(|engine| engine.reports()) {
            let wanted = pipeline.as_ref().is_none_or(|name| *name == report.name);
            let running = self.0.engine.as_ref().and_then(|engine| engine.pipeline(&report.name));
            if !running.is_some_and(|running| running.grouped && wanted) {
                continue;
            }
            // Its group keeps them.
            grouped = true;
            for partition in report.partitions {
                let at = Some(partition.committed);
                reply
                    .row(answers::Offset {
                        end: Some(partition.end),
                        lag: Some(partition.lag),
                        ..bare_row(&report.name, &partition.source, partition.partition, at)
                    })
                    .await?;
            }
        }
        let names = match pipeline {
            Some(_) if grouped => return nothing(),
            Some(name) => {
                self.committed(&name)?;
                vec![name]
            }
            None => self.known_pipelines(),
        };
        for name in names {
            let Some(committed) = offsets.get(&name) else { continue };
            for row in self.offset_rows(&name, &committed) {
                reply.row(row).await?;
            }
        }
        nothing()
    }

    /// What the group of a file's source has committed, whoever reads with it.
    pub async fn offsets_of_group(
        &self,
        pipeline: Option<String>,
        file: &PlanFiles,
        reply: Reply,
    ) -> Result<Value> {
        let file = load(file)?;
        let name = file.spec.pipeline.clone();
        if let Some(wanted) = pipeline.filter(|wanted| *wanted != name) {
            let message =
                format!("{} is the pipeline `{name}`, not `{wanted}`", file.file().display());
            return Err(Error::mistake(message));
        }
        let SourceFrom::Kafka(from) = &file.spec.source.from else {
            return self.offsets(Some(name), reply).await;
        };
        let io = tokio::runtime::Handle::current();
        let cluster = millstream_engine::kafka_cluster(&from.kafka.cluster, &file, &io)?;
        let source = millstream_engine::kafka_source(&file.spec, &from.kafka, cluster).await?;
        let commits: BTreeMap<u32, i64> = source.commits().await?.into_iter().collect();
        for partition in 0..source.partitions() {
            let start = source.offset_of(partition, Place::Earliest).await?;
            let end = source.offset_of(partition, Place::Latest).await?;
            let at = commits.get(&partition).copied();
            let place = source.place_of(partition);
            reply
                .row(answers::Offset {
                    start: Some(start),
                    end: Some(end),
                    lag: Some((end - at.unwrap_or(start).max(start)).max(0)),
                    ..bare_row(&name, &place.source, place.index, at)
                })
                .await?;
        }
        nothing()
    }

    pub async fn reset_offsets(&self, order: Reset, reply: Reply) -> Result<Value> {
        let Reset { pipeline: name, to, partition, .. } = &order;
        let runs = self.0.engine.as_ref().filter(|engine| engine.pipeline(name).is_some());
        match runs {
            Some(engine) => {
                let set = engine.reset(name, place(*to)?, *partition).await?;
                let pipeline = engine.pipeline(name).filter(|pipeline| pipeline.grouped);
                if let Some(pipeline) = pipeline {
                    // Its group keeps them.
                    for (index, at) in set {
                        let place = pipeline.source.place_of(index);
                        reply.row(bare_row(name, &place.source, place.index, Some(at))).await?;
                    }
                    return nothing();
                }
            }
            None => {
                if let Some(set) = self.reset_group(&order).await? {
                    for (place, at) in set {
                        reply.row(bare_row(name, &place.source, place.index, Some(at))).await?;
                    }
                    return nothing();
                }
                self.reset_stopped(&order).await?;
            }
        }
        let committed = self.committed(name)?;
        for row in self.offset_rows(name, &committed) {
            if partition.is_none_or(|wanted| wanted == row.partition) {
                reply.row(row).await?;
            }
        }
        nothing()
    }

    pub async fn forget_offsets(&self, name: String) -> Result<Value> {
        self.committed(&name)?;
        if self.0.engine.as_ref().is_some_and(|engine| engine.pipeline(&name).is_some()) {
            return Err(Error::mistake(format!("`{name}` runs: stop it before it is forgotten")));
        }
        let home = self.home().clone();
        blocking(move || {
            let source = home.tables.offsets().get(&name).map(|known| known.source);
            home.tables.offsets().forget(&name)?;
            if let Some(source) = source {
                home.log.forget_pipeline(&source.name, &name);
            }
            Ok(())
        })
        .await?;
        nothing()
    }

    /// Where a group of Kafka's keeps the offsets of a pipeline's source, by its file.
    async fn reset_group(&self, order: &Reset) -> Result<Option<Vec<(Partition, i64)>>> {
        let Some(path) = &order.file else { return Ok(None) };
        let file = load(path)?;
        if !matches!(file.spec.source.from, SourceFrom::Kafka(_))
            || file.spec.pipeline != order.pipeline
        {
            return Ok(None);
        }
        let (to, partition) = (place(order.to)?, order.partition);
        let set = millstream_engine::reset_at_rest(&file, self.home(), to, partition).await;
        Ok(Some(set?))
    }

    async fn reset_stopped(&self, order: &Reset) -> Result<()> {
        let Reset { pipeline: name, to, partition, file } = order;
        let committed = match file {
            Some(path) => self.source_of(name, path)?,
            None => self.committed(name)?,
        };
        let mut offsets = committed.offsets.clone();
        match self.source_topic(&committed) {
            Some(topic) => {
                let chosen = match *partition {
                    Some(index) if index >= topic.partitions() => {
                        return Err(no_partition(&topic, index));
                    }
                    Some(index) => index..index + 1,
                    None => 0..topic.partitions(),
                };
                for index in chosen {
                    let partition =
                        topic.partition(index).ok_or_else(|| no_partition(&topic, index))?;
                    offsets.insert(index, seek(&partition, *to)?);
                }
            }
            None => match (committed.source.id.strip_prefix("file:"), *to) {
                (Some(_), _) if partition.is_some_and(|index| index > 0) => {
                    return Err(Error::mistake(format!(
                        "`{}` is a file, which has only the partition 0",
                        committed.source.name
                    )));
                }
                (Some(path), to) => {
                    let notes = self.home().file_notes(name);
                    let source =
                        FileSource::at_rest(Path::new(path), notes).map_err(Error::mistake)?;
                    offsets = [(0, source.offset_of(0, place(to)?).await?)].into();
                }
                _ if committed.source.id.starts_with("topic:") => {
                    return Err(Error::mistake(format!(
                        "`{name}` has offsets of the topic `{}`, which was deleted: `millstream \
                         offsets reset {name} --to earliest --file FILE` begins anew with the \
                         source that its file names, `millstream offsets forget {name} --yes` \
                         drops them",
                        committed.source.name
                    )));
                }
                _ => {
                    return Err(Error::mistake(format!(
                        "`{name}` reads `{}`, which is neither a topic of this directory nor a \
                         file: run `{name}`, and reset it while it runs",
                        committed.source.name
                    )));
                }
            },
        }
        let (name, tables) = (name.clone(), self.home().tables.clone());
        blocking(move || {
            let offsets: Vec<(u32, i64)> = offsets.into_iter().collect();
            Ok(tables.offsets().reset(&name, &committed.source, &offsets)?)
        })
        .await
    }

    /// The source that a pipeline's file names, with what was committed of it.
    fn source_of(&self, name: &str, path: &PlanFiles) -> Result<Committed> {
        let file = load(path)?;
        if file.spec.pipeline != name {
            return Err(Error::mistake(format!(
                "{} is the pipeline `{}`, not `{name}`",
                file.file().display(),
                file.spec.pipeline
            )));
        }
        if let SourceFrom::Topic(from) = &file.spec.source.from {
            self.topic(&from.topic)?;
        }
        if let SourceFrom::Kafka(from) = &file.spec.source.from {
            let group = from.kafka.group.as_deref().unwrap_or(name);
            return Err(Error::mistake(format!(
                "`{name}` reads `{}` of a Kafka cluster, where the group `{group}` keeps its \
                 offsets: run `{name}`, and reset it while it runs",
                from.kafka.name()
            )));
        }
        let id = millstream_engine::source_id(&file, self.home()).ok_or_else(|| {
            Error::mistake(format!(
                "cannot read `{}`, the source of `{name}`",
                file.spec.source.name()
            ))
        })?;
        let known = self.home().tables.offsets().get(name);
        Ok(match known {
            Some(known) if known.source.id == id => known,
            _ => {
                let source = Source { id, name: file.spec.source.name() };
                Committed { source, offsets: BTreeMap::new() }
            }
        })
    }

    fn committed(&self, pipeline: &str) -> Result<Committed> {
        let offsets = self.home().tables.offsets();
        offsets.get(pipeline).ok_or_else(|| {
            let known = self.known_pipelines();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            Error::mistake(unknown("pipeline", pipeline, &known))
        })
    }

    pub(super) fn known_pipelines(&self) -> Vec<String> {
        let mut names = self.home().tables.offsets().pipelines();
        names.retain(|name| millstream_engine::is_pipeline(name));
        names
    }

    /// The topic that a pipeline reads, by the id that its offsets are bound to.
    pub(super) fn source_topic(&self, committed: &Committed) -> Option<Topic> {
        let id = committed.source.id.strip_prefix("topic:")?;
        self.home().log.topics().into_iter().find(|topic| topic.id().to_string() == id)
    }

    pub(super) fn offset_rows(&self, name: &str, committed: &Committed) -> Vec<answers::Offset> {
        let row =
            |partition: u32, at: Option<i64>| bare_row(name, &committed.source.name, partition, at);
        let Some(topic) = self.source_topic(committed) else {
            return committed.offsets.iter().map(|(p, at)| row(*p, Some(*at))).collect();
        };
        (0..topic.partitions())
            .filter_map(|index| topic.partition(index))
            .map(|partition| {
                let at = committed.offsets.get(&partition.index()).copied();
                let (start, end) = (partition.start_offset(), partition.end_offset());
                answers::Offset {
                    start: Some(start),
                    end: Some(end),
                    lag: Some((end - at.unwrap_or(start).max(start)).max(0)),
                    ..row(partition.index(), at)
                }
            })
            .collect()
    }
}

/// A row of which only the commit is known.
fn bare_row(
    pipeline: &str,
    source: &str,
    partition: u32,
    committed: Option<i64>,
) -> answers::Offset {
    answers::Offset {
        pipeline: pipeline.to_owned(),
        source: source.to_owned(),
        partition,
        committed,
        start: None,
        end: None,
        lag: None,
    }
}

/// The offset of a position in a partition, now.
pub(super) fn seek(partition: &PartitionLog, to: Position) -> Result<i64> {
    let (start, end) = (partition.start_offset(), partition.end_offset());
    Ok(match to {
        Position::Earliest => start,
        Position::Latest => end,
        Position::Last(records) => {
            end.saturating_sub(i64::try_from(records).unwrap_or(i64::MAX)).max(start)
        }
        Position::Time(at) => partition.offset_at_time(at)?.unwrap_or(end),
        Position::Offset(at) if (start..=end).contains(&at) => at,
        Position::Offset(at) => {
            return Err(Error::mistake(format!(
                "{}/{} holds the offsets {start} to {end}, not {at}",
                partition.topic(),
                partition.index()
            )));
        }
    })
}

fn place(position: Position) -> Result<Place> {
    Ok(match position {
        Position::Earliest => Place::Earliest,
        Position::Latest => Place::Latest,
        Position::Offset(at) => Place::Offset(at),
        Position::Time(at) => Place::Time(at),
        Position::Last(_) => {
            return Err(Error::mistake(
                "offsets are reset to `earliest`, `latest`, a time or an offset",
            ));
        }
    })
}
