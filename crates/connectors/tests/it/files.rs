//! Files as sources: places in them, rotation, and what cannot be followed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use millstream_connectors::file::{FileSource, FileSourceOptions, Notes};
use millstream_core::{Error, PartitionReader, Place, Source, Start};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

struct Dir {
    dir: tempfile::TempDir,
}

impl Dir {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("a.log")
    }

    fn append(&self, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.log()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// As logrotate does it.
    fn rotate(&self) {
        for number in (1..5).rev() {
            let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        fs::rename(self.log(), self.numbered(1)).unwrap();
        fs::write(self.log(), "").unwrap();
        // Times of files are coarse: what is written next must be later.
        std::thread::sleep(Duration::from_millis(15));
    }

    fn numbered(&self, number: u32) -> PathBuf {
        self.path(&format!("a.log.{number}"))
    }

    fn source(&self, follow: bool) -> FileSource {
        let notes = Notes { path: self.path("notes"), read_only: false };
        FileSource::open(options(&self.log(), follow, Some(notes))).unwrap()
    }

    async fn reader(&self, at: i64) -> Result<Box<dyn PartitionReader>, Error> {
        self.source(true).reader(0, Start::Offset(at)).await
    }
}

fn options(path: &Path, follow: bool, notes: Option<Notes>) -> FileSourceOptions {
    FileSourceOptions {
        path: path.to_owned(),
        follow,
        notes,
        header: false,
        line_bytes_max: 1 << 20,
        batch_rows: 100,
        batch_bytes: 1 << 20,
    }
}

/// The lines there are, and the offset to commit after them. Time does not pass here, so that
/// waiting costs none.
async fn read(reader: &mut dyn PartitionReader) -> (Vec<(i64, String)>, i64) {
    let mut lines = Vec::new();
    let mut next = -1;
    while let Ok(records) = tokio::time::timeout(Duration::from_secs(8), reader.next()).await {
        let Some(records) = records.unwrap() else { break };
        for record in records.iter() {
            let text = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            lines.push((record.offset, text));
        }
        next = records.next_offset();
    }
    (lines, next)
}

async fn texts_of(reader: &mut dyn PartitionReader) -> Vec<String> {
    read(reader).await.0.into_iter().map(|(_, text)| text).collect()
}

async fn stopped(reader: &mut dyn PartitionReader) -> String {
    let failed = tokio::time::timeout(Duration::from_secs(8), reader.next()).await.unwrap();
    failed.unwrap_err().to_string()
}

#[tokio::test]
async fn a_place_is_the_start_of_the_line_that_holds_the_byte() {
    let dir = Dir::new();
    fs::write(dir.log(), "one\ntwo\nthree").unwrap();
    let gzip = dir.path("a.log.gz");
    let mut packed =
        flate2::write::GzEncoder::new(fs::File::create(&gzip).unwrap(), Default::default());
    packed.write_all(b"one\ntwo\nthree").unwrap();
    packed.finish().unwrap();
    for path in [dir.log(), gzip] {
        let source = FileSource::open(options(&path, false, None)).unwrap();
        for (asked, start) in [(0, 0), (2, 0), (3, 0), (4, 4), (7, 4), (8, 8), (12, 8), (13, 13)] {
            let offset = source.offset_of(0, Place::Offset(asked)).await.unwrap();
            assert_eq!(offset, start, "byte {asked} of {}", path.display());
            source.reader(0, Start::Offset(offset)).await.unwrap();
        }
        let beyond = source.offset_of(0, Place::Offset(14)).await.unwrap_err().to_string();
        assert!(beyond.contains("ends at byte 13"), "{beyond}");
        assert!(source.offset_of(0, Place::Offset(-1)).await.is_err());
        assert_eq!(source.offset_of(0, Place::Latest).await.unwrap(), 13);
    }
    let long = format!("first\n{}\nlast\n", "x".repeat(200_000));
    fs::write(dir.log(), long).unwrap();
    let source = dir.source(false);
    assert_eq!(source.offset_of(0, Place::Offset(199_999)).await.unwrap(), 6);
}

#[tokio::test]
async fn the_lag_of_a_compressed_file_is_what_is_left_of_its_text() {
    let dir = Dir::new();
    let gzip = dir.path("a.log.gz");
    let mut packed =
        flate2::write::GzEncoder::new(fs::File::create(&gzip).unwrap(), Default::default());
    let line = "a line\n";
    packed.write_all(line.repeat(1000).as_bytes()).unwrap();
    packed.finish().unwrap();
    let source = FileSource::open(options(&gzip, false, None)).unwrap();
    let mut reader = source.reader(0, Start::Offset(0)).await.unwrap();
    assert!(reader.end_offset() > 0, "before the end something is left");
    let first = reader.next().await.unwrap().unwrap();
    assert!(reader.end_offset() > first.next_offset());
    while reader.end_offset() != 7000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    while reader.next().await.unwrap().is_some() {}
    assert_eq!(reader.end_offset(), 7000);
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let dir = Dir::new();
    fs::write(dir.log(), "\u{feff}one\n\u{feff}two\n").unwrap();
    let mut reader = dir.source(false).reader(0, Start::Earliest).await.unwrap();
    let want = [(0, "one".to_owned()), (7, "\u{feff}two".to_owned())];
    assert_eq!(read(reader.as_mut()).await.0, want);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_beginning() {
    let dir = Dir::new();
    dir.append("one\ntwo\n");
    let mut reader = dir.reader(0).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["one", "two"]);
    let mut old = fs::OpenOptions::new().append(true).open(dir.log()).unwrap();
    dir.rotate();
    assert_eq!(texts_of(reader.as_mut()).await, [""; 0]);
    // Its writer has it open still.
    old.write_all(b"three\nfour").unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["three"]);
    dir.append("five\n");
    let (lines, next) = read(reader.as_mut()).await;
    let want = [(14, "four".to_owned()), (18, "five".to_owned())];
    assert_eq!((lines.as_slice(), next), (want.as_slice(), 23));
    assert_eq!(reader.end_offset(), 23);
    // And again.
    dir.rotate();
    dir.append("six\n");
    assert_eq!(texts_of(reader.as_mut()).await, ["six"]);
}

