//! How far each partition of a source is stored, in the same transactions as what was made of it.
//!
//! ```text
//!  millstream_positions   below this offset everything is stored, or in
//!  millstream_refused     what was dead by then: a letter need not be durable when the rows are
//! ```
//!
//! A record below the position whose letter was lost in a crash must become a letter again, not be
//! taken for stored. Whoever moves a position names the one it saw: of two that write a partition, or
//! of two transactions of which one was thought lost, one moves it, and the other is told.

use crate::session::{Failure, Session};
use crate::table::{Table, literal, quoted};
use millstream_core::{Beginning, Error, Result};
use std::collections::BTreeMap;
use tokio_postgres::types::ToSql;

/// A reason is kept to so many bytes.
const REASON_BYTES: usize = 1024;

/// The positions of one sink of a pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    schema: String,
    positions: String,
    refused: String,
    pipeline: String,
    sink: String,
}

/// What the ledger knows of a partition.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub offset: i64,
    /// Dead records below it.
    pub refused: BTreeMap<i64, String>,
}

impl Ledger {
    /// Beside the table whose rows it tells of.
    pub fn new(table: &Table, pipeline: &str, sink: &str) -> Ledger {
        let schema = quoted(&table.schema);
        Ledger {
            positions: format!("{schema}.millstream_positions"),
            refused: format!("{schema}.millstream_refused"),
            schema,
            pipeline: pipeline.to_owned(),
            sink: sink.to_owned(),
        }
    }

    /// Makes its tables where they are missing.
    pub async fn make(&self, session: &Session) -> Result<()> {
        let Ledger { positions, refused, .. } = self;
        let what = format!("making the table {positions}");
        let there = format!(
            "SELECT to_regclass({}) IS NOT NULL AND to_regclass({}) IS NOT NULL",
            literal(positions),
            literal(refused)
        );
        let there = session.within(session.client.query_one(&there, &[])).await;
        let there = there.map_err(|failure| failure.of(&what))?;
        if there.try_get(0).unwrap_or(false) {
            return Ok(());
        }
        let named = "pipeline text, sink text, source text, partition int4";
        let by = "pipeline, sink, source, partition";
        // One at a time: two who make the same table at once get in each other's way.
        let script = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(7305804402); \
             CREATE TABLE IF NOT EXISTS {positions} ({named}, identity text NOT NULL, \
             \"offset\" int8 NOT NULL, stored_at timestamptz NOT NULL DEFAULT now(), \
             PRIMARY KEY ({by})) WITH (fillfactor = 50); \
             CREATE TABLE IF NOT EXISTS {refused} ({named}, \"offset\" int8, reason text NOT NULL, \
             refused_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY ({by}, \"offset\")); COMMIT"
        );
        let made = session.script(&script).await.map_err(|failure| failure.of(&what));
        made.map(drop).map_err(|error| match error.kind() {
            "not_authorised" => Error::stop(
                "not_authorised",
                format!(
                    "the role may not make {positions} and {refused}, where exactly once is kept: \
                     GRANT CREATE ON SCHEMA {}, or write `exactly_once: false`",
                    self.schema
                ),
            )
            .because(error),
            _ => error,
        })
    }

    fn whose(&self, at: &Beginning) -> String {
        format!(
            "pipeline = {} AND sink = {} AND source = {} AND partition = {}",
            literal(&self.pipeline),
            literal(&self.sink),
            literal(&at.place.source),
            at.place.index
        )
    }

    /// What is stored of a partition. Waits for a transaction that may still move its position, and
    /// begins at `from` where there is none, or one of another source. Below `settled` no dead record
    /// has to be known any more.
    pub async fn of(
        &self,
        session: &Session,
        at: &Beginning,
        from: i64,
        settled: i64,
    ) -> Result<Known> {
        let Ledger { positions, refused, .. } = self;
        let what = format!("reading {positions}");
        let (whose, identity) = (self.whose(at), literal(&at.identity));
        let script = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
             INSERT INTO {positions} (pipeline, sink, source, partition, identity, \"offset\") \
             VALUES ({}, {}, {}, {}, {identity}, {from}) ON CONFLICT DO NOTHING; \
             DELETE FROM {refused} WHERE {whose} AND (\"offset\" < {settled} OR NOT EXISTS (SELECT \
             FROM {positions} WHERE {whose} AND identity = {identity})); \
             UPDATE {positions} SET identity = {identity}, \"offset\" = {from} WHERE {whose} AND \
             identity <> {identity}; \
             COMMIT",
            literal(&self.pipeline),
            literal(&self.sink),
            literal(&at.place.source),
            at.place.index,
        );
        let failed = |failure: Failure| failure.of(&what);
        session.script(&script).await.map_err(failed)?;
        let position = format!("SELECT \"offset\" FROM {positions} WHERE {whose} FOR UPDATE");
        let dead = format!("SELECT \"offset\", reason FROM {refused} WHERE {whose}");
        let position = session.within(session.client.query_opt(&position, &[])).await;
        let position = position.map_err(failed)?;
        let unreadable = |error: tokio_postgres::Error| crate::error::of(&error, &what);
        let Some(position) = position else {
            return Err(Error::retry("moved", format!("{what}: the position is gone")));
        };
        let offset = position.try_get(0).map_err(unreadable)?;
        let rows = session.within(session.client.query(&dead, &[])).await.map_err(failed)?;
        let refused = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        let refused = refused.collect::<std::result::Result<_, _>>().map_err(unreadable)?;
        Ok(Known { offset, refused })
    }

    /// The statement that moves a position; it is about no row when somebody else has.
    pub fn advance(&self, at: &Beginning, from: i64, to: i64) -> String {
        format!(
            "UPDATE {} SET \"offset\" = {to}, stored_at = now() WHERE {} AND identity = {} AND \
             \"offset\" = {from};",
            self.positions,
            self.whose(at),
            literal(&at.identity)
        )
    }

    /// Notes dead records.
    pub async fn refuse(
        &self,
        session: &Session,
        at: &Beginning,
        dead: &BTreeMap<i64, String>,
    ) -> Result<(), Failure> {
        if dead.is_empty() {
            return Ok(());
        }
        let text = format!(
            "INSERT INTO {} (pipeline, sink, source, partition, \"offset\", reason) \
             SELECT $1::text, $2::text, $3::text, $4::int4, o, r \
             FROM UNNEST($5::int8[], $6::text[]) AS d(o, r) ON CONFLICT DO NOTHING",
            self.refused
        );
        let statement = session.prepare(&text).await?;
        let offsets: Vec<i64> = dead.keys().copied().collect();
        let reasons: Vec<String> = dead.values().map(|reason| shortened(reason)).collect();
        let (source, index) = (&*at.place.source, at.place.index as i32);
        let values: [&(dyn ToSql + Sync); 6] =
            [&self.pipeline, &self.sink, &source, &index, &offsets, &reasons];
        session.within(session.client.execute(&statement, &values)).await?;
        Ok(())
    }

    /// The statement that forgets what is dead and has a durable letter.
    pub fn forget(&self, at: &Beginning, below: i64) -> String {
        format!("DELETE FROM {} WHERE {} AND \"offset\" < {below}", self.refused, self.whose(at))
    }
}

fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].replace('\0', " ")
}
