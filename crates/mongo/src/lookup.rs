//! Many keys in one call: asked in groups, matched by the values that come back.
//!
//! ```text
//!  keys ─► values ─┬─ null, or no such value: a miss without a call
//!                  └─ groups of at most `group` keys, some at a time
//!                        └─ find { k: { $in: [..] } }, or { $or: [{ k: .., l: .. }, ..] }
//!                              └─ a document that does not fit? its halves are asked, down to one key
//! ```

use crate::cluster::{Cluster, ReadFrom};
use crate::find::{FindCommand, Indexes, for_each};
use crate::read::{Table, path};
use crate::types::{Columns, Stored, schema, supported};
use crate::write::{self, Digits, Writer, key_writer};
use crate::{key, types::ColumnType};
use ahash::AHashMap;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use millstream_core::{Disposition, Error, Found, Lookup, LookupKey, Result, types};
use mongodb::bson::{RawDocument, RawDocumentBuf};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Documents that one call may look at, however many keys it has.
const DOCUMENTS_MAX: usize = 100_000;

/// Bytes of answers that one call may hold.
const BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Clone)]
pub struct MongoLookupOptions {
    pub database: String,
    pub collection: String,
    /// The fields to fetch. Those of the key among them say how its values stand in documents.
    pub columns: Columns,
    /// Keys in one request.
    pub group: usize,
    /// Requests under way at a time, of all partitions together.
    pub concurrency: usize,
    pub rows: Rows,
    /// The order of the rows of one key: fields, and whether the largest comes first.
    pub sort: Vec<(String, bool)>,
    pub read_from: ReadFrom,
    /// Such as `local` or `majority`; the server's unless given.
    pub read_concern: Option<String>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    First,
    /// A key with more rows is an error.
    All {
        max: usize,
    },
}

/// A collection bound to the fields that it is asked by.
pub struct MongoLookup {
    cluster: Arc<Cluster>,
    options: MongoLookupOptions,
    schema: SchemaRef,
    key: Vec<KeyField>,
    projection: Vec<u8>,
    under_way: Semaphore,
}

struct KeyField {
    name: Box<[u8]>,
    path: Vec<String>,
    writer: Writer,
}

impl MongoLookup {
    /// `key_types` are the types that the key's columns will come in.
    pub fn open(
        cluster: Arc<Cluster>,
        options: MongoLookupOptions,
        key: &LookupKey,
        key_types: &[DataType],
    ) -> Result<MongoLookup> {
        let wrong = |why: String| Error::stop("lookup", why);
        let fields = bind(&options.columns, key, key_types).map_err(wrong)?;
        let projection = projection(&options.columns, &fields).map_err(wrong)?;
        Ok(MongoLookup {
            schema: schema(&options.columns),
            under_way: Semaphore::new(options.concurrency.max(1)),
            cluster,
            options,
            key: fields,
            projection,
        })
    }

    /// What an operator should know before rows come: sentences, none when all is well. It has the
    /// errors of [`held_against`].
    pub async fn findings(&self, documents: usize) -> Result<Vec<String>> {
        let MongoLookupOptions { database, collection, timeout, .. } = &self.options;
        let mut findings = Vec::new();
        let indexes = Indexes::of(&self.cluster, database, collection, *timeout).await?;
        let names: Vec<&str> =
            self.key.iter().filter_map(|key| std::str::from_utf8(&key.name).ok()).collect();
        if !indexes.begins_with_any(&names) {
            findings.push(format!(
                "`{database}.{collection}` has no index that begins with {}: every call reads the \
                 whole collection",
                names.join(" or ")
            ));
        }
        let MongoLookupOptions { columns, read_from, .. } = &self.options;
        let place = (database.as_str(), collection.as_str());
        let held =
            held_against(&self.cluster, place, columns, documents, *read_from, *timeout).await?;
        findings.extend(held);
        Ok(findings)
    }

    fn what(&self) -> String {
        format!("looking up in {}.{}", self.options.database, self.options.collection)
    }

