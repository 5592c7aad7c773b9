//! Rows into files: Parquet and JSON Lines, each put in place when it is complete, exactly once.
//!
//! ```text
//!  batch ─► rows below what is in place: passed over     scan: what the names in the folder say
//!        └► the others ─► open set: hidden .part files   folder: by partition and date
//!                           └─ full, due or waited for ─► fsync ─► rename ─► fsync of the folder
//! ```
//!
//! A file's name says which offsets of the source its rows stem from, so that nothing else has to be
//! kept: rows that come again after a crash are in place or they are not.

mod encode;
mod error;
mod folder;
mod names;
mod place;
mod scan;
mod set;
mod sink;
mod slot;

pub use encode::{Compression, Format};
pub use folder::Folder;
pub use sink::{Files, FilesOptions, Roll};
