//! What is left to copy of a partition, by where it begins and ends here and there.

use super::record::Part;
use std::ops::Range;

#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// What an offset here has more than the same record's over there.
    pub base: i64,
    /// The offsets here that are to be copied.
    pub records: Range<i64>,
}

/// `here` and `there` are the offsets that a partition holds. The error is the rest of a sentence
/// that begins with the partition over there.
pub fn left(
    here: Range<i64>,
    there: Range<i64>,
    known: Option<Part>,
) -> std::result::Result<Left, String> {
    let Some(Part { base, upto }) = known else {
        if !there.is_empty() {
            return Err(format!(
                "holds {} records already: give the pipeline a topic that is empty or not there yet",
                there.end - there.start
            ));
        }
        // An empty partition may have held records once.
        let base = here.start - there.end;
        return Ok(Left { base, records: here });
    };
    let reached = there.end + base;
    let done = Ok(Left { base, records: here.end..here.end });
    match upto {
        Some(upto) if reached < upto => Err(format!(
            "ends at {} now, though it was copied up to {}: records were lost there",
            there.end,
            upto - base
        )),
        // It is written over there now, as it should be.
        Some(upto) if reached > upto && here.end <= upto => done,
        Some(upto) if reached > upto => Err(format!(
            "has been written by others since it was copied, and {} records came here: they cannot \
             be put in order",
            here.end - upto
        )),
        None if reached > here.end => Err(format!(
            "holds {} records that are not from here: delete the topic over there and begin again",
            reached - here.end
        )),
        _ if reached < here.start => Err(format!(
            "waits for offset {reached}, which retention has removed here: delete the topic over \
             there and begin again"
        )),
        _ => Ok(Left { base, records: reached..here.end }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: i64, records: Range<i64>) -> std::result::Result<Left, String> {
        Ok(Left { base, records })
    }

    #[test]
    fn what_is_left_follows_from_both_ends() {
        let part = |base, upto| Some(Part { base, upto });
        assert_eq!(left(0..9, 0..0, None), at(0, 0..9));
        assert_eq!(left(4..9, 0..0, None), at(4, 4..9));
        // Emptied over there at 5: its next record has offset 5.
        assert_eq!(left(4..9, 5..5, None), at(-1, 4..9));
        // Interrupted.
        assert_eq!(left(4..9, 0..3, part(4, None)), at(4, 7..9));
        assert_eq!(left(4..9, 0..5, part(4, None)), at(4, 9..9));
        // Done; then more came here, or there.
        assert_eq!(left(0..9, 0..9, part(0, Some(9))), at(0, 9..9));
        assert_eq!(left(0..12, 0..9, part(0, Some(9))), at(0, 9..12));
        assert_eq!(left(0..9, 0..20, part(0, Some(9))), at(0, 9..9));
    }

    #[test]
    fn what_cannot_be_put_in_order_is_refused() {
        let part = |base, upto| Some(Part { base, upto });
        for (here, there, known, said) in [
            (0..9, 0..1, None, "holds 1 records already"),
            (0..9, 0..10, part(0, None), "1 records that are not from here"),
            (5..9, 0..3, part(0, None), "retention has removed"),
            (0..9, 0..8, part(0, Some(9)), "records were lost there"),
            (0..10, 0..10, part(0, Some(9)), "cannot be put in order"),
        ] {
            let why = left(here.clone(), there.clone(), known).unwrap_err();
            assert!(why.contains(said), "{here:?} {there:?} {known:?}: {why}");
        }
    }
}