    /// The keys that can be there at all.
    fn asked(&self, keys: &RecordBatch) -> Vec<Asked> {
        let mut all = Vec::with_capacity(keys.num_rows());
        'rows: for row in 0..keys.num_rows() {
            let mut asked = Asked { row, form: Vec::new(), bytes: Vec::new(), ends: Vec::new() };
            for (field, column) in self.key.iter().zip(keys.columns()) {
                let at = write::begin(&mut asked.bytes);
                // What a document cannot hold is no document's key.
                let written = field.writer.write(b"", column, row, false, &mut asked.bytes);
                if written != Ok(true) || write::end(&mut asked.bytes, at).is_err() {
                    continue 'rows;
                }
                let value = RawDocument::from_bytes(&asked.bytes[at..]);
                let value = value.ok().and_then(|one| one.iter().next()).and_then(|v| v.ok());
                if !value.is_some_and(|(_, value)| key::canonical(value, &mut asked.form)) {
                    continue 'rows;
                }
                asked.ends.push(asked.bytes.len());
            }
            all.push(asked);
        }
        all
    }

    /// One request; when it fails for what it asked or found, its halves.
    fn ask<'a>(&'a self, asked: &'a [Asked]) -> BoxFuture<'a, Result<Vec<Answer>>> {
        async move {
            let failed = match self.request(asked).await {
                Ok(answer) => return Ok(vec![answer]),
                Err(error) => error,
            };
            if asked.len() == 1 || failed.disposition() != Disposition::Reject {
                return Err(failed);
            }
            let (first, second) = asked.split_at(asked.len() / 2);
            let mut answers = self.ask(first).await?;
            answers.extend(self.ask(second).await?);
            Ok(answers)
        }
        .boxed()
    }

    async fn request(&self, asked: &[Asked]) -> Result<Answer> {
        let what = self.what();
        let stop = |why: String| Error::stop("lookup", format!("{what}: {why}"));
        let command = self.command(asked).map_err(stop)?;
        let by_form: AHashMap<&[u8], usize> =
            asked.iter().enumerate().map(|(at, key)| (key.form.as_slice(), at)).collect();
        let mut table = Table::new(self.schema.clone()).map_err(stop)?;
        let mut of_key: Vec<Vec<u32>> = vec![Vec::new(); asked.len()];
        let (mut rows, mut looked_at, mut bytes) = (0, 0, 0);
        let _turn = self.under_way.acquire().await;
        let MongoLookupOptions { database, read_from, timeout, .. } = &self.options;
        let taken = self.cluster.find(database, command, *read_from, *timeout, &what, |batch| {
            bytes += batch.as_raw_document().as_bytes().len();
            if bytes > BYTES_MAX {
                let told = format!("{what}: what the keys find is larger than {BYTES_MAX} bytes");
                return Err(Error::reject("too_large", told));
            }
            for_each(&batch, &what, |document| {
                looked_at += 1;
                let found = self.matched(document, asked, &by_form);
                if found.is_empty() {
                    return Err(stop(
                        "a document came that no key asked for: the collection's collation finds \
                         what is not equal"
                            .into(),
                    ));
                }
                let mut taken = false;
                for at in found {
                    match self.options.rows {
                        Rows::First if !of_key[at].is_empty() => continue,
                        Rows::All { max } if of_key[at].len() >= max => return Err(self.too_many()),
                        _ => of_key[at].push(rows),
                    }
                    taken = true;
                }
                if taken {
                    table.push(document).map_err(|why| {
                        Error::reject("mismatch", format!("{what}: a document does not fit: {why}"))
                    })?;
                    rows += 1;
                }
                Ok(())
            })?;
            let done = self.options.rows == Rows::First && of_key.iter().all(|of| !of.is_empty());
            if !done && looked_at >= DOCUMENTS_MAX {
                return Err(self.too_many());
            }
            Ok(!done)
        });
        taken.await?;
        let rows = table.finish().map_err(|e| stop(e.to_string()))?;
        let of_key = asked.iter().map(|key| key.row).zip(of_key).collect();
        Ok(Answer { rows, of_key })
    }

    fn too_many(&self) -> Error {
        let what = self.what();
        Error::reject(
            "too_many_rows",
            match self.options.rows {
                Rows::All { max } => {
                    format!("{what}: a key has more than {max} documents; see `max_rows`")
                }
                Rows::First => format!("{what}: the keys have more than {DOCUMENTS_MAX} documents"),
            },
        )
    }

    /// The places in `asked` of the keys that a document is of: of several where a field of the key is
    /// an array.
    fn matched(
        &self,
        document: &RawDocument,
        asked: &[Asked],
        by_form: &AHashMap<&[u8], usize>,
    ) -> Vec<usize> {
        let values: Vec<Vec<Vec<u8>>> =
            self.key.iter().map(|field| key::in_document(document, &field.path)).collect();
        if values.iter().all(|of_field| of_field.len() == 1) {
            let form = values.into_iter().flatten().flatten().collect::<Vec<u8>>();
            return by_form.get(form.as_slice()).copied().into_iter().collect();
        }
        let is_of = |key: &Asked| {
            let mut rest = key.form.as_slice();
            values.iter().all(|of_field| {
                let found = of_field.iter().find(|form| rest.starts_with(form));
                found.is_some_and(|form| {
                    rest = &rest[form.len()..];
                    true
                })
            })
        };
        asked.iter().enumerate().filter(|(_, key)| is_of(key)).map(|(at, _)| at).collect()
    }

    fn command(&self, asked: &[Asked]) -> Result<RawDocumentBuf, String> {
        let mut filter = Vec::new();
        match &self.key[..] {
            [alone] => {
                let field = write::begin_document(&alone.name, &mut filter);
                let list = write::begin_array(b"$in", &mut filter);
                for (at, key) in asked.iter().enumerate() {
                    write::renamed(Digits::default().of(at), key.value(0), &mut filter);
                }
                write::end(&mut filter, list)?;
                write::end(&mut filter, field)?;
            }
            several => {
                let list = write::begin_array(b"$or", &mut filter);
                for (at, key) in asked.iter().enumerate() {
                    let one = write::begin_document(Digits::default().of(at), &mut filter);
                    for (at, field) in several.iter().enumerate() {
                        write::renamed(&field.name, key.value(at), &mut filter);
                    }
                    write::end(&mut filter, one)?;
                }
                write::end(&mut filter, list)?;
            }
        }
        let limit = match self.options.rows {
            Rows::First if asked.len() == 1 => 1,
            Rows::First => 0,
            Rows::All { max } => max.saturating_mul(asked.len()).saturating_add(1),
        };
        let find = FindCommand {
            filter: &filter,
            projection: &self.projection,
            sort: &self.options.sort,
            read_concern: self.options.read_concern.as_deref(),
            ..FindCommand::all(&self.options.collection)
        };
        find.limited(limit).build(self.options.timeout)
    }

    /// Rows in the order of the keys.
    fn found(&self, answers: Vec<Answer>, keys: usize) -> Result<Found> {
        let stop = |why: String| Error::stop("lookup", format!("{}: {why}", self.what()));
        let mut of_key: Vec<(u32, Vec<u32>)> = vec![(0, Vec::new()); keys];
        let (mut batches, mut before) = (Vec::with_capacity(answers.len()), 0);
        for answer in answers {
            for (key, rows) in answer.of_key {
                of_key[key] = (before, rows);
            }
            before += answer.rows.num_rows() as u32;
            batches.push(answer.rows);
        }
        let all = match batches.len() {
            1 => batches.remove(0),
            _ => concat_batches(&self.schema, &batches).map_err(|e| stop(e.to_string()))?,
        };
        let mut ends = Vec::with_capacity(keys);
        let mut order = Vec::with_capacity(before as usize);
        for (start, rows) in of_key {
            order.extend(rows.into_iter().map(|row| start + row));
            ends.push(order.len() as u32);
        }
        let rows = take_record_batch(&all, &UInt32Array::from(order));
        Ok(Found { rows: rows.map_err(|e| stop(e.to_string()))?, ends })
    }
}

