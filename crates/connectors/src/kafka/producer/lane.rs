//! What is under way to one partition: sent in order, and again in order after an error.

use crate::kafka::error::Refused;
use crate::kafka::producer::Held;
use bytes::Bytes;
use millstream_core::{Error, Result};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// As many batches as the broker remembers of a producer: one that was taken and is sent again is
/// known to it only while no more than these have followed.
const IN_FLIGHT_MAX: usize = 5;

/// What is under way to one partition, in order.
#[derive(Default)]
pub(super) struct Lane {
    pub queue: VecDeque<Item>,
    pub next_sequence: i32,
    /// How many batches there were.
    pub count: u64,
    pub in_flight: usize,
    /// Something failed: one at a time until one is through.
    pub mending: bool,
    pub retry_at: Option<Instant>,
    pub pause: Duration,
    pub missing_since: Option<Instant>,
}

pub(super) struct Item {
    pub bytes: Bytes,
    pub sequence: i32,
    /// Which of its lane's batches it is.
    at: u64,
    pub sent: bool,
    /// How often it was sent.
    pub tries: u32,
    /// Until it is sent for the first time.
    pub held: Option<Held>,
    pub done: oneshot::Sender<Result<()>>,
}

impl Lane {
    pub fn push(
        &mut self,
        bytes: Bytes,
        sequence: i32,
        held: Option<Held>,
        done: oneshot::Sender<Result<()>>,
    ) {
        let at = self.count;
        self.count += 1;
        self.queue.push_back(Item { bytes, sequence, at, sent: false, tries: 0, held, done });
    }

    pub fn may_send(&self) -> bool {
        let window = if self.mending { 1 } else { IN_FLIGHT_MAX };
        // What follows must not overtake what is to be sent again.
        self.retry_at.is_none() && self.in_flight < window && self.unsent().is_some()
    }

    /// Where the next one is. Some behind the first may be through before it.
    fn unsent(&self) -> Option<usize> {
        let first = self.queue.front()?.at;
        let near = self.queue.iter().take_while(|item| item.at < first + IN_FLIGHT_MAX as u64);
        near.enumerate().find(|(_, item)| !item.sent).map(|(place, _)| place)
    }

    /// Gives the next one, which is under way from now on.
    pub fn send(&mut self) -> Option<&mut Item> {
        let place = self.unsent()?;
        self.in_flight += 1;
        let item = &mut self.queue[place];
        item.sent = true;
        item.tries += 1;
        Some(item)
    }

    pub fn is_first(&self, sequence: i32) -> bool {
        self.queue.front().is_some_and(|item| item.sequence == sequence)
    }

    /// Gives the bytes that are free now.
    pub fn taken(&mut self, sequence: i32) -> usize {
        self.in_flight = self.in_flight.saturating_sub(1);
        let at = self.queue.iter().position(|item| item.sequence == sequence);
        let Some(item) = at.and_then(|at| self.queue.remove(at)) else { return 0 };
        self.mending = false;
        self.pause = Duration::ZERO;
        self.missing_since = None;
        let _ = item.done.send(Ok(()));
        item.bytes.len()
    }

    /// Its sequences are free again when nothing comes after it and it was sent only this once: an
    /// earlier copy may have been taken. Gives the bytes that are free now.
    pub fn refused(&mut self, sequence: i32, error: &Error) -> Option<usize> {
        let item = self.queue.pop_back_if(|item| item.sequence == sequence && item.tries == 1)?;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.next_sequence = sequence;
        let _ = item.done.send(Err(refusal(error)));
        Some(item.bytes.len())
    }

    /// It, and with it all that was sent after it, has to be sent again.
    pub fn not_taken(&mut self, sequence: i32) {
        self.pause = (self.pause * 2).clamp(Duration::from_millis(20), Duration::from_secs(2));
        self.not_taken_for(sequence, self.pause);
    }

    pub fn not_taken_for(&mut self, sequence: i32, pause: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(item) = self.queue.iter_mut().find(|item| item.sequence == sequence) {
            item.sent = false;
        }
        self.mending = true;
        self.retry_at = Some(Instant::now() + pause);
    }

    pub fn wait(&mut self) {
        self.pause = (self.pause * 2).clamp(Duration::from_millis(20), Duration::from_secs(2));
        self.retry_at = Some(Instant::now() + self.pause);
    }

    pub fn is_missing_for(&self, long: Duration) -> bool {
        self.missing_since.is_some_and(|since| since.elapsed() >= long)
    }
}

/// The same once more, for the one who waits for the batch.
fn refusal(error: &Error) -> Error {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    let again = Error::new(error.disposition(), error.kind(), error.to_string());
    match source {
        Some(refused) => again.because(Refused::clone(refused)),
        None => again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(count: i32) -> (Lane, Vec<oneshot::Receiver<Result<()>>>) {
        let mut lane = Lane::default();
        let told = (0..count)
            .map(|sequence| {
                let (done, told) = oneshot::channel();
                lane.push(Bytes::from_static(b"12345"), sequence, None, done);
                told
            })
            .collect();
        (lane, told)
    }

    fn send(lane: &mut Lane) -> i32 {
        assert!(lane.may_send());
        lane.send().expect("one to send").sequence
    }

    /// A broker that has taken what was sent up to the fifth, and all of whose answers are lost but
    /// that to the last three.
    #[test]
    fn what_is_sent_again_is_not_followed_by_more_than_the_broker_remembers() {
        let (mut lane, _told) = lane(12);
        for expected in 0..5 {
            assert_eq!(send(&mut lane), expected);
        }
        lane.not_taken(0);
        lane.not_taken(1);
        for sequence in 2..5 {
            lane.taken(sequence);
        }
        lane.retry_at = None;
        assert_eq!((send(&mut lane), send(&mut lane)), (0, 1));
        assert!(!lane.may_send(), "with 5 the broker forgets 0");
        lane.taken(0);
        assert_eq!(send(&mut lane), 5);
        assert!(!lane.may_send(), "with 6 the broker forgets 1");
        lane.taken(1);
        for expected in 6..10 {
            assert_eq!(send(&mut lane), expected);
        }
        assert!(!lane.may_send(), "five are in flight");
    }

    #[test]
    fn what_was_not_taken_goes_again_alone_and_first() {
        let (mut lane, mut told) = lane(8);
        for expected in 0..5 {
            assert_eq!(send(&mut lane), expected);
        }
        assert!(!lane.may_send(), "five are in flight");
        assert_eq!(lane.taken(0), 5);
        lane.not_taken(1);
        lane.not_taken(2);
        assert!(!lane.may_send(), "it waits a moment");
        lane.retry_at = None;
        assert!(!lane.may_send(), "two are still in flight");
        lane.not_taken(3);
        lane.not_taken(4);
        lane.retry_at = None;
        assert_eq!(send(&mut lane), 1);
        assert!(!lane.may_send(), "one at a time");
        lane.taken(1);
        assert_eq!((send(&mut lane), send(&mut lane)), (2, 3));
        let told: Vec<_> = told.iter_mut().map(|told| told.try_recv().is_ok()).collect();
        assert_eq!(told, [true, true, false, false, false, false, false, false]);
    }
}
