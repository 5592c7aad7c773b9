//! The statements that store rows, and how a row's cells are made for them.
//!
//! ```text
//!  copy     rows ─► COPY ─► a staging table ─┐
//!  insert   rows ─► arrays ─► UNNEST ────────┴► INSERT .. SELECT .. ON CONFLICT, or DELETE
//!  copy, where nothing has to be compared: rows ─► COPY ─► the table
//! ```

use crate::table::{Column, Table, literal, quoted};
use crate::types::Kind;
use crate::write::Writer;
use arrow_schema::Schema;
use std::sync::atomic::{AtomicU64, Ordering};

/// How rows get to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Copy,
    /// Arrays, one a column: for those who may not make temporary tables.
    Insert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Insert,
    /// A row that is there gets the new values.
    Upsert,
    /// By the key.
    Delete,
}

/// What becomes of an inserted row whose key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// It is refused.
    Reject,
    /// What is there stays.
    Nothing,
}

/// What the file says of a sink's statements.
#[derive(Debug, Clone)]
pub(crate) struct Wish<'a> {
    pub mode: Mode,
    pub operation: Operation,
    pub conflict: Conflict,
    pub key: Option<&'a [String]>,
    /// Columns of the rows and of the table; those of the same name unless given.
    pub columns: Option<&'a [(String, String)]>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub columns: Vec<Bound>,
    /// Which of the columns may not be null here: those of a key to compare by.
    pub key: Vec<usize>,
    pub way: Way,
}

/// A column of the rows, and how its cells are written.
#[derive(Debug, PartialEq)]
pub(crate) struct Bound {
    pub from: usize,
    pub to: String,
    pub writer: Writer,
    /// The type of an array's elements.
    pub oid: u32,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Way {
    /// COPY into the table itself.
    Direct {
        copy: String,
        /// Keeps the table as it is until the transaction ends.
        lock: String,
        /// Gives a row for each column that is of the type that its bytes are made for: the server
        /// would take those of a number for a time.
        guard: String,
    },
    /// COPY into a table of the connection's own, then a statement over that.
    Staged { stage: String, create: String, copy: String, statement: String },
    /// A statement with an array a column.
    Arrays { statement: String },
}

impl Plan {
    /// The error is a sentence for the user.
    pub fn new(table: &Table, wish: &Wish<'_>, rows: &Schema) -> Result<Plan, String> {
        let key = key(table, wish)?;
        let pairs = pairs(table, wish, rows, &key)?;
        let mut columns: Vec<Bound> = Vec::new();
        let mut parts: Vec<Part> = Vec::new();
        for (from, to) in &pairs {
            let column = table.column(to)?;
            if column.generated && wish.operation != Operation::Delete {
                return Err(format!("`{to}` is made by the server: leave it out of `columns`"));
            }
            let place =
                rows.index_of(from).map_err(|_| format!("the rows have no column `{from}`"))?;
            let writer = Writer::new(rows.field(place).data_type(), &column.kind, &column.sql)
                .map_err(|why| format!("column `{to}`: {why}"))?;
            if columns.iter().any(|bound| bound.to == *to) {
                return Err(format!("`{to}` is written twice"));
            }
            if wish.mode == Mode::Insert && matches!(column.kind, Kind::List(..)) {
                let sql = &column.sql;
                return Err(format!(
                    "column `{to}`: {sql} needs `mode: copy`, arrays of arrays are \
                                    one array to PostgreSQL"
                ));
            }
            let cast = (column.kind == Kind::Cast).then(|| column.base.clone());
            let oid = if cast.is_some() { TEXT_OID } else { column.oid };
            let carried = if cast.is_some() { "text".to_owned() } else { column.base.clone() };
            parts.push(Part { name: quoted(to), carried, cast });
            columns.push(Bound { from: place, to: to.clone(), writer, oid });
        }
        if columns.is_empty() {
            return Err(format!("the rows have no column that {} has", table.told()));
        }
        let places = key.iter().map(|name| {
            columns.iter().position(|bound| bound.to == *name).ok_or_else(|| {
                format!(
                    "the key of {} is {}: the rows have no `{name}`",
                    table.told(),
                    key.join(", ")
                )
            })
        });
        let places = places.collect::<Result<Vec<_>, _>>()?;
        if wish.operation != Operation::Delete
            && let Some(Column { name, sql, .. }) = table
                .columns
                .iter()
                .find(|column| column.required && !pairs.iter().any(|(_, to)| *to == column.name))
        {
            return Err(format!(
                "`{name}` of {} is {sql} NOT NULL without a default: the rows have no `{name}`",
                table.told()
            ));
        }
        let statement = |source: &str| statement(table, wish, &parts, &places, source);
        let plain = wish.operation == Operation::Insert && wish.conflict == Conflict::Reject;
        let list = |names: &[String]| names.join(", ");
        let names: Vec<_> = parts.iter().map(|part| part.name.clone()).collect();
        let way = match wish.mode {
            Mode::Copy if plain && parts.iter().all(|part| part.cast.is_none()) => Way::Direct {
                copy: format!(
                    "COPY {} ({}) FROM STDIN (FORMAT binary)",
                    table.quoted(),
                    list(&names)
                ),
                lock: lock(table, &names),
                guard: guard(table, &columns),
            },
            Mode::Copy => {
                let stage = stage_name();
                let carried: Vec<_> =
                    parts.iter().map(|part| format!("{} {}", part.name, part.carried)).collect();
                Way::Staged {
                    create: format!(
                        "CREATE TEMP TABLE {stage} ({ROW} int4, {}) ON COMMIT DELETE ROWS",
                        list(&carried)
                    ),
                    copy: format!(
                        "COPY pg_temp.{stage} ({ROW}, {}) FROM STDIN (FORMAT binary)",
                        list(&names)
                    ),
                    statement: statement(&format!("pg_temp.{stage} AS s")),
                    stage,
                }
            }
            Mode::Insert => {
                let arrays = parts.iter().enumerate();
                let arrays: Vec<_> =
                    arrays.map(|(at, part)| format!("${}::{}[]", at + 1, part.carried)).collect();
                let source = format!(
                    "UNNEST({}) WITH ORDINALITY AS s({}, {ROW})",
                    list(&arrays),
                    list(&names)
                );
                Way::Arrays { statement: statement(&source) }
            }
        };
        let compared = wish.operation != Operation::Insert;
        Ok(Plan { columns, key: if compared { places } else { Vec::new() }, way })
    }

