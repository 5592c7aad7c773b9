//! A file's rows by key, held in memory and read again when the file changes.

use super::rows;
use arrow_array::{Array, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_core::{Error, Found, Lookup, LookupKey, Result};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime};

#[derive(Debug, Clone)]
pub struct FileLookupOptions {
    pub path: PathBuf,
    pub columns: Option<SchemaRef>,
    pub delimiter: u8,
    /// How often the file is looked at for a change, also while nobody asks.
    pub reload: Duration,
}

/// The shortest time between two looks at a file.
const RELOAD_MIN: Duration = Duration::from_millis(10);

/// Rows in memory by one key. What a file lookup serves, and what tests stub with.
pub struct RowsLookup {
    rows: RecordBatch,
    index: Index,
}

enum Index {
    /// Rows by their key in row format, and the row numbers of each.
    Equal {
        converter: RowConverter,
        rows_of: HashMap<Box<[u8]>, Vec<u32>>,
    },
    Range(Ranges),
}

/// Ranges in order of their start, with the largest end so far, so that a search knows when no
/// earlier range can reach the key.
struct Ranges {
    converter: RowConverter,
    starts: Vec<Box<[u8]>>,
    ends: Vec<Box<[u8]>>,
    /// For each range the position of the one with the largest end among those up to it.
    reach: Vec<u32>,
    rows: Vec<u32>,
}

