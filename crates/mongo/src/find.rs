//! Commands that find documents, and what their answers hold.

use crate::cluster::{Cluster, ReadFrom};
use crate::write::{self, Digits};
use millstream_core::{Disposition, Error, Result};
use mongodb::bson::{RawDocument, RawDocumentBuf};
use mongodb::raw_batch_cursor::RawBatch;
use std::time::Duration;

/// A `find` in the making. `filter` and `projection` are the elements of their documents.
pub(crate) struct FindCommand<'a> {
    pub collection: &'a str,
    pub filter: &'a [u8],
    pub projection: &'a [u8],
    pub sort: &'a [(String, bool)],
    pub read_concern: Option<&'a str>,
    /// 0 is none.
    pub limit: usize,
}

impl<'a> FindCommand<'a> {
    pub fn all(collection: &'a str) -> FindCommand<'a> {
        FindCommand {
            collection,
            filter: &[],
            projection: &[],
            sort: &[],
            read_concern: None,
            limit: 0,
        }
    }

    /// The documents of these ids, elements under empty names.
    pub fn by_ids<'i>(
        collection: &str,
        ids: impl Iterator<Item = &'i Vec<u8>>,
        timeout: Duration,
    ) -> Result<RawDocumentBuf, String> {
        let mut filter = Vec::new();
        let field = write::begin_document(b"_id", &mut filter);
        let list = write::begin_array(b"$in", &mut filter);
        for (at, id) in ids.enumerate() {
            write::renamed(Digits::default().of(at), id, &mut filter);
        }
        write::end(&mut filter, list)?;
        write::end(&mut filter, field)?;
        FindCommand { filter: &filter, ..FindCommand::all(collection) }.build(timeout)
    }

    pub fn limited(self, limit: usize) -> FindCommand<'a> {
        FindCommand { limit, ..self }
    }

    pub fn build(&self, timeout: Duration) -> Result<RawDocumentBuf, String> {
        /// More come in further answers.
        const BATCH_MAX: i64 = 5_000;
        let mut out = Vec::with_capacity(self.filter.len() + 256);
        let whole = write::begin(&mut out);
        write::words(b"find", self.collection, &mut out)?;
        for (name, elements) in [(&b"filter"[..], self.filter), (b"projection", self.projection)] {
            let at = write::begin_document(name, &mut out);
            out.extend_from_slice(elements);
            write::end(&mut out, at)?;
        }
        if !self.sort.is_empty() {
            let at = write::begin_document(b"sort", &mut out);
            for (name, descending) in self.sort {
                write::int(&write::field_name(name)?, if *descending { -1 } else { 1 }, &mut out);
            }
            write::end(&mut out, at)?;
        }
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        if limit > 0 {
            write::long(b"limit", limit, &mut out);
        }
        let batch = if limit > 0 { limit.saturating_add(1).min(BATCH_MAX) } else { BATCH_MAX };
        write::long(b"batchSize", batch, &mut out);
        let patience = i64::try_from(timeout.as_millis().max(1)).unwrap_or(i64::MAX);
        write::long(b"maxTimeMS", patience, &mut out);
        if let Some(level) = self.read_concern {
            let at = write::begin_document(b"readConcern", &mut out);
            write::words(b"level", level, &mut out)?;
            write::end(&mut out, at)?;
        }
        write::end(&mut out, whole)?;
        RawDocumentBuf::from_bytes(out).map_err(|e| e.to_string())
    }
}

/// Gives each document of an answer.
pub(crate) fn for_each(
    batch: &RawBatch,
    what: &str,
    mut take: impl FnMut(&RawDocument) -> Result<()>,
) -> Result<()> {
    let malformed = |e: String| Error::retry("store", format!("{what}: {e}"));
    for document in batch.doc_slices().map_err(|e| malformed(e.to_string()))? {
        let document = document.map_err(|e| malformed(e.to_string()))?;
        let document = document.as_document();
        take(document.ok_or_else(|| malformed("the answer has what is no document".into()))?)?;
    }
    Ok(())
}

/// The indexes of a collection: their fields, and whether they are unique.
pub(crate) struct Indexes(Vec<(Vec<String>, bool)>);

impl Indexes {
    pub async fn of(
        cluster: &Cluster,
        database: &str,
        collection: &str,
        timeout: Duration,
    ) -> Result<Indexes> {
        let mut command = Vec::new();
        let built = (|| {
            let at = write::begin(&mut command);
            write::words(b"listIndexes", collection, &mut command)?;
            write::end(&mut command, at)?;
            RawDocumentBuf::from_bytes(command).map_err(|e| e.to_string())
        })();
        let command = built.map_err(|why| Error::stop("mongodb", why))?;
        let what = format!("listing the indexes of {database}.{collection}");
        // Every collection has the first, also one that is not there yet.
        let mut indexes = vec![(vec!["_id".to_owned()], true)];
        let listed = cluster.find(database, command, ReadFrom::Primary, timeout, &what, |batch| {
            for_each(&batch, &what, |index| {
                if let Ok(key) = index.get_document("key") {
                    let names = key.iter_elements().flatten();
                    let names = names.map(|e| e.key().as_str().to_owned()).collect();
                    indexes.push((names, index.get_bool("unique").unwrap_or(false)));
                }
                Ok(())
            })?;
            Ok(true)
        });
        match listed.await {
            Err(error) if error.disposition() == Disposition::Retry && error.kind() != "store" => {
                Err(error)
            }
            // A collection that is not there has no indexes.
            _ => Ok(Indexes(indexes)),
        }
    }

    pub fn is_unique(&self, key: &[String]) -> bool {
        let of =
            |names: &[String]| names.len() == key.len() && names.iter().all(|n| key.contains(n));
        self.0.iter().any(|(names, unique)| *unique && of(names))
    }

    pub fn begins_with_any(&self, names: &[&str]) -> bool {
        let first = |index: &[String]| index.first().is_some_and(|n| names.contains(&n.as_str()));
        self.0.iter().any(|(index, _)| first(index))
    }
}