    /// Whether each row is preceded by its number.
    pub fn is_numbered(&self) -> bool {
        matches!(self.way, Way::Staged { .. })
    }

    pub fn place_of(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|bound| bound.to == column)
    }

    /// Whether it does the same, whatever its staging table is called.
    pub fn is_like(&self, other: &Plan) -> bool {
        let same_way = match (&self.way, &other.way) {
            (Way::Staged { create, stage, .. }, Way::Staged { create: c, stage: s, .. }) => {
                create.replace(stage, "") == c.replace(s, "")
            }
            (one, other) => one == other,
        };
        same_way && self.columns == other.columns && self.key == other.key
    }
}

/// An INSERT that is only planned: it takes INSERT's lock with no other right than COPY needs, on
/// whatever COPY takes, where `LOCK TABLE` asks for all columns and refuses foreign tables.
fn lock(table: &Table, names: &[String]) -> String {
    let nulls = vec!["NULL"; names.len()];
    format!(
        "EXPLAIN (COSTS OFF) INSERT INTO {} ({}) VALUES ({});",
        table.quoted(),
        names.join(", "),
        nulls.join(", ")
    )
}

fn guard(table: &Table, columns: &[Bound]) -> String {
    let declared = |bound: &Bound| {
        let column = table.column(&bound.to).ok()?;
        Some(format!("({}, {}::oid)", literal(&column.name), column.declared))
    };
    let wanted: Vec<_> = columns.iter().filter_map(declared).collect();
    format!(
        "SELECT FROM pg_attribute WHERE attrelid = {}::regclass AND NOT attisdropped AND \
         (attname::text, atttypid) IN ({});",
        literal(&table.quoted()),
        wanted.join(", ")
    )
}

/// The number of a row within its batch.
const ROW: &str = "millstream_row";

const TEXT_OID: u32 = 25;

