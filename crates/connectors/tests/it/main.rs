//! Connectors on a log whose disk fails in part.

mod conformance;
mod files;
mod kafka;
mod stdout;
mod tables;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use millstream_connectors::RecordColumns;
use millstream_connectors::topic::{TopicSink, TopicSinkOptions};
use millstream_core::{Batch, Sink};
use millstream_formats::json::JsonEncoder;
use millstream_log::files::{Entry, File, Files, How, RealFiles};
use millstream_log::{Log, Options, Reader, TopicOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The real files, but every second one that is opened for writing has no room while `full` is set.
#[derive(Debug)]
struct HalfFull(Arc<AtomicBool>);

#[derive(Debug)]
struct MayBeFull(Arc<dyn File>, Arc<AtomicBool>);

impl Files for HalfFull {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealFiles.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        RealFiles.list(dir)
    }
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        let file = RealFiles.open(path, how)?;
        let partition = path.parent().and_then(Path::file_name).unwrap_or_default();
        let odd = partition.to_string_lossy().parse::<u32>().is_ok_and(|number| number % 2 == 1);
        Ok(if odd { Arc::new(MayBeFull(file, self.0.clone())) } else { file })
    }
    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        RealFiles.modified_ms(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove_file(path)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        RealFiles.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealFiles.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        RealFiles.lock(path)
    }
}

impl File for MayBeFull {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_at(into, at)
    }
    fn write_at(&self, parts: &[&[u8]], at: u64) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.0.write_at(parts, at)
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[tokio::test]
async fn a_batch_that_is_given_again_is_in_no_partition_twice() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let options = Options { files: Arc::new(HalfFull(full.clone())), ..Options::default() };
    let log = Log::open(dir.path(), options).unwrap();
    let topic_options = TopicOptions { partitions: 4, ..TopicOptions::default() };
    let topic = log.create_topic("out", topic_options).unwrap();

    let names: Vec<String> = (0..100).map(|number| format!("name {number}")).collect();
    let column: ArrayRef = Arc::new(StringArray::from(names));
    let batch = Batch::same(RecordBatch::try_from_iter([("name", column)]).unwrap());
    let mut sink = TopicSink::new(TopicSinkOptions {
        topic: topic.clone(),
        encoder: Box::new(JsonEncoder::new(batch.rows.schema()).unwrap()),
        columns: RecordColumns { key: Some("name".into()), ..RecordColumns::default() },
    });

    full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(sink.write(&batch).await.is_err(), "half of the partitions have no room");
    }
    full.store(false, Ordering::Relaxed);
    let receipt = sink.write(&batch).await.unwrap();
    receipt.durable.await.unwrap();
    assert_eq!(receipt.rows, 100);

    let mut there = 0;
    for partition in 0..4 {
        let partition = topic.partition(partition).unwrap();
        assert!(partition.end_offset() > 0, "every partition has some of a hundred keys");
        let mut reader = Reader::new(&partition, 0, 1 << 20).unwrap();
        while let Some(records) = reader.try_next().unwrap() {
            there += records.len();
        }
    }
    assert_eq!(there, 100);
}
