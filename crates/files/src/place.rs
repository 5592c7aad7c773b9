//! Files and folders that survive a loss of power.

use crate::error;
use millstream_core::{Result, fault};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Makes what was put into a folder, or taken from it, durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if fault::bug("files_not_synced") {
        return Ok(());
    }
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|e| error::of(e, "sync the folder", path))
}

/// Makes a folder, and those above it, durably.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|e| error::of(e, "make the folder", path))?;
    for folder in missing {
        match folder.parent() {
            Some(above) if above.as_os_str().is_empty() => sync_folder(Path::new("."))?,
            Some(above) => sync_folder(above)?,
            None => {}
        }
    }
    Ok(())
}

/// Writes a small file whole, durably, or not at all.
pub(crate) fn write_whole(path: &Path, content: &str) -> Result<()> {
    let part = path.with_extension("part");
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| error::of(e, "write", &part))?;
    rename(&part, path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| error::of(e, "put in place", to))
}
