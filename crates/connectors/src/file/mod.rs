//! Files: lines as a source, rows as a lookup.

mod lines;
mod lookup;
pub mod rows;
mod source;
mod trail;

pub use lines::OVERSIZED_HEADER;
pub use lookup::{FileLookup, FileLookupOptions, RowsLookup};
pub use source::{FileSource, FileSourceOptions};
pub use trail::Notes;

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

/// What some editors put before a UTF-8 text; it is no part of it.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// As [`open`], from behind a byte order mark.
pub(crate) fn open_text(path: &Path) -> Result<Box<dyn Read + Send>, String> {
    let mut text = open(path)?;
    let mut head = Vec::new();
    (&mut text)
        .take(BOM.len() as u64)
        .read_to_end(&mut head)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if head == BOM {
        head.clear();
    }
    Ok(Box::new(std::io::Cursor::new(head).chain(text)))
}

/// Opens a file for reading, through gzip when its name ends in `.gz`.
pub fn open(path: &Path) -> Result<Box<dyn Read + Send>, String> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no file {}", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    })?;
    match file.metadata() {
        Ok(meta) if meta.is_dir() => {
            return Err(format!("{} is a directory, a file is due", path.display()));
        }
        Ok(_) => {}
        Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
    }
    if is_gzip(path) {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))));
    }
    Ok(Box::new(file))
}

pub fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"))
}

/// The extension that tells the format: that of `x.csv.gz` is `csv`.
pub fn format_extension(path: &Path) -> String {
    let name = if is_gzip(path) { Path::new(path.file_stem().unwrap_or_default()) } else { path };
    name.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}
