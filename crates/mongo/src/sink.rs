//! Rows into a collection, many in one command.
//!
//! ```text
//!  batch ─► statements ─┬─ of one key only: commands in any order, some at a time
//!           a bad row   ├─ of one key several, replaced: the last alone, the one before if it is refused
//!           is refused  └─ of one key several, inserted or updated: one after the other
//! ```
//!
//! A batch's `write` ends when all of it is stored: then it is durable as the write concern says. A
//! key is never written twice at a time.
//!
//! An insert whose outcome is unknown is done again. What is there already counts as done when it is
//! the same document: all its fields and no others, with the same values. Any other document of the
//! key stays, and the row is refused.

use crate::cluster::{Cluster, ReadFrom, WriteConcern};
use crate::encode::{Encoded, Field, Form, Layout, Statement, units};
use crate::error::{self, DUPLICATE};
use crate::find::{FindCommand, Indexes};
use crate::store::{self, Answer};
use crate::template::Template;
use crate::types::Stored;
use crate::write::{self, DOCUMENT_BYTES_MAX, Writer};
use ahash::AHashMap;
use arrow_array::RecordBatch;
use arrow_schema::Schema;
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use millstream_core::{Batch, Disposition, Error, Receipt, Result, Sink};
use mongodb::bson::{RawDocument, oid::ObjectId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A new document; one of the same key must not be there.
    Insert,
    /// A document in the place of the one with the same key.
    Upsert,
    /// A change to the document of the key; without `upsert` a key that has none changes nothing.
    Update {
        template: Template,
        upsert: bool,
    },
    Delete,
}

/// What a null in a row becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nulls {
    /// The field is left out: a document lacks it, an update leaves it as it is.
    #[default]
    Skip,
    /// The field is null.
    Write,
}

#[derive(Debug, Clone)]
pub struct MongoSinkOptions {
    pub database: String,
    pub collection: String,
    pub operation: Operation,
    /// Columns of the rows and the fields they are written to; the same names unless given.
    pub columns: Option<Vec<(String, String)>>,
    /// Columns whose values stand otherwise in documents than their type says.
    pub types: Vec<(String, Stored)>,
    /// The columns that name a document; the one that is written to `_id` unless given.
    pub key: Vec<String>,
    pub nulls: Nulls,
    /// Rows in one command, and their bytes.
    pub batch_rows: usize,
    pub batch_bytes: usize,
    /// Commands under way at most, of all partitions together.
    pub concurrency: usize,
    /// How often a command is tried again before its batch is.
    pub retries: u32,
    pub write_concern: WriteConcern,
    pub timeout: Duration,
}

impl MongoSinkOptions {
    /// Whether rows of these columns can be written so. The error is a sentence.
    pub fn check(&self, rows: &Schema) -> Result<(), String> {
        layout(self, rows).map(drop)
    }
}

/// A collection bound to the columns of the rows; gives each partition task its sink.
pub struct MongoCollection {
    cluster: Arc<Cluster>,
    options: MongoSinkOptions,
    layout: Layout,
    under_way: Semaphore,
}

impl MongoCollection {
    /// The error of a wrong mapping is a sentence for the user.
    pub fn open(
        cluster: Arc<Cluster>,
        options: MongoSinkOptions,
        rows: &Schema,
    ) -> Result<Arc<MongoCollection>> {
        let layout = layout(&options, rows).map_err(|why| Error::stop("sink", why))?;
        let under_way = Semaphore::new(options.concurrency.max(1));
        Ok(Arc::new(MongoCollection { cluster, options, layout, under_way }))
    }

    pub fn sink(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(MongoSink { collection: self.clone(), given: None })
    }

