//! The suite that every sink passes: a file holds a range of offsets, and the last commit says which
//! of them count.

use crate::support::options;
use futures::FutureExt;
use millstream_files::Files;
use millstream_testkit::conformance::{self, Again, Stage};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_does_what_all_do() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::open(options(dir.path()), conformance::schema(), Handle::current()).unwrap();
    let folder = dir.path().to_owned();
    let stage = Stage {
        open: Box::new(move || files.sink().unwrap()),
        stored: Box::new(move || {
            let folder = folder.clone();
            async move { rows(&folder) }.boxed()
        }),
        again: Again::Once,
        by_key: false,
    };
    stage.run().await;
}

/// The rows of all files in place, by the names of the files, which are in the order of offsets.
fn rows(folder: &Path) -> Vec<(String, i64)> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            all.extend(rows(&path));
        } else if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            for line in fs::read_to_string(&path).unwrap().lines() {
                let row: Value = serde_json::from_str(line).unwrap();
                let key = row["key"].as_str().unwrap().to_owned();
                all.push((key, row["number"].as_i64().unwrap()));
            }
        }
    }
    all
}
