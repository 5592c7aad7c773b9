//! What was made of files stays until they change to others that can be used.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use millstream_core::{Error, Result};
use millstream_testkit::logged::Lines;
use millstream_tls::Watched;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tracing::Level;

/// Writes a file as if on that day.
fn put(path: &Path, content: &str, day: u64) {
    fs::write(path, content).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * day);
    fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

struct Rig {
    watched: Watched<String>,
    file: PathBuf,
    _folder: TempDir,
}

impl Rig {
    fn new() -> Rig {
        Lines::listen();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one");
        Rig { watched: Watched::new("the files", [file.clone()]), file, _folder: folder }
    }

    /// What is used, and how many lines there have been of new files and of unusable ones.
    fn now(&self) -> (Result<String, String>, usize, usize) {
        let made = self.watched.now(|| {
            let stop = |why: &str| Error::stop("tls", why);
            match fs::read_to_string(&self.file).map_err(|e| stop("no file").because(e))? {
                text if text.starts_with("bad") => Err(stop(&text)),
                text => Ok(text),
            }
        });
        let lines = |level| Lines::of(level).len();
        (made.map_err(|error| error.chain()), lines(Level::INFO), lines(Level::WARN))
    }

    /// The same however often it is asked.
    fn is(&self, made: &str, new: usize, unusable: usize) {
        for _ in 0..3 {
            assert_eq!(self.now(), (Ok(made.to_owned()), new, unusable));
        }
    }
}

#[test]
fn where_nothing_was_made_yet_it_fails_until_it_can_be() {
    let rig = Rig::new();
    for _ in 0..2 {
        let (made, new, unusable) = rig.now();
        assert!(made.unwrap_err().starts_with("no file: "));
        assert_eq!((new, unusable), (0, 0), "its caller tells it");
    }
    put(&rig.file, "a", 1);
    rig.is("a", 0, 0);
}

#[test]
fn changed_files_are_told_once_and_unusable_ones_once_per_change() {
    let rig = Rig::new();
    put(&rig.file, "a", 1);
    rig.is("a", 0, 0);
    put(&rig.file, "b", 2);
    rig.is("b", 1, 0);
    put(&rig.file, "bad", 3);
    rig.is("b", 1, 1);
    put(&rig.file, "bad", 4);
    rig.is("b", 1, 2);
    fs::remove_file(&rig.file).unwrap();
    rig.is("b", 1, 3);
    // As it was, and then gone once more.
    put(&rig.file, "b", 2);
    rig.is("b", 1, 3);
    fs::remove_file(&rig.file).unwrap();
    rig.is("b", 1, 4);
    put(&rig.file, "c", 5);
    rig.is("c", 2, 4);
    let told = Lines::of(Level::WARN);
    assert_eq!(told[0], "the files changed and cannot be used yet: bad");
    assert_eq!(Lines::of(Level::INFO)[1], "the files changed: new connections use them");
}

#[test]
fn a_length_that_changes_within_a_tick_of_the_clock_is_a_change() {
    let rig = Rig::new();
    put(&rig.file, "a", 1);
    rig.is("a", 0, 0);
    put(&rig.file, "ab", 1);
    rig.is("ab", 1, 0);
    put(&rig.file, "xy", 1);
    rig.is("ab", 1, 0);
    rig.watched.again();
    rig.is("xy", 2, 0);
    put(&rig.file, "bad", 2);
    rig.watched.again();
    rig.is("xy", 2, 1);
}

/// A right that was missing, or a file that could not be opened just then, changes no time.
#[test]
fn unusable_files_are_tried_again_though_they_look_the_same() {
    let rig = Rig::new();
    put(&rig.file, "a", 1);
    rig.is("a", 0, 0);
    put(&rig.file, "bad", 2);
    rig.is("a", 0, 1);
    put(&rig.file, "new", 2);
    rig.is("new", 1, 1);
}

/// One that is replaced while it is read is read again.
#[test]
fn a_change_while_it_is_read_is_seen_by_the_next() {
    let rig = Rig::new();
    put(&rig.file, "a", 1);
    let half = rig.watched.now(|| {
        put(&rig.file, "b", 2);
        Ok("a".to_owned())
    });
    assert_eq!(half.unwrap(), "a");
    rig.is("b", 1, 0);
}
