//! Which partitions are ours now, and the changes that the engine has not heard of yet.
//!
//! ```text
//!            assign             resolved              revoke            released, or too late
//!  not ours ───────► resolving ─────────► ours: told ───────► leaving ───────► not ours
//!                        └── lose ──────────┴── lose ────────────┴──────────────►
//! ```

use super::super::feed::Feed;
use super::assignor::TopicPartition;
use millstream_core::{Change, Error, Result};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use tokio::sync::{Notify, watch};

/// Who we are to the coordinator now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Member {
    pub id: String,
    /// The classic protocol's generation, or the newer one's member epoch.
    pub generation: i32,
}

#[derive(Default)]
pub(in super::super) struct Ours {
    state: Mutex<State>,
    /// Commits that are under way.
    committing: watch::Sender<usize>,
    /// The coordinator has told a commit something that the member must look into.
    pub(super) poke: Notify,
}

#[derive(Default)]
struct State {
    member: Member,
    partitions: HashMap<u32, Part>,
    numbers: HashMap<TopicPartition, u32>,
    names: Vec<TopicPartition>,
    changes: VecDeque<Result<Change>>,
    asker: Option<Waker>,
}

struct Part {
    feed: Arc<Feed>,
    stage: Stage,
    /// The last commit that is known.
    committed: i64,
    /// Why it cannot be read.
    refused: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Resolving,
    Ours,
    Leaving,
}

/// Where a partition begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begin {
    pub offset: i64,
    /// The leader's epoch of the record before, as it was committed; -1 where that is not known.
    pub epoch: i32,
    pub refused: Option<String>,
}

/// Ends with its commit.
pub(super) struct Committing<'a>(&'a Ours);

impl Ours {
    /// The number of a partition; the same for as long as the process lives.
    pub fn number(&self, partition: &TopicPartition) -> u32 {
        let mut state = self.state.lock();
        if let Some(number) = state.numbers.get(partition) {
            return *number;
        }
        let number = state.names.len() as u32;
        state.names.push(partition.clone());
        state.numbers.insert(partition.clone(), number);
        number
    }

    pub fn name(&self, number: u32) -> Option<TopicPartition> {
        self.state.lock().names.get(number as usize).cloned()
    }

    pub fn names(&self) -> usize {
        self.state.lock().names.len()
    }

    pub(super) fn member(&self) -> Member {
        self.state.lock().member.clone()
    }

    pub(super) fn set_member(&self, member: Member) {
        self.state.lock().member = member;
    }

    /// What is ours or about to be, or not given up yet.
    pub fn owned(&self) -> BTreeSet<TopicPartition> {
        let state = self.state.lock();
        state.partitions.values().map(|p| (p.feed.topic.clone(), p.feed.index)).collect()
    }

    pub fn feeds(&self) -> Vec<Arc<Feed>> {
        self.state.lock().partitions.values().map(|part| part.feed.clone()).collect()
    }

    pub fn feed(&self, number: u32) -> Option<Arc<Feed>> {
        self.state.lock().partitions.get(&number).map(|part| part.feed.clone())
    }

    pub fn take_in(&self, feed: Arc<Feed>) {
        let part = Part { stage: Stage::Resolving, committed: 0, refused: None, feed };
        self.state.lock().partitions.insert(part.feed.id, part);
    }

    /// Tells the engine of those that are still ours.
    pub(super) fn resolved(&self, begins: Vec<(Arc<Feed>, Begin)>) {
        let mut state = self.state.lock();
        let mut assigned = Vec::new();
        for (feed, begin) in begins {
            let Some(part) = state.partitions.get_mut(&feed.id) else { continue };
            // It may have gone and come again meanwhile.
            if Arc::ptr_eq(&part.feed, &feed) && part.stage == Stage::Resolving {
                part.stage = Stage::Ours;
                part.committed = begin.offset;
                part.refused = begin.refused;
                feed.begins_after(begin.epoch, begin.offset);
                assigned.push(feed.id);
            }
        }
        if !assigned.is_empty() {
            state.tell(Ok(Change::Assigned(assigned)));
        }
    }

    /// Those of these that the engine has to give up; the others are gone at once.
    pub fn begin_leaving(&self, numbers: &[u32]) -> Vec<u32> {
        let mut state = self.state.lock();
        let mut leaving = Vec::new();
        for number in numbers {
            match state.partitions.get_mut(number) {
                Some(part) if part.stage == Stage::Ours => {
                    part.stage = Stage::Leaving;
                    leaving.push(*number);
                }
                Some(part) if part.stage == Stage::Resolving => {
                    state.partitions.remove(number);
                }
                _ => {}
            }
        }
        leaving
    }