impl RowsLookup {
    pub fn new(rows: RecordBatch, key: &LookupKey) -> Result<Self, String> {
        let columns = key
            .columns()
            .into_iter()
            .map(|name| {
                rows.column_by_name(name)
                    .cloned()
                    .ok_or_else(|| format!("the lookup has no column `{name}`"))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let has_null = |row: usize| columns.iter().any(|column| column.is_null(row));
        let index = match key {
            LookupKey::Equal(_) => {
                let fields = columns.iter().map(|c| SortField::new(c.data_type().clone()));
                let converter = RowConverter::new(fields.collect()).map_err(|e| e.to_string())?;
                let keys = converter.convert_columns(&columns).map_err(|e| e.to_string())?;
                let mut rows_of: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
                for row in (0..rows.num_rows()).filter(|row| !has_null(*row)) {
                    rows_of.entry(keys.row(row).as_ref().into()).or_default().push(row as u32);
                }
                Index::Equal { converter, rows_of }
            }
            LookupKey::Range { start, end } => {
                if columns[0].data_type() != columns[1].data_type() {
                    return Err(format!(
                        "`{start}` is {} and `{end}` is {}: a range needs one type",
                        columns[0].data_type(),
                        columns[1].data_type()
                    ));
                }
                let field = SortField::new(columns[0].data_type().clone());
                let converter = RowConverter::new(vec![field]).map_err(|e| e.to_string())?;
                let convert = |column| {
                    let rows = converter.convert_columns(&[column]).map_err(|e| e.to_string())?;
                    Ok::<_, String>(
                        rows.iter().map(|r| r.as_ref().into()).collect::<Vec<Box<[u8]>>>(),
                    )
                };
                let starts = convert(columns[0].clone())?;
                let ends = convert(columns[1].clone())?;
                let mut order: Vec<u32> =
                    (0..rows.num_rows() as u32).filter(|row| !has_null(*row as usize)).collect();
                order.sort_by(|a, b| starts[*a as usize].cmp(&starts[*b as usize]));
                let pick = |from: &[Box<[u8]>]| -> Vec<Box<[u8]>> {
                    order.iter().map(|row| from[*row as usize].clone()).collect()
                };
                let (starts, ends) = (pick(&starts), pick(&ends));
                let mut reach: Vec<u32> = Vec::with_capacity(ends.len());
                for at in 0..ends.len() {
                    reach.push(match reach.last() {
                        Some(&best) if ends[best as usize] >= ends[at] => best,
                        _ => at as u32,
                    });
                }
                Index::Range(Ranges { converter, starts, ends, reach, rows: order })
            }
        };
        Ok(Self { rows, index })
    }

    fn find(&self, keys: &RecordBatch) -> Result<Found, String> {
        let mut picked = Vec::with_capacity(keys.num_rows());
        let mut ends = Vec::with_capacity(keys.num_rows());
        match &self.index {
            Index::Equal { converter, rows_of } => {
                let keys = converter.convert_columns(keys.columns()).map_err(|e| e.to_string())?;
                for key in &keys {
                    if let Some(rows) = rows_of.get(key.as_ref()) {
                        picked.extend_from_slice(rows);
                    }
                    ends.push(picked.len() as u32);
                }
            }
            Index::Range(ranges) => {
                let keys =
                    ranges.converter.convert_columns(keys.columns()).map_err(|e| e.to_string())?;
                for key in &keys {
                    ranges.find(key.as_ref(), &mut picked);
                    ends.push(picked.len() as u32);
                }
            }
        }
        let rows = arrow_select::take::take_record_batch(&self.rows, &UInt32Array::from(picked))
            .map_err(|e| e.to_string())?;
        Ok(Found { rows, ends })
    }
}

impl Ranges {
    fn find(&self, key: &[u8], picked: &mut Vec<u32>) {
        let from = picked.len();
        let mut at = self.starts.partition_point(|start| start.as_ref() <= key);
        while at > 0 {
            at -= 1;
            if self.ends[self.reach[at] as usize].as_ref() < key {
                break;
            }
            if self.ends[at].as_ref() >= key {
                picked.push(self.rows[at]);
            }
        }
        picked[from..].reverse();
    }
}

#[async_trait]
impl Lookup for RowsLookup {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        self.find(keys).map_err(|e| Error::stop("lookup", e))
    }
}

/// Rows of a file that are as old as its last change but for [`FileLookupOptions::reload`]: a thread
/// looks at the file, so that a quiet source's next row finds what is new, and no row waits for it.
pub struct FileLookup {
    shared: Arc<Shared>,
    /// Ends the thread when it is dropped.
    _watched: mpsc::Sender<()>,
}

struct Shared {
    options: FileLookupOptions,
    key: LookupKey,
    schema: SchemaRef,
    current: RwLock<Arc<RowsLookup>>,
    generation: AtomicU64,
}

/// What the thread knows of its file.
struct Watch {
    shared: Arc<Shared>,
    stamp: Option<Stamp>,
    /// That it cannot be seen was said.
    is_gone: bool,
}

/// What is another after a change: a file that is moved into place may have any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl FileLookup {
    pub fn open(mut options: FileLookupOptions, key: &LookupKey) -> Result<Self, String> {
        let stamp = Stamp::of(&options).ok();
        let rows = rows::read_all(&options.path, options.columns.clone(), options.delimiter)?;
        let schema = rows.schema();
        // A reload must give the columns that the plan was made for.
        options.columns = Some(schema.clone());
        let rows = Arc::new(RowsLookup::new(rows, key)?);
        let every = options.reload.max(RELOAD_MIN);
        let shared = Arc::new(Shared {
            options,
            key: key.clone(),
            schema,
            current: RwLock::new(rows),
            generation: AtomicU64::new(0),
        });
        let (watched, ended) = mpsc::channel();
        let mut watch = Watch { shared: shared.clone(), stamp, is_gone: false };
        std::thread::Builder::new()
            .name("lookup-reload".into())
            .spawn(move || {
                while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    watch.look();
                }
            })
            .map_err(|e| format!("cannot start a thread that reloads it: {e}"))?;
        Ok(Self { shared, _watched: watched })
    }
}

impl Watch {
    fn look(&mut self) {
        let shared = &self.shared;
        let shown = shared.options.path.display();
        let stamp = match Stamp::of(&shared.options) {
            Ok(stamp) => stamp,
            Err(error) => {
                if !std::mem::replace(&mut self.is_gone, true) {
                    tracing::warn!("{shown} cannot be read any more, its old rows stay: {error}");
                }
                return;
            }
        };
        if std::mem::take(&mut self.is_gone) {
            tracing::info!("{shown} is there again");
        }
        if self.stamp == Some(stamp) {
            return;
        }
        let options = &shared.options;
        let read = rows::read_all(&options.path, options.columns.clone(), options.delimiter)
            .and_then(|rows| RowsLookup::new(rows, &shared.key));
        match read {
            Ok(rows) => {
                tracing::info!(rows = rows.rows.num_rows(), "{shown} changed and was reloaded");
                *shared.current.write() = Arc::new(rows);
                shared.generation.fetch_add(1, Ordering::Release);
            }
            Err(error) => {
                tracing::warn!("{shown} changed but cannot be used, its old rows stay: {error}");
            }
        }
        self.stamp = Some(stamp);
    }
}

