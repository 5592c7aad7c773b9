//! The file layer that the log is written against: the real one here, a lossy one in the tests.
//!
//! Only what the log needs, with the durability of each call said: nothing is durable before the
//! file's `sync_data`, and no name before its directory's [`Files::sync_dir`].

use millstream_core::{fault, lock};
use std::fmt::Debug;
use std::io::{self, IoSlice};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Read,
    /// For reading and writing; it must be there.
    Write,
    /// For reading and writing; made, or emptied when it is there.
    Create,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_dir: bool,
    pub len: u64,
}

pub trait Files: Send + Sync + Debug {
    /// Makes a directory and those above it; no error when it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>>;
    /// When the file was last written, in milliseconds since 1970.
    fn modified_ms(&self, path: &Path) -> io::Result<i64>;
    /// Atomic, as rename(2) is.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Holds an exclusive lock until the answer is dropped; `None` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;
}

pub trait File: Send + Sync + Debug {
    /// Fills `into`, or fails with `UnexpectedEof`.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes the parts one after the other. After an error some of it may have been written.
    fn write_at(&self, parts: &[&[u8]], at: u64) -> io::Result<()>;
    fn size(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The bytes, and the length where it grew, are durable.
    fn sync_data(&self) -> io::Result<()>;
    /// As [`Self::sync_data`], also where the file shrank.
    fn sync_all(&self) -> io::Result<()>;
    /// These bytes will be read soon.
    fn will_need(&self, _at: u64, _len: u64) {}
    /// What the kernel sends the file from, where it can.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            // A file may go away between the listing and the look at it.
            let Ok(metadata) = entry.metadata() else { continue };
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: metadata.is_dir(),
                len: metadata.len(),
            });
        }
        Ok(entries)
    }

    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true);
        match how {
            How::Read => &mut options,
            How::Write => options.write(true),
            How::Create => options.write(true).create(true).truncate(true),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        let modified = std::fs::metadata(path)?.modified()?;
        Ok(modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let locked = lock::lock(&file)?;
        Ok(locked.then(|| Box::new(file) as Box<dyn Send + Sync>))
    }
}

#[derive(Debug)]
struct RealFile(std::fs::File);

/// More parts than this are written in several calls; the system's own limit is 1024.
const PARTS_MAX: usize = 512;

impl File for RealFile {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(into, at)
    }

    fn write_at(&self, parts: &[&[u8]], mut at: u64) -> io::Result<()> {
        if fault::disk_is_full() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let [part] = parts {
            return self.0.write_all_at(part, at);
        }
        for parts in parts.chunks(PARTS_MAX) {
            let mut slices: Vec<IoSlice<'_>> =
                parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut left = slices.as_mut_slice();
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                match rustix::io::pwritev(&self.0, left, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut left, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn will_need(&self, at: u64, len: u64) {
        let len = std::num::NonZeroU64::new(len);
        // Advice only: a file system that cannot take it costs nothing but speed.
        let _ = rustix::fs::fadvise(&self.0, at, len, rustix::fs::Advice::WillNeed);
    }

    #[cfg(target_os = "linux")]
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
