//! What a data directory looks like from outside, before anything in it is opened: ours, new, or
//! somebody else's.

use crate::socket::SOCKET;
use crate::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// By any of these a directory is known as ours.
const OURS: [&str; 6] =
    ["log/format", "log/lock", "tables/format", "registry", "demo.json", SOCKET];
/// What a file system puts into a volume by itself.
const NOBODYS: &str = "lost+found";

/// Refuses what cannot be a data directory, or is somebody else's: a file, or a directory with other
/// things in it.
pub fn check_directory(dir: &Path) -> Result<()> {
    if let Some(file) = file_on_the_way(dir) {
        let what = match file == dir {
            true => format!("{} is a file, not a directory", dir.display()),
            false => format!(
                "{} cannot be a data directory: {} is a file",
                dir.display(),
                file.display()
            ),
        };
        return Err(Error::mistake(format!("{what}; name a directory with --data")));
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        return Err(Error::mistake(format!(
            "{} cannot be a data directory: there is no directory {}; make that first, or name \
             another with --data",
            dir.display(),
            parent.display()
        )));
    }
    let entries = match entries(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::mistake(format!(
                "cannot read the data directory {}: {error}; name another with --data",
                dir.display()
            )));
        }
    };
    // A start that was killed early has left an empty folder of ours.
    let stranger = entries.iter().find(|name| *name != "log");
    match stranger {
        Some(stranger) if !is_ours(dir) => Err(Error::mistake(format!(
            "{} holds `{stranger}` and nothing of Millstream's: name a new or an empty directory \
             with --data, or the one that was meant",
            dir.display()
        ))),
        _ => Ok(()),
    }
}

/// The process that has a data directory open, where the system tells.
pub fn holder(dir: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let files = ["log/lock", "tables/store/lock"].map(|name| dir.join(name));
    let inodes: Vec<u64> =
        files.iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.ino())).collect();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`; those that wait have an arrow.
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words.as_slice() else { return None };
        let inode: u64 = place.rsplit_once(':')?.1.parse().ok()?;
        let pid = pid.parse().ok().filter(|pid| *pid > 0 && *pid != std::process::id())?;
        inodes.contains(&inode).then_some(pid)
    })
}

/// Whether nothing has run on this directory yet: it is not there, or it is empty, as a volume is
/// that was just mounted.
pub(crate) fn is_new(dir: &Path) -> bool {
    !dir.exists() || entries(dir).is_ok_and(|entries| entries.is_empty())
}

fn is_ours(dir: &Path) -> bool {
    OURS.iter().any(|name| dir.join(name).exists())
}

fn entries(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name != NOBODYS);
    names.sort();
    Ok(names)
}

/// The part of a path that is a file and should be a directory.
fn file_on_the_way(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|part| part.is_file()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_new_ours_or_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("d");
        assert!(is_new(&dir) && check_directory(&dir).is_ok());
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(dir.join("lost+found")).unwrap();
        assert!(is_new(&dir) && check_directory(&dir).is_ok());
        // What a first start has made before it was killed.
        std::fs::create_dir(dir.join("log")).unwrap();
        assert!(check_directory(&dir).is_ok());
        std::fs::write(dir.join("notes.txt"), "mine").unwrap();
        let refused = check_directory(&dir).unwrap_err();
        assert!(refused.message.contains("`notes.txt`"), "{refused}");
        std::fs::write(dir.join("log/format"), "millstream-log 1").unwrap();
        assert!(!is_new(&dir) && check_directory(&dir).is_ok());
        let below = check_directory(&dir.join("notes.txt/data")).unwrap_err();
        assert!(below.message.contains("notes.txt is a file"), "{below}");
        // Only the last part of a path is made.
        let deep = check_directory(&folder.path().join("x/y")).unwrap_err();
        assert!(deep.message.contains("there is no directory"), "{deep}");
        assert!(!folder.path().join("x").exists());
        assert!(check_directory(Path::new("there-is-no-such-one")).is_ok());
    }
}
