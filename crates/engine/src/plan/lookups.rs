//! The columns of look-ups, and whether they can be asked by what the SQL joins on.

use super::{Planner, nearest, schema_of};
use arrow_schema::{Schema, SchemaRef};
use millstream_config::{ChangesSpec, LookupFrom, LookupSpec, PipelineSpec};
use millstream_connectors::file::{FileLookup, FileLookupOptions, rows};
use millstream_core::LookupKey;
use millstream_sql::{KEY_COLUMNS, KEY_RANGE, LookupUse, Query};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Opens a file look-up by its spec and key.
pub fn open_file_lookup(
    file: &millstream_config::FileLookup,
    path: PathBuf,
    key: &LookupKey,
) -> Result<FileLookup, String> {
    let options = FileLookupOptions {
        path,
        columns: file.columns.as_ref().map(schema_of),
        delimiter: file.delimiter.0,
        reload: file.reload.0,
    };
    FileLookup::open(options, key)
}

impl Planner<'_> {
    /// The columns of each look-up, and the names of those whose columns are not known.
    pub(super) async fn lookup_schemas(
        &mut self,
        spec: &PipelineSpec,
    ) -> (BTreeMap<String, SchemaRef>, Vec<String>) {
        let mut schemas = BTreeMap::new();
        for (name, lookup) in &spec.lookups {
            if let Some(changes) = &lookup.cache.changes {
                self.changes(name, changes).await;
            }
            match &lookup.from {
                LookupFrom::Http(from) => {
                    if let Some(columns) = self.http_lookup(name, &from.http) {
                        schemas.insert(name.clone(), columns);
                    }
                }
                LookupFrom::Cql(from) => {
                    if let Some(columns) = self.cql_lookup(name, &from.cql).await {
                        schemas.insert(name.clone(), columns);
                    }
                }
                LookupFrom::Mongo(from) => {
                    if let Some(columns) = self.mongo_lookup(name, &from.mongodb).await {
                        schemas.insert(name.clone(), columns);
                    }
                }
                LookupFrom::Postgres(from) => {
                    if let Some(columns) = self.postgres_lookup(name, &from.postgres).await {
                        schemas.insert(name.clone(), columns);
                    }
                }
                LookupFrom::Table(from) if self.catalog.is_untold_table(&from.table) => {}
                LookupFrom::Table(from) => match self.catalog.table(&from.table) {
                    Some(table) => {
                        let key = table.partition_key.iter().chain(&table.clustering);
                        let key = key.map(String::as_str).collect::<Vec<_>>().join(",");
                        let columns = match &lookup.range {
                            Some(range) => declared(&table.columns, KEY_RANGE, range.join(",")),
                            None => declared(&table.columns, KEY_COLUMNS, key),
                        };
                        schemas.insert(name.clone(), columns);
                    }
                    None => {
                        let hint =
                            nearest(&from.table, self.catalog.table_names()).unwrap_or_else(|| {
                                format!(
                                    "load it with `millstream tables load {} FILE --key COLUMN`, \
                                     or run the pipeline that writes it in the same command",
                                    from.table
                                )
                            });
                        let message = format!("there is no table `{}`", from.table);
                        self.mistake(&format!("/lookups/{name}/table"), message, Some(hint));
                    }
                },
                LookupFrom::File(from) => {
                    let path = self.file.resolve(&from.file);
                    let columns = match &from.columns {
                        Some(columns) => {
                            let columns = schema_of(columns);
                            let there = rows::columns_of(&path, from.delimiter.0);
                            there.and_then(|there| has_all(&there, &columns).map(|()| columns))
                        }
                        None => rows::columns_of(&path, from.delimiter.0),
                    };
                    match columns {
                        Ok(columns) => {
                            let columns = match &lookup.range {
                                Some(range) => declared(&columns, KEY_RANGE, range.join(",")),
                                None => columns,
                            };
                            schemas.insert(name.clone(), columns);
                        }
                        Err(error) => {
                            self.mistake(&format!("/lookups/{name}/file"), error, None);
                        }
                    }
                }
            }
        }
        let untold = spec.lookups.keys().filter(|name| !schemas.contains_key(*name)).cloned();
        let untold = untold.collect();
        (schemas, untold)
    }

    /// Whether the topic that tells of changes is there.
    async fn changes(&mut self, name: &str, changes: &ChangesSpec) {
        let path = format!("/lookups/{name}/cache/changes");
        let topic = &changes.topic;
        if let Some(cluster) = &changes.kafka {
            self.kafka_topic(cluster, &topic.as_str().into(), &path, "topic").await;
        } else if self.catalog.topic(topic).is_none() && !self.catalog.is_untold_topic(topic) {
            let hint = nearest(topic, self.catalog.topic_names());
            let message = format!("there is no topic `{topic}`");
            self.mistake(&format!("{path}/topic"), message, hint);
        }
    }

    /// Whether each look-up can be asked by the columns that the SQL joins on.
    pub(super) fn check_keys(&mut self, step: usize, spec: &PipelineSpec, query: &Query) {
        for used in query.lookups() {
            let Some(lookup) = spec.lookups.get(&used.name) else { continue };
            if let Err((message, hint)) = self.check_key(lookup, used) {
                let line = 0;
                let path = format!("/steps/{step}/sql");
                let mistake = self.file.mistake_in_block(&path, line, 1, message, Some(hint));
                self.mistakes.push(mistake);
            }
        }
    }

    fn check_key(&self, lookup: &LookupSpec, used: &LookupUse) -> Result<(), (String, String)> {
        let (name, key) = (&used.name, &used.key);
        match (key, &lookup.range) {
            (LookupKey::Range { start, end }, Some([s, e])) if s == start && e == end => {}
            (LookupKey::Range { start, end }, _) => {
                return Err((
                    format!(
                        "`{name}` is joined by the range {start} to {end}, which it does not declare"
                    ),
                    format!("write `range: [{start}, {end}]` in the lookup"),
                ));
            }
            (LookupKey::Equal(columns), Some([s, e])) => {
                return Err((
                    format!("`{name}` is a range look-up but is joined by {}", columns.join(", ")),
                    format!("join it `ON value BETWEEN {name}.\"{s}\" AND {name}.\"{e}\"`"),
                ));
            }
            _ => {}
        }
        let from = match &lookup.from {
            LookupFrom::Table(from) => from,
            LookupFrom::Http(from) => match key {
                LookupKey::Equal(asked) => return self.check_http_key(name, &from.http, asked),
                LookupKey::Range { .. } => return Ok(()),
            },
            LookupFrom::Cql(from) => {
                return self.check_cql_key(name, &from.cql, key, &used.key_types);
            }
            LookupFrom::Mongo(from) => {
                return self.check_mongo_key(name, &from.mongodb, key, &used.key_types);
            }
            LookupFrom::Postgres(_) => {
                return self.check_postgres_key(name, key, &used.key_types);
            }
            LookupFrom::File(_) => return Ok(()),
        };
        let Some(table) = self.catalog.table(&from.table) else { return Ok(()) };
        let all: Vec<_> = table.partition_key.iter().chain(&table.clustering).collect();
        let columns = match key {
            LookupKey::Equal(columns) => columns,
            LookupKey::Range { start, .. } if all == [start] => return Ok(()),
            LookupKey::Range { start, .. } => {
                return Err((
                    format!("table `{}` cannot be asked by a range", from.table),
                    format!(
                        "its whole key must be `{start}`, the start of its ranges, and is {}; a \
                         file can be asked by any range",
                        all.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ")
                    ),
                ));
            }
        };
        let prefix = columns.len() >= table.partition_key.len()
            && all.iter().take(columns.len()).all(|key| columns.contains(key));
        if prefix && columns.len() <= all.len() {
            return Ok(());
        }
        Err((
            format!("table `{}` cannot be asked by {}", from.table, columns.join(", ")),
            format!(
                "its key is {}: join on {}",
                all.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "),
                table.partition_key.join(" and ")
            ),
        ))
    }
}

/// Tells the SQL by which columns a look-up can be asked.
pub(super) fn declared(columns: &Schema, what: &str, names: String) -> SchemaRef {
    let metadata = [(what.to_owned(), names)].into();
    Arc::new(Schema::new_with_metadata(columns.fields().clone(), metadata))
}

fn has_all(there: &Schema, wanted: &Schema) -> Result<(), String> {
    for field in wanted.fields() {
        if there.field_with_name(field.name()).is_err() {
            let known: Vec<_> = there.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(format!(
                "the file has no column `{}`; it has {}",
                field.name(),
                known.join(", ")
            ));
        }
    }
    Ok(())
}
