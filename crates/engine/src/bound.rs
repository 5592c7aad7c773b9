//! Offsets belong to a pipeline's name and to one source: whether a file still reads the source that
//! its pipeline has offsets of. What `run` would refuse, `check` finds by this.

use millstream_config::{Mistake, Pipeline as PipelineFile, SourceFrom};
use millstream_connectors::Home;

/// The identity that offsets of a file's source are bound to; none while it is not there.
pub fn source_id(file: &PipelineFile, home: &Home) -> Option<String> {
    match &file.spec.source.from {
        SourceFrom::Topic(from) => {
            home.log.topic(&from.topic).map(|topic| format!("topic:{}", topic.id()))
        }
        SourceFrom::File(from) => {
            let path = std::fs::canonicalize(file.resolve(&from.file)).ok()?;
            Some(format!("file:{}", path.display()))
        }
        // The group keeps them.
        SourceFrom::Kafka(_) => None,
    }
}

/// The mistake of a file whose pipeline has offsets of another source.
pub fn check_bound(file: &PipelineFile, home: &Home) -> Option<Mistake> {
    let name = &file.spec.pipeline;
    if matches!(file.spec.source.from, SourceFrom::Kafka(_)) {
        return None;
    }
    let known = home.tables.offsets().get(name)?.source;
    let id = source_id(file, home);
    if id.as_deref() == Some(known.id.as_str()) {
        return None;
    }
    let path = match &file.spec.source.from {
        SourceFrom::Topic(_) => "/source/topic",
        SourceFrom::File(_) => "/source/file",
        SourceFrom::Kafka(_) => "/source/kafka",
    };
    let is = file.spec.source.name();
    let message = if known.name == is {
        format!(
            "pipeline `{name}` has offsets of an earlier `{is}`, which was deleted; the file now \
             reads the one that was made since"
        )
    } else {
        format!("pipeline `{name}` has offsets of `{}`; the file now reads `{is}`", known.name)
    };
    let hint = format!(
        "`millstream offsets reset {name} --file {} --to earliest` begins anew with this source; or \
         give the pipeline another name",
        file.file().display()
    );
    Some(file.mistake_at(path, message, Some(hint)))
}
