//! Rows that are sent until each has its outcome.
//!
//! A pass sends what has none yet. What it settles stays settled, so that a store which fails some
//! requests of a call is not asked for all of it again, and each pass has less to do.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millstream_core::{Disposition, Error, Result};

/// Sends each of these, a round when the one before it is settled, and gives the outcomes in the order
/// in which they came. The error is of a pass that settled nothing, or one that no other pass mends.
pub(super) async fn settle_all<'a, T, O, S>(
    rounds: &'a [Vec<T>],
    concurrency: usize,
    send: impl Fn(&'a T) -> S,
) -> Result<Vec<(&'a T, O)>>
where
    S: Future<Output = Result<O>>,
{
    let mut outcomes = Vec::new();
    // How many there were when a pass failed last.
    let mut known = 0;
    for round in rounds {
        let mut missing: Vec<&T> = round.iter().collect();
        while !missing.is_empty() {
            let mut due = missing.into_iter();
            let mut under_way = FuturesUnordered::new();
            let mut without = Vec::new();
            let mut failed: Option<Error> = None;
            loop {
                // A store in trouble is sent no more until it has said what it can.
                while failed.is_none()
                    && under_way.len() < concurrency.max(1)
                    && let Some(one) = due.next()
                {
                    let sent = send(one);
                    under_way.push(async move { (one, sent.await) });
                }
                match under_way.next().await {
                    None => break,
                    Some((one, Ok(outcome))) => outcomes.push((one, outcome)),
                    Some((one, Err(error))) => {
                        without.push(one);
                        if failed.as_ref().is_none_or(may_pass) {
                            failed = Some(error);
                        }
                    }
                }
            }
            if let Some(error) = failed {
                if outcomes.len() == known || !may_pass(&error) {
                    return Err(error);
                }
                known = outcomes.len();
            }
            // What failed comes last: one row of which nothing is ever heard keeps none from its turn.
            missing = due.chain(without).collect();
        }
    }
    Ok(outcomes)
}

/// Whether the other outcomes stand meanwhile: those of a table that may have been made again do not.
fn may_pass(error: &Error) -> bool {
    error.disposition() == Disposition::Retry
        && !matches!(error.kind(), "no_table" | "table_changed" | "unprepared")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What was sent, in this order, and the error's kind or how many were settled.
    async fn sent(
        rounds: &[Vec<u32>],
        concurrency: usize,
        fails: impl Fn(u32, usize) -> Option<Error>,
    ) -> (Vec<u32>, Result<usize, &'static str>) {
        let sent = RefCell::new(Vec::new());
        let send = |one: &u32| {
            let before = sent.borrow().iter().filter(|other| *other == one).count();
            sent.borrow_mut().push(*one);
            let answer = fails(*one, before).map_or(Ok(*one), Err);
            async move {
                tokio::task::yield_now().await;
                answer
            }
        };
        let settled = settle_all(rounds, concurrency, send).await;
        let settled = settled.map_err(|error| error.kind()).map(|outcomes| {
            assert!(outcomes.iter().all(|(one, outcome)| *one == outcome));
            outcomes.len()
        });
        (sent.into_inner(), settled)
    }

    fn late() -> Option<Error> {
        Some(Error::retry("timeout", "no answer"))
    }

    fn counts(sent: &[u32], of: u32) -> Vec<usize> {
        (0..of).map(|one| sent.iter().filter(|other| **other == one).count()).collect()
    }

    #[tokio::test]
    async fn what_has_its_outcome_is_not_sent_again() {
        let rounds: [Vec<u32>; 1] = [(0..20).collect()];
        for concurrency in [2, 4, 100] {
            let fails = |one, before| late().filter(|_| one % 7 == 1 && before == 0);
            let (sent, settled) = sent(&rounds, concurrency, fails).await;
            assert_eq!(settled, Ok(20));
            let expected: Vec<_> = (0..20).map(|one| 1 + usize::from(one % 7 == 1)).collect();
            assert_eq!(counts(&sent, 20), expected);
        }
    }

    #[tokio::test]
    async fn rows_of_one_partition_go_on_where_one_of_them_was_late() {
        let rounds: Vec<Vec<u32>> = (0..30).map(|one| vec![one]).collect();
        let fails = |one, before| late().filter(|_| one > 0 && before == 0);
        let (sent, settled) = sent(&rounds, 4, fails).await;
        assert_eq!((settled, sent.len()), (Ok(30), 59));
        assert!(
            sent.is_sorted(),
            "a row was sent before the one ahead of it was settled: {sent:?}"
        );
    }

    #[tokio::test]
    async fn a_row_that_never_has_an_outcome_is_told_when_all_others_have() {
        let rounds = [(0..20).collect(), vec![20]];
        let (sent, settled) = sent(&rounds, 4, |one, _| late().filter(|_| one == 5)).await;
        assert_eq!(settled, Err("timeout"));
        let counts = counts(&sent, 21);
        assert!((0..20).all(|one| one == 5 || counts[one] == 1), "{counts:?}");
        assert_eq!(counts[20], 0, "it may be of the same key");
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_told_at_once() {
        let round: Vec<u32> = (0..20).collect();
        let (sent, settled) = sent(&[round], 4, |_, _| late()).await;
        assert_eq!((settled, sent.len()), (Err("timeout"), 4));
    }

    #[tokio::test]
    async fn what_no_pass_mends_ends_the_call() {
        let rounds: [Vec<u32>; 1] = [(0..20).collect()];
        let wrong = || [Error::reject("invalid", ""), Error::retry("no_table", "")];
        for (at, expected) in ["invalid", "no_table"].into_iter().enumerate() {
            let fails = |one, _| match one {
                6 => wrong().into_iter().nth(at),
                5 | 7 => late(),
                _ => None,
            };
            let (sent, settled) = sent(&rounds, 4, fails).await;
            assert_eq!(settled, Err(expected));
            assert!(sent.len() < 20);
        }
    }
}