    /// What an operator should know before rows come: sentences, none when all is well.
    pub async fn findings(&self) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        let key: Vec<String> = self
            .layout
            .key
            .iter()
            .map(|field| String::from_utf8_lossy(&field.name).into_owned())
            .collect();
        let MongoSinkOptions { database, collection, timeout, .. } = &self.options;
        if !key.is_empty() && key != ["_id"] {
            let indexes = Indexes::of(&self.cluster, database, collection, *timeout).await?;
            if !indexes.is_unique(&key) {
                findings.push(format!(
                    "`{database}.{collection}` has no unique index on {}: documents are sought \
                     one by one, and two partitions that write one key at a time may make two \
                     documents of it",
                    key.join(", ")
                ));
            }
        }
        if let Operation::Update { template, .. } = &self.options.operation
            && !template.is_idempotent()
        {
            findings.push(
                "the update counts or appends: a row that is written again after a failure counts \
                 again"
                    .into(),
            );
        }
        Ok(findings)
    }

    fn what(&self) -> String {
        format!("writing {}.{}", self.options.database, self.options.collection)
    }

    /// Stores statements in their order or in any, and gives those that are refused, and why.
    fn store<'a>(
        &'a self,
        statements: &'a [Statement],
        order: Vec<usize>,
        ordered: bool,
    ) -> BoxFuture<'a, Result<Vec<(usize, String)>>> {
        async move {
            let mut left = order;
            let mut refused = Vec::new();
            let mut again = Again::new(self.options.retries);
            while !left.is_empty() {
                let mut answer = match self.command(statements, &left, ordered).await {
                    Ok(answer) => answer,
                    Err(error) if error.disposition() == Disposition::Retry => {
                        again.pause(error).await?;
                        continue;
                    }
                    Err(error) if error.disposition() == Disposition::Stop => return Err(error),
                    Err(error) => {
                        if let [alone] = left[..] {
                            refused.push((alone, error.chain()));
                            return Ok(refused);
                        }
                        // What the server refuses as a whole is split until the bad row stands alone.
                        let second = left.split_off(left.len() / 2);
                        refused.extend(self.store(statements, left, ordered).await?);
                        refused.extend(self.store(statements, second, ordered).await?);
                        return Ok(refused);
                    }
                };
                let sent = left;
                answer.refused.sort_unstable_by_key(|row| row.at);
                if ordered {
                    // What stands behind a row that failed is sent again, whatever became of it.
                    answer.refused.truncate(1);
                }
                let mut duplicates = Vec::new();
                let may_race = again.may_race(&answer);
                let mut passing = None;
                left = Vec::new();
                for row in &answer.refused {
                    let statement = sent[row.at];
                    match error::of_row(row.code) {
                        Some(kind) => {
                            left.push(statement);
                            passing =
                                Some(Error::retry(kind, format!("{}: {}", self.what(), row.why)));
                        }
                        None if row.code == DUPLICATE => match self.layout.form {
                            Form::Insert => duplicates.push((statement, row.why.clone())),
                            // Two upserts of one key at a time: the second finds it when it is tried
                            // again. What is still a duplicate then is one of another index.
                            Form::Upsert | Form::Update { .. } if may_race => {
                                left.push(statement);
                            }
                            _ => refused.push((statement, row.why.clone())),
                        },
                        None => refused.push((statement, row.why.clone())),
                    }
                }
                self.sort_out(statements, duplicates, &mut refused).await?;
                if let Some(unsure) = answer.unsure {
                    // All that was not refused is there, but may be lost: it is written again.
                    let known = |statement: &usize| refused.iter().any(|(at, _)| at == statement);
                    left = sent.iter().copied().filter(|statement| !known(statement)).collect();
                    again.pause(unsure).await?;
                    continue;
                }
                if ordered && let Some(first) = answer.refused.first() {
                    left.extend_from_slice(&sent[first.at + 1..]);
                }
                if let Some(error) = passing {
                    again.pause(error).await?;
                }
            }
            Ok(refused)
        }
        .boxed()
    }

    async fn command(
        &self,
        statements: &[Statement],
        order: &[usize],
        ordered: bool,
    ) -> Result<Answer> {
        let what = self.what();
        let MongoSinkOptions { database, collection, write_concern, timeout, .. } = &self.options;
        let wanted = order.iter().map(|at| &statements[*at]);
        let form = &self.layout.form;
        let command = store::command(form, collection, wanted, ordered, write_concern, *timeout);
        let command =
            command.map_err(|why| Error::reject("too_large", format!("{what}: {why}")))?;
        let _turn = self.under_way.acquire().await;
        let answer = self.cluster.run(database, command, *timeout, &what).await?;
        let answer = Answer::of(&answer, order.len(), &what)?;
        let tried = match (ordered, answer.refused.first()) {
            (true, Some(first)) => first.at,
            _ => order.len() - answer.refused.len(),
        };
        // Whoever inserts or upserts does something for each row; else rows would be lost unseen.
        let each = match self.layout.form {
            Form::Insert | Form::Upsert => true,
            Form::Update { upsert, .. } => upsert,
            Form::Delete => false,
        };
        if each && answer.done < tried as u64 && answer.unsure.is_none() {
            let told = format!("{what}: {} of {tried} rows are stored", answer.done);
            return Err(Error::retry("store", told));
        }
        Ok(answer)
    }

    /// Duplicates of an insert that are there as they were to be are done.
    async fn sort_out(
        &self,
        statements: &[Statement],
        duplicates: Vec<(usize, String)>,
        refused: &mut Vec<(usize, String)>,
    ) -> Result<()> {
        /// Documents of up to 16 MiB come back for these.
        const AT_A_TIME: usize = 50;
        for some in duplicates.chunks(AT_A_TIME) {
            let mut ours: AHashMap<Vec<u8>, (usize, &RawDocument, &str)> = AHashMap::new();
            for (statement, why) in some {
                let document = RawDocument::from_bytes(&statements[*statement].bytes);
                let document = document.map_err(|e| Error::stop("sink", e.to_string()))?;
                match id_of(document) {
                    Some(id) => {
                        let before = ours.insert(id, (*statement, document, why));
                        debug_assert!(before.is_none(), "a command has no key twice in any order");
                    }
                    None => refused.push((*statement, why.clone())),
                }
            }
            let MongoSinkOptions { database, collection, timeout, .. } = &self.options;
            let find = FindCommand::by_ids(collection, ours.keys(), *timeout);
            let find = find.map_err(|why| Error::reject("too_large", why))?;
            let what = format!("comparing with {database}.{collection}");
            let mut same = Vec::new();
            let found =
                self.cluster.find(database, find, ReadFrom::Primary, *timeout, &what, |batch| {
                    let malformed = |e: String| Error::retry("store", format!("{what}: {e}"));
                    for document in batch.doc_slices().map_err(|e| malformed(e.to_string()))? {
                        let document = document.map_err(|e| malformed(e.to_string()))?;
                        let Some(document) = document.as_document() else { continue };
                        if let Some(id) = id_of(document)
                            && let Some((_, ours, _)) = ours.get(&id)
                            && store::is_same(ours, document)
                        {
                            same.push(id);
                        }
                    }
                    Ok(true)
                });
            let _turn = self.under_way.acquire().await;
            found.await?;
            for (id, (statement, _, why)) in ours {
                if !same.contains(&id) {
                    let why = format!("another document of this key is there: {why}");
                    refused.push((statement, why));
                }
            }
        }
        Ok(())
    }

    /// Stores these statements, of which no two are of one key, and gives those that are refused.
    async fn in_any_order(
        &self,
        statements: &[Statement],
        order: &[usize],
    ) -> Result<Vec<(usize, String)>> {
        let stored = self.units(statements, order).into_iter();
        finish(stored.map(|unit| self.store(statements, unit, false)), self.options.concurrency)
            .await
    }

    fn units(&self, statements: &[Statement], order: &[usize]) -> Vec<Vec<usize>> {
        // A document alone may be larger than what goes together.
        let bytes_max = self.options.batch_bytes.min(DOCUMENT_BYTES_MAX / 2);
        let units = units(statements, order, self.options.batch_rows, bytes_max);
        units.into_iter().map(|unit| order[unit].to_vec()).collect()
    }

    /// The last row of each key is stored; those before it stand for it when it is refused.
    async fn last_of_each(&self, encoded: &Encoded) -> Result<Vec<(usize, String)>> {
        let mut open = encoded.of_key.clone();
        let mut all = Vec::new();
        while !open.is_empty() {
            let last: Vec<usize> = open.iter().filter_map(|of| of.last().copied()).collect();
            let refused = self.in_any_order(&encoded.statements, &last).await?;
            let known: AHashMap<usize, &String> =
                refused.iter().map(|(at, why)| (*at, why)).collect();
            open.retain_mut(|of| of.pop().is_some_and(|last| known.contains_key(&last)));
            open.retain(|of| !of.is_empty());
            all.extend(refused);
        }
        Ok(all)
    }

    /// Every row is stored, those of one key one after the other.
    async fn each_in_turn(&self, encoded: &Encoded) -> Result<Vec<(usize, String)>> {
        let alone: Vec<usize> =
            encoded.of_key.iter().filter(|of| of.len() == 1).map(|of| of[0]).collect();
        let several: Vec<usize> =
            encoded.of_key.iter().filter(|of| of.len() > 1).flatten().copied().collect();
        let in_turn = async {
            let mut refused = Vec::new();
            for unit in self.units(&encoded.statements, &several) {
                refused.extend(self.store(&encoded.statements, unit, true).await?);
            }
            Ok(refused)
        };
        let both = [self.in_any_order(&encoded.statements, &alone).boxed(), in_turn.boxed()];
        finish(both.into_iter(), 2).await
    }
}