/// Whether a collection with these columns can be asked by a key of these types. The error is a
/// sentence.
pub fn takes_key(columns: &Columns, key: &LookupKey, types: &[DataType]) -> Result<(), String> {
    bind(columns, key, types).map(drop)
}

/// What of some documents does not fit the columns, in sentences. It is an error when none of them
/// has a column's type.
pub async fn held_against(
    cluster: &Cluster,
    (database, collection): (&str, &str),
    columns: &Columns,
    documents: usize,
    read_from: ReadFrom,
    timeout: Duration,
) -> Result<Vec<String>> {
    let wrong = |why: String| Error::stop("lookup", why);
    let what = format!("looking at {database}.{collection}");
    let projection = projection(columns, &[]).map_err(wrong)?;
    let find = FindCommand { projection: &projection, ..FindCommand::all(collection) };
    let find = find.limited(documents.max(1)).build(timeout).map_err(wrong)?;
    let mut tried = vec![(0, 0, String::new()); columns.len()];
    let mut seen = 0;
    let taken = cluster.find(database, find, read_from, timeout, &what, |batch| {
        for_each(&batch, &what, |document| {
            seen += 1;
            for ((fit, not, why), column) in tried.iter_mut().zip(columns) {
                let mut table = Table::new(schema(&vec![column.clone()])).map_err(wrong)?;
                if let Err(misfit) = table.push(document) {
                    (*not, *why) = (*not + 1, misfit);
                    continue;
                }
                let rows = table.finish().map_err(|e| wrong(e.to_string()))?;
                *fit += rows.num_rows() - rows.column(0).null_count();
            }
            Ok(())
        })?;
        Ok(true)
    });
    taken.await?;
    let mut findings = Vec::new();
    for ((name, of), (fit, not, why)) in columns.iter().zip(tried) {
        let is = of.name();
        match (fit, not) {
            (0, 1..) => {
                return Err(wrong(format!(
                    "`{name}` is declared as {is}, which it is in none of {seen} documents of \
                     `{database}.{collection}`: {why}"
                )));
            }
            (_, 1..) => findings.push(format!(
                "in {not} of {seen} documents of `{database}.{collection}`: {why}; a key that \
                 finds such a document is an error"
            )),
            (0, 0) if seen > 0 => findings.push(format!(
                "none of {seen} documents of `{database}.{collection}` has `{name}`"
            )),
            _ => {}
        }
    }
    Ok(findings)
}

