//! Pipelines that feed each other, put in an order: who writes comes before who reads.

use millstream_config::{LookupFrom, Pipeline as PipelineFile, SinkTo, SourceFrom};

/// Writers before readers, else as given.
pub(super) fn in_order(files: &[PipelineFile]) -> Vec<&PipelineFile> {
    let writes = |file: &PipelineFile| -> Vec<String> {
        file.spec
            .sinks
            .iter()
            .filter_map(|sink| match &sink.to {
                SinkTo::Topic(to) => Some(format!("topic {}", to.topic)),
                SinkTo::Table(to) => Some(format!("table {}", to.table)),
                SinkTo::Kafka(_)
                | SinkTo::Cql(_)
                | SinkTo::Postgres(_)
                | SinkTo::Mongo(_)
                | SinkTo::Http(_)
                | SinkTo::Files(_)
                | SinkTo::Stdout(_)
                | SinkTo::Discard(_) => None,
            })
            .collect()
    };
    let reads = |file: &PipelineFile| -> Vec<String> {
        let mut names: Vec<_> = file
            .spec
            .lookups
            .values()
            .filter_map(|lookup| match &lookup.from {
                LookupFrom::Table(from) => Some(format!("table {}", from.table)),
                LookupFrom::File(_)
                | LookupFrom::Cql(_)
                | LookupFrom::Postgres(_)
                | LookupFrom::Mongo(_)
                | LookupFrom::Http(_) => None,
            })
            .collect();
        let changes = file.spec.lookups.values().filter_map(|lookup| lookup.cache.changes.as_ref());
        let changes = changes.filter(|changes| changes.kafka.is_none());
        names.extend(changes.map(|changes| format!("topic {}", changes.topic)));
        if let SourceFrom::Topic(from) = &file.spec.source.from {
            names.push(format!("topic {}", from.topic));
        }
        names
    };
    let mut left: Vec<&PipelineFile> = files.iter().collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let free = left.iter().position(|file| {
            let wanted = reads(file);
            !left.iter().any(|other| {
                !std::ptr::eq(*other, *file) && writes(other).iter().any(|w| wanted.contains(w))
            })
        });
        // In a circle the first one given goes first.
        ordered.push(left.remove(free.unwrap_or(0)));
    }
    ordered
}
