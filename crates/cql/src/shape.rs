//! What a statement takes and gives. A table that is made again under its old name may have columns
//! of other types: bytes that are right for a text would be stored as a number without a word.

use crate::types;
use millstream_core::{Error, Result};
use scylla::cluster::metadata::{CollectionType, ColumnType};
use scylla::frame::response::result::ColumnSpec;
use scylla::statement::prepared::PreparedStatement;

/// The columns of a statement as it was prepared first.
#[derive(Debug)]
pub(crate) struct Shape {
    takes: Columns,
    gives: Columns,
}

type Columns = Vec<(String, ColumnType<'static>)>;

impl Shape {
    pub fn of(prepared: &PreparedStatement) -> Shape {
        let known = |specs: &[ColumnSpec<'static>]| {
            specs.iter().map(|spec| (spec.name().to_owned(), spec.typ().clone())).collect()
        };
        let gives = prepared.get_current_result_set_col_specs();
        Shape {
            takes: known(prepared.get_variable_col_specs().as_slice()),
            gives: known(gives.get().as_slice()),
        }
    }

    /// Whether the statement, prepared anew, takes what it did. `what` says which it is.
    pub fn still_takes(&self, prepared: &PreparedStatement, what: &str) -> Result<()> {
        same(&self.takes, prepared.get_variable_col_specs().as_slice(), what)
    }

    /// Whether rows have the columns that they had.
    pub fn still_gives(&self, rows: &[ColumnSpec<'_>], what: &str) -> Result<()> {
        same(&self.gives, rows, what)
    }
}

/// It may become again what it was: until then rows wait.
fn same(known: &Columns, now: &[ColumnSpec<'_>], what: &str) -> Result<()> {
    if known.len() != now.len() {
        let told = format!("{what}: the table is another one than at the start; start again");
        return Err(Error::retry("table_changed", told));
    }
    for ((name, was), now) in known.iter().zip(now) {
        if !fits(was, now.typ()) {
            let told = format!(
                "{what}: the column `{name}` is {} now, and was {} at the start; make it {} again, \
                 or start again with SQL that fits it",
                types::name(now.typ()),
                types::name(was),
                types::name(was),
            );
            return Err(Error::retry("table_changed", told));
        }
    }
    Ok(())
}

/// Whether values of a type are still of it. A type of one's own may have got fields at its end.
fn fits(was: &ColumnType<'_>, now: &ColumnType<'_>) -> bool {
    match (was, now) {
        (ColumnType::Collection { typ: was, .. }, ColumnType::Collection { typ: now, .. }) => {
            match (was, now) {
                (CollectionType::List(was), CollectionType::List(now))
                | (CollectionType::Set(was), CollectionType::Set(now)) => fits(was, now),
                (CollectionType::Map(key, value), CollectionType::Map(key_now, value_now)) => {
                    fits(key, key_now) && fits(value, value_now)
                }
                _ => false,
            }
        }
        (
            ColumnType::Vector { typ: was, dimensions },
            ColumnType::Vector { typ: now, dimensions: now_so_many },
        ) => dimensions == now_so_many && fits(was, now),
        (
            ColumnType::UserDefinedType { definition: was, .. },
            ColumnType::UserDefinedType { definition: now, .. },
        ) => {
            let (was, now) = (&was.field_types, &now.field_types);
            let same = |((a, was), (b, now)): (&(_, _), &(_, _))| a == b && fits(was, now);
            was.len() <= now.len() && was.iter().zip(now).all(same)
        }
        (ColumnType::Tuple(was), ColumnType::Tuple(now)) => {
            was.len() == now.len() && was.iter().zip(now).all(|(was, now)| fits(was, now))
        }
        (was, now) => was == now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scylla::cluster::metadata::{NativeType, UserDefinedType};
    use scylla::frame::response::result::TableSpec;
    use std::sync::Arc;

    fn specs(columns: &[(&'static str, NativeType)]) -> Vec<ColumnSpec<'static>> {
        let spec = |(name, of): &(&'static str, NativeType)| {
            ColumnSpec::borrowed(
                name,
                ColumnType::Native(of.clone()),
                TableSpec::borrowed("k", "t"),
            )
        };
        columns.iter().map(spec).collect()
    }

    #[test]
    fn another_type_is_told_and_waited_for() {
        let known = vec![("n".to_owned(), ColumnType::Native(NativeType::Text))];
        assert!(same(&known, &specs(&[("n", NativeType::Text)]), "writing t").is_ok());
        let error = same(&known, &specs(&[("n", NativeType::Int)]), "writing t").unwrap_err();
        assert_eq!(error.kind(), "table_changed");
        assert!(error.to_string().contains("`n` is int now, and was text"), "{error}");
        assert!(same(&known, &specs(&[]), "writing t").is_err());
    }
    #[test]
    fn a_type_of_ones_own_may_grow() {
        let own = |fields: &[(&'static str, NativeType)]| {
            let field_types = fields
                .iter()
                .map(|(name, of)| ((*name).into(), ColumnType::Native(of.clone())))
                .collect();
            let definition =
                UserDefinedType { name: "t".into(), keyspace: "k".into(), field_types };
            let of = ColumnType::UserDefinedType { frozen: true, definition: Arc::new(definition) };
            ColumnType::Collection { frozen: false, typ: CollectionType::List(Box::new(of)) }
        };
        let one = own(&[("a", NativeType::Int)]);
        let two = own(&[("a", NativeType::Int), ("b", NativeType::Text)]);
        assert!(fits(&one, &two) && fits(&one, &one));
        assert!(!fits(&two, &one));
        assert!(!fits(&one, &own(&[("a", NativeType::Text)])));
        assert!(!fits(&one, &own(&[("b", NativeType::Int)])));
    }
}
