//! The sink: one for a partition task, over what the tasks of a process share.

use crate::encode::{Format, Writer};
use crate::folder::{self, Folder};
use crate::names;
use crate::slot::{Appended, Shared, Work};
use crate::{error, place};
use arrow_schema::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{
    Batch, Beginning, Encoded, Encoder, Error, Receipt, Records, Rejection, Result, Sink,
};
use millstream_formats::json::JsonEncoder;
use parking_lot::Mutex;
use parquet::arrow::ArrowSchemaConverter;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;

#[derive(Debug, Clone)]
pub struct FilesOptions {
    pub folder: Folder,
    /// The column that `{date}` is the day of, in UTC; that of the write unless given.
    pub date: Option<String>,
    pub format: Format,
    pub roll: Roll,
    /// Whose files they are.
    pub pipeline: String,
    pub sink: String,
}

/// When a file is put in place: what comes first.
#[derive(Debug, Clone, Copy)]
pub struct Roll {
    pub rows: u64,
    pub bytes: u64,
    pub after: Duration,
}

/// Where the files of a sink go; gives each partition task its sink.
pub struct Files {
    pub(crate) options: FilesOptions,
    pub(crate) columns: SchemaRef,
    io: Handle,
    slots: Mutex<HashMap<String, Arc<Shared>>>,
}

impl Files {
    /// Whether rows of these columns can be written so. The error is a sentence for the user.
    pub fn accepts(columns: &Schema, options: &FilesOptions) -> Result<(), String> {
        match (&options.date, options.folder.has_date()) {
            (Some(name), true) => {
                let field = columns.field_with_name(name);
                let field = field.map_err(|_| format!("the rows have no column `{name}`"))?;
                if !folder::has_days(field.data_type()) {
                    return Err(format!(
                        "`{name}` is {}: `{{date}}` is made of a date or a timestamp",
                        millstream_core::types::name(field.data_type())
                    ));
                }
            }
            (Some(name), false) => {
                return Err(format!(
                    "`{name}` is to be the date, and the folder has no `{{date}}`"
                ));
            }
            (None, _) => {}
        }
        match options.format {
            Format::JsonLines(_) => {
                JsonEncoder::new(Arc::new(columns.clone())).map(drop).map_err(|e| e.chain())
            }
            Format::Parquet(_) => {
                if let Some(empty) = columns.fields().iter().find(|f| is_empty(f.data_type())) {
                    return Err(format!(
                        "`{}` has no fields: Parquet has no such column",
                        empty.name()
                    ));
                }
                let made = ArrowSchemaConverter::new().convert(columns);
                made.map(drop).map_err(|e| format!("the rows cannot be written as Parquet: {e}"))
            }
        }
    }

    /// Sees that the folder can be written. What takes long runs on `io`. Blocks.
    pub fn open(options: FilesOptions, columns: SchemaRef, io: Handle) -> Result<Arc<Files>> {
        Files::accepts(&columns, &options).map_err(|why| Error::stop("sink", why))?;
        let base = options.folder.base();
        place::make_folder(base)?;
        let tried = base.join(format!(".{}-{}.part", options.pipeline, uuid::Uuid::new_v4()));
        let made = std::fs::File::create(&tried).and_then(|_| std::fs::remove_file(&tried));
        made.map_err(|e| error::of(e, "write into", base))?;
        Ok(Arc::new(Files { options, columns, io, slots: Mutex::default() }))
    }

    pub fn sink(self: &Arc<Self>) -> Result<Box<dyn Sink>> {
        let encoder: Option<Box<dyn Encoder>> = match self.options.format {
            Format::JsonLines(_) => Some(Box::new(JsonEncoder::new(self.columns.clone())?)),
            Format::Parquet(_) => None,
        };
        let aside = names::prefix_aside(&self.options.pipeline, &self.options.sink);
        Ok(Box::new(FilesSink {
            files: self.clone(),
            encoder,
            shared: Arc::new(Shared::aside(aside)),
            generation: 0,
            begun: false,
            records: None,
            dead: Vec::new(),
            settled: 0,
            may_be_open: false,
        }))
    }
}

