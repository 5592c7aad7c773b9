//! Buffers that batches were built in, kept by the thread for the next ones: a buffer that has grown
//! once is neither grown nor faulted in again.

use std::cell::RefCell;

/// What a thread keeps, in all.
const BYTES_MAX: usize = 4 << 20;
/// As many as a batch of rows has partitions, where that is not unusual.
const BUFFERS_MAX: usize = 64;

#[derive(Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// An empty buffer, with room if there was one to spare.
pub fn take() -> Vec<u8> {
    let taken = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        let buffer = spare.buffers.pop()?;
        spare.bytes -= buffer.capacity();
        Some(buffer)
    });
    taken.ok().flatten().unwrap_or_default()
}

/// Keeps a buffer for the next one who takes, unless the thread has enough.
pub fn give(mut buffer: Vec<u8>) {
    buffer.clear();
    let capacity = buffer.capacity();
    // A thread that ends has no buffers to keep.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if capacity > 0 && spare.bytes + capacity <= BYTES_MAX && spare.buffers.len() < BUFFERS_MAX
        {
            spare.bytes += capacity;
            spare.buffers.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_not_more_than_are_allowed() {
        give(vec![1; 1000]);
        let buffer = take();
        assert!(buffer.is_empty() && buffer.capacity() >= 1000);
        (0..10).for_each(|_| give(Vec::with_capacity(1 << 20)));
        let kept: usize = std::iter::repeat_with(|| take().capacity()).take_while(|c| *c > 0).sum();
        assert!((1 << 20..=BYTES_MAX).contains(&kept), "{kept}");
    }
}
