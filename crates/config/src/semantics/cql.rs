//! What goes together in the options of Cassandra.

use super::{name_and_password, tls};
use crate::shape::Reader;
use serde_json::Value;

pub(super) fn lookup(lookup: &Value, path: &str, reader: &mut Reader) {
    let cql = &lookup["cql"];
    if cql.is_null() {
        return;
    }
    cluster(cql, &format!("{path}/cql"), reader);
    if !lookup["range"].is_null() {
        let message = "a table of Cassandra is asked by equality, not by a range";
        let hint = "remove `range`, and join by the table's key";
        reader.at_key(&format!("{path}/range"), message, Some(hint.into()));
    }
    if !cql["max_rows"].is_null() && cql["rows"] != "all" {
        let message = "`max_rows` has no use: a key gives its first row";
        let hint = "write `rows: all` beside it, or remove it";
        reader.at_key(&format!("{path}/cql/max_rows"), message, Some(hint.into()));
    }
    let inserts = cql["insert_if_not_exists"] == true;
    if inserts && !lookup["cache"].is_null() {
        let message =
            "a look-up with `insert_if_not_exists` has no `cache`: each row asks for itself";
        reader.at_key(&format!("{path}/cache"), message, Some("remove it".into()));
    }
    let useless = match inserts {
        true => &["rows", "group", "speculative_after"][..],
        false => &["ttl", "serial_consistency"],
    };
    for field in useless.iter().filter(|field| !cql[**field].is_null()) {
        let (message, hint) = match inserts {
            true => (format!("`{field}` has no use with `insert_if_not_exists`"), "remove it"),
            false => (
                format!("`{field}` has no use: nothing is inserted"),
                "write `insert_if_not_exists: true` beside it, or remove it",
            ),
        };
        reader.at_key(&format!("{path}/cql/{field}"), message, Some(hint.into()));
    }
}

pub(super) fn sink(cql: &Value, path: &str, reader: &mut Reader) {
    if cql.is_null() {
        return;
    }
    cluster(cql, path, reader);
    let conditional = cql["operation"] == "insert_if_not_exists";
    let excluding: [(&str, &str, bool); 4] = [
        ("ttl_column", "`ttl` and `ttl_column` exclude each other", !cql["ttl"].is_null()),
        (
            "timestamp",
            "`timestamp` and `operation: insert_if_not_exists` exclude each other",
            conditional,
        ),
        ("ttl", "what is deleted has no `ttl`", cql["operation"] == "delete"),
        ("ttl_column", "what is deleted has no `ttl_column`", cql["operation"] == "delete"),
    ];
    for (field, message, excluded) in excluding {
        if excluded && !cql[field].is_null() {
            reader.at_key(&format!("{path}/{field}"), message, Some("keep one of them".into()));
            return;
        }
    }
    if !conditional && !cql["serial_consistency"].is_null() {
        let message = "`serial_consistency` has no use: rows are stored without a condition";
        let hint = "write `operation: insert_if_not_exists` beside it, or remove it";
        reader.at_key(&format!("{path}/serial_consistency"), message, Some(hint.into()));
    }
}

/// What goes together in the options of a cluster.
fn cluster(cql: &Value, path: &str, reader: &mut Reader) {
    tls(&cql["tls"], path, reader);
    name_and_password(cql, path, reader);
    if !cql["rack"].is_null() && cql["datacenter"].is_null() {
        let message = "`rack` without a `datacenter`";
        reader.at_key(&format!("{path}/rack"), message, Some("add `datacenter:`".into()));
    }
}
