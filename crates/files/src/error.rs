//! What an error of the file system asks its caller to do: all of them may pass.

use millstream_core::Error;
use std::io::{self, ErrorKind};
use std::path::Path;

/// `what` is the rest of "cannot …".
pub(crate) fn of(error: io::Error, what: &str, path: &Path) -> Error {
    let path = path.display();
    let (kind, told) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ("disk_full", format!("cannot {what} {path}: there is no space; make room there"))
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            let told = format!("cannot {what} {path}: give this user the right to write there");
            ("not_allowed", told)
        }
        _ => ("io", format!("cannot {what} {path}")),
    };
    Error::retry(kind, told).because(error)
}
