//! Rows as requests.
//!
//! A batch's `write` ends when every row is stored or refused. When a server does not answer, what
//! is done of the batch is remembered: the same batch, given again, goes on where it was.

use crate::answer::Meaning;
use crate::client::Client;
use crate::request::{Headers, Request, Site};
use crate::units::{Unit, units};
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_schema::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use flate2::write::GzEncoder;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hyper::Method;
use hyper::header::{self, HeaderName, HeaderValue};
use millstream_core::{
    Batch, Beginning, Disposition, Encoded, Encoder, Error, Receipt, Records, Rejection, Result,
    Sink, fault,
};
use millstream_formats::json::JsonEncoder;
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct HttpSinkOptions {
    pub target: Target,
    pub method: Method,
    pub headers: Headers,
    pub body: Body,
    /// Rows and bytes of a request, where it has several rows.
    pub batch_rows: usize,
    pub batch_bytes: usize,
    /// Requests of a partition that are under way at a time. With one, and one row a request, rows
    /// reach the server in their order.
    pub concurrency: usize,
    pub gzip: bool,
    /// The header that has the same key whenever the same rows are sent.
    pub idempotency: Option<HeaderName>,
    pub pipeline: String,
    pub sink: String,
}

/// Where rows go.
#[derive(Debug, Clone)]
pub enum Target {
    Address(Site, String),
    /// A column with the address; it is no part of the body.
    Column(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// One row, as an object.
    Row,
    /// An array of objects.
    Array,
    /// An object a line.
    Lines,
}

/// A server bound to the columns of the rows; gives each partition task its sink.
pub struct HttpTarget {
    client: Arc<Client>,
    options: HttpSinkOptions,
    /// The columns of the body.
    columns: SchemaRef,
}

impl HttpTarget {
    /// The columns of the body. The error is a sentence for the user.
    pub fn accepts(columns: &Schema, target: &Target) -> Result<SchemaRef, String> {
        let mut fields = columns.fields().to_vec();
        if let Target::Column(name) = target {
            let at = columns.index_of(name);
            let at = at.map_err(|_| format!("the rows have no column `{name}`"))?;
            let data_type = fields.remove(at).data_type().clone();
            let is_text = match &data_type {
                DataType::Dictionary(_, values) => **values == DataType::Utf8,
                other => *other == DataType::Utf8,
            };
            if !is_text {
                let is = millstream_core::types::name(&data_type);
                return Err(format!("`{name}` is {is}: an address is text"));
            }
        }
        let columns = Arc::new(Schema::new(fields));
        JsonEncoder::new(columns.clone()).map_err(|error| error.chain())?;
        Ok(columns)
    }

    pub fn open(
        client: Arc<Client>,
        options: HttpSinkOptions,
        columns: &Schema,
    ) -> Result<Arc<HttpTarget>> {
        let columns = HttpTarget::accepts(columns, &options.target);
        let columns = columns.map_err(|why| Error::stop("sink", why))?;
        Ok(Arc::new(HttpTarget { client, options, columns }))
    }

    pub fn sink(self: &Arc<Self>) -> Result<Box<dyn Sink>> {
        Ok(Box::new(HttpSink {
            target: self.clone(),
            encoder: JsonEncoder::new(self.columns.clone())?,
            keys: Keys::aside(),
            records: None,
            progress: None,
        }))
    }

