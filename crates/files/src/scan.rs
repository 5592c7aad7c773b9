//! What the folders say of a partition: which offsets are in place, and which records among them
//! became dead letters.

use crate::folder::{Folder, entries};
use crate::names::{self, Name};
use crate::{error, place};
use millstream_core::Result;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is in place of one partition's rows.
#[derive(Debug, Default)]
pub(crate) struct InPlace {
    /// The offset below which the rows of a folder are in place there.
    pub upto: HashMap<PathBuf, i64>,
    /// The highest of them.
    pub highest: i64,
    /// Records below it that had become dead letters: what they turn to now is not in place, unless
    /// a file says so that holds nothing else.
    pub dead: BTreeSet<i64>,
    pub singles: HashSet<(PathBuf, i64)>,
    /// The lists of dead records, by the offset below which they are.
    pub lists: Vec<(i64, PathBuf)>,
}

/// Looks, removes what was not completed, and makes durable what was put in place last: a crash may
/// have come before its folder was synced. Blocks.
pub(crate) fn scan(folder: &Folder, partition: &str, prefix: &str, from: i64) -> Result<InPlace> {
    let mut found = InPlace::default();
    let all = folder.all(partition);
    for path in all.map_err(|e| error::of(e, "read the folder", folder.base()))? {
        let mut is_new = false;
        for name in list(&path)? {
            match names::read(prefix, &name) {
                Some(Name::Part) => remove(&path.join(&name))?,
                Some(Name::InPlace { first, next }) => {
                    found.note(&path, first, next, from, &mut is_new)
                }
                Some(Name::DeadList { .. }) | None => {}
            }
        }
        if is_new {
            place::sync_folder(&path)?;
        }
    }
    for name in list(folder.base())? {
        let path = folder.base().join(&name);
        match names::read(prefix, &name) {
            Some(Name::DeadList { next }) if next <= from => remove(&path)?,
            Some(Name::DeadList { next }) => {
                let list = fs::read_to_string(&path);
                let list = list.map_err(|e| error::of(e, "read", &path))?;
                found.dead.extend(list.lines().filter_map(|line| line.parse::<i64>().ok()));
                found.lists.push((next, path));
            }
            // One that was not completed.
            Some(Name::Part) => remove(&path)?,
            _ => {}
        }
    }
    Ok(found)
}

impl InPlace {
    fn note(&mut self, folder: &Path, first: i64, next: i64, from: i64, is_new: &mut bool) {
        if next <= from {
            return;
        }
        *is_new = true;
        self.add(folder, first, next);
    }

    /// A file is in place.
    pub fn add(&mut self, folder: &Path, first: i64, next: i64) {
        let upto = self.upto.entry(folder.to_owned()).or_insert(next);
        *upto = next.max(*upto);
        self.highest = next.max(self.highest);
        if next == first + 1 {
            self.singles.insert((folder.to_owned(), first));
        }
    }
}

fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = entries(folder).map_err(|e| error::of(e, "read the folder", folder))?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(error::of(e, "remove", path)),
        _ => Ok(()),
    }
}