/// A file that was rotated and left, with its writer, and the reader in the new one.
async fn left(dir: &Dir, text: &str) -> (fs::File, Box<dyn PartitionReader>, i64) {
    dir.append(text);
    let mut reader = dir.reader(0).await.unwrap();
    read(reader.as_mut()).await;
    let old = fs::OpenOptions::new().append(true).open(dir.log()).unwrap();
    dir.rotate();
    dir.append("new 1\n");
    let (lines, next) = read(reader.as_mut()).await;
    assert_eq!(lines.last().unwrap().1, "new 1");
    (old, reader, next)
}

#[tokio::test(start_paused = true)]
async fn a_slow_writer_to_the_renamed_file_loses_nothing() {
    let dir = Dir::new();
    let (mut old, mut reader, at) = left(&dir, "old 1\n").await;
    assert_eq!(at, 12);
    // Late lines come behind those of the new file that were read, which then goes on.
    old.write_all(b"old 2\nold").unwrap();
    dir.append("new");
    let (lines, next) = read(reader.as_mut()).await;
    assert_eq!((lines, next), (vec![(12, "old 2".to_owned())], 18));
    old.write_all(b" 3\n").unwrap();
    dir.append(" 2\n");
    let (mut lines, next) = read(reader.as_mut()).await;
    lines.sort();
    let texts: Vec<_> = lines.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!((texts.as_slice(), next), (["new 2", "old 3"].as_slice(), 30));
    assert_eq!(reader.end_offset(), 30);

    // Removed, it is open still.
    fs::remove_file(dir.numbered(1)).unwrap();
    old.write_all(b"old 4\n").unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["old 4"]);
    // What never gets an end is a line in the end.
    old.write_all(b"old 5").unwrap();
    let mut last = Vec::new();
    for _ in 0..5 {
        last.extend(texts_of(reader.as_mut()).await);
    }
    assert_eq!(last, ["old 5"]);
    // And after half a minute of quiet it is left for good.
    for _ in 0..5 {
        assert_eq!(texts_of(reader.as_mut()).await, [""; 0]);
    }
    old.write_all(b"old 6\n").unwrap();
    dir.append("new 3\n");
    assert_eq!(texts_of(reader.as_mut()).await, ["new 3"]);
    // The next rotation is followed as the first.
    dir.rotate();
    dir.append("newer\n");
    assert_eq!(texts_of(reader.as_mut()).await, ["newer"]);
}