    /// Sends one request; gives the bytes of its body.
    async fn send(&self, unit: &Unit, encoded: &Encoded, key: Option<String>) -> Result<u64> {
        let HttpSinkOptions { method, headers, body, gzip, idempotency, .. } = &self.options;
        let (site, target) = &*unit.place;
        let mut more = Vec::new();
        if !headers.has(&header::CONTENT_TYPE) {
            let kind = match body {
                Body::Row | Body::Array => "application/json",
                Body::Lines => "application/x-ndjson",
            };
            more.push((header::CONTENT_TYPE, HeaderValue::from_static(kind)));
        }
        let mut content = body_of(*body, &unit.rows, encoded);
        if *gzip {
            content = packed(&content)?;
            more.push((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        if let (Some(name), Some(key)) = (idempotency, key)
            && let Ok(key) = HeaderValue::from_str(&key)
        {
            more.push((name.clone(), key));
        }
        let body = Bytes::from(content);
        let bytes = body.len() as u64;
        let answer =
            self.client.ask(&Request { method, site, target, headers, more, body }).await?;
        match answer.meaning() {
            Meaning::Done => Ok(bytes),
            _ if fault::bug("http_refused_is_done") => Ok(bytes),
            _ => Err(answer.error(&format!("{method} {}", site.shown(target)))),
        }
    }
}

fn body_of(body: Body, rows: &[u32], encoded: &Encoded) -> Vec<u8> {
    let mut content = Vec::new();
    if body == Body::Array {
        content.push(b'[');
    }
    for (at, row) in rows.iter().enumerate() {
        if at > 0 && body == Body::Array {
            content.push(b',');
        }
        content.extend_from_slice(encoded.row(*row as usize));
        if body == Body::Lines {
            content.push(b'\n');
        }
    }
    if body == Body::Array {
        content.push(b']');
    }
    content
}

fn packed(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let packed = encoder.write_all(content).and_then(|()| encoder.finish());
    packed.map_err(|e| Error::stop("http", "packing a body").because(e))
}

/// Where a row goes, or why that cannot be said.
type Placed = Result<Arc<(Site, String)>, String>;

struct HttpSink {
    target: Arc<HttpTarget>,
    encoder: JsonEncoder,
    keys: Keys,
    records: Option<Arc<Records>>,
    progress: Option<Progress>,
}

/// What is left of a batch.
struct Progress {
    batch: Batch,
    encoded: Arc<Encoded>,
    due: VecDeque<Unit>,
    rejected: Vec<(u32, String)>,
    rows: u64,
    bytes: u64,
}

#[async_trait]
impl Sink for HttpSink {
    fn begin(&mut self, beginning: &Beginning) {
        let HttpSinkOptions { pipeline, sink, .. } = &self.target.options;
        self.keys = Keys::of(pipeline, sink, beginning);
    }

    fn stems_from(&mut self, records: &Arc<Records>, _: &[Rejection]) {
        self.records = Some(records.clone());
    }

    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let mut progress = match self.progress.take() {
            Some(progress) if is_same(&progress.batch, batch) => progress,
            _ => self.begin_with(batch)?,
        };
        let target = &self.target;
        let (keys, records) = (&self.keys, self.records.as_ref());
        let has_key = target.options.idempotency.is_some();
        let mut under_way = FuturesUnordered::new();
        let mut failed: Option<Error> = None;
        loop {
            while failed.is_none()
                && under_way.len() < target.options.concurrency.max(1)
                && let Some(unit) = progress.due.pop_front()
            {
                let encoded = progress.encoded.clone();
                let key = has_key.then(|| keys.of_rows(batch, records, &unit.rows));
                under_way.push(async move {
                    let sent = target.send(&unit, &encoded, key).await;
                    (unit, sent)
                });
            }
            let Some((unit, sent)) = under_way.next().await else { break };
            match sent {
                Ok(bytes) => {
                    progress.rows += unit.rows.len() as u64;
                    progress.bytes += bytes;
                }
                Err(error) if error.disposition() != Disposition::Reject => {
                    progress.due.push_front(unit);
                    // Those under way are waited for: what is stored of them is not sent again.
                    failed = Some(error);
                }
                Err(error) => match unit.rows[..] {
                    [alone] => progress.rejected.push((alone, error.chain())),
                    _ => {
                        let (first, second) = unit.halves();
                        progress.due.push_front(second);
                        progress.due.push_front(first);
                    }
                },
            }
        }
        drop(under_way);
        if let Some(error) = failed {
            if !fault::bug("http_forget_progress") {
                self.progress = Some(progress);
            }
            return Err(error);
        }
        let Progress { mut rejected, rows, bytes, .. } = progress;
        rejected.sort_unstable_by_key(|(row, _)| *row);
        Ok(Receipt { rejected, rows, bytes, durable: async { Ok(()) }.boxed() })
    }
}

impl HttpSink {
    fn begin_with(&mut self, batch: &Batch) -> Result<Progress> {
        let options = &self.target.options;
        let (columns, addresses) = match &options.target {
            Target::Address(..) => (batch.rows.clone(), None),
            Target::Column(name) => {
                let (columns, addresses) = apart(&batch.rows, name)?;
                (columns, Some(addresses))
            }
        };
        let encoded = self.encoder.encode(&columns)?;
        let mut rejected = encoded.rejected.clone();
        let mut places = Vec::with_capacity(batch.len());
        let mut known: HashMap<&str, Placed> = HashMap::new();
        let fixed = match &options.target {
            Target::Address(site, target) => Some(Arc::new((site.clone(), target.clone()))),
            Target::Column(_) => None,
        };
        let mut refused = encoded.rejected.iter().map(|(row, _)| *row).peekable();
        for row in 0..batch.len() as u32 {
            if refused.next_if_eq(&row).is_some() {
                continue;
            }
            let place = match (&fixed, &addresses) {
                (Some(place), _) => Ok(place.clone()),
                (None, Some(addresses)) if addresses.is_valid(row as usize) => {
                    let address = addresses.value(row as usize);
                    known.entry(address).or_insert_with(|| Site::of(address).map(Arc::new)).clone()
                }
                (None, _) => Err("the row has no address".to_owned()),
            };
            match place {
                Ok(place) => places.push((row, place)),
                Err(why) => rejected.push((row, why)),
            }
        }
        let rows_max = if options.body == Body::Row { 1 } else { options.batch_rows.max(1) };
        let due = units(places.into_iter(), &encoded, rows_max, options.batch_bytes);
        Ok(Progress {
            batch: batch.clone(),
            encoded: Arc::new(encoded),
            due: due.into(),
            rejected,
            rows: 0,
            bytes: 0,
        })
    }
}

/// The columns without that of the addresses, and the addresses.
fn apart(rows: &RecordBatch, name: &str) -> Result<(RecordBatch, StringArray)> {
    let gone = |error| Error::stop("sink", "taking the address from the rows").because(error);
    let at = rows.schema_ref().index_of(name).map_err(gone)?;
    let addresses = cast(rows.column(at), &DataType::Utf8).map_err(gone)?.as_string().clone();
    let others: Vec<usize> = (0..rows.num_columns()).filter(|column| *column != at).collect();
    Ok((rows.project(&others).map_err(gone)?, addresses))
}

fn is_same(one: &Batch, other: &Batch) -> bool {
    let (a, b) = (one.rows.columns(), other.rows.columns());
    one.len() == other.len()
        && a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.to_data().ptr_eq(&b.to_data()))
        && one.origin.iter().eq(other.origin.iter())
}

/// Names for requests that are the same whenever the same rows are sent.
struct Keys {
    prefix: String,
    /// Rows that an operator sends again have no position.
    begun: bool,
}

impl Keys {
    fn aside() -> Self {
        Self { prefix: uuid::Uuid::new_v4().to_string(), begun: false }
    }

    fn of(pipeline: &str, sink: &str, beginning: &Beginning) -> Self {
        let Beginning { place, identity, .. } = beginning;
        let whole = [pipeline, sink, identity, &place.source].join("\0");
        let tag = crc32c::crc32c(whole.as_bytes());
        Self { prefix: format!("{pipeline}-{sink}-{tag:08x}-p{}", place.index), begun: true }
    }

    fn of_rows(&self, batch: &Batch, records: Option<&Arc<Records>>, rows: &[u32]) -> String {
        // Which of its record's rows a row is.
        let place = |row: Option<&u32>| {
            let row = row.copied().unwrap_or_default() as usize;
            let origin = batch.origin.of(row);
            let nth = (0..row).rev().take_while(|before| batch.origin.of(*before) == origin);
            let offset = match records {
                Some(records) if self.begun => records.offset(origin as usize),
                _ => origin.into(),
            };
            format!("{offset}.{}", nth.count())
        };
        format!("{}-{}-{}", self.prefix, place(rows.first()), place(rows.last()))
    }
}
