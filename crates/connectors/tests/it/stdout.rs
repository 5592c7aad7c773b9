//! Rows on the standard output, which a buffer or a pipe stands in for.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::conformance::row;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use futures::FutureExt;
use millstream_connectors::stdout::{Output, Shown, StdoutSink, StdoutSinkOptions};
use millstream_core::{Batch, Disposition, Sink};
use millstream_testkit::conformance::{self, Again, Stage};
use parking_lot::Mutex;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn options(shown: Shown, out: impl Write + Send + 'static) -> StdoutSinkOptions {
    let columns = conformance::schema();
    StdoutSinkOptions { shown, columns, out: Output::new(out), nobody_reads: Arc::new(|| {}) }
}

fn batch(keys: usize) -> Batch {
    let keys: Vec<_> = (0..keys).map(|key| format!("k{key}")).collect();
    let numbers = arrow_array::Int64Array::from_iter_values(0..keys.len() as i64);
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(keys)), Arc::new(numbers)];
    Batch::same(RecordBatch::try_new(conformance::schema(), columns).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_output_does_what_all_do() {
    let written = Written::default();
    let out = written.clone();
    let out = Output::new(out);
    let stage = Stage {
        open: Box::new(move || {
            let own = options(Shown::JsonLines, io::sink());
            Box::new(StdoutSink::new(StdoutSinkOptions { out: out.clone(), ..own }).unwrap())
        }),
        stored: Box::new(move || {
            let text = written.0.lock().clone();
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let rows = lines.map(row).collect();
            async move { rows }.boxed()
        }),
        again: Again::Repeats,
        by_key: false,
    };
    stage.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_a_frame_around_each_batch() {
    let written = Written::default();
    let mut sink = StdoutSink::new(options(Shown::Table, written.clone())).unwrap();
    for _ in 0..2 {
        assert_eq!(sink.write(&batch(2)).await.unwrap().rows, 2);
    }
    let text = String::from_utf8(written.0.lock().clone()).unwrap();
    let table = "+-----+--------+\n\
                 | key | number |\n\
                 +-----+--------+\n\
                 | k0  | 0      |\n\
                 | k1  | 1      |\n\
                 +-----+--------+\n";
    assert_eq!(text, table.repeat(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_slows_the_writer_and_gets_all() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut sink = StdoutSink::new(options(Shown::JsonLines, writer)).unwrap();
    // More than a pipe holds.
    let rows = batch(20_000);
    let mut writing = sink.write(&rows);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut writing).await;
    assert!(early.is_err(), "nobody has read it yet");
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(writing.await.unwrap().rows, 20_000);
    drop(sink);
    let text = reading.await.unwrap();
    let rows: Vec<_> = text.lines().map(|line| row(line.as_bytes())).collect();
    assert!(rows.iter().map(|(_, number)| *number).eq(0..20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_is_asked_to_end_when_nobody_reads_any_more() {
    let (reader, writer) = io::pipe().unwrap();
    let asked = Arc::new(AtomicBool::new(false));
    let ask = asked.clone();
    let mut options = options(Shown::JsonLines, writer);
    options.nobody_reads = Arc::new(move || ask.store(true, Ordering::Relaxed));
    let mut sink = StdoutSink::new(options).unwrap();
    sink.write(&batch(3)).await.unwrap();
    assert!(!asked.load(Ordering::Relaxed));
    drop(reader);
    let error = sink.write(&batch(3)).await.err().unwrap();
    assert_eq!((error.kind(), error.disposition()), ("nobody_reads", Disposition::Stop));
    assert!(asked.load(Ordering::Relaxed));
}

/// A file that the output goes to, on a disk that takes so many bytes, and then no more for a moment.
struct Full(usize, Written);

impl Write for Full {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let taken = text.len().min(self.0);
        if taken == 0 {
            self.0 = usize::MAX;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= taken;
        self.1.write(&text[..taken])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What one task tore, another's rows do not go on with.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_now_is_tried_again_on_lines_of_its_own() {
    let length = r#"{"key":"k0","number":0}"#.len() + 1;
    for room in [0, 1, length - 1, length, length + 5] {
        let written = Written::default();
        let out = Output::new(Full(room, written.clone()));
        let [mut one, mut other] = [(); 2].map(|()| {
            let own = options(Shown::JsonLines, io::sink());
            StdoutSink::new(StdoutSinkOptions { out: out.clone(), ..own }).unwrap()
        });
        let error = one.write(&batch(3)).await.err().unwrap();
        assert_eq!((error.kind(), error.disposition()), ("stdout", Disposition::Retry));
        other.write(&batch(4)).await.unwrap();
        one.write(&batch(3)).await.unwrap();
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        assert!(text.lines().all(|line| !line.is_empty()), "{text}");
        let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok());
        let whole: Vec<_> = whole.map(|line| row(line.as_bytes()).1).collect();
        assert!(whole.ends_with(&[0, 1, 2, 3, 0, 1, 2]), "{text}");
    }
}

/// One that is given up may be half-way: what comes after it comes after all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_given_up_ends_before_the_next() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut sink = StdoutSink::new(options(Shown::JsonLines, writer)).unwrap();
    // More than a pipe holds.
    let (many, few) = (batch(20_000), batch(3));
    let given_up = sink.write(&many);
    assert!(tokio::time::timeout(Duration::from_millis(200), given_up).await.is_err());
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    sink.write(&few).await.unwrap();
    drop(sink);
    let text = reading.await.unwrap();
    let numbers = text.lines().map(|line| row(line.as_bytes()).1);
    assert!(numbers.eq((0..20_000).chain(0..3)), "batches are mixed");
}
