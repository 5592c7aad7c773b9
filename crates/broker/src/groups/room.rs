//! What all groups together may keep of what clients say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cheap to clone; all clones are the same room.
#[derive(Debug, Clone)]
pub struct Room {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// A part of the room, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    pub fn new(max: usize) -> Room {
        Room { taken: Arc::default(), max }
    }

    pub fn hold(&self, bytes: usize) -> Option<Held> {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.max);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Held { taken: self.taken.clone(), bytes })
    }

    /// Makes a part of this room larger or smaller; false, and as it was, where there is no room.
    pub fn change(&self, held: &mut Held, bytes: usize) -> bool {
        let fits = |taken: usize| {
            let others = taken.checked_sub(held.bytes)?;
            others.checked_add(bytes).filter(|taken| *taken <= self.max)
        };
        let is_changed = bytes == held.bytes
            || self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if is_changed {
            held.bytes = bytes;
        }
        is_changed
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let room = Room::new(10);
        let held = room.clone().hold(6).unwrap();
        assert!(room.hold(5).is_none() && room.hold(usize::MAX).is_none());
        let rest = room.hold(4).unwrap();
        drop(held);
        assert!(room.hold(7).is_none() && room.hold(6).is_some());
        drop(rest);
        let mut held = room.hold(4).unwrap();
        assert!(room.change(&mut held, 9) && !room.change(&mut held, 11));
        assert!(room.hold(2).is_none() && room.change(&mut held, 1) && room.hold(9).is_some());
        drop(held);
        assert!(room.hold(10).is_some());
    }
}
