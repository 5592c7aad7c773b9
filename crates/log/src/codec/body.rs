//! Unpacked records in memory that is used again: a buffer that batches were unpacked to before needs
//! no clearing, no growing and no page of the kernel's.

use super::{Codec, Invalid, lz4};
use bytes::Bytes;
use std::cell::RefCell;

/// What a thread keeps of buffers that are not in use.
const KEPT_MAX: usize = 4 << 20;
/// As many as a thread has under way at a time. The oldest go first: batches may have become larger.
const BUFFERS_MAX: usize = 128;
/// A buffer is taken again, or handed out, when it has at most this many times the bytes needed.
const LARGER: usize = 3;

const EXPECTED_MAX: usize = 1 << 20;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Batches unpacked one after the other.
#[derive(Debug, Default)]
pub struct Body {
    /// All of it may be written; what lies beyond `len` is of earlier batches.
    room: Vec<u8>,
    len: usize,
}

/// Gives the buffer back when the last of those who read it is done.
struct Shared(Vec<u8>);

impl Body {
    /// An empty one, with room for about so many bytes.
    pub fn with_room(expected: usize) -> Body {
        // What the bytes of a request claim is believed so far only.
        let expected = expected.min(EXPECTED_MAX);
        let kept = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let fits = |room: &Vec<u8>| (expected..=expected * LARGER).contains(&room.len());
            let at = kept.iter().rposition(fits)?;
            Some(kept.swap_remove(at))
        });
        let room = kept.ok().flatten().unwrap_or_else(|| Vec::with_capacity(expected));
        Body { room, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends what is not packed.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let to = self.len + bytes.len();
        if to > self.room.len() {
            self.room.truncate(self.len);
            self.room.extend_from_slice(bytes);
        } else {
            self.room[self.len..to].copy_from_slice(bytes);
        }
        self.len = to;
    }

    /// Appends the unpacked form of `bytes`, at most [`super::BATCH_BYTES_MAX`]. After an error more
    /// may have been appended: truncate it.
    pub fn unpack(&mut self, codec: Codec, bytes: &[u8]) -> Result<(), Invalid> {
        if codec == Codec::Lz4 {
            return lz4::unpack(bytes, self);
        }
        self.room.truncate(self.len);
        let unpacked = codec.unpack(bytes, &mut self.room);
        self.len = self.room.len();
        unpacked
    }

    /// Everything so far, cheap to share.
    pub fn into_bytes(self) -> Bytes {
        let Body { room, len } = self;
        if room.len() > len.max(1) * LARGER {
            // Little in a large buffer: those who keep it must not keep all of that.
            let bytes = Bytes::copy_from_slice(&room[..len]);
            give(room);
            return bytes;
        }
        Bytes::from_owner(Shared(room)).slice(..len)
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.room.reserve((self.len + more).saturating_sub(self.room.len()));
    }

    /// So many bytes from `len` on that may be written, and what is before them.
    pub(super) fn split(&mut self, more: usize) -> (&mut [u8], &mut [u8]) {
        let to = self.len + more;
        if to > self.room.len() {
            self.room.resize(to, 0);
        }
        let (before, rest) = self.room.split_at_mut(self.len);
        (before, &mut rest[..more])
    }

    /// Of what was split off so many bytes were written.
    pub(super) fn advance(&mut self, written: usize) {
        self.len += written;
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

fn give(room: Vec<u8>) {
    // A thread that ends keeps nothing.
    let _ = KEPT.try_with(|kept| {
        if room.is_empty() || room.capacity() > KEPT_MAX {
            return;
        }
        let mut kept = kept.borrow_mut();
        kept.push(room);
        let mut bytes: usize = kept.iter().map(Vec::capacity).sum();
        while bytes > KEPT_MAX || kept.len() > BUFFERS_MAX {
            bytes -= kept.remove(0).capacity();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_used_again_shows_nothing_of_before() {
        let mut body = Body::with_room(10_000);
        body.extend_from_slice(&[1; 10_000]);
        let first = body.into_bytes();
        let part = first.slice(10..20);
        drop(first);
        assert!(part.iter().all(|byte| *byte == 1), "it is still read");
        drop(part);
        let mut body = Body::with_room(5_000);
        assert!(body.is_empty() && body.room.len() >= 5_000, "it came back");
        body.extend_from_slice(&[2; 4_000]);
        body.extend_from_slice(&[3; 8_000]);
        body.truncate(11_000);
        let bytes = body.into_bytes();
        assert_eq!(bytes.len(), 11_000);
        assert!(bytes[..4_000].iter().all(|byte| *byte == 2));
        assert!(bytes[4_000..].iter().all(|byte| *byte == 3));
    }

    #[test]
    fn little_in_a_large_buffer_is_moved_to_a_small_one() {
        let mut body = Body::with_room(100_000);
        body.split(100_000);
        body.extend_from_slice(b"little");
        assert_eq!(body.into_bytes(), &b"little"[..]);
        assert!(Body::with_room(50_000).room.len() >= 50_000, "the large one is free again");
    }

    #[test]
    fn small_ones_do_not_keep_out_larger_ones() {
        let small = |_| {
            let mut body = Body::with_room(1 << 10);
            body.extend_from_slice(&[0; 1 << 10]);
            body.into_bytes()
        };
        drop((0..(KEPT_MAX >> 10)).map(small).collect::<Vec<Bytes>>());
        assert!(KEPT.with(|kept| kept.borrow().len()) <= BUFFERS_MAX);
        let mut body = Body::with_room(1 << 20);
        body.extend_from_slice(&[0; 1 << 20]);
        drop(body.into_bytes());
        assert!(Body::with_room(1 << 20).room.len() >= 1 << 20, "it came back");
    }

    #[test]
    fn a_thread_keeps_only_so_much() {
        let bodies: Vec<Bytes> = (0..10)
            .map(|_| {
                let mut body = Body::with_room(1 << 20);
                body.extend_from_slice(&[0; 1 << 20]);
                body.into_bytes()
            })
            .collect();
        drop(bodies);
        let kept: usize = KEPT.with(|kept| kept.borrow().iter().map(Vec::capacity).sum());
        assert!((1 << 20..=KEPT_MAX).contains(&kept), "{kept}");
    }
}