#[async_trait]
impl Lookup for MongoLookup {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let asked = self.asked(keys);
        let mut groups = Vec::new();
        for group in asked.chunks(self.options.group.max(1)) {
            groups.push(self.ask(group));
        }
        let mut groups = stream::iter(groups).buffer_unordered(self.options.concurrency.max(1));
        let mut answers = Vec::new();
        while let Some(answer) = groups.next().await {
            answers.extend(answer?);
        }
        drop(groups);
        self.found(answers, keys.num_rows())
    }
}

/// The answer to a group.
struct Answer {
    rows: RecordBatch,
    /// Which of these rows each key of the call has.
    of_key: Vec<(usize, Vec<u32>)>,
}

/// A key of a call.
struct Asked {
    /// Which row of the call.
    row: usize,
    /// What it means, for matching.
    form: Vec<u8>,
    /// A document for each field of the key, with the value under an empty name.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Asked {
    fn value(&self, field: usize) -> &[u8] {
        let start = if field == 0 { 0 } else { self.ends[field - 1] };
        // Between the document's length and its end.
        let within: Range<usize> = start + 4..self.ends[field] - 1;
        &self.bytes[within]
    }
}

/// The fields of a key, of which each can be found among what the columns are declared to be.
fn bind(columns: &Columns, key: &LookupKey, types: &[DataType]) -> Result<Vec<KeyField>, String> {
    let LookupKey::Equal(names) = key else {
        return Err("a MongoDB collection is asked by equality, not by a range".into());
    };
    for (at, (name, of)) in columns.iter().enumerate() {
        if path(name).iter().any(String::is_empty) || name.contains('\0') {
            return Err(format!("`{name}` is no path of a field"));
        }
        if columns[..at].iter().any(|(before, _)| before == name) {
            return Err(format!("`{name}` is declared twice"));
        }
        supported(&of.data_type).map_err(|why| format!("`{name}`: {why}"))?;
    }
    let field = |(name, data_type): (&String, &DataType)| {
        let field = key_field(name, data_type, columns);
        field.map_err(|why| format!("the key `{name}`: {why}"))
    };
    names.iter().zip(types).map(field).collect()
}

fn key_field(name: &str, data_type: &DataType, columns: &Columns) -> Result<KeyField, String> {
    let declared = columns.iter().find(|(column, _)| column == name).map(|(_, of)| of);
    let stored = declared.map(|of| of.stored).unwrap_or_default();
    if let Some(of) = declared
        && !is_comparable(data_type, of)
    {
        let (asked, is) = (types::name(data_type), of.name());
        return Err(format!("{asked} never equals {is}: CAST the key, or declare another type"));
    }
    let writer = key_writer(data_type, stored)?;
    Ok(KeyField { name: write::field_name(name)?, path: path(name), writer })
}

/// Whether values of a type can be found among those that a field is declared to have.
fn is_comparable(asked: &DataType, declared: &ColumnType) -> bool {
    use DataType as A;
    let kind = |of: &A| match of {
        A::Utf8 | A::Utf8View | A::LargeUtf8 => 1,
        A::Binary | A::BinaryView | A::LargeBinary | A::FixedSizeBinary(_) => 2,
        A::Timestamp(..) | A::Date32 => 3,
        A::Boolean => 4,
        t if t.is_numeric() => 5,
        _ => 0,
    };
    match &declared.data_type {
        // A field that is an array is found by its elements.
        A::List(item) => kind(asked) == kind(item.data_type()),
        of if declared.stored == Stored::ObjectId => kind(asked) <= 2 && kind(of) == 1,
        of => kind(asked) == kind(of),
    }
}

/// The fields to send: those of the columns and of the key, none inside another.
fn projection(columns: &Columns, key: &[KeyField]) -> Result<Vec<u8>, String> {
    let mut paths: Vec<Vec<String>> = columns.iter().map(|(name, _)| path(name)).collect();
    paths.extend(key.iter().map(|field| field.path.clone()));
    paths.sort();
    paths.dedup();
    let inside = |one: &Vec<String>| {
        paths.iter().any(|other| one.len() > other.len() && one.starts_with(other))
    };
    let mut out = Vec::new();
    for path in paths.iter().filter(|path| !inside(path)) {
        write::int(&write::field_name(&path.join("."))?, 1, &mut out);
    }
    if !paths.iter().any(|path| path[0] == "_id") {
        write::int(b"_id", 0, &mut out);
    }
    Ok(out)
}