/// Awaits every answer, so that nothing of a batch is under way when it is given again.
async fn finish<'a>(
    all: impl Iterator<Item = BoxFuture<'a, Result<Vec<(usize, String)>>>>,
    concurrency: usize,
) -> Result<Vec<(usize, String)>> {
    let mut all = stream::iter(all).buffer_unordered(concurrency.max(1));
    let (mut refused, mut failed) = (Vec::new(), None);
    while let Some(answer) = all.next().await {
        match answer {
            Ok(some) => refused.extend(some),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(refused),
    }
}

/// How often a command is still tried again.
struct Again {
    left: u32,
    races: u32,
    pause: Duration,
}

impl Again {
    fn new(retries: u32) -> Again {
        Again { left: retries, races: 3, pause: Duration::from_millis(20) }
    }

    async fn pause(&mut self, error: Error) -> Result<()> {
        if self.left == 0 || error.disposition() == Disposition::Stop {
            return Err(error);
        }
        self.left -= 1;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        Ok(())
    }

    fn may_race(&mut self, answer: &Answer) -> bool {
        let may = self.races > 0;
        if answer.refused.iter().any(|row| row.code == DUPLICATE) {
            self.races = self.races.saturating_sub(1);
        }
        may
    }
}

/// The bytes of a document's `_id`, as an element under an empty name.
fn id_of(document: &RawDocument) -> Option<Vec<u8>> {
    let element = document.iter_elements().flatten().find(|e| e.key().as_str() == "_id")?;
    let mut out = mongodb::bson::RawDocumentBuf::new();
    out.append(mongodb::bson::cstr!(""), element.value().ok()?);
    let bytes = out.into_bytes();
    Some(bytes[4..bytes.len() - 1].to_vec())
}

struct MongoSink {
    collection: Arc<MongoCollection>,
    /// The ids that were made for a batch: when it is given again they are the same.
    given: Option<(RecordBatch, Arc<[ObjectId]>)>,
}

impl MongoSink {
    fn ids(&mut self, rows: &RecordBatch) -> Arc<[ObjectId]> {
        if !self.collection.layout.makes_ids() {
            return Arc::new([]);
        }
        if let Some((before, ids)) = &self.given
            && before.num_rows() == rows.num_rows()
            && before.columns().iter().zip(rows.columns()).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return ids.clone();
        }
        let ids: Arc<[ObjectId]> = (0..rows.num_rows()).map(|_| ObjectId::new()).collect();
        self.given = Some((rows.clone(), ids.clone()));
        ids
    }
}

