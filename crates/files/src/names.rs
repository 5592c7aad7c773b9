//! The names of files: whose rows they hold, and of which offsets.
//!
//! ```text
//! orders-archive-1f3a9c02-p00003-000000012345-000000013000.parquet    in place
//! .orders-archive-1f3a9c02-p00003-000000012345.parquet.part           being written
//! .orders-archive-1f3a9c02-p00003-000000012345-000000013000.dead      records that became dead letters
//! ```

use crate::encode::Format;
use millstream_core::Beginning;
use std::path::{Path, PathBuf};

/// What all names of a partition's files begin with. What offsets belong to is in it as a number:
/// those of a topic that was made again must not look like those of the old one.
pub(crate) fn prefix(pipeline: &str, sink: &str, beginning: &Beginning) -> String {
    let Beginning { place, identity, .. } = beginning;
    let whole = [pipeline, sink, identity, &place.source].join("\0");
    let tag = crc32c::crc32c(whole.as_bytes());
    format!("{}-{}-{tag:08x}-p{:05}", plain(pipeline), plain(sink), place.index)
}

/// Rows that an operator sends again have no position.
pub(crate) fn prefix_aside(pipeline: &str, sink: &str) -> String {
    format!("{}-{}-again-{}", plain(pipeline), plain(sink), uuid::Uuid::new_v4().simple())
}

pub(crate) fn in_place(prefix: &str, first: i64, next: i64, format: Format) -> String {
    format!("{prefix}-{first:012}-{next:012}.{}", format.extension())
}

pub(crate) fn part(prefix: &str, first: i64, format: Format) -> String {
    format!(".{prefix}-{first:012}.{}.part", format.extension())
}

pub(crate) fn dead_list(folder: &Path, prefix: &str, first: i64, next: i64) -> PathBuf {
    folder.join(format!(".{prefix}-{first:012}-{next:012}.dead"))
}

/// What a name says that begins so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    InPlace { first: i64, next: i64 },
    DeadList { next: i64 },
    Part,
}

pub(crate) fn read(prefix: &str, name: &str) -> Option<Name> {
    let (hidden, name) = match name.strip_prefix('.') {
        Some(name) => (true, name),
        None => (false, name),
    };
    let rest = name.strip_prefix(prefix)?.strip_prefix('-')?;
    let (numbers, extension) = rest.split_once('.')?;
    if hidden && extension.ends_with("part") {
        return Some(Name::Part);
    }
    let (first, next) = numbers.split_once('-')?;
    let (first, next) = (first.parse().ok()?, next.parse().ok()?);
    match (hidden, extension) {
        (true, "dead") => Some(Name::DeadList { next }),
        (true, _) => None,
        (false, _) => Some(Name::InPlace { first, next }),
    }
}

fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Compression;
    use millstream_core::Partition;

    #[test]
    fn names_are_read_back_by_whose_they_are() {
        let beginning = |identity: &str, index| Beginning {
            place: Partition { source: "orders".into(), index },
            identity: identity.into(),
            from: 0,
        };
        let one = prefix("p", "s", &beginning("topic:1", 3));
        let format = Format::JsonLines(Compression::Gzip);
        let name = in_place(&one, 5, 70, format);
        assert!(name.ends_with("-p00003-000000000005-000000000070.jsonl.gz"), "{name}");
        assert_eq!(read(&one, &name), Some(Name::InPlace { first: 5, next: 70 }));
        assert_eq!(read(&one, &part(&one, 5, format)), Some(Name::Part));
        let list = dead_list(Path::new(""), &one, 5, 70);
        assert_eq!(read(&one, list.to_str().unwrap()), Some(Name::DeadList { next: 70 }));
        assert_eq!(read(&one, "notes.txt"), None);
        for other in [
            prefix("p", "s", &beginning("topic:2", 3)),
            prefix("p", "s", &beginning("topic:1", 4)),
            prefix("p-s", "", &beginning("topic:1", 3)),
        ] {
            assert_eq!(read(&other, &name), None, "{other}");
        }
    }
}
