//! Offsets that are not there any more: retention took them, or the log was cut back, because a
//! replica that lacked records became leader (an unclean election). What to do is a setting; it is
//! never silent.

use super::cluster::{EARLIEST, LATEST, Led};
use super::eras::EpochEnd;
use super::feed::{Feed, Place, Rewound};
use super::fetcher::{Fetcher, OnLostOffset};
use futures::future::join_all;
use millstream_core::{Disposition, Error, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// What became of the offset to read next.
struct Lost {
    kind: &'static str,
    /// In words, with both offsets.
    told: String,
    /// Where to go on, and from where on there is something that was not read.
    earliest: i64,
    latest: i64,
    unread: i64,
}

impl Fetcher {
    /// Asks each new leader whether it has what was read before. Gives those that may be fetched, and
    /// the topics about which we know something that is not so any more.
    pub(super) async fn check(
        &self,
        feeds: &[(Arc<Feed>, Place)],
    ) -> (Vec<(Arc<Feed>, Place)>, HashSet<Arc<str>>) {
        let checked = join_all(feeds.iter().map(|(feed, place)| self.check_one(feed, *place)));
        let (mut good, mut stale) = (Vec::new(), HashSet::new());
        for (fetched, checked) in feeds.iter().zip(checked.await) {
            match checked {
                Some(true) => good.push(fetched.clone()),
                Some(false) => {}
                None => drop(stale.insert(fetched.0.topic.clone())),
            }
        }
        (good, stale)
    }

    /// False when the log was cut back, `None` when that could not be found out.
    async fn check_one(&self, feed: &Feed, place: Place) -> Option<bool> {
        let led = self.cluster.leader(&feed.topic, feed.index)?;
        if place.epoch < 0 || place.epoch > led.epoch || place.checked == led.epoch {
            return Some(true);
        }
        match self.cluster.epoch_end(&feed.topic, feed.index, led, place.epoch).await {
            Ok(Some(told)) if told.offset < place.offset || told.epoch < place.epoch => {
                self.was_cut(feed, place, told).await.then_some(false)
            }
            Ok(_) => {
                feed.is_checked(place, led.epoch);
                Some(true)
            }
            // Who may read but not ask finds out by reading.
            Err(error) if error.disposition() == Disposition::Stop => {
                feed.is_checked(place, led.epoch);
                Some(true)
            }
            Err(error) => {
                self.trouble.waits(led.leader.into(), &error);
                None
            }
        }
    }

    /// The leader has other records than those that were read. False when what to do could not be
    /// found out.
    pub(super) async fn was_cut(&self, feed: &Feed, place: Place, told: EpochEnd) -> bool {
        let lost = self.cut(feed, place, told).await;
        self.settle(feed, place, lost.map(Some))
    }

    /// The offset to read is not there. False when what to do could not be found out.
    pub(super) async fn offset_lost(&self, feed: &Feed, place: Place) -> bool {
        let lost = self.out_of_range(feed, place).await;
        self.settle(feed, place, lost)
    }

    async fn cut(&self, feed: &Feed, place: Place, told: EpochEnd) -> Result<Lost> {
        let (begin, end) = self.range(feed).await?;
        let from = match feed.common(told) {
            _ if told.epoch < 0 || told.offset < 0 => begin,
            Some(from) => from,
            // From where on its newest epoch that we share may differ from ours: from its start.
            None => match self.epoch_end(feed, told.epoch - 1).await? {
                Some(before) if before.offset >= 0 => before.offset.min(told.offset),
                _ => begin,
            },
        };
        // Retention may have taken all that was read, and more.
        let from = from.min(place.offset).max(begin);
        let Feed { topic, index, .. } = feed;
        Ok(Lost {
            kind: "log_cut",
            told: format!(
                "partition {index} of `{topic}` was cut back when its leader changed: it was read up \
                 to offset {}, and has other records from offset {from} on",
                place.offset
            ),
            earliest: from,
            latest: end,
            unread: from.min(place.offset),
        })
    }

    /// `None` when it is there.
    async fn out_of_range(&self, feed: &Feed, place: Place) -> Result<Option<Lost>> {
        let (begin, end) = self.range(feed).await?;
        if place.epoch >= 0
            && place.offset >= begin
            && let Some(told) = self.epoch_end(feed, place.epoch).await?
            && (told.offset < place.offset || told.epoch < place.epoch)
        {
            return self.cut(feed, place, told).await.map(Some);
        }
        if (begin..=end).contains(&place.offset) {
            return Ok(None);
        }
        let Feed { topic, index, .. } = feed;
        Ok(Some(Lost {
            kind: "offset_out_of_range",
            told: format!(
                "offset {} of partition {index} of `{topic}` is gone: the broker has {begin} to {end}",
                place.offset
            ),
            earliest: begin,
            latest: end,
            unread: place.offset.min(end),
        }))
    }

    /// Does what the operator wants. False when it has to be found out again.
    fn settle(&self, feed: &Feed, place: Place, lost: Result<Option<Lost>>) -> bool {
        let Lost { kind, told, earliest, latest, unread } = match lost {
            Ok(Some(lost)) => lost,
            // What we know of its leader may be old.
            Ok(None) => return false,
            Err(error) => {
                match error.disposition() {
                    Disposition::Stop => feed.fail(place, error),
                    _ => {
                        let led = self.cluster.leader(&feed.topic, feed.index);
                        let node = led.map_or(-1, |led| led.leader);
                        self.trouble.waits(node.into(), &error);
                    }
                }
                return false;
            }
        };
        feed.set_end(latest);
        let go_on = match self.options.on_lost_offset {
            OnLostOffset::Hold => {
                let todo = "set the offset with `millstream offsets reset PIPELINE`, or say \
                            `on_lost_offset: earliest` or `latest`";
                feed.fail(place, Error::stop(kind, format!("{told}; {todo}")));
                return true;
            }
            OnLostOffset::Earliest => earliest,
            OnLostOffset::Latest => latest,
        };
        tracing::warn!("{told}; going on at {go_on}");
        let lost = (go_on - unread).max(0) as u64;
        match go_on >= place.offset {
            true => feed.skip_to(place, go_on, lost),
            // A reader never goes back; a new one may begin earlier.
            false => {
                feed.rewind(place, Rewound { to: go_on, unread, lost }, Error::retry(kind, told));
            }
        }
        true
    }

    async fn range(&self, feed: &Feed) -> Result<(i64, i64)> {
        let committed_only = self.options.committed_only;
        let at = |time| self.cluster.offset_at(&feed.topic, feed.index, time, committed_only);
        let begin = at(EARLIEST).await?.unwrap_or(0);
        Ok((begin, at(LATEST).await?.unwrap_or(begin)))
    }

    async fn epoch_end(&self, feed: &Feed, epoch: i32) -> Result<Option<EpochEnd>> {
        let none = Led { leader: -1, epoch: -1 };
        let led = self.cluster.leader(&feed.topic, feed.index).unwrap_or(none);
        self.cluster.epoch_end(&feed.topic, feed.index, led, epoch).await
    }
}

#[cfg(test)]
mod tests;