#[async_trait]
impl Sink for MongoSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let ids = self.ids(&batch.rows);
        let collection = &*self.collection;
        let mut encoded = collection.layout.encode(&batch.rows, &ids);
        let mut rejected = std::mem::take(&mut encoded.rejected);
        let refused = match collection.layout.form {
            Form::Upsert | Form::Delete => collection.last_of_each(&encoded).await?,
            Form::Insert | Form::Update { .. } => collection.each_in_turn(&encoded).await?,
        };
        self.given = None;
        let statements = &encoded.statements;
        let rows = (statements.len() - refused.len()) as u64;
        let bytes = statements.iter().map(|statement| statement.bytes.len() as u64).sum();
        rejected.extend(refused.into_iter().map(|(at, why)| (statements[at].row, why)));
        rejected.sort_unstable_by_key(|(row, _)| *row);
        Ok(Receipt { rejected, rows, bytes, durable: async { Ok(()) }.boxed() })
    }
}

/// Where the values of statements come from.
fn layout(options: &MongoSinkOptions, rows: &Schema) -> Result<Layout, String> {
    let stored = |column: &str| {
        let given = options.types.iter().find(|(name, _)| name == column);
        given.map(|(_, stored)| *stored).unwrap_or_default()
    };
    for column in options.types.iter().map(|(name, _)| name).chain(&options.key) {
        rows.index_of(column).map_err(|_| format!("the rows have no column `{column}`"))?;
    }
    let same = || rows.fields().iter().map(|f| (f.name().clone(), f.name().clone())).collect();
    let columns: Vec<(String, String)> = options.columns.clone().unwrap_or_else(same);
    let field = |column: &str, to: &str, name: Box<[u8]>| {
        let at = rows.index_of(column);
        let at = at.map_err(|_| format!("the rows have no column `{column}`"))?;
        let writer = Writer::new(rows.field(at).data_type(), stored(column));
        let writer = writer.map_err(|why| format!("field `{to}`: {why}"))?;
        Ok::<_, String>(Field { name, column: at, writer })
    };
    let whole = matches!(options.operation, Operation::Insert | Operation::Upsert);
    let mut fields: Vec<Field> = Vec::new();
    if whole {
        for (column, to) in &columns {
            let name = write::whole_field(to)?;
            if fields.iter().any(|field| field.name == name) {
                return Err(format!("`{to}` is written twice"));
            }
            fields.push(field(column, to, name)?);
        }
    }
    let id = columns.iter().find(|(_, to)| to == "_id").map(|(column, _)| column.clone());
    let key: Vec<String> = match (&options.operation, options.key.is_empty()) {
        (Operation::Insert, true) => id.into_iter().collect(),
        (Operation::Insert, false) => {
            return Err("an insert has no `key`: its documents are told apart by `_id`".into());
        }
        (_, false) => options.key.clone(),
        (_, true) => vec![id.ok_or("`key` names no column, and none is written to `_id`")?],
    };
    let mut by = Vec::new();
    for column in &key {
        let mapped = columns.iter().find(|(from, _)| from == column).map(|(_, to)| to.as_str());
        let to = match (mapped, whole) {
            (Some(to), _) => to,
            (None, false) => column.as_str(),
            (None, true) => return Err(format!("`{column}` is a key, but not written")),
        };
        if whole {
            write::whole_field(to)?;
        }
        let at =
            rows.index_of(column).map_err(|_| format!("the rows have no column `{column}`"))?;
        write::key_writer(rows.field(at).data_type(), stored(column))
            .map_err(|why| format!("the key `{column}`: {why}"))?;
        by.push(field(column, to, write::field_name(to)?)?);
    }
    let form = match &options.operation {
        Operation::Insert => Form::Insert,
        Operation::Upsert => Form::Upsert,
        Operation::Delete => Form::Delete,
        Operation::Update { template, upsert } => {
            Form::Update { update: template.bind(rows, &stored)?, upsert: *upsert }
        }
    };
    Ok(Layout { key: by, fields, form, nulls: options.nulls == Nulls::Write })
}