impl Stamp {
    fn of(options: &FileLookupOptions) -> std::io::Result<Self> {
        let meta = std::fs::metadata(&options.path)?;
        Ok(Self { modified: meta.modified()?, bytes: meta.len(), inode: meta.ino() })
    }
}

#[async_trait]
impl Lookup for FileLookup {
    fn schema(&self) -> SchemaRef {
        self.shared.schema.clone()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let rows = self.shared.current.read().clone();
        rows.get_many(keys).await
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::{DataType, Field, Schema};

    fn ranges() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("from", DataType::Int64, true),
            Field::new("to", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from(vec![Some(30), Some(0), Some(10), Some(12), None])),
                Arc::new(Int64Array::from(vec![Some(39), Some(100), Some(19), Some(15), Some(1)])),
                Arc::new(StringArray::from(vec!["c", "all", "a", "inner", "null"])),
            ],
        )
        .unwrap()
    }

    fn names(found: &Found, key: usize) -> Vec<String> {
        let names = found.rows.column_by_name("name").unwrap().as_string::<i32>();
        found.of(key).map(|row| names.value(row).to_owned()).collect()
    }

    fn keys(keys: Vec<i64>) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("k", DataType::Int64, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(keys))]).unwrap()
    }

    #[tokio::test]
    async fn ranges_may_nest_and_both_ends_belong() {
        let key = LookupKey::Range { start: "from".into(), end: "to".into() };
        let lookup = RowsLookup::new(ranges(), &key).unwrap();
        let found = lookup.get_many(&keys(vec![-1, 0, 10, 15, 19, 35, 100, 101])).await.unwrap();
        let want: [&[&str]; 8] = [
            &[],
            &["all"],
            &["all", "a"],
            &["all", "a", "inner"],
            &["all", "a"],
            &["all", "c"],
            &["all"],
            &[],
        ];
        for (at, want) in want.iter().enumerate() {
            assert_eq!(names(&found, at), *want, "key {at}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.csv");
        std::fs::write(&path, "from,name\n1,a\n1,b\n2,c\n").unwrap();
        let columns = Schema::new(vec![
            Field::new("from", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]);
        let options = FileLookupOptions {
            path: path.clone(),
            columns: Some(Arc::new(columns)),
            delimiter: b',',
            reload: Duration::ZERO,
        };
        let lookup = FileLookup::open(options, &LookupKey::Equal(vec!["from".into()])).unwrap();
        let found = lookup.get_many(&keys(vec![1, 3])).await.unwrap();
        assert_eq!((names(&found, 0), names(&found, 1)), (vec!["a".into(), "b".into()], vec![]));

        // Nobody asks meanwhile: the file is looked at all the same.
        let reloaded = |generation| {
            for _ in 0..1000 {
                if lookup.generation() == generation {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("it was not reloaded");
        };
        std::fs::write(&path, "from,name\nnot a number,x\n").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let found = lookup.get_many(&keys(vec![2])).await.unwrap();
        assert_eq!(names(&found, 0), ["c"], "a broken one is not used");
        std::fs::write(&path, "from,name\n3,reloaded\n").unwrap();
        reloaded(1);
        let found = lookup.get_many(&keys(vec![1, 3])).await.unwrap();
        assert_eq!(names(&found, 1), ["reloaded"]);

        std::fs::remove_file(&path).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let found = lookup.get_many(&keys(vec![3])).await.unwrap();
        assert_eq!(names(&found, 0), ["reloaded"], "its rows stay");
        std::fs::write(&path, "from,name\n3,again\n").unwrap();
        reloaded(2);
        let found = lookup.get_many(&keys(vec![3])).await.unwrap();
        assert_eq!(names(&found, 0), ["again"]);
    }

    #[tokio::test]
    async fn its_thread_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.csv");
        std::fs::write(&path, "from,name\n1,a\n").unwrap();
        let options =
            FileLookupOptions { path, columns: None, delimiter: b',', reload: Duration::ZERO };
        let lookup = FileLookup::open(options, &LookupKey::Equal(vec!["from".into()])).unwrap();
        let shared = Arc::downgrade(&lookup.shared);
        drop(lookup);
        for _ in 0..1000 {
            if shared.strong_count() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it goes on");
    }
}
