//! Rows by key from a server that answers with JSON.
//!
//! ```text
//!  GET   a request a key: {column} in the address        404: a miss
//!  POST  a request for many keys, as a JSON array        rows are matched by their key columns
//! ```

use crate::answer::{Answer, Meaning};
use crate::client::Client;
use crate::request::{Headers, Request, Site};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use hyper::Method;
use hyper::header::{self, HeaderValue};
use millstream_core::{
    Decoder, Disposition, Encoder, Error, Found, Headers as RecordHeaders, Lookup, LookupKey,
    Record, RecordsBuilder, Result,
};
use millstream_formats::json::{JsonDecoder, JsonEncoder, JsonOptions};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

#[derive(Debug, Clone)]
pub struct HttpLookupOptions {
    /// The address; with `{column}` where keys are asked for one by one.
    pub address: String,
    pub ask: Ask,
    pub headers: Headers,
    /// The JSON pointer to the row, or to the array of rows, in an answer.
    pub rows: String,
    /// The columns of the rows.
    pub columns: SchemaRef,
    /// Requests under way at a time, of all partitions together.
    pub concurrency: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Get,
    Post {
        /// The body, where `{keys}` is the array; the array alone unless given.
        body: Option<String>,
        /// Keys in one request.
        keys_max: usize,
    },
}

pub struct HttpLookup {
    client: Arc<Client>,
    options: HttpLookupOptions,
    site: Site,
    /// The path with the query, cut at its placeholders.
    target: Vec<Piece>,
    key: Vec<String>,
    key_columns: SchemaRef,
    under_way: Semaphore,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Column(String),
}

