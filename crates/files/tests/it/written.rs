//! What files hold, how they are called, and when they are there.

use crate::support::*;
use futures::FutureExt;
use millstream_core::Disposition;
use millstream_files::{Compression, Files, Format, Roll};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_read_back_whole() {
    for format in [
        Format::JsonLines(Compression::None),
        Format::JsonLines(Compression::Gzip),
        Format::JsonLines(Compression::Zstd),
        Format::Parquet(Compression::None),
        Format::Parquet(Compression::Snappy),
        Format::Parquet(Compression::Zstd),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut given = options(folder.path());
        given.format = format;
        let files = open(given);
        let mut sink = begun(&files, 0);
        let all: Vec<Row> = (0..2500).map(row).collect();
        let receipt = write(&mut *sink, batch(0, 2500, &all), &[]).await.unwrap();
        assert_eq!(receipt.rows, 2500);
        assert!(names(folder.path())[0].starts_with('.'), "hidden until it is complete");
        sink.flush();
        receipt.durable.await.unwrap();
        let name = &names(folder.path())[0];
        let end = format!("-p00003-000000000000-000000002500.{}", format.extension());
        assert!(name.starts_with("orders-archive-") && name.ends_with(&end), "{name}");
        assert_eq!(rows(folder.path()), all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_ends_after_so_many_rows_and_never_within_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut given = options(folder.path());
    given.roll.rows = 10;
    let files = open(given);
    let mut sink = begun(&files, 0);
    // Offset 8 turns to five rows: its file has more.
    let all: Vec<Row> = (0..25)
        .flat_map(|offset| {
            let rows = if offset == 8 { 5 } else { 1 };
            (0..rows).map(move |nth| Row { nth, ..row(offset) })
        })
        .collect();
    let receipt = write(&mut *sink, batch(0, 25, &all), &[]).await.unwrap();
    assert_eq!(receipt.durable.now_or_never().map(|done| done.is_ok()), None, "offset 20 on waits");
    sink.flush();
    let last = write(&mut *sink, batch(25, 26, &[]), &[]).await.unwrap();
    last.durable.await.unwrap();
    assert_eq!(rows(folder.path()), all);
    let ends: Vec<_> =
        names(folder.path()).iter().map(|name| name[name.len() - 31..].to_owned()).collect();
    assert_eq!(
        ends,
        [
            "000000000000-000000000009.jsonl",
            "000000000009-000000000019.jsonl",
            "000000000019-000000000025.jsonl"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_ends_by_bytes_and_by_time_alone() {
    for roll in [
        Roll { rows: u64::MAX, bytes: 1000, after: Duration::from_secs(3600) },
        Roll { rows: u64::MAX, bytes: u64::MAX, after: Duration::from_millis(20) },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut given = options(folder.path());
        given.roll = roll;
        let files = open(given);
        let mut sink = begun(&files, 0);
        let all: Vec<Row> = (0..100).map(row).collect();
        let receipt = write(&mut *sink, batch(0, 100, &all), &[]).await.unwrap();
        receipt.durable.await.unwrap();
        assert_eq!(rows(folder.path()), all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_the_folder_of_their_partition_and_date() {
    let folder = tempfile::tempdir().unwrap();
    let mut given = options(&folder.path().join("{date}/p{partition}"));
    given.date = Some("day".into());
    let files = open(given);
    let mut sink = begun(&files, 0);
    let days = [Some(0), Some(1), None, Some(0)];
    let all: Vec<Row> = (0..).zip(days).map(|(at, day)| Row { day, ..row(at) }).collect();
    let receipt = write(&mut *sink, batch(0, 4, &all), &[]).await.unwrap();
    sink.flush();
    receipt.durable.await.unwrap();
    assert_eq!(rows(folder.path()), all);
    let folders: Vec<_> = names(folder.path()).iter().map(|name| name[..13].to_owned()).collect();
    assert_eq!(folders, ["1970-01-01/p3", "1970-01-02/p3", "unknown/p3/or"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_json_form_is_refused_alone() {
    use arrow_array::{Float64Array, RecordBatch};
    use arrow_schema::{DataType, Field, Schema};
    use std::sync::Arc;
    let folder = tempfile::tempdir().unwrap();
    let columns = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
    let files = Files::open(options(folder.path()), columns.clone(), Handle::current()).unwrap();
    let mut sink = files.sink().unwrap();
    let values = Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0]));
    let rows = RecordBatch::try_new(columns, vec![values]).unwrap();
    // Not begun: what an operator sends again is in place at once, under a name of its own.
    let receipt = sink.write(&millstream_core::Batch::same(rows)).await.unwrap();
    assert_eq!(receipt.rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
    receipt.durable.now_or_never().unwrap().unwrap();
    let name = &names(folder.path())[0];
    assert!(name.starts_with("orders-archive-again-"), "{name}");
    assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "{\"x\":1.0}\n{\"x\":2.0}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("taken");
    fs::write(&place, "a file").unwrap();
    let Err(error) = Files::open(options(&place), columns(), Handle::current()) else {
        panic!("a file is no folder");
    };
    assert!(error.chain().contains(place.to_str().unwrap()), "{}", error.chain());

    // Root may write anywhere.
    let files = open(options(&folder.path().join("open")));
    fs::set_permissions(folder.path().join("open"), fs::Permissions::from_mode(0o500)).unwrap();
    let may_write = fs::write(folder.path().join("open/tried"), "").is_ok();
    let mut sink = begun(&files, 0);
    let written = write(&mut *sink, batch(0, 1, &[row(0)]), &[]).await;
    fs::set_permissions(folder.path().join("open"), fs::Permissions::from_mode(0o700)).unwrap();
    if !may_write {
        let error = written.err().unwrap();
        assert_eq!(error.disposition(), Disposition::Retry);
        let named = folder.path().join("open");
        assert!(error.chain().contains(named.to_str().unwrap()), "{}", error.chain());
        // The same batch again, now that it may.
        let receipt = write(&mut *sink, batch(0, 1, &[row(0)]), &[]).await.unwrap();
        sink.flush();
        receipt.durable.await.unwrap();
        assert_eq!(rows(&named), [row(0)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_said_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut millstream_files::FilesOptions)| {
        let mut given = options(&folder.path().join("{date}"));
        change(&mut given);
        Files::accepts(&columns(), &given).unwrap_err()
    };
    let told = refused(&|given| given.date = Some("dya".into()));
    assert_eq!(told, "the rows have no column `dya`");
    let told = refused(&|given| given.date = Some("text".into()));
    assert!(told.contains("`text` is string"), "{told}");
    let told = refused(&|given| {
        given.folder = millstream_files::Folder::parse(folder.path()).unwrap();
        given.date = Some("day".into());
    });
    assert!(told.contains("has no `{date}`"), "{told}");
}
