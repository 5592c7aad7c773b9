//! What was moved already, in the data directory: by this a command that was interrupted goes on
//! where it was, and one that is given twice moves nothing twice.

use crate::failure::Result;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "migrate.json";

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    #[serde(skip)]
    path: PathBuf,
    #[serde(default)]
    topics: Vec<Topic>,
    #[serde(default)]
    groups: Vec<Group>,
}

/// A topic over there, of which every record came from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    pub name: String,
    /// The cluster's id of it: one that was made again has another.
    pub id: String,
    /// The id of the topic that it was copied from.
    pub from: String,
    pub partitions: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What an offset here has more than the same record's over there.
    pub base: i64,
    /// The end here when all was copied.
    pub upto: Option<i64>,
}

/// A group that was given a pipeline's offsets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub pipeline: String,
    /// The id over there of the topic that they count in.
    pub topic: String,
    /// What the pipeline had committed here.
    pub committed: BTreeMap<u32, i64>,
}

impl Record {
    pub fn open(dir: &Path) -> Result<Record> {
        let path = dir.join(NAME);
        let doing = || format!("reading {}", path.display());
        let record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(doing)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Record::default(),
            Err(error) => return Err(error).with_context(doing),
        };
        Ok(Record { path, ..record })
    }

    pub fn topic(&self, name: &str, id: &str) -> Option<&Topic> {
        self.topics.iter().find(|topic| topic.name == name && topic.id == id)
    }

    pub fn group(&self, name: &str, topic: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name && group.topic == topic)
    }

    /// Durable when this returns.
    pub fn set_topic(&mut self, topic: Topic) -> Result<()> {
        self.topics.retain(|known| known.name != topic.name || known.id != topic.id);
        self.topics.push(topic);
        self.save()
    }

    /// Durable when this returns.
    pub fn set_group(&mut self, group: Group) -> Result<()> {
        self.groups.retain(|known| known.name != group.name || known.topic != group.topic);
        self.groups.push(group);
        self.save()
    }

    fn save(&self) -> Result<()> {
        let unfinished = self.path.with_extension("unfinished");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&unfinished)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&unfinished, &self.path)?;
            match self.path.parent() {
                Some(dir) => File::open(dir)?.sync_all(),
                None => Ok(()),
            }
        };
        write().with_context(|| format!("writing {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_is_known_to_the_next_command() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(dir.path()).unwrap();
        let part = Part { base: 3, upto: None };
        let topic = Topic {
            name: "t".into(),
            id: "1".into(),
            from: "a".into(),
            partitions: vec![part, part],
        };
        record.set_topic(topic.clone()).unwrap();
        let done = Topic { partitions: vec![Part { upto: Some(9), ..part }, part], ..topic };
        record.set_topic(done.clone()).unwrap();
        let again = Record::open(dir.path()).unwrap();
        assert_eq!(again.topic("t", "1"), Some(&done));
        assert_eq!(again.topic("t", "2"), None);
        assert_eq!(again.topics.len(), 1);
    }
}
