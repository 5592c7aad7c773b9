//! The two real logs, replayed: each time round, the times are moved on by the days that the log
//! spans. The same number of lines always gives the same files.

use crate::failure::Result;
use anyhow::{Context, bail};
use flate2::read::GzDecoder;
use jiff::ToSpan;
use jiff::civil::Date;
use jiff::fmt::strtime;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

const ACCESS: &[u8] = include_bytes!("../../../../../examples/demo/access.log.gz");
const CRAN: &[u8] = include_bytes!("../../../../../examples/demo/cran.csv.gz");

/// The lines of the originals.
const ACCESS_LINES: u64 = 10_000;
const CRAN_LINES: u64 = 45_014;
/// Days from the first to the last of each, rounded up.
const ACCESS_DAYS: i64 = 4;
const CRAN_DAYS: i64 = 84;
/// The order of day, month and year in the access log.
const ACCESS_DATE: &str = "%d/%b/%Y";

/// How many lines of each log make up so many, in the proportion of the originals.
pub fn shares(events: u64) -> (u64, u64) {
    let access = (events * ACCESS_LINES).div_ceil(ACCESS_LINES + CRAN_LINES);
    (access, events - access)
}

/// Writes so many lines of the access log. The one that is cut short is there exactly once.
pub fn write_access(path: &Path, lines: u64) -> Result<()> {
    let text = unpack(ACCESS)?;
    let (whole, cut): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.ends_with('"'));
    let [cut] = cut[..] else { bail!("the access log has {} lines that are cut short", cut.len()) };
    let cut_at = text.lines().position(|line| line == cut).unwrap_or(0) as u64;
    // The last line where there are not enough to come to its place.
    let cut_at = cut_at.min(lines.saturating_sub(1));

    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut days = Days::new(&whole, |line| line.split_once('[')?.1.split_once(':').map(|d| d.0));
    let mut written = 0;
    let mut round = 0;
    while written < lines {
        for line in &whole {
            if written == cut_at {
                writeln!(out, "{cut}")?;
                written += 1;
            }
            if written == lines {
                break;
            }
            let (before, rest) = line.split_once('[').context("a line without a time")?;
            let (day, after) = rest.split_once(':').context("a line without a time")?;
            let moved = days.moved(day, round * ACCESS_DAYS, ACCESS_DATE)?;
            writeln!(out, "{before}[{moved}:{after}")?;
            written += 1;
        }
        round += 1;
    }
    out.flush()?;
    Ok(())
}

/// Writes the head and so many rows of the download log.
pub fn write_cran(path: &Path, lines: u64) -> Result<()> {
    let text = unpack(CRAN)?;
    let (head, rows) = text.split_once('\n').context("the download log is empty")?;
    let rows: Vec<&str> = rows.lines().collect();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(out, "{head}")?;
    let mut days = Days::new(&rows, |row| row.split_once(',').map(|d| d.0));
    for at in 0..lines {
        let row = rows[(at % rows.len() as u64) as usize];
        let round = (at / rows.len() as u64) as i64;
        let (day, rest) = row.split_once(',').context("a row without a date")?;
        let moved = days.moved(day, round * CRAN_DAYS, "%Y-%m-%d")?;
        writeln!(out, "{moved},{rest}")?;
    }
    out.flush()?;
    Ok(())
}

/// The few days of a log, moved by a number of days; worked out once a round.
struct Days {
    by: i64,
    moved: Vec<(String, String)>,
}

impl Days {
    fn new(lines: &[&str], day: impl Fn(&str) -> Option<&str>) -> Self {
        let mut days: Vec<String> =
            lines.iter().filter_map(|line| day(line)).map(str::to_owned).collect();
        days.sort_unstable();
        days.dedup();
        let moved = days.into_iter().map(|day| (day.clone(), day)).collect();
        Self { by: 0, moved }
    }

    fn moved(&mut self, day: &str, by: i64, format: &str) -> Result<&str> {
        if self.by != by {
            for (original, moved) in &mut self.moved {
                let date: Date = strtime::parse(format, &*original)?.to_date()?;
                *moved = date.checked_add(by.days())?.strftime(format).to_string();
            }
            self.by = by;
        }
        let found = self.moved.binary_search_by(|(original, _)| original.as_str().cmp(day));
        match found {
            Ok(at) => Ok(&self.moved[at].1),
            Err(_) => bail!("the day {day} was not there at first"),
        }
    }
}

fn unpack(packed: &[u8]) -> Result<String> {
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text).context("unpacking the demo's data")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(lines: u64) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        write_access(&path, lines).unwrap();
        std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_cut_line_is_there_once_whatever_the_number_of_lines() {
        for lines in [1, 100, 8_899, 10_000, 25_000] {
            let written = access(lines);
            assert_eq!(written.len() as u64, lines);
            let cut = written.iter().filter(|line| !line.ends_with('"')).count();
            assert_eq!(cut, 1, "{lines}");
        }
    }

    #[test]
    fn each_round_is_days_later_than_the_one_before() {
        let written = access(20_000);
        assert!(written[0].contains("[17/May/2015:10:05:03 +0000]"));
        let again = &written[10_000];
        assert_eq!(*again, written[0].replace("17/May", "21/May"));
        assert_eq!(written, access(20_000));
    }

    #[test]
    fn downloads_keep_their_head_and_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cran.csv");
        write_cran(&path, CRAN_LINES + 1).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len() as u64, CRAN_LINES + 2);
        assert!(lines[0].starts_with("date,time,"));
        let original = unpack(CRAN).unwrap();
        assert!(original.starts_with(&lines[..=CRAN_LINES as usize].join("\n")));
        let moved = lines[CRAN_LINES as usize + 1];
        assert_eq!(moved, lines[1].replace("2012-10-06", "2012-12-29"));
    }

    #[test]
    fn shares_add_up() {
        for events in [100, 55_014, 500_000] {
            let (access, cran) = shares(events);
            assert_eq!(access + cran, events);
        }
        assert_eq!(shares(55_014), (10_000, 45_014));
    }
}
