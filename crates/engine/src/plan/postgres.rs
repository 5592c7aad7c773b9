//! What a PostgreSQL server has of what a file names: asked when it is planned, so that what `check`
//! accepts runs.

use super::{Planner, SinkPlan, schema_of};
use crate::connectors::postgres;
use arrow_schema::{DataType, SchemaRef};
use millstream_config::{PostgresFrom, PostgresServer, PostgresTo};
use millstream_core::{Disposition, LookupKey, types};
use millstream_postgres::Table;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long the server may take to describe a table.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(10);

impl Planner<'_> {
    /// The columns of a look-up; what is declared where the server is not asked.
    pub(super) async fn postgres_lookup(
        &mut self,
        name: &str,
        from: &PostgresFrom,
    ) -> Option<SchemaRef> {
        let path = format!("/lookups/{name}/postgres");
        let written = from.columns.as_ref().map(schema_of);
        if !self.catalog.asks_elsewhere() {
            if written.is_none() {
                let message = format!("the columns of `{name}` are not known");
                let hint = "declare its `columns:` with their types: this runs without the server";
                self.mistake(&path, message, Some(hint.into()));
            }
            return written;
        }
        let table =
            self.postgres_table(&from.server, from.schema.as_deref(), &from.table, &path).await?;
        let there = match table.schema(postgres::names(from).as_deref()) {
            Ok(there) => there,
            Err(why) => {
                self.mistake(&format!("{path}/columns"), why, None);
                return None;
            }
        };
        for (field, wanted) in there.fields().iter().zip(written.iter().flat_map(|w| w.fields())) {
            if field.data_type() != wanted.data_type() {
                let (column, is) = (field.name(), types::name(field.data_type()));
                let message = format!(
                    "`{column}` of {} is {is}, not {}",
                    from.table,
                    types::name(wanted.data_type())
                );
                let hint = format!("write `{column}: {is}`");
                self.mistake(&format!("{path}/columns/{column}"), message, Some(hint));
            }
        }
        self.postgres_tables.insert(name.to_owned(), table);
        Some(there)
    }

    /// Whether the table can be asked by these columns of these types.
    pub(super) fn check_postgres_key(
        &self,
        name: &str,
        key: &LookupKey,
        key_types: &[DataType],
    ) -> Result<(), (String, String)> {
        let Some(table) = self.postgres_tables.get(name) else { return Ok(()) };
        let taken = table.takes_key(key, key_types);
        taken.map_err(|why| (why, "join by columns of the table, CAST to their types".into()))
    }

    pub(super) async fn postgres_sink(
        &mut self,
        at: usize,
        to: &PostgresTo,
        rows: &SchemaRef,
    ) -> Option<SinkPlan> {
        let path = format!("/sinks/{at}/postgres");
        if self.catalog.asks_elsewhere() {
            let table =
                self.postgres_table(&to.server, to.schema.as_deref(), &to.table, &path).await?;
            if let Err(why) = postgres::options(to, "", "").check(&table, rows) {
                self.mistake(&path, why, None);
                return None;
            }
        }
        let to = match &to.schema {
            Some(schema) => format!("{schema}.{}", to.table),
            None => to.table.clone(),
        };
        Some(SinkPlan::Postgres { to })
    }

    /// The table as its server describes it, when that is not known to be away.
    async fn postgres_table(
        &mut self,
        options: &PostgresServer,
        schema: Option<&str>,
        table: &str,
        path: &str,
    ) -> Option<Table> {
        if self.away.contains(&options.hosts) {
            return None;
        }
        let server = postgres::server(options, DESCRIBED_WITHIN, self.file, &Handle::current());
        match Table::of(&server, schema, table).await {
            Ok(table) => Some(table),
            Err(error) if error.kind() == "no_table" => {
                self.mistake(&format!("{path}/table"), error.chain(), None);
                None
            }
            Err(error) => {
                self.away.push(options.hosts.clone());
                let is_away = error.disposition() == Disposition::Retry;
                self.refusal(path, &error, is_away.then(|| "start it, or correct `hosts`".into()));
                None
            }
        }
    }
}
