//! Rewriting the journal after a sync of it has failed.
//!
//! A failed sync leaves in doubt what of the file is on the disk, and the next one does not say: the
//! kernel reports a page that it could not write once. So the journal is copied, as it reads now,
//! to a new file that is synced and takes its place before anything is written behind it.

use crate::Result;
use crate::error::io;
use millstream_core::lock;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::path::Path;

/// Copies all journals of a closed database. Does nothing when another process has it by now.
pub(crate) fn journals(store: &Path) -> Result<()> {
    let path = store.join("lock");
    let held = OpenOptions::new().read(true).write(true).open(&path);
    let held = held.map_err(io("cannot open", &path))?;
    if !lock::lock(&held).map_err(io("cannot lock", &path))? {
        return Ok(());
    }
    for entry in fs::read_dir(store).map_err(io("cannot read", store))? {
        let path = entry.map_err(io("cannot read", store))?.path();
        if path.extension() == Some(OsStr::new("jnl")) {
            copy(&path).map_err(io("cannot rewrite", &path))?;
        }
    }
    File::open(store).and_then(|dir| dir.sync_all()).map_err(io("cannot sync", store))
}

fn copy(path: &Path) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut to = File::create(&new)?;
    std::io::copy(&mut File::open(path)?, &mut to)?;
    to.sync_all()?;
    fs::rename(&new, path)
}
