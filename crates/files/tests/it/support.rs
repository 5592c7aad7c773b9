//! Batches with offsets, and what readers find in a folder.

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Int64Type};
use arrow_array::{ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{
    Batch, Beginning, Headers, Origin, Partition, Receipt, Record, Records, RecordsBuilder,
    Rejection, Sink,
};
use millstream_files::{Compression, Files, FilesOptions, Folder, Format, Roll};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

pub const LINES: Format = Format::JsonLines(Compression::None);

/// A row: the offset it stems from, its place among that offset's rows, its day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub offset: i64,
    pub nth: i64,
    pub day: Option<i32>,
}

pub fn row(offset: i64) -> Row {
    Row { offset, nth: 0, day: Some(0) }
}

pub fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("at", DataType::Int64, true),
        Field::new("nth", DataType::Int64, true),
        Field::new("day", DataType::Date32, true),
        Field::new("text", DataType::Utf8, true),
    ]))
}

/// Rows that stem from the records `from..to`; some records may have none.
pub fn batch(from: i64, to: i64, rows: &[Row]) -> (Arc<Records>, Batch) {
    let mut builder = RecordsBuilder::new();
    for offset in from..to {
        let headers = Headers::default();
        builder.push(Record { offset, timestamp: 0, key: None, value: Some(b"r"), headers });
    }
    let columns_of: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.nth))),
        Arc::new(rows.iter().map(|row| row.day).collect::<Date32Array>()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "some text"))),
    ];
    let origin = rows.iter().map(|row| (row.offset - from) as u32).collect();
    let rows = RecordBatch::try_new(columns(), columns_of).unwrap();
    (Arc::new(builder.finish(to)), Batch::new(rows, Origin::Rows(origin)))
}

pub fn options(folder: &Path) -> FilesOptions {
    FilesOptions {
        folder: Folder::parse(folder).unwrap(),
        date: None,
        format: LINES,
        roll: Roll { rows: 1_000_000, bytes: 1 << 30, after: Duration::from_secs(3600) },
        pipeline: "orders".into(),
        sink: "archive".into(),
    }
}

pub fn open(options: FilesOptions) -> Arc<Files> {
    Files::open(options, columns(), Handle::current()).unwrap()
}

pub fn beginning(from: i64) -> Beginning {
    let place = Partition { source: "orders".into(), index: 3 };
    Beginning { place, identity: "topic:1".into(), from }
}

pub fn begun(files: &Arc<Files>, from: i64) -> Box<dyn Sink> {
    let mut sink = files.sink().unwrap();
    sink.begin(&beginning(from));
    sink
}

pub async fn write(
    sink: &mut dyn Sink,
    (records, batch): (Arc<Records>, Batch),
    dead: &[i64],
) -> millstream_core::Result<Receipt> {
    let first = records.first_offset().unwrap_or(0);
    let dead: Vec<Rejection> = dead
        .iter()
        .map(|offset| Rejection {
            source_row: (offset - first) as u32,
            kind: "malformed",
            reason: String::new(),
        })
        .collect();
    sink.stems_from(&records, &dead);
    sink.write(&batch).await
}

/// Names of all files below a folder, relative to it.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = paths(folder)
        .into_iter()
        .map(|path| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(paths(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The rows of all files that are in place.
pub fn rows(folder: &Path) -> Vec<Row> {
    let mut all = Vec::new();
    for path in paths(folder) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with('.') {
            continue;
        }
        let rows = rows_of(&path);
        let range = name.split('.').next().unwrap().rsplitn(3, '-').collect::<Vec<_>>();
        let (first, next) = (range[1].parse::<i64>().unwrap(), range[0].parse::<i64>().unwrap());
        if !name.contains("-again-") {
            assert_eq!(rows.iter().map(|row| row.offset).min(), Some(first), "{name}");
            assert_eq!(rows.iter().map(|row| row.offset).max(), Some(next - 1), "{name}");
        }
        all.extend(rows);
    }
    all.sort();
    all
}

fn rows_of(path: &Path) -> Vec<Row> {
    let mut text = Vec::new();
    let file = File::open(path).unwrap();
    match path.extension().unwrap().to_str().unwrap() {
        "parquet" => {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            return reader
                .flat_map(|batch| {
                    let batch = batch.unwrap();
                    let of = |row: usize| Row {
                        offset: batch.column(0).as_primitive::<Int64Type>().value(row),
                        nth: batch.column(1).as_primitive::<Int64Type>().value(row),
                        day: batch.column(2).as_primitive::<Date32Type>().iter().nth(row).unwrap(),
                    };
                    (0..batch.num_rows()).map(of).collect::<Vec<_>>()
                })
                .collect();
        }
        "gz" => drop(flate2::read::GzDecoder::new(file).read_to_end(&mut text).unwrap()),
        "zst" => drop(zstd::Decoder::new(file).unwrap().read_to_end(&mut text).unwrap()),
        _ => drop({ file }.read_to_end(&mut text).unwrap()),
    }
    let lines = text.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
    lines
        .map(|line| {
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            let day = |text: &str| {
                let day = ["1970-01-01", "1970-01-02", "1970-01-03", "1970-01-04"];
                day.iter().position(|day| *day == text).unwrap() as i32
            };
            Row {
                offset: line["at"].as_i64().unwrap(),
                nth: line["nth"].as_i64().unwrap(),
                day: line["day"].as_str().map(day),
            }
        })
        .collect()
}
