//! The text of a sink's statement, and where its values come from.

use super::{CqlSinkOptions, Operation, Ttl};
use crate::encode::{Layout, Marker, micros_of};
use crate::lookup::{Table, quoted};
use crate::write::Writer;
use arrow_schema::{DataType, Schema};

/// The error is a sentence for the user.
pub(super) fn plan(
    table: &Table,
    options: &CqlSinkOptions,
    rows: &Schema,
) -> Result<(String, Layout), String> {
    let named = format!("{}.{}", table.keyspace, table.name);
    let aside = |name: &str| {
        options.timestamp.as_deref() == Some(name)
            || matches!(&options.ttl, Ttl::Column(column) if column == name)
    };
    let columns: Vec<(String, String)> = match &options.columns {
        Some(columns) => columns.clone(),
        // What only says how to write need not be a column of the table.
        None => rows
            .fields()
            .iter()
            .map(|field| field.name())
            .filter(|name| !aside(name) || table.column(name).is_ok())
            .map(|name| (name.clone(), name.clone()))
            .collect(),
    };
    let place =
        |name: &str| rows.index_of(name).map_err(|_| format!("the rows have no column `{name}`"));
    let mut bound = Vec::new();
    for (from, to) in &columns {
        let cql = table.column(to)?;
        let column = place(from)?;
        let writer = Writer::new(rows.field(column).data_type(), cql)
            .map_err(|why| format!("column `{to}`: {why}"))?;
        if bound.iter().any(|(name, _, _)| *name == to) {
            return Err(format!("`{to}` is written twice"));
        }
        bound.push((to, column, writer));
    }
    let key: Vec<&String> = table.partition_key.iter().chain(&table.clustering).collect();
    let missing = key.iter().find(|name| !bound.iter().any(|(to, ..)| *to == **name));
    if let Some(missing) = missing {
        return Err(format!(
            "the key of `{named}` is {}: the rows have no `{missing}`",
            key.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
        ));
    }
    let values: Vec<_> = bound.iter().map(|(to, ..)| *to).filter(|to| !key.contains(to)).collect();
    let conditional = matches!(options.operation, Operation::InsertIfNotExists(_));
    if conditional && options.timestamp.is_some() {
        return Err("`if_not_exists` and `timestamp` cannot be together in CQL".into());
    }
    let mut using = Vec::new();
    let mut extra = Vec::new();
    match &options.ttl {
        Ttl::Column(name) if options.operation != Operation::Delete => {
            let column = place(name)?;
            let data_type = rows.field(column).data_type();
            if !matches!(data_type, DataType::Int32 | DataType::Int64) {
                let is = millstream_core::types::name(data_type);
                return Err(format!("`{name}` is {is}: a TTL is a number of seconds"));
            }
            using.push("TTL ?".to_owned());
            extra.push(Marker::Ttl(column));
        }
        Ttl::Seconds(seconds) if options.operation != Operation::Delete => {
            using.push(format!("TTL {seconds}"));
        }
        _ => {}
    }
    let mut stamped = None;
    if let Some(name) = &options.timestamp {
        let column = place(name)?;
        let data_type = rows.field(column).data_type();
        let scale = micros_of(data_type).ok_or_else(|| {
            let is = millstream_core::types::name(data_type);
            format!("`{name}` is {is}: the time of a write is a timestamp or microseconds")
        })?;
        using.push("TIMESTAMP ?".to_owned());
        stamped = Some(extra.len());
        extra.push(Marker::Timestamp(column, scale));
    }
    let using = match using.is_empty() {
        true => String::new(),
        false => format!(" USING {}", using.join(" AND ")),
    };
    let target = format!("{}.{}", quoted(&table.keyspace), quoted(&table.name));
    let by_key = key.iter().map(|name| format!("{} = ?", quoted(name))).collect::<Vec<_>>();
    let by_key = by_key.join(" AND ");
    let set = values.iter().map(|name| {
        let quoted = quoted(name);
        match table.is_counter(name) {
            true => format!("{quoted} = {quoted} + ?"),
            false => format!("{quoted} = ?"),
        }
    });
    // The order of the markers: what follows USING stands last in INSERT, first elsewhere.
    let (text, order): (String, Vec<&String>) = match options.operation {
        Operation::Insert | Operation::InsertIfNotExists(_) => {
            let order: Vec<_> = key.iter().copied().chain(values.iter().copied()).collect();
            let names = order.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            let marks = vec!["?"; order.len()].join(", ");
            let condition = if conditional { " IF NOT EXISTS" } else { "" };
            let text = format!("INSERT INTO {target} ({names}) VALUES ({marks}){condition}{using}");
            (text, order)
        }
        Operation::Update if values.is_empty() => {
            return Err(format!("there is nothing to update in `{named}` beside its key"));
        }
        Operation::Update => {
            let set = set.collect::<Vec<_>>().join(", ");
            let order = values.iter().copied().chain(key.iter().copied()).collect();
            (format!("UPDATE {target}{using} SET {set} WHERE {by_key}"), order)
        }
        Operation::Delete => (format!("DELETE FROM {target}{using} WHERE {by_key}"), key.clone()),
    };
    let is_insert =
        matches!(options.operation, Operation::Insert | Operation::InsertIfNotExists(_));
    let mut markers = Vec::new();
    let before = if is_insert { 0 } else { extra.len() };
    let mut place_of = std::collections::BTreeMap::new();
    for (at, name) in order.iter().enumerate() {
        let found = bound.iter().position(|(to, ..)| to == name);
        let (_, column, writer) = bound.swap_remove(found.ok_or("a column is bound once")?);
        place_of.insert((*name).clone(), before + at);
        markers.push(Marker::Column { column, writer, is_key: key.contains(name) });
    }
    let timestamp = stamped.map(|at| if is_insert { markers.len() + at } else { at });
    match is_insert {
        true => markers.extend(extra),
        false => drop(markers.splice(0..0, extra)),
    }
    // The key's markers stand side by side in every statement, the partition's first.
    let first = key.first().and_then(|name| place_of.get(*name)).copied().unwrap_or(0);
    let layout = Layout {
        markers,
        partition: first..first + table.partition_key.len(),
        key: first..first + key.len(),
        timestamp,
        nulls: options.nulls,
        operation: options.operation,
    };
    Ok((text, layout))
}