/// The columns that an address names. The error is a sentence for the user.
pub fn placeholders(address: &str) -> Result<Vec<String>, String> {
    let names = pieces(address)?.into_iter().filter_map(|piece| match piece {
        Piece::Column(name) => Some(name),
        Piece::Text(_) => None,
    });
    let mut distinct = Vec::new();
    names.for_each(|name| {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    });
    Ok(distinct)
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or("`{` in the address is not closed: a column is written as `{column}`")?;
        if name.is_empty() {
            return Err("`{}` in the address names no column".to_owned());
        }
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Column(name.to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

impl HttpLookup {
    /// `key_columns` are the columns that keys will come in, in the order of the key.
    pub fn open(
        client: Arc<Client>,
        options: HttpLookupOptions,
        key: &LookupKey,
        key_columns: SchemaRef,
    ) -> Result<HttpLookup> {
        let wrong = |why: String| Error::stop("lookup", why);
        let LookupKey::Equal(key) = key else {
            return Err(wrong("a server is asked by equality, not by a range".into()));
        };
        let named = placeholders(&options.address).map_err(wrong)?;
        if options.ask == Ask::Get {
            let all = named.iter().all(|name| key.contains(name));
            if !all || named.len() != key.len() {
                return Err(wrong(format!(
                    "the address has {} and is asked by {}",
                    named.join(", "),
                    key.join(", ")
                )));
            }
        } else if !named.is_empty() {
            return Err(wrong("with `keys` the address has no columns".into()));
        }
        // A placeholder may stand in the path and in the query only.
        let mut plain = String::new();
        let mut marked = String::new();
        for piece in pieces(&options.address).map_err(wrong)? {
            match piece {
                Piece::Text(text) => {
                    plain.push_str(&text);
                    marked.push_str(&text);
                }
                Piece::Column(name) => {
                    let at = key.iter().position(|key| *key == name).unwrap_or_default();
                    plain.push('x');
                    marked.push_str(&mark(at));
                }
            }
        }
        let (site, _) = Site::of(&plain).map_err(wrong)?;
        let (same, target) = Site::of(&marked).map_err(wrong)?;
        if same != site {
            return Err(wrong("a column in the address stands in its path or its query".into()));
        }
        JsonEncoder::new(key_columns.clone())?;
        Ok(HttpLookup {
            target: cut(&target, key),
            under_way: Semaphore::new(options.concurrency.max(1)),
            key: key.clone(),
            client,
            options,
            site,
            key_columns,
        })
    }

    async fn get(&self, key: &[Value]) -> Result<Vec<Value>> {
        let mut target = String::new();
        for piece in &self.target {
            match piece {
                Piece::Text(text) => target.push_str(text),
                Piece::Column(name) => {
                    let at = self.key.iter().position(|column| column == name);
                    let text = at.map(|at| text_of(&key[at])).unwrap_or_default();
                    // As a part of a path it would mean another one.
                    if text == "." || text == ".." {
                        return Ok(Vec::new());
                    }
                    encode(&text, &mut target);
                }
            }
        }
        let answer = self.request(&Method::GET, &target, Bytes::new()).await?;
        match answer.meaning() {
            Meaning::Absent => return Ok(Vec::new()),
            Meaning::Done => {}
            _ => return Err(answer.error(&self.asked(&Method::GET, &target))),
        }
        let mut rows = self.rows(&answer, &self.asked(&Method::GET, &target))?;
        for row in &mut rows {
            for (name, value) in self.key.iter().zip(key) {
                if !row.contains_key(name) {
                    row.insert(name.clone(), value.clone());
                }
            }
        }
        Ok(rows.into_iter().map(Value::Object).collect())
    }

    /// The rows of many keys, by key; a request that is refused is halved.
    fn post<'a>(
        &'a self,
        keys: &'a [(usize, Vec<Value>)],
    ) -> BoxFuture<'a, Result<Vec<(usize, Value)>>> {
        async move {
            let failed = match self.post_once(keys).await {
                Err(error) if error.disposition() == Disposition::Reject => error,
                other => return other,
            };
            if keys.len() == 1 {
                return Err(failed);
            }
            let (first, second) = keys.split_at(keys.len() / 2);
            let mut found = self.post(first).await?;
            found.extend(self.post(second).await?);
            Ok(found)
        }
        .boxed()
    }

    async fn post_once(&self, keys: &[(usize, Vec<Value>)]) -> Result<Vec<(usize, Value)>> {
        let Ask::Post { body, .. } = &self.options.ask else { return Ok(Vec::new()) };
        let one = |key: &[Value]| match key {
            [alone] => alone.clone(),
            many => {
                let named = self.key.iter().cloned().zip(many.iter().cloned());
                Value::Object(named.collect())
            }
        };
        let array = Value::Array(keys.iter().map(|(_, key)| one(key)).collect()).to_string();
        let content = match body {
            Some(body) => body.replace("{keys}", &array),
            None => array,
        };
        let target = match self.target.first() {
            Some(Piece::Text(target)) => target.as_str(),
            _ => "/",
        };
        let answer = self.request(&Method::POST, target, Bytes::from(content)).await?;
        let asked = self.asked(&Method::POST, target);
        match answer.meaning() {
            Meaning::Done => {}
            // Whoever knows none of the keys answers with no rows.
            Meaning::Absent => {
                let told = format!("{asked}: HTTP {}; is this its address?", answer.status);
                return Err(Error::retry("refused", told));
            }
            _ => return Err(answer.error(&asked)),
        }
        let by_text: HashMap<Vec<String>, usize> =
            keys.iter().map(|(at, key)| (key.iter().map(text_of).collect(), *at)).collect();
        let mut found = Vec::new();
        for row in self.rows(&answer, &asked)? {
            let key = self.key.iter().map(|name| row.get(name).map(text_of));
            let Some(key) = key.collect::<Option<Vec<String>>>() else {
                let told = format!("{asked}: a row has no `{}`", self.key.join("` or no `"));
                return Err(Error::retry("nonsense", told));
            };
            if let Some(at) = by_text.get(&key) {
                found.push((*at, Value::Object(row)));
            }
        }
        Ok(found)
    }

    async fn request(&self, method: &Method, target: &str, body: Bytes) -> Result<Answer> {
        let _turn = self.under_way.acquire().await;
        let headers = &self.options.headers;
        let json = HeaderValue::from_static("application/json");
        let mut more = Vec::new();
        if !headers.has(&header::ACCEPT) {
            more.push((header::ACCEPT, json.clone()));
        }
        if !body.is_empty() && !headers.has(&header::CONTENT_TYPE) {
            more.push((header::CONTENT_TYPE, json));
        }
        self.client.ask(&Request { method, site: &self.site, target, headers, more, body }).await
    }

    /// Keys are data, and stay out of what is told.
    fn asked(&self, method: &Method, _: &str) -> String {
        let path: String = self
            .target
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Column(name) => format!("{{{name}}}"),
            })
            .collect();
        format!("{method} {}", self.site.shown(&path))
    }

    fn rows(&self, answer: &Answer, asked: &str) -> Result<Vec<Map<String, Value>>> {
        let nonsense = |what: &str| Error::retry("nonsense", format!("{asked}: {what}"));
        let body = answer.body.as_ref().ok_or_else(|| {
            let told = format!("{asked}: the answer is longer than may be read");
            Error::reject("too_large", told)
        })?;
        if body.is_empty() {
            return Ok(Vec::new());
        }
        let json: Value = serde_json::from_slice(body)
            .map_err(|error| nonsense("the answer is not JSON").because(error))?;
        let object = |row: Value| match row {
            Value::Object(row) => Ok(row),
            _ => Err(nonsense("a row in the answer is not an object")),
        };
        match json.pointer(&self.options.rows) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(rows)) => rows.iter().cloned().map(object).collect(),
            Some(row) => Ok(vec![object(row.clone())?]),
        }
    }

    fn keys(&self, keys: &RecordBatch) -> Result<Vec<Vec<Value>>> {
        let named = RecordBatch::try_new(self.key_columns.clone(), keys.columns().to_vec());
        let named = named.map_err(|e| Error::stop("lookup", "reading the keys").because(e))?;
        let encoded = JsonEncoder::new(self.key_columns.clone())?.encode(&named)?;
        if let Some((_, why)) = encoded.rejected.first() {
            return Err(Error::reject("unencodable", format!("a key: {why}")));
        }
        (0..encoded.len())
            .map(|row| {
                let read = serde_json::from_slice::<Map<String, Value>>(encoded.row(row));
                let read = read.map_err(|e| Error::stop("lookup", "reading a key").because(e))?;
                Ok(self
                    .key
                    .iter()
                    .map(|name| read.get(name).cloned().unwrap_or_default())
                    .collect())
            })
            .collect()
    }

    /// Rows by key, in the order of the keys, as columns.
    fn found(&self, by_key: Vec<Vec<Value>>) -> Result<Found> {
        let mut builder = RecordsBuilder::new();
        let mut ends = Vec::with_capacity(by_key.len());
        for row in by_key.into_iter().flat_map(|rows| {
            let count = rows.len() as u32;
            ends.push(ends.last().copied().unwrap_or(0) + count);
            rows
        }) {
            let text = row.to_string();
            builder.push(Record {
                offset: builder.len() as i64,
                timestamp: 0,
                key: None,
                value: Some(text.as_bytes()),
                headers: RecordHeaders::default(),
            });
        }
        let next = builder.len() as i64;
        let options = JsonOptions { record_bytes_max: usize::MAX };
        let mut decoder = JsonDecoder::new(self.options.columns.clone(), options)?;
        let decoded = decoder.decode(&builder.finish(next))?;
        match decoded.rejected.first() {
            None => Ok(Found { rows: decoded.batch.rows, ends }),
            Some(rejection) => Err(Error::reject(
                "malformed",
                format!(
                    "{}: a row of the answer: {}",
                    self.asked(&Method::GET, ""),
                    rejection.reason
                ),
            )),
        }
    }
}

