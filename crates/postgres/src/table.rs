//! A table as the server describes it.

use crate::error;
use crate::server::{Access, Server};
use crate::session::Session;
use crate::types::{Kind, kind};
use crate::write::Writer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{Error, LookupKey, Result};
use std::sync::Arc;
use tokio_postgres::types::{Kind as PgKind, Type};

/// The columns and the unique keys of a table or a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub(crate) columns: Vec<Column>,
    /// The columns of each unique index over plain columns, the primary key first.
    pub keys: Vec<Vec<String>>,
    pub has_primary_key: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub name: String,
    pub kind: Kind,
    pub oid: u32,
    /// The type as the catalogue has it: a domain's own.
    pub declared: u32,
    /// The type as its users write it, and without length or digits.
    pub sql: String,
    pub base: String,
    /// The server makes its values.
    pub generated: bool,
    /// It is NOT NULL, and nothing on the server gives it a value.
    pub required: bool,
    /// Two values are the same only when their bytes are.
    pub told_by_bytes: bool,
}

const RELATION: &str = "SELECT c.oid, n.nspname::text, c.relname::text FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";

/// A domain's default, a rule and a trigger before a row is inserted, of a partition's too, may give what
/// the row leaves out.
const COLUMNS: &str = "SELECT a.attname::text, a.attgenerated <> '' OR a.attidentity = 'a', \
    coalesce(c.collisdeterministic, true), format_type(a.atttypid, a.atttypmod), a.atttypid, \
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND d.typdefault IS NULL \
    AND r.relkind = 'r' AND NOT r.relhasrules AND NOT EXISTS (SELECT FROM pg_trigger t \
    WHERE t.tgrelid = r.oid AND NOT t.tgisinternal AND t.tgtype & 7 = 7) \
    FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid \
    JOIN pg_type d ON d.oid = a.atttypid LEFT JOIN pg_collation c ON c.oid = a.attcollation \
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const KEYS: &str = "SELECT i.indisprimary, array_agg(a.attname::text ORDER BY k.n) \
    FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, n) \
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num \
    WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid \
    AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= i.indnkeyatts \
    GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC, i.indexrelid";

const BASES: &str = "SELECT format_type(t.o, -1) FROM unnest($1::oid[]) WITH ORDINALITY AS t(o, n) \
    ORDER BY t.n";

impl Table {
    /// Asks the server. Without a schema the role's search path says whose table is meant.
    pub async fn of(server: &Arc<Server>, schema: Option<&str>, table: &str) -> Result<Table> {
        let session = server.connect(Access::Read).await?;
        Table::described(&session, schema, table).await
    }

    pub(crate) async fn described(
        session: &Session,
        schema: Option<&str>,
        table: &str,
    ) -> Result<Table> {
        let named = match schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(table)),
            None => quoted(table),
        };
        let what = format!("describing the table {named}");
        let client = &session.client;
        let driver = |failure: crate::session::Failure| failure.of(&what);
        let found = session.within(client.query_opt(RELATION, &[&named])).await.map_err(driver)?;
        let Some(relation) = found else {
            let told = format!("there is no table {named}; create it, or name its schema");
            return Err(Error::retry("no_table", told));
        };
        let wrong = |e: tokio_postgres::Error| error::of(&e, &what);
        let oid: u32 = relation.try_get(0).map_err(wrong)?;
        let (schema, name): (String, String) =
            (relation.try_get(1).map_err(wrong)?, relation.try_get(2).map_err(wrong)?);
        let rows = session.within(client.query(COLUMNS, &[&oid])).await.map_err(driver)?;
        let names: Vec<String> =
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(wrong)?;
        let list: Vec<_> = names.iter().map(|name| quoted(name)).collect();
        let all = format!("SELECT {} FROM {}.{}", list.join(", "), quoted(&schema), quoted(&name));
        // The server resolves domains here.
        let typed = session.within(client.prepare(&all)).await.map_err(driver)?;
        let oids: Vec<u32> = typed.columns().iter().map(|column| column.type_().oid()).collect();
        let bases = session.within(client.query(BASES, &[&oids])).await.map_err(driver)?;
        let mut columns = Vec::new();
        for (((row, name), typed), base) in rows.iter().zip(names).zip(typed.columns()).zip(&bases)
        {
            let kind = kind(typed.type_(), typed.type_modifier());
            let deterministic: bool = row.try_get(2).map_err(wrong)?;
            columns.push(Column {
                name,
                told_by_bytes: kind.is_told_by_bytes()
                    && deterministic
                    && has_equal_bytes(typed.type_()),
                kind,
                oid: typed.type_().oid(),
                sql: row.try_get(3).map_err(wrong)?,
                declared: row.try_get(4).map_err(wrong)?,
                base: base.try_get(0).map_err(wrong)?,
                generated: row.try_get(1).map_err(wrong)?,
                required: row.try_get(5).map_err(wrong)?,
            });
        }
        let rows = session.within(client.query(KEYS, &[&oid])).await.map_err(driver)?;
        let mut keys = Vec::new();
        let mut has_primary_key = false;
        for row in &rows {
            has_primary_key |= row.try_get::<_, bool>(0).map_err(wrong)?;
            keys.push(row.try_get(1).map_err(wrong)?);
        }
        Ok(Table { schema, name, columns, keys, has_primary_key })
    }

    /// The columns as rows have them.
    pub fn schema(&self, columns: Option<&[String]>) -> Result<SchemaRef, String> {
        let field = |column: &Column| Field::new(&column.name, column.kind.arrow(), true);
        let fields: Vec<_> = match columns {
            None => self.columns.iter().map(field).collect(),
            Some(names) => {
                names.iter().map(|name| self.column(name).map(field)).collect::<Result<_, _>>()?
            }
        };
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Whether rows can be found by these columns.
    pub fn can_be_asked_by(&self, key: &[String]) -> Result<(), String> {
        for name in key {
            let column = self.column(name)?;
            if matches!(column.kind, Kind::List(..)) {
                let sql = &column.sql;
                return Err(format!("`{name}` is {sql}: nothing can be looked up by an array"));
            }
        }
        Ok(())
    }

    /// Whether keys of these types can be asked for.
    pub fn takes_key(&self, key: &LookupKey, types: &[DataType]) -> Result<(), String> {
        let LookupKey::Equal(names) = key else {
            return Err("a PostgreSQL table is asked by equality, not by a range".into());
        };
        self.can_be_asked_by(names)?;
        for (name, data_type) in names.iter().zip(types) {
            let column = self.column(name)?;
            Writer::new(data_type, &column.kind, &column.sql)
                .map_err(|why| format!("the key `{name}`: {why}"))?;
        }
        Ok(())
    }

    pub(crate) fn column(&self, name: &str) -> Result<&Column, String> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let known: Vec<_> = self.columns.iter().map(|column| column.name.as_str()).collect();
            format!("{} has no column `{name}`; it has {}", self.told(), known.join(", "))
        })
    }

    /// The table's name in a sentence.
    pub(crate) fn told(&self) -> String {
        format!("`{}.{}`", self.schema, self.name)
    }

    /// The table's name in a statement.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// Not so where blanks at the end, or the case of letters, make no difference.
fn has_equal_bytes(of: &Type) -> bool {
    match of.kind() {
        PgKind::Domain(base) => has_equal_bytes(base),
        _ => *of != Type::BPCHAR && *of != Type::JSON && *of != Type::XML && of.name() != "citext",
    }
}

/// A name as a statement takes it whatever letters it has.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a statement takes it.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''").replace('\0', ""))
}
