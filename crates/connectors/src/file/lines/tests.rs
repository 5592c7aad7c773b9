//! Lines with their offsets, and lines that are too long.

use super::*;
use std::io::Write;

fn options(path: &Path) -> FileSourceOptions {
    FileSourceOptions {
        path: path.to_owned(),
        follow: false,
        notes: None,
        header: false,
        line_bytes_max: 1024,
        batch_rows: 3,
        batch_bytes: 1 << 20,
    }
}

fn opened(options: FileSourceOptions, at: i64) -> Result<LineReader> {
    LineReader::open(&FileSource::open(options).unwrap(), at)
}

fn lines(options: FileSourceOptions, at: i64) -> Vec<(i64, String)> {
    let mut reader = opened(options, at).unwrap();
    let mut lines = Vec::new();
    loop {
        let records = reader.batch().unwrap();
        if records.is_empty() {
            return lines;
        }
        for r in records.iter() {
            let text = String::from_utf8_lossy(r.value.unwrap()).into_owned();
            lines.push((r.offset, text));
        }
    }
}

#[test]
fn lines_with_their_byte_offsets_from_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\ntwo\r\n\nfour\nfive").unwrap();
    let all = [(0, "one"), (4, "two"), (9, ""), (10, "four"), (15, "five")];
    for from in 0..all.len() {
        let got = lines(options(&path), all[from].0);
        let want: Vec<_> = all[from..].iter().map(|(o, t)| (*o, (*t).to_owned())).collect();
        assert_eq!(got, want);
    }
    assert!(opened(options(&path), 99).is_err(), "beyond the end is damage");
    assert!(opened(options(&path), 2).is_err(), "within a line is damage");
    assert_eq!(lines(options(&path), 19), [], "the end of a file without a last line end");
    std::fs::write(&path, "one\ntwo\r\n\nfour\nfive\nsix\n").unwrap();
    assert_eq!(lines(options(&path), 19), [(20, "six".to_owned())], "its end came since");
    std::fs::write(&path, "one\ntwo\r\n\nfour\nfive").unwrap();
    let header = FileSourceOptions { header: true, ..options(&path) };
    assert_eq!(lines(header, 0).len(), 4);
}

#[test]
fn a_long_line_costs_bounded_memory_and_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let mut file = std::fs::File::create(&path).unwrap();
    let long = vec![b'x'; 3 << 20];
    for part in [&b"before\n"[..], &long, b"\nafter\n"] {
        file.write_all(part).unwrap();
    }
    let mut reader = opened(options(&path), 0).unwrap();
    let mut seen = Vec::new();
    loop {
        let records = reader.batch().unwrap();
        if records.is_empty() {
            break;
        }
        assert!(reader.pending.capacity() < 1 << 20);
        for record in records.iter() {
            let header = record.headers.iter().next();
            seen.push((
                record.value.unwrap().len(),
                header.map(|h| String::from_utf8_lossy(h.value.unwrap()).into_owned()),
            ));
        }
    }
    let note = format!("{} {:08x}", 3 << 20, crc32c::crc32c(&long));
    assert_eq!(seen, [(6, None), (KEPT_BYTES, Some(note)), (5, None)]);
}
