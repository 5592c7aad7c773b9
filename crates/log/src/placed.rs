//! Batches that are left where they lie, for the kernel to send from the file to a socket.
//!
//! Only those that this process has appended, and so has checked byte by byte: of them the headers
//! are read. What was there when the log was opened is read and checked each time.

use crate::codec::{HEADER_BYTES, Header};
use crate::files::File;
use crate::partition::Partition;
use crate::raw_read::Raw;
use crate::seek::Cursor;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Where batches are smaller than this on average they are copied: to read their headers one by
/// one costs more.
const BATCH_BYTES: usize = 8 << 10;
/// So many small ones are passed over before a large one comes.
const SMALL_ONES: usize = 4;
/// What lies before small ones is enough by itself from here on.
const ENOUGH_BYTES: usize = 256 << 10;

/// Whole batches in a file.
#[derive(Debug, Clone)]
pub struct Placed {
    file: Arc<dyn File>,
    position: u64,
    len: usize,
    records: u64,
}

impl Placed {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many records there were at first.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Sends as much as the socket takes at once, and tells how much is left.
    #[cfg(target_os = "linux")]
    pub fn send(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(file) = self.file.descriptor() else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let sent = rustix::io::retry_on_intr(|| {
            rustix::fs::sendfile(&socket, file, Some(&mut self.position), self.len)
        })?;
        if sent == 0 && self.len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.len -= sent;
        Ok(self.len)
    }

    #[cfg(not(target_os = "linux"))]
    pub fn send(&mut self, _socket: impl AsFd) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Placed) -> bool {
        let place = |placed: &Placed| (placed.position, placed.len);
        Arc::ptr_eq(&self.file, &other.file) && place(self) == place(other)
    }
}

impl Eq for Placed {}

impl Partition {
    /// The batches at `cursor`, where they can stay where they lie. What is wrong with them is for
    /// those to say who read them.
    pub fn placed_at(&self, cursor: &Cursor, limit: u64, max_bytes: usize) -> Option<Raw> {
        if cursor.expected < self.appended_from || cursor.file.descriptor().is_none() {
            return None;
        }
        let left = usize::try_from(limit - cursor.position).unwrap_or(usize::MAX);
        let room = left.min(max_bytes);
        let (mut len, mut next, mut records) = (0, cursor.expected, 0);
        let mut bytes = [0; HEADER_BYTES];
        let mut due = 0;
        // Also what follows the last of them is looked at: a wrong length leads elsewhere.
        while left - len >= HEADER_BYTES {
            cursor.file.read_at(&mut bytes, cursor.position + len as u64).ok()?;
            let header = Header::read_at(&bytes, next).ok()?;
            if header.bytes > left - len {
                return None;
            }
            if header.bytes > room - len {
                if len == 0 {
                    return Some(Raw::Larger(header.bytes));
                }
                break;
            }
            due += BATCH_BYTES;
            if len + header.bytes + SMALL_ONES * BATCH_BYTES < due {
                if len < ENOUGH_BYTES {
                    return None;
                }
                break;
            }
            len += header.bytes;
            next = header.next_offset();
            records += u64::from(header.records);
        }
        if left > len && left - len < HEADER_BYTES {
            return None;
        }
        let whole = cursor.file.size().is_ok_and(|size| size >= cursor.position + len as u64);
        let placed = Placed { file: cursor.file.clone(), position: cursor.position, len, records };
        (len >= BATCH_BYTES && whole).then_some(Raw::Placed { placed, next })
    }
}
