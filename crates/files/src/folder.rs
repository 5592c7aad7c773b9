//! The folder of a row: a path in which `{partition}` and `{date}` are replaced.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const PARTITION: &str = "{partition}";
const DATE: &str = "{date}";
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A path with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Everything above the first placeholder.
    base: PathBuf,
    /// The names below it.
    parts: Vec<String>,
}

/// A day of the calendar, in UTC; `None` where a row has none.
pub(crate) type Day = Option<i32>;

impl Folder {
    /// The error is a sentence for the user.
    pub fn parse(path: &Path) -> Result<Folder, String> {
        let mut folder = Folder { base: PathBuf::new(), parts: Vec::new() };
        for part in path.components() {
            let name = part.as_os_str().to_string_lossy();
            let rest = name.replacen(DATE, "", 1).replace(PARTITION, "");
            if rest.contains(['{', '}']) {
                return Err(format!(
                    "`{name}` in the folder is not known: `{PARTITION}` and, once in a name, \
                     `{DATE}` are replaced"
                ));
            }
            match folder.parts.is_empty() && !name.contains('{') {
                true => folder.base.push(part),
                false => folder.parts.push(name.into_owned()),
            }
        }
        Ok(folder)
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn has_date(&self) -> bool {
        self.parts.iter().any(|part| part.contains(DATE))
    }

    pub(crate) fn of(&self, partition: &str, day: Day) -> PathBuf {
        let date = date_text(day);
        let parts = self.parts.iter();
        let parts = parts.map(|part| part.replace(PARTITION, partition).replace(DATE, &date));
        self.base.iter().map(|part| part.to_owned()).chain(parts.map(Into::into)).collect()
    }

    /// All folders that are there of a partition.
    pub(crate) fn all(&self, partition: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![self.base.clone()];
        for part in &self.parts {
            let part = part.replace(PARTITION, partition);
            let mut below = Vec::new();
            for folder in found {
                match part.split_once(DATE) {
                    None => below.push(folder.join(&part)),
                    Some((before, after)) => {
                        for entry in entries(&folder)? {
                            let name = entry.file_name();
                            let Some(name) = name.to_str() else { continue };
                            let date = name
                                .strip_prefix(before)
                                .and_then(|rest| rest.strip_suffix(after))
                                .is_some_and(is_date);
                            if date {
                                below.push(entry.path());
                            }
                        }
                    }
                }
            }
            found = below;
        }
        Ok(found)
    }
}

/// Nothing where there is no such folder.
pub(crate) fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What stands where a row has no date.
const NO_DATE: &str = "unknown";

fn is_date(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut parts = text.trim_start_matches('-').split('-');
    text == NO_DATE
        || (parts.next().is_some_and(digits)
            && parts.next().is_some_and(digits)
            && parts.next().is_some_and(digits)
            && parts.next().is_none())
}

pub(crate) fn today() -> Day {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some((since.as_secs() as i64 / DAY_SECONDS) as i32)
}

/// Whether a column says a date.
pub(crate) fn has_days(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Timestamp(..))
}

/// The day of every row.
pub(crate) fn days(column: &ArrayRef) -> Vec<Day> {
    let moments = |values: &[i64], per_second: i64| -> Vec<Day> {
        let day = |row: usize| values[row].div_euclid(per_second * DAY_SECONDS) as i32;
        (0..values.len()).map(|row| column.is_valid(row).then(|| day(row))).collect()
    };
    match column.data_type() {
        DataType::Date32 => column.as_primitive::<Date32Type>().iter().collect(),
        DataType::Timestamp(TimeUnit::Second, _) => {
            moments(column.as_primitive::<TimestampSecondType>().values(), 1)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            moments(column.as_primitive::<TimestampMillisecondType>().values(), 1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            moments(column.as_primitive::<TimestampMicrosecondType>().values(), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            moments(column.as_primitive::<TimestampNanosecondType>().values(), 1_000_000_000)
        }
        _ => vec![None; column.len()],
    }
}

/// `2026-01-31`, by Howard Hinnant's algorithm for days of the civil calendar.
fn date_text(day: Day) -> String {
    let Some(day) = day else { return NO_DATE.to_owned() };
    let days = i64::from(day) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (date, month) = (of_year - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_454, "2026-01-01"),
            (-719_529, "-001-12-31"),
        ];
        for (day, text) in cases {
            assert_eq!(date_text(Some(day)), text);
            assert!(is_date(text), "{text}");
        }
        assert_eq!(date_text(None), "unknown");
        assert!(is_date("unknown") && !is_date("2026-01") && !is_date("a-b-c"));
    }

    #[test]
    fn placeholders_are_replaced_and_found_again() {
        let base = tempfile::tempdir().expect("a folder");
        let path = base.path().join("day={date}/part-{partition}");
        let folder = Folder::parse(&path).expect("a folder");
        assert_eq!(folder.base(), base.path());
        assert!(folder.has_date());
        let one = folder.of("3", Some(0));
        assert_eq!(one, base.path().join("day=1970-01-01/part-3"));
        fs::create_dir_all(&one).expect("a folder");
        fs::create_dir_all(base.path().join("day=else/part-3")).expect("a folder");
        assert_eq!(folder.all("3").expect("folders"), [one]);
        assert!(Folder::parse(Path::new("/a/{hour}")).is_err());
        assert!(Folder::parse(Path::new("/a/{date}{date}")).is_err());
    }
}
