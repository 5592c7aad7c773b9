//! What an operator is told of a fault, in the log and by `/health/ready`.

use std::collections::BTreeSet;

/// What is to be seen of a fault: what all sentences have in common that are true of it.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// A line of the log has all of these words, and no such sentence is said twice.
    pub line: &'a [&'a str],
    /// `/health/ready` says no, with a reason that has this word.
    pub reason: Option<&'a str>,
    /// It may be over and come again, and be said again, while it lasts.
    pub flaps: bool,
    /// It was there before the pipeline, and cannot be made again.
    pub starting: bool,
    /// Nothing comes out while it lasts, so that nothing that is sent meanwhile is committed.
    pub halts: bool,
}

pub const NOTHING: Seen<'static> =
    Seen { line: &[], reason: None, flaps: false, starting: false, halts: false };

impl<'a> Seen<'a> {
    pub const fn new(line: &'a [&'a str], reason: Option<&'a str>) -> Self {
        Self { line, reason, ..NOTHING }
    }

    /// The lines that have its words.
    pub fn said<'b>(&self, log: &'b [String]) -> Vec<&'b str> {
        let has = |line: &&String| self.line.iter().all(|word| line.contains(word));
        log.iter().filter(has).map(String::as_str).collect()
    }

    /// The first of its sentences that comes again, whatever numbers and times are in it, and may
    /// not.
    pub fn said_again<'b>(&self, log: &'b [String]) -> Option<&'b str> {
        let mut known = BTreeSet::new();
        let mut again = self.said(log).into_iter().filter(|line| {
            let words: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
            !known.insert(words)
        });
        again.next().filter(|_| !self.flaps && !self.line.is_empty())
    }
}

#[test]
fn a_sentence_comes_again_whatever_its_numbers_are() {
    let line = |second, words| format!("2026-01-01T00:00:0{second}Z  WARN {words}");
    let log = [line(1, "reading: away"), line(2, "reading: slow"), line(3, "reading: away")];
    let seen = Seen::new(&["reading: "], None);
    assert_eq!(seen.said(&log).len(), 3);
    assert_eq!(seen.said_again(&log), Some(&*log[2]));
    assert_eq!(seen.said_again(&log[1..]), None);
    assert_eq!(Seen { flaps: true, ..seen }.said_again(&log), None);
    assert_eq!(NOTHING.said_again(&log), None);
}