#[tokio::test(start_paused = true)]
async fn late_lines_have_offsets_that_a_restart_finds() {
    let dir = Dir::new();
    let (mut old, mut reader, _) = left(&dir, "old 1").await;
    // The end of the line that was read without it is no line.
    old.write_all(b"\nold 2\nold 3\n").unwrap();
    dir.append("new 2\nnew 3\n");
    let (lines, _) = read(reader.as_mut()).await;
    drop(reader);
    let mut texts: Vec<_> = lines.iter().map(|(_, text)| text.clone()).collect();
    texts.sort();
    assert_eq!(texts, ["new 2", "new 3", "old 2", "old 3"]);
    // Each commit goes on behind itself, also when more is late while nobody reads.
    let mut offsets: Vec<i64> = lines.iter().map(|(offset, _)| *offset).collect();
    offsets.extend([offsets[3] + 6]);
    for (number, from) in offsets.into_iter().enumerate() {
        let mut again = dir.reader(from).await.unwrap();
        assert_eq!(read(again.as_mut()).await.0, lines[number..], "from {from}");
        if number < lines.len() {
            let place = dir.source(true).offset_of(0, Place::Offset(from + 2)).await;
            assert_eq!(place.unwrap(), from);
        }
    }
    old.write_all(b"old 4\n").unwrap();
    let latest = dir.source(true).offset_of(0, Place::Latest).await.unwrap();
    let mut again = dir.reader(latest).await.unwrap();
    assert_eq!(texts_of(again.as_mut()).await, ["old 4"]);
    // From the beginning each file comes whole, in its order.
    drop(again);
    let earliest = dir.source(true).offset_of(0, Place::Earliest).await.unwrap();
    let mut again = dir.reader(earliest).await.unwrap();
    let want = ["old 1", "old 2", "old 3", "old 4", "new 1", "new 2", "new 3"];
    assert_eq!(texts_of(again.as_mut()).await, want);
}

#[tokio::test(start_paused = true)]
async fn a_restart_anywhere_around_rotations_loses_and_repeats_no_line() {
    let words: Vec<String> = (0..12).map(|number| format!("line {number:02}")).collect();
    // A restart after each line, with rotations before, between and after.
    for rotations in [vec![4], vec![0], vec![4, 8], vec![4, 5]] {
        let dir = Dir::new();
        dir.append("head\n");
        let mut at = {
            let mut reader = dir.reader(0).await.unwrap();
            read(reader.as_mut()).await.1
        };
        let mut seen = Vec::new();
        for (number, word) in words.iter().enumerate() {
            if rotations.contains(&number) {
                dir.rotate();
            }
            dir.append(&format!("{word}\n"));
            let mut reader = dir.reader(at).await.unwrap();
            let (lines, next) = read(reader.as_mut()).await;
            assert!(lines.is_empty() || next > at, "offsets only grow");
            seen.extend(lines.into_iter().map(|(_, text)| text));
            at = next.max(at);
        }
        assert_eq!(seen, words, "rotated before {rotations:?}");
    }
    // The same from every commit, all rotations being over.
    let dir = Dir::new();
    let mut commits = vec![0];
    for (number, word) in words.iter().enumerate() {
        if [4, 8].contains(&number) {
            dir.rotate();
        }
        dir.append(&format!("{word}\n"));
        let last = commits[commits.len() - 1];
        let mut reader = dir.reader(last).await.unwrap();
        commits.push(read(reader.as_mut()).await.1);
        if number == 8 {
            break;
        }
        // Back by one, as after a crash before the commit.
        let again = commits[commits.len() - 2];
        let mut reader = dir.reader(again).await.unwrap();
        assert_eq!(texts_of(reader.as_mut()).await, [word.as_str()], "from {again}");
    }
}

