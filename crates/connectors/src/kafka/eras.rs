//! Under which leader the offsets that were read had been written: what tells whether a log was cut
//! back behind our back, when a replica that lacked records became leader.
//!
//! ```text
//!  read:        epoch 5        epoch 6            the new leader:  epoch 5        epoch 7
//!          ├─────────────┼──────────────┤ 200             ├─────────────┼───────────────►
//!                        100                                            100
//! ```
//!
//! Its answer to "where does your epoch 6 end?" is "my epoch 5 ends at 100": what was read from there
//! on is gone, other records have its offsets.

/// More of them than that are nobody's business: leaders do not change so often.
const ERAS_MAX: usize = 32;

/// Offsets that were written under one leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Era {
    pub epoch: i32,
    pub from: i64,
    /// The offset after the last of them.
    pub to: i64,
}

/// The end of an epoch as a leader knows it: its newest epoch that is not newer than the one that was
/// asked for. Both are -1 where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EpochEnd {
    pub epoch: i32,
    pub offset: i64,
}

/// What was read of a partition, in order.
#[derive(Debug, Default)]
pub(super) struct Eras(Vec<Era>);

impl Eras {
    pub fn add(&mut self, era: Era) {
        if era.epoch < 0 {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.epoch == era.epoch => last.to = last.to.max(era.to),
            _ => self.0.push(era),
        }
        if self.0.len() > ERAS_MAX {
            self.0.remove(0);
        }
    }

    /// The epoch of the record before an offset. `None` where it was not read: nothing may be
    /// concluded then.
    pub fn before(&self, offset: i64) -> Option<i32> {
        let era = self.0.iter().rev().find(|era| era.from < offset)?;
        (offset <= era.to).then_some(era.epoch)
    }

    /// Forgets what was read from an offset on.
    pub fn cut(&mut self, at: i64) {
        self.0.retain(|era| era.from < at);
        if let Some(last) = self.0.last_mut() {
            last.to = last.to.min(at);
        }
    }

    /// Up to where what was read is what the leader has, after it answered so. `None` where we have
    /// not read far enough back to know.
    pub fn common(&self, told: EpochEnd) -> Option<i64> {
        match self.0.iter().rev().find(|era| era.epoch <= told.epoch) {
            Some(shared) => Some(shared.to.min(told.offset)),
            // All that we know is newer. It may have begun before we read it, but hardly before the
            // end of what the leader has.
            None => (self.0.first()?.from >= told.offset).then_some(told.offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eras(list: &[(i32, i64, i64)]) -> Eras {
        let mut eras = Eras::default();
        list.iter().for_each(|(epoch, from, to)| {
            eras.add(Era { epoch: *epoch, from: *from, to: *to });
        });
        eras
    }

    #[test]
    fn the_epoch_before_an_offset_is_known_where_it_was_read() {
        let eras = eras(&[(5, 10, 20), (5, 25, 30), (6, 40, 50), (-1, 50, 60)]);
        let known: Vec<_> = [10, 11, 22, 30, 31, 40, 41, 50, 51].map(|at| eras.before(at)).into();
        assert_eq!(
            known,
            [None, Some(5), Some(5), Some(5), None, None, Some(6), Some(6), None],
            "the gap between two epochs belongs to either"
        );
    }

    #[test]
    fn what_the_leader_has_not_begins_where_the_last_shared_epoch_ends() {
        let eras = eras(&[(4, 0, 60), (5, 60, 100), (6, 100, 200)]);
        let common = |epoch, offset| eras.common(EpochEnd { epoch, offset });
        assert_eq!(common(5, 100), Some(100));
        assert_eq!(common(5, 80), Some(80), "it lacks the end of epoch 5 too");
        assert_eq!(common(5, 150), Some(100), "its own epoch 5 went on");
        assert_eq!(common(4, 70), Some(60));
        assert_eq!(common(6, 150), Some(150));
        assert_eq!(common(3, 0), Some(0));
        let late = super::tests::eras(&[(6, 109, 110)]);
        assert_eq!(late.common(EpochEnd { epoch: 5, offset: 100 }), Some(100));
        assert_eq!(late.common(EpochEnd { epoch: 5, offset: 120 }), None, "6 may begin before 109");
    }

    #[test]
    fn what_was_cut_off_is_not_known_any_more() {
        let mut eras = eras(&[(4, 0, 60), (5, 60, 100)]);
        eras.cut(60);
        assert_eq!((eras.before(60), eras.before(61)), (Some(4), None));
        eras.cut(10);
        eras.add(Era { epoch: 7, from: 10, to: 12 });
        assert_eq!((eras.before(10), eras.before(12)), (Some(4), Some(7)));
    }
}