fn stage_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("millstream_stage_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A column as the source of a statement has it.
struct Part {
    name: String,
    /// The type that its values come in.
    carried: String,
    /// The type that they have to be made, where that is another.
    cast: Option<String>,
}

impl Part {
    fn value(&self) -> String {
        match &self.cast {
            Some(cast) => format!("s.{}::{cast}", self.name),
            None => format!("s.{}", self.name),
        }
    }
}

fn key(table: &Table, wish: &Wish<'_>) -> Result<Vec<String>, String> {
    let needed = wish.operation != Operation::Insert;
    match wish.key {
        Some(key) => {
            for name in key {
                table.column(name)?;
            }
            let upserts = wish.operation == Operation::Upsert
                || (wish.operation == Operation::Insert && wish.conflict == Conflict::Nothing);
            let same = |known: &Vec<String>| {
                known.len() == key.len() && known.iter().all(|name| key.contains(name))
            };
            if upserts && !table.keys.iter().any(same) {
                let known: Vec<_> = table.keys.iter().map(|key| key.join(", ")).collect();
                let known = match known.is_empty() {
                    true => "it has none".to_owned(),
                    false => format!("it has {}", known.join("; ")),
                };
                return Err(format!(
                    "{} has no unique index over exactly {}; {known}",
                    table.told(),
                    key.join(", ")
                ));
            }
            Ok(key.to_vec())
        }
        None if !needed => Ok(Vec::new()),
        None => match table.keys.first() {
            Some(key) if table.has_primary_key => Ok(key.clone()),
            _ => Err(format!("{} has no primary key: name the columns in `key`", table.told())),
        },
    }
}

fn pairs(
    table: &Table,
    wish: &Wish<'_>,
    rows: &Schema,
    key: &[String],
) -> Result<Vec<(String, String)>, String> {
    let deletes = wish.operation == Operation::Delete;
    if let Some(columns) = wish.columns {
        let wanted = |to: &String| !deletes || key.contains(to);
        return Ok(columns.iter().filter(|(_, to)| wanted(to)).cloned().collect());
    }
    if deletes {
        return Ok(key.iter().map(|name| (name.clone(), name.clone())).collect());
    }
    rows.fields()
        .iter()
        .map(|field| {
            let name = field.name();
            table
                .column(name)
                .map_err(|why| format!("{why}; SELECT what it has, or map `columns`"))?;
            Ok((name.clone(), name.clone()))
        })
        .collect()
}

fn statement(
    table: &Table,
    wish: &Wish<'_>,
    parts: &[Part],
    key: &[usize],
    source: &str,
) -> String {
    let target = table.quoted();
    let names = |places: &[usize]| {
        places.iter().map(|at| parts[*at].name.clone()).collect::<Vec<_>>().join(", ")
    };
    let all: Vec<usize> = (0..parts.len()).collect();
    let values: Vec<_> = parts.iter().map(Part::value).collect();
    let by: Vec<_> = key.iter().map(|at| parts[*at].value()).collect();
    let by = by.join(", ");
    match wish.operation {
        Operation::Delete => {
            let equal: Vec<_> = key
                .iter()
                .map(|at| format!("t.{} = {}", parts[*at].name, parts[*at].value()))
                .collect();
            format!("DELETE FROM {target} AS t USING {source} WHERE {}", equal.join(" AND "))
        }
        Operation::Insert => {
            let conflict = match (wish.conflict, key.is_empty()) {
                (Conflict::Reject, _) => String::new(),
                (Conflict::Nothing, true) => " ON CONFLICT DO NOTHING".to_owned(),
                (Conflict::Nothing, false) => format!(" ON CONFLICT ({}) DO NOTHING", names(key)),
            };
            format!(
                "INSERT INTO {target} ({}) SELECT {} FROM {source} ORDER BY s.{ROW}{conflict}",
                names(&all),
                values.join(", ")
            )
        }
        Operation::Upsert => {
            let set: Vec<_> = all
                .iter()
                .filter(|at| !key.contains(at))
                .map(|at| format!("{0} = EXCLUDED.{0}", parts[*at].name))
                .collect();
            let action = match set.is_empty() {
                true => "NOTHING".to_owned(),
                false => format!("UPDATE SET {}", set.join(", ")),
            };
            // The last row of each key, in the keys' order: two batches that meet wait for each
            // other instead of locking each other out.
            format!(
                "INSERT INTO {target} ({}) SELECT DISTINCT ON ({by}) {} FROM {source} \
                 ORDER BY {by}, s.{ROW} DESC ON CONFLICT ({}) DO {action}",
                names(&all),
                values.join(", "),
                names(key)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;
    use arrow_schema::{DataType, Field};

    fn table() -> Table {
        let column = |name: &str, kind: Kind, base: &str| Column {
            name: name.into(),
            told_by_bytes: true,
            kind,
            oid: 20,
            declared: 20,
            sql: base.into(),
            base: base.into(),
            generated: name == "made",
            required: name == "id",
        };
        Table {
            schema: "s".into(),
            name: "t".into(),
            columns: vec![
                column("id", Kind::Int(8), "bigint"),
                column("v", Kind::Text, "text"),
                column("mac", Kind::Cast, "macaddr"),
                column("made", Kind::Text, "text"),
            ],
            keys: vec![vec!["id".into()]],
            has_primary_key: true,
        }
    }

    fn planned(wish: &Wish<'_>) -> Result<Plan, String> {
        let rows = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("v", DataType::Utf8, true),
            Field::new("mac", DataType::Utf8, true),
        ]);
        Plan::new(&table(), wish, &rows)
    }

    fn wish() -> Wish<'static> {
        Wish {
            mode: Mode::Insert,
            operation: Operation::Upsert,
            conflict: Conflict::Reject,
            key: None,
            columns: None,
        }
    }

    #[test]
    fn an_upsert_takes_the_last_row_of_each_key() {
        let Way::Arrays { statement } = planned(&wish()).unwrap().way else { panic!() };
        assert_eq!(
            statement,
            "INSERT INTO \"s\".\"t\" (\"id\", \"v\", \"mac\") SELECT DISTINCT ON (s.\"id\") s.\"id\", \
             s.\"v\", s.\"mac\"::macaddr FROM UNNEST($1::bigint[], $2::text[], $3::text[]) WITH \
             ORDINALITY AS s(\"id\", \"v\", \"mac\", millstream_row) ORDER BY s.\"id\", \
             s.millstream_row DESC ON CONFLICT (\"id\") DO UPDATE SET \"v\" = EXCLUDED.\"v\", \
             \"mac\" = EXCLUDED.\"mac\""
        );
    }

    #[test]
    fn rows_go_straight_into_the_table_where_nothing_is_compared() {
        let columns = [("id".to_owned(), "id".to_owned())];
        let plain = Wish {
            mode: Mode::Copy,
            operation: Operation::Insert,
            columns: Some(&columns),
            ..wish()
        };
        assert!(matches!(planned(&plain).unwrap().way, Way::Direct { .. }));
        let kept = Wish { conflict: Conflict::Nothing, ..plain };
        assert!(matches!(planned(&kept).unwrap().way, Way::Staged { .. }));
    }

    #[test]
    fn what_does_not_fit_is_a_sentence() {
        let told = |wish: &Wish<'_>| planned(wish).unwrap_err();
        let by = ["v".to_owned()];
        let no_index = told(&Wish { key: Some(&by), ..wish() });
        assert!(no_index.contains("no unique index over exactly v; it has id"), "{no_index}");
        let made = [("v".to_owned(), "made".to_owned())];
        assert!(told(&Wish { columns: Some(&made), ..wish() }).contains("made by the server"));
        let typed = [("v".to_owned(), "id".to_owned())];
        let typed = told(&Wish { columns: Some(&typed), ..wish() });
        assert!(typed.contains("column `id`: string cannot be written as bigint"), "{typed}");
        let missing = [("v".to_owned(), "v".to_owned())];
        let missing = told(&Wish { columns: Some(&missing), ..wish() });
        assert!(missing.contains("the key of `s.t` is id: the rows have no `id`"), "{missing}");
        let plain = [("v".to_owned(), "v".to_owned())];
        let plain = Wish { operation: Operation::Insert, columns: Some(&plain), ..wish() };
        assert!(told(&plain).contains("`id` of `s.t` is bigint NOT NULL"), "{}", told(&plain));
    }
}
