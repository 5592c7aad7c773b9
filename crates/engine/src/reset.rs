//! Offsets set to a place by an operator: of a pipeline that rests, or of a group's.

use crate::pipeline::Pipeline;
use millstream_core::{Error, Place, Result};

/// Sets a stopped pipeline's offsets to a place. Gives the new ones.
pub async fn reset_offsets(
    pipeline: &Pipeline,
    place: Place,
    partition: Option<u32>,
) -> Result<Vec<(u32, i64)>> {
    if pipeline.grouped {
        return reset_group(pipeline, place, partition).await;
    }
    let partitions = match partition {
        Some(partition) if partition < pipeline.source.partitions() => partition..partition + 1,
        Some(partition) => {
            return Err(Error::stop(
                "no_partition",
                format!(
                    "{}, not {partition}",
                    partitions_of(pipeline.source.name(), pipeline.source.partitions())
                ),
            ));
        }
        None => 0..pipeline.source.partitions(),
    };
    let mut offsets = Vec::new();
    for partition in partitions {
        offsets.push((partition, pipeline.source.offset_of(partition, place).await?));
    }
    let store = pipeline.home.tables.offsets();
    let mut all = store.get(&pipeline.name).map(|known| known.offsets).unwrap_or_default();
    all.extend(offsets.iter().copied());
    let all: Vec<_> = all.into_iter().collect();
    store.reset(&pipeline.name, &pipeline.offsets_source(), &all).map_err(Error::from)?;
    Ok(offsets)
}

/// Says in words which partitions there are.
pub fn partitions_of(name: &str, partitions: u32) -> String {
    match partitions {
        0 | 1 => format!("`{name}` has only the partition 0"),
        2 => format!("`{name}` has the partitions 0 and 1"),
        more => format!("`{name}` has the partitions 0 to {}", more - 1),
    }
}

/// Sets the offsets of the group that reads a file's source; no process may read with it now.
pub async fn reset_at_rest(
    file: &millstream_config::Pipeline,
    home: &millstream_connectors::Home,
    place: Place,
    partition: Option<u32>,
) -> anyhow::Result<Vec<(millstream_core::Partition, i64)>> {
    let source = crate::open::open_source(&file.spec, file, home).await?.source;
    let wanted = match partition {
        Some(partition) => partition..partition + 1,
        None => 0..source.partitions(),
    };
    let mut offsets = Vec::new();
    for partition in wanted {
        offsets.push((partition, source.offset_of(partition, place).await?));
    }
    source.set_offsets(&offsets).await?;
    Ok(offsets.into_iter().map(|(p, offset)| (source.place_of(p), offset)).collect())
}

/// The same for a pipeline that runs as a member of a group: of the partitions that it has.
async fn reset_group(
    pipeline: &Pipeline,
    place: Place,
    partition: Option<u32>,
) -> Result<Vec<(u32, i64)>> {
    let Some(group) = pipeline.source.group() else { return Ok(Vec::new()) };
    let wanted: Vec<u32> = match partition {
        Some(partition) => vec![partition],
        None => (0..pipeline.source.partitions()).collect(),
    };
    if let Some(other) = wanted.iter().find(|partition| group.start_of(**partition).is_none()) {
        return Err(Error::stop(
            "not_ours",
            format!(
                "partition {other} of {} is read by another process of the group now: stop the \
                 others first",
                pipeline.source.name()
            ),
        ));
    }
    let mut offsets = Vec::new();
    for partition in wanted {
        offsets.push((partition, pipeline.source.offset_of(partition, place).await?));
    }
    let done = group.set(&offsets).await?;
    match done.len() == offsets.len() {
        true => Ok(offsets),
        false => Err(Error::retry("rebalancing", "the group was being shared out anew: try again")),
    }
}
