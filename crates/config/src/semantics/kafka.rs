//! What goes together in the options of Kafka, and what its transactions need.

use super::{exactly_one, items, tls};
use crate::shape::Reader;
use serde_json::Value;

pub(super) fn source(kafka: &Value, reader: &mut Reader) {
    if kafka.is_null() {
        return;
    }
    exactly_one(kafka, "/source/kafka", &["topic", "topics", "pattern"], reader);
    cluster(kafka, "/source/kafka", reader);
    if !kafka["start_time"].is_null() && kafka["start"].as_str().is_some_and(|s| s != "earliest") {
        reader.at_key(
            "/source/kafka/start_time",
            "`start` and `start_time` exclude each other",
            Some("keep one of them".into()),
        );
    }
}

pub(super) fn sink(kafka: &Value, path: &str, source: &Value, reader: &mut Reader) {
    if kafka.is_null() {
        return;
    }
    exactly_one(kafka, path, &["topic", "topic_column"], reader);
    cluster(kafka, path, reader);
    if kafka["topic"].is_string()
        && kafka["topic"] == source["topic"]
        && kafka["brokers"] == source["brokers"]
    {
        reader.at_value(
            &format!("{path}/topic"),
            "this sink writes the topic that the source reads, so it would never end",
            Some("write another topic".into()),
        );
    }
}

/// What goes together in the options of a cluster.
pub(super) fn cluster(kafka: &Value, path: &str, reader: &mut Reader) {
    tls(&kafka["tls"], path, reader);
    let sasl = &kafka["sasl"];
    if sasl["mechanism"].is_null() {
        return;
    }
    if sasl["mechanism"] == "oauthbearer" {
        return exactly_one(sasl, &format!("{path}/sasl"), &["token_file", "token"], reader);
    }
    for field in ["username", "password"] {
        if sasl[field].is_null() && !reader.places.has(&format!("{path}/sasl/{field}")) {
            let message = format!("`{field}` is missing");
            reader.at_key(&format!("{path}/sasl"), message, Some(format!("add `{field}:`")));
        }
    }
}

/// What a pipeline needs whose rows are to be there once: everything that it writes, and its offsets,
/// in one cluster. Whether two lists of brokers are one cluster is asked when it is planned.
pub(super) fn delivery(value: &Value, reader: &mut Reader) {
    if value["delivery"] != "exactly_once" {
        // What it was meant to be is not known.
        if value["delivery"].is_null() && reader.places.has("/delivery") {
            return;
        }
        for field in ["transactional_id", "transaction_timeout"] {
            if reader.places.has(&format!("/{field}")) {
                let message = format!("`{field}` without `delivery: exactly_once`");
                reader.at_key(&format!("/{field}"), message, Some("remove it, or add that".into()));
            }
        }
        return;
    }
    let source = &value["source"]["kafka"];
    if !source.is_object() {
        let hint = "read from `kafka:`, or remove `delivery`: tables and the embedded log take \
                    each row at least once";
        let message = "`exactly_once` goes from Kafka to Kafka, and this is no `kafka:` source";
        reader.at_key("/source", message, Some(hint.into()));
        return;
    }
    for (index, sink) in items(&value["sinks"]) {
        let path = format!("/sinks/{index}");
        if !sink["kafka"].is_object() {
            let hint = "write to `kafka:` on the source's cluster, or give this sink a pipeline of \
                        its own that reads what this one writes";
            let message = "this sink cannot be part of a Kafka transaction";
            reader.at_key(&path, message, Some(hint.into()));
        } else {
            same_login(source, &sink["kafka"], &format!("{path}/kafka"), reader);
        }
    }
    let letters = &value["dead_letters"]["kafka"];
    if !letters.is_object() {
        let path = if value["dead_letters"].is_object() { "/dead_letters" } else { "/delivery" };
        let hint =
            "add `dead_letters: { topic: …, kafka: { brokers: … } }` with the source's brokers";
        let message = "the dead letters of an `exactly_once` pipeline are part of its transactions: \
                       they must be a topic of the same cluster";
        reader.at_key(path, message, Some(hint.into()));
    } else {
        same_login(source, letters, "/dead_letters/kafka", reader);
    }
}

/// One producer writes everything, as one user.
fn same_login(source: &Value, other: &Value, path: &str, reader: &mut Reader) {
    for field in ["tls", "sasl"] {
        if source[field] != other[field] {
            let has = reader.places.has(&format!("{path}/{field}"));
            let path = if has { format!("{path}/{field}") } else { path.to_owned() };
            let message = format!("`{field}` differs from the source's");
            let hint = format!(
                "an `exactly_once` pipeline has one login for all: write the same `{field}` here \
                 as in `source: kafka:`"
            );
            reader.at_key(&path, message, Some(hint));
        }
    }
}
