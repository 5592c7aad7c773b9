//! What goes together in the options of MongoDB.

use super::{name_and_password, tls};
use crate::shape::Reader;
use serde_json::Value;

pub(super) fn lookup(lookup: &Value, path: &str, reader: &mut Reader) {
    let mongo = &lookup["mongodb"];
    if mongo.is_null() {
        return;
    }
    tls(&mongo["tls"], &format!("{path}/mongodb"), reader);
    name_and_password(mongo, &format!("{path}/mongodb"), reader);
    if !lookup["range"].is_null() {
        let message = "a collection of MongoDB is asked by equality, not by a range";
        let hint = "remove `range`, and join by fields of the documents";
        reader.at_key(&format!("{path}/range"), message, Some(hint.into()));
    }
    if !mongo["max_rows"].is_null() && mongo["rows"] != "all" {
        let message = "`max_rows` has no use: a key gives its first document";
        let hint = "write `rows: all` beside it, or remove it";
        reader.at_key(&format!("{path}/mongodb/max_rows"), message, Some(hint.into()));
    }
}

pub(super) fn sink(mongo: &Value, path: &str, reader: &mut Reader) {
    if mongo.is_null() {
        return;
    }
    tls(&mongo["tls"], path, reader);
    name_and_password(mongo, path, reader);
    let updates = mongo["operation"] == "update";
    if updates && mongo["update"].is_null() {
        let message = "an update needs to know what it changes";
        let hint = "add `update:`, such as `update: { $set: { seen: $seen_at } }`";
        reader.at_key(path, message, Some(hint.into()));
    }
    for field in ["update", "upsert"] {
        if !updates && !mongo[field].is_null() {
            let message = format!("`{field}` has no use without `operation: update`");
            let hint = "add it, or remove this";
            reader.at_key(&format!("{path}/{field}"), &message, Some(hint.into()));
        }
    }
    let inserts = mongo["operation"].is_null() || mongo["operation"] == "insert";
    if inserts && !mongo["key"].is_null() {
        let message = "what is inserted has no `key`: documents are told apart by `_id`";
        let hint = "write `operation: upsert`, or remove it";
        reader.at_key(&format!("{path}/key"), message, Some(hint.into()));
    }
    if mongo["write_concern"] == "0" {
        let message = "with `write_concern: 0` nobody says whether a row is stored";
        reader.at_value(&format!("{path}/write_concern"), message, Some("1 is the least".into()));
    }
}
