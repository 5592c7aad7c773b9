//! What goes together in the options of PostgreSQL.

use super::{has, tls};
use crate::shape::Reader;
use serde_json::Value;

pub(super) fn lookup(lookup: &Value, path: &str, reader: &mut Reader) {
    let postgres = &lookup["postgres"];
    if postgres.is_null() {
        return;
    }
    server(postgres, &format!("{path}/postgres"), reader);
    if !lookup["range"].is_null() {
        let message = "a table of PostgreSQL is asked by equality, not by a range";
        let hint = "remove `range`, and join by columns of the table";
        reader.at_key(&format!("{path}/range"), message, Some(hint.into()));
    }
}

pub(super) fn sink(postgres: &Value, path: &str, reader: &mut Reader) {
    if postgres.is_null() {
        return;
    }
    server(postgres, path, reader);
    let inserts = postgres["operation"].is_null() || postgres["operation"] == "insert";
    if !inserts && !postgres["on_conflict"].is_null() {
        let message = "only what is inserted has an `on_conflict`";
        let hint = "remove it, or write `operation: insert`";
        reader.at_key(&format!("{path}/on_conflict"), message, Some(hint.into()));
    }
    if inserts && !postgres["key"].is_null() && postgres["on_conflict"] != "nothing" {
        let message = "`key` has no use: nothing is compared";
        let hint = "write `operation: upsert` or `on_conflict: nothing` beside it, or remove it";
        reader.at_key(&format!("{path}/key"), message, Some(hint.into()));
    }
}

/// What goes together in the options of a server.
fn server(postgres: &Value, path: &str, reader: &mut Reader) {
    tls(&postgres["tls"], path, reader);
    let [given, file] = ["password", "password_file"].map(|name| has(postgres, path, name, reader));
    if given && file {
        let message = "`password` and `password_file` exclude each other";
        let path = format!("{path}/password_file");
        reader.at_key(&path, message, Some("keep one of them".into()));
    }
}