struct FilesSink {
    files: Arc<Files>,
    encoder: Option<Box<dyn Encoder>>,
    shared: Arc<Shared>,
    generation: u64,
    /// It has a partition; otherwise each write is put in place at once.
    begun: bool,
    records: Option<Arc<Records>>,
    /// Records that became dead letters and were not told to the slot yet.
    dead: Vec<i64>,
    settled: i64,
    may_be_open: bool,
}

#[async_trait]
impl Sink for FilesSink {
    fn begin(&mut self, beginning: &Beginning) {
        let FilesOptions { pipeline, sink, .. } = &self.files.options;
        let prefix = names::prefix(pipeline, sink, beginning);
        let mut slots = self.files.slots.lock();
        let shared = slots.entry(prefix.clone());
        let partition = beginning.place.index.to_string();
        self.shared = shared.or_insert_with(|| Arc::new(Shared::of(prefix, partition))).clone();
        self.generation = self.shared.generation.fetch_add(1, Ordering::SeqCst) + 1;
        self.settled = beginning.from;
        self.begun = true;
    }

    fn stems_from(&mut self, records: &Arc<Records>, dead: &[Rejection]) {
        self.records = Some(records.clone());
        self.dead.extend(dead.iter().map(|dead| records.offset(dead.source_row as usize)));
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.may_be_open) {
            self.aside(|shared, files| shared.close(files, None));
        }
    }

    fn settled(&mut self, upto: i64) {
        self.settled = upto;
        self.dead.retain(|offset| *offset >= upto);
        if self.shared.has_lists.load(Ordering::Relaxed) {
            self.aside(move |shared, _| shared.forget_lists(upto));
        }
    }

    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let encoded: Option<Encoded> = match &mut self.encoder {
            Some(encoder) => Some(encoder.encode(&batch.rows)?),
            None => None,
        };
        let work = Work {
            batch: batch.clone(),
            encoded,
            records: self.records.clone().filter(|_| self.begun),
            dead: std::mem::take(&mut self.dead),
            settled: self.settled,
            generation: self.generation,
        };
        let (shared, files) = (self.shared.clone(), self.files.clone());
        let appended = self.files.io.spawn_blocking(move || shared.append(&files, work)).await;
        let appended =
            appended.map_err(|e| Error::stop("files", "writing a file").because(e))??;
        let Appended { rejected, rows, bytes, durable, opened } = appended;
        self.may_be_open = durable.is_some();
        if let Some(set) = opened {
            let (shared, files) = (self.shared.clone(), self.files.clone());
            self.files.io.spawn(async move {
                tokio::time::sleep(files.options.roll.after).await;
                let close = move || shared.close(&files, Some(set));
                let _ = tokio::task::spawn_blocking(close).await;
            });
        }
        let durable = async move {
            match durable {
                None => Ok(()),
                Some(durable) => durable.await.unwrap_or_else(|_| {
                    Err(Error::retry("lost", "a file was given up before it was complete"))
                }),
            }
        };
        Ok(Receipt { rejected, rows, bytes, durable: durable.boxed() })
    }
}

impl FilesSink {
    /// What waits for the disk runs elsewhere.
    fn aside(&self, work: impl FnOnce(&Shared, &Files) + Send + 'static) {
        let (shared, files, generation) =
            (self.shared.clone(), self.files.clone(), self.generation);
        self.files.io.spawn_blocking(move || {
            if shared.generation.load(Ordering::SeqCst) == generation {
                work(&shared, &files);
            }
        });
    }
}

impl Drop for FilesSink {
    fn drop(&mut self) {
        let generation = self.generation;
        self.aside(move |shared, _| shared.give_up(generation));
    }
}

fn is_empty(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => {
            fields.is_empty() || fields.iter().any(|field| is_empty(field.data_type()))
        }
        DataType::List(item) | DataType::LargeList(item) => is_empty(item.data_type()),
        DataType::Map(entries, _) => is_empty(entries.data_type()),
        _ => false,
    }
}

// A writer goes to whichever thread has its turn.
const _: fn() = || {
    fn goes_anywhere<T: Send>() {}
    goes_anywhere::<Writer>();
};
