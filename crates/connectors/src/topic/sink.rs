//! Writes rows to a topic of the embedded log: encoded by a format, keyed by a column, partitioned
//! by the key's murmur2 as Kafka's Java client does, one record batch a partition.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMillisecondType;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema, TimeUnit};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Encoder, Receipt, Result, Sink};
use millstream_log::{BatchBuilder, Durable, Topic, partition_for};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub struct TopicSinkOptions {
    pub topic: Topic,
    pub encoder: Box<dyn Encoder>,
    /// The column whose value is the record's key.
    pub key: Option<String>,
    /// The column whose value is the record's timestamp; the time of writing without one.
    pub timestamp: Option<String>,
}

pub struct TopicSink {
    options: TopicSinkOptions,
    builders: Vec<BatchBuilder>,
    /// Where the next batch without keys goes.
    next_partition: u32,
    /// A batch of which some partitions were written when another failed.
    half: Option<Half>,
}

/// How far a batch got. When it is given again it goes on from here, so that a partition that has
/// room does not get it twice because another has none.
struct Half {
    batch: RecordBatch,
    unkeyed: u32,
    accepted: Vec<bool>,
    rows: u64,
    bytes: u64,
    durable: Vec<Durable>,
}

impl Half {
    fn is_of(&self, batch: &RecordBatch) -> bool {
        let (ours, theirs) = (self.batch.columns(), batch.columns());
        self.batch.num_rows() == batch.num_rows()
            && ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(ours, theirs)| Arc::ptr_eq(ours, theirs))
    }
}

/// The value of a key column as a record's key.
enum KeyColumn {
    Text(ArrayRef),
    Bytes(ArrayRef),
}

impl TopicSink {
    pub fn new(options: TopicSinkOptions) -> Self {
        let codec = options.topic.options().codec;
        let partitions = options.topic.partitions();
        Self {
            builders: (0..partitions).map(|_| BatchBuilder::new(codec)).collect(),
            next_partition: 0,
            half: None,
            options,
        }
    }

    /// Whether a column can be a key or a timestamp; what `check` asks before a row flows.
    pub fn accepts(
        schema: &Schema,
        key: Option<&str>,
        timestamp: Option<&str>,
    ) -> Result<(), String> {
        let find = |name: &str| {
            schema.field_with_name(name).map_err(|_| {
                let known: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                format!("there is no column `{name}`; there are {}", known.join(", "))
            })
        };
        if let Some(key) = key {
            let field = find(key)?;
            match field.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary => {}
                DataType::Dictionary(..) | DataType::Boolean => {}
                t if t.is_integer() || t.is_temporal() => {}
                other => {
                    return Err(format!(
                        "column `{key}` is {}: a key is text, bytes or a whole number",
                        millstream_core::types::name(other)
                    ));
                }
            }
        }
        if let Some(timestamp) = timestamp {
            let field = find(timestamp)?;
            if !matches!(field.data_type(), DataType::Timestamp(..) | DataType::Int64) {
                return Err(format!(
                    "column `{timestamp}` is {}: a record's timestamp is a timestamp or a bigint of milliseconds",
                    millstream_core::types::name(field.data_type())
                ));
            }
        }
        Ok(())
    }

    fn timestamps(&self, rows: &RecordBatch) -> Result<Option<ArrayRef>> {
        let Some(name) = &self.options.timestamp else { return Ok(None) };
        let column = column(rows, name)?;
        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        let cast = |array: &ArrayRef, to: &DataType| {
            arrow_cast::cast(array, to).map_err(|e| {
                millstream_core::Error::stop("timestamp", "casting a timestamp").because(e)
            })
        };
        let column = match column.data_type() {
            DataType::Int64 => cast(&column, &millis)?,
            DataType::Timestamp(TimeUnit::Millisecond, _) => column,
            _ => cast(&column, &millis)?,
        };
        Ok(Some(column))
    }

    fn keys(&self, rows: &RecordBatch) -> Result<Option<KeyColumn>> {
        let Some(name) = &self.options.key else { return Ok(None) };
        let column = column(rows, name)?;
        Ok(Some(match column.data_type() {
            DataType::Utf8 => KeyColumn::Text(column),
            DataType::Binary => KeyColumn::Bytes(column),
            _ => KeyColumn::Text(
                arrow_cast::cast(&column, &DataType::Utf8)
                    .map_err(|e| millstream_core::Error::stop("key", "casting a key").because(e))?,
            ),
        }))
    }
}

fn column(rows: &RecordBatch, name: &str) -> Result<ArrayRef> {
    rows.column_by_name(name).cloned().ok_or_else(|| {
        millstream_core::Error::stop("no_column", format!("the rows have no column `{name}`"))
    })
}

impl KeyColumn {
    #[inline]
    fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            KeyColumn::Text(array) => {
                let array = array.as_string::<i32>();
                (!array.is_null(row)).then(|| array.value(row).as_bytes())
            }
            KeyColumn::Bytes(array) => {
                let array = array.as_binary::<i32>();
                (!array.is_null(row)).then(|| array.value(row))
            }
        }
    }
}

#[async_trait]
impl Sink for TopicSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let encoded = self.options.encoder.encode(&batch.rows)?;
        let keys = self.keys(&batch.rows)?;
        let timestamps = self.timestamps(&batch.rows)?;
        let timestamps = timestamps.as_ref().map(|t| t.as_primitive::<TimestampMillisecondType>());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);

        let partitions = self.builders.len() as u32;
        let begun = self.half.take().filter(|half| half.is_of(&batch.rows));
        let mut half = begun.unwrap_or_else(|| {
            let unkeyed = self.next_partition % partitions;
            self.next_partition = unkeyed + 1;
            Half {
                batch: batch.rows.clone(),
                unkeyed,
                accepted: vec![false; partitions as usize],
                rows: 0,
                bytes: 0,
                durable: Vec::new(),
            }
        });
        self.builders.iter_mut().for_each(BatchBuilder::clear);
        let mut refused = encoded.rejected.iter().map(|(row, _)| *row as usize).peekable();
        for row in 0..encoded.len() {
            if refused.next_if_eq(&row).is_some() {
                continue;
            }
            let key = keys.as_ref().and_then(|keys| keys.get(row));
            let partition = key.map_or(half.unkeyed, |key| partition_for(key, partitions));
            let timestamp = match timestamps {
                Some(times) if !times.is_null(row) => times.value(row),
                _ => now,
            };
            self.builders[partition as usize].push(timestamp, key, Some(encoded.row(row)), &[]);
        }

        for (partition, builder) in self.builders.iter_mut().enumerate() {
            if builder.is_empty() || half.accepted[partition] {
                continue;
            }
            let rows = builder.len() as u64;
            let log = self.options.topic.partition(partition as u32).ok_or_else(|| {
                millstream_core::Error::stop("no_partition", "a partition is gone")
            })?;
            let built = builder.finish();
            match log.append(&built) {
                Ok(appended) => {
                    half.accepted[partition] = true;
                    half.durable.push(appended.durable);
                    half.rows += rows;
                    half.bytes += built.as_bytes().len() as u64;
                    builder.reuse(built);
                }
                Err(error) => {
                    self.half = Some(half);
                    return Err(error.into());
                }
            }
        }
        let Half { rows, bytes, durable, .. } = half;
        Ok(Receipt {
            rejected: encoded.rejected,
            rows,
            bytes,
            durable: async move {
                for part in durable {
                    part.await?;
                }
                Ok(())
            }
            .boxed(),
        })
    }
}