#[async_trait]
impl Lookup for HttpLookup {
    fn schema(&self) -> SchemaRef {
        self.options.columns.clone()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let keys = self.keys(keys)?;
        let at_once = self.options.concurrency.max(1);
        let by_key = match &self.options.ask {
            Ask::Get => {
                let mut asked = Vec::with_capacity(keys.len());
                for key in &keys {
                    asked.push(self.get(key).boxed());
                }
                stream::iter(asked).buffered(at_once).try_collect::<Vec<_>>().await?
            }
            Ask::Post { keys_max, .. } => {
                let mut by_key = vec![Vec::new(); keys.len()];
                let keys: Vec<(usize, Vec<Value>)> = keys.into_iter().enumerate().collect();
                let mut groups = Vec::new();
                for group in keys.chunks((*keys_max).max(1)) {
                    groups.push(self.post(group));
                }
                let mut found = stream::iter(groups).buffered(at_once);
                while let Some(rows) = found.try_next().await? {
                    rows.into_iter().for_each(|(at, row)| by_key[at].push(row));
                }
                by_key
            }
        };
        self.found(by_key)
    }
}

/// A text that no address has, in place of a key's column.
fn mark(at: usize) -> String {
    format!("--key-{at}--")
}

fn cut(target: &str, key: &[String]) -> Vec<Piece> {
    let mut pieces = vec![Piece::Text(target.to_owned())];
    for (at, name) in key.iter().enumerate() {
        let mark = mark(at);
        pieces = pieces
            .into_iter()
            .flat_map(|piece| {
                let Piece::Text(text) = piece else { return vec![piece] };
                let mut cut = Vec::new();
                for (at, part) in text.split(mark.as_str()).enumerate() {
                    if at > 0 {
                        cut.push(Piece::Column(name.clone()));
                    }
                    cut.push(Piece::Text(part.to_owned()));
                }
                cut
            })
            .collect();
    }
    pieces
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Everything but what RFC 3986 calls unreserved.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}