    /// From here on nothing of these is committed.
    pub fn give_up(&self, numbers: &[u32]) {
        let mut state = self.state.lock();
        for number in numbers {
            state.partitions.remove(number);
        }
    }

    /// Gone without being asked.
    pub fn lose(&self, numbers: &[u32]) {
        let mut state = self.state.lock();
        let mut lost = Vec::new();
        for number in numbers {
            if let Some(part) = state.partitions.remove(number)
                && part.stage != Stage::Resolving
            {
                lost.push(*number);
            }
        }
        if !lost.is_empty() {
            state.tell(Ok(Change::Lost(lost)));
        }
    }

    pub fn tell(&self, change: Result<Change>) {
        self.state.lock().tell(change);
    }

    /// Cancel safe.
    pub async fn next(&self) -> Result<Change> {
        poll_fn(|context| {
            let mut state = self.state.lock();
            match state.changes.pop_front() {
                Some(change) => Poll::Ready(change),
                None => {
                    state.asker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether the engine knows of everything that is ours.
    pub fn has_told_all(&self) -> bool {
        let state = self.state.lock();
        let resolving = |part: &Part| part.stage == Stage::Resolving;
        state.changes.is_empty() && !state.partitions.values().any(resolving)
    }

    pub fn start_of(&self, number: u32) -> Option<i64> {
        let mut state = self.state.lock();
        let part = state.partitions.get_mut(&number)?;
        if part.stage == Stage::Resolving {
            return None;
        }
        if let Some(rewound) = part.feed.rewound() {
            part.committed = rewound;
        }
        Some(part.committed)
    }

    /// Whether it is ours to read, or why it cannot be.
    pub fn readable(&self, number: u32) -> Result<Arc<Feed>> {
        let state = self.state.lock();
        match state.partitions.get(&number) {
            Some(Part { refused: Some(why), .. }) => Err(Error::stop("no_offset", why.clone())),
            Some(part) => Ok(part.feed.clone()),
            None => Err(Error::retry("not_ours", "the group gave the partition to another member")),
        }
    }

    /// Those offsets that are ours to commit, each with its partition.
    pub(super) fn to_commit(
        &self,
        offsets: &[(u32, i64)],
    ) -> (Committing<'_>, Member, Vec<(Arc<Feed>, i64)>) {
        self.committing.send_modify(|n| *n += 1);
        let state = self.state.lock();
        let ours = offsets.iter().filter_map(|(number, offset)| {
            let part = state.partitions.get(number)?;
            (part.stage != Stage::Resolving).then(|| (part.feed.clone(), *offset))
        });
        (Committing(self), state.member.clone(), ours.collect())
    }

    pub fn committed(&self, feed: &Arc<Feed>, offset: i64) {
        let mut state = self.state.lock();
        if let Some(part) = state.partitions.get_mut(&feed.id)
            && Arc::ptr_eq(&part.feed, feed)
        {
            part.committed = offset;
        }
    }

    /// The group says where its commit is. Where that is not what we took it for, nothing that was
    /// read tells what stands before it: a log may have been cut back meanwhile.
    pub(super) fn goes_back(&self, feed: &Arc<Feed>, to: &Begin) {
        let mut state = self.state.lock();
        if let Some(part) = state.partitions.get_mut(&feed.id)
            && Arc::ptr_eq(&part.feed, feed)
            && part.committed != to.offset
        {
            part.committed = to.offset;
            feed.begins_after(to.epoch, to.offset);
        }
    }

    /// Waits until no commit is under way. Cancel safe.
    pub async fn no_commits(&self) {
        let _ = self.committing.subscribe().wait_for(|n| *n == 0).await;
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.committing.send_modify(|n| *n -= 1);
    }
}

impl State {
    fn tell(&mut self, change: Result<Change>) {
        self.changes.push_back(change);
        if let Some(asker) = self.asker.take() {
            asker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::feed::Rewound;
    use super::*;
    use futures::FutureExt;
    use uuid::Uuid;

    fn ours(count: i32) -> (Ours, Vec<Arc<Feed>>) {
        let ours = Ours::default();
        let feeds = (0..count)
            .map(|index| {
                let number = ours.number(&("t".into(), index));
                let feed = Arc::new(Feed::new(number, "t".into(), Uuid::nil(), index));
                ours.take_in(feed.clone());
                feed
            })
            .collect();
        (ours, feeds)
    }

    fn begin(feeds: &[Arc<Feed>]) -> Vec<(Arc<Feed>, Begin)> {
        feeds.iter().map(|f| (f.clone(), Begin { offset: 5, epoch: -1, refused: None })).collect()
    }

    #[test]
    fn only_what_is_ours_is_committed() {
        let (ours, feeds) = ours(4);
        assert_eq!(ours.to_commit(&[(0, 9)]).2.len(), 0, "where it begins is not known yet");
        assert!(!ours.has_told_all());
        ours.resolved(begin(&feeds));
        assert!(!ours.has_told_all(), "nobody has asked for it");
        assert!(
            matches!(ours.next().now_or_never(), Some(Ok(Change::Assigned(a))) if a.len() == 4)
        );
        assert!(ours.has_told_all());
        assert_eq!(ours.start_of(1), Some(5));
        assert_eq!(ours.begin_leaving(&[1]), [1]);
        ours.lose(&[2]);
        assert!(matches!(ours.next().now_or_never(), Some(Ok(Change::Lost(l))) if l == [2]));
        let all = [(0, 9), (1, 9), (2, 9), (3, 9)];
        let committable = |ours: &Ours| -> Vec<u32> {
            ours.to_commit(&all).2.iter().map(|(feed, _)| feed.id).collect()
        };
        assert_eq!(committable(&ours), [0, 1, 3], "one that leaves may still finish");
        ours.give_up(&[1]);
        assert_eq!(committable(&ours), [0, 3]);
        assert_eq!(ours.start_of(1), None);
    }

    #[test]
    fn one_that_came_again_is_not_told_of_by_an_older_answer() {
        let (ours, feeds) = ours(1);
        let older = begin(&feeds);
        ours.lose(&[0]);
        assert!(ours.next().now_or_never().is_none(), "the engine never knew it");
        let again = Arc::new(Feed::new(0, "t".into(), Uuid::nil(), 0));
        ours.take_in(again.clone());
        ours.resolved(older);
        assert!(ours.next().now_or_never().is_none());
        ours.resolved(begin(&[again]));
        assert!(matches!(ours.next().now_or_never(), Some(Ok(Change::Assigned(_)))));
        ours.committed(&feeds[0], 77);
        assert_eq!(ours.start_of(0), Some(5), "a late commit of the older one changes nothing");
    }

    #[test]
    fn one_that_was_sent_back_stays_there_until_something_is_committed() {
        let (ours, feeds) = ours(1);
        ours.resolved(begin(&feeds));
        feeds[0].attach(5);
        let place = feeds[0].wanted(1).unwrap();
        let back = Rewound { to: 2, unread: 2, lost: 0 };
        feeds[0].rewind(place, back, Error::retry("log_cut", "it was cut back"));
        assert_eq!(ours.start_of(0), Some(2));
        feeds[0].attach(2);
        assert_eq!(ours.start_of(0), Some(2), "its task may end before it has committed anything");
        ours.committed(&feeds[0], 3);
        assert_eq!(ours.start_of(0), Some(3));
    }

    #[test]
    fn after_a_transaction_was_given_up_a_log_that_was_cut_back_is_noticed_again() {
        let (ours, feeds) = ours(1);
        ours.resolved(vec![(feeds[0].clone(), Begin { offset: 200, epoch: 6, refused: None })]);
        feeds[0].attach(200);
        let place = feeds[0].wanted(1).unwrap();
        assert_eq!(place.epoch, 6);
        let back = Rewound { to: 100, unread: 100, lost: 0 };
        feeds[0].rewind(place, back, Error::retry("log_cut", "it was cut back"));
        assert_eq!(ours.start_of(0), Some(100));
        feeds[0].attach(100);
        // Nothing of the new log was committed.
        ours.goes_back(&feeds[0], &Begin { offset: 200, epoch: 6, refused: None });
        assert_eq!(ours.start_of(0), Some(200));
        feeds[0].attach(200);
        assert_eq!(feeds[0].wanted(1).unwrap().epoch, 6, "the leader is asked about it");
    }

    #[test]
    fn a_revocation_waits_for_commits_under_way() {
        let (ours, feeds) = ours(1);
        ours.resolved(begin(&feeds));
        let under_way = ours.to_commit(&[(0, 9)]);
        assert!(ours.no_commits().now_or_never().is_none());
        drop(under_way);
        assert!(ours.no_commits().now_or_never().is_some());
    }
}