#[tokio::test(start_paused = true)]
async fn rotations_that_nobody_watched_are_read_in_their_order() {
    let dir = Dir::new();
    dir.append("one\n");
    let mut reader = dir.reader(0).await.unwrap();
    let (_, at) = read(reader.as_mut()).await;
    drop(reader);
    dir.append("two\n");
    for word in ["three", "four", "five"] {
        dir.rotate();
        dir.append(&format!("{word}\n"));
    }
    let mut reader = dir.reader(at).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["two", "three", "four", "five"]);

    // One of them was compressed meanwhile: that is said.
    let (_, at) = {
        dir.append("six\n");
        read(reader.as_mut()).await
    };
    drop(reader);
    dir.rotate();
    dir.append("seven\n");
    dir.rotate();
    dir.append("eight\n");
    fs::rename(dir.numbered(1), dir.path("a.log.1.gz")).unwrap();
    let mut reader = dir.reader(at).await.unwrap();
    let why = stopped(reader.as_mut()).await;
    assert!(why.contains("a.log.1.gz was made and compressed") && why.contains("reset"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_went_away_unread_holds_until_a_reset() {
    let dir = Dir::new();
    dir.append("one\ntwo\n");
    let mut reader = dir.reader(0).await.unwrap();
    read(reader.as_mut()).await;
    drop(reader);
    dir.rotate();
    dir.append("three\nfour\n");
    fs::remove_file(dir.numbered(1)).unwrap();
    let why = dir.reader(4).await.err().unwrap().to_string();
    assert!(why.contains("not there any more") && why.contains("--to earliest"), "{why}");

    // The reset names the beginning of the file that is there, also for who asks at rest.
    let path = fs::canonicalize(dir.log()).unwrap();
    let at_rest = FileSource::at_rest(&path, dir.path("notes")).unwrap();
    let earliest = at_rest.offset_of(0, Place::Earliest).await.unwrap();
    assert_eq!(dir.source(true).offset_of(0, Place::Earliest).await.unwrap(), earliest);
    let second = at_rest.offset_of(0, Place::Offset(earliest + 8)).await.unwrap();
    assert_eq!(second, earliest + 6);
    let mut reader = dir.reader(earliest).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["three", "four"]);
    let latest = dir.source(true).offset_of(0, Place::Latest).await.unwrap();
    assert_eq!(latest, earliest + 11);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_cut_in_place_holds_and_does_not_go_on_within_a_line() {
    let dir = Dir::new();
    dir.append("first line\nsecond line\n");
    let mut reader = dir.reader(0).await.unwrap();
    let (_, at) = read(reader.as_mut()).await;
    fs::OpenOptions::new().write(true).open(dir.log()).unwrap().set_len(0).unwrap();
    dir.append("new\n");
    let why = stopped(reader.as_mut()).await;
    assert!(why.contains("was cut while it was followed"), "{why}");
    // Nor after a restart, however long it has become.
    assert!(dir.reader(at).await.is_err());
    // Even where a line begins at that byte.
    dir.append("123456789012345678\nmore\n");
    let why = dir.reader(at).await.err().unwrap().to_string();
    assert!(why.contains("--to earliest"), "{why}");
    let earliest = dir.source(true).offset_of(0, Place::Earliest).await.unwrap();
    let mut reader = dir.reader(earliest).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await[0], "new");
}

#[tokio::test(start_paused = true)]
async fn a_reset_to_the_earliest_begins_with_the_oldest_file_that_can_be_read() {
    let dir = Dir::new();
    for word in ["zero", "one", "two", "three"] {
        dir.append(&format!("{word}\n"));
        dir.rotate();
    }
    dir.append("four\n");
    // A first start reads the file that it names.
    let source = dir.source(true);
    let mut reader = source.reader(0, Start::Earliest).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["four"]);
    drop((reader, source));

    let earliest = dir.source(true).offset_of(0, Place::Earliest).await.unwrap();
    let mut reader = dir.reader(earliest).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["zero", "one", "two", "three", "four"]);
    drop(reader);
    assert_eq!(dir.source(true).offset_of(0, Place::Earliest).await.unwrap(), earliest);

    // Those before one that is compressed now are not read: what is between would be missing.
    fs::rename(dir.numbered(3), dir.path("a.log.3.gz")).unwrap();
    let earliest = dir.source(true).offset_of(0, Place::Earliest).await.unwrap();
    let mut reader = dir.reader(earliest).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["two", "three", "four"]);
}

#[tokio::test(start_paused = true)]
async fn only_the_file_before_the_last_is_waited_for() {
    let dir = Dir::new();
    dir.append("0\n");
    let mut reader = dir.reader(0).await.unwrap();
    let (_, at) = read(reader.as_mut()).await;
    drop(reader);
    for number in 1..5 {
        dir.rotate();
        dir.append(&format!("{number}\n"));
    }
    let mut reader = dir.reader(at).await.unwrap();
    let since = tokio::time::Instant::now();
    for number in 1..4 {
        let records = reader.next().await.unwrap().unwrap();
        assert_eq!(records.get(0).value, Some(number.to_string().as_bytes()));
    }
    assert_eq!(since.elapsed(), Duration::ZERO, "of a clock that only waiting moves");
    // Its writer may go on with it for a moment.
    reader.next().await.unwrap();
    assert!(since.elapsed() > Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_preview_notes_nothing() {
    let dir = Dir::new();
    dir.append("one\n");
    let notes = Notes { path: dir.path("notes"), read_only: true };
    let source = FileSource::open(options(&dir.log(), true, Some(notes))).unwrap();
    let mut reader = source.reader(0, Start::Earliest).await.unwrap();
    assert_eq!(texts_of(reader.as_mut()).await, ["one"]);
    assert!(!dir.path("notes").exists());
}
