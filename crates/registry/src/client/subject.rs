//! Which subject a schema belongs to: Confluent's three naming strategies.

use millstream_core::SchemaKind;
use serde_json::Value;

/// Whether a schema is of the keys or of the values of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Key,
    Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// `orders-value`: one type a topic.
    #[default]
    Topic,
    /// `shop.Order`: a type is the same in all topics.
    Record,
    /// `orders-shop.Order`: several types a topic, each with its own versions there.
    TopicRecord,
}

impl Strategy {
    /// The subject; `record` is the type's full name, which [`Strategy::Topic`] does not need.
    pub fn subject(self, topic: &str, part: Part, record: &str) -> String {
        match (self, part) {
            (Strategy::Topic, Part::Key) => format!("{topic}-key"),
            (Strategy::Topic, Part::Value) => format!("{topic}-value"),
            (Strategy::Record, _) => record.to_owned(),
            (Strategy::TopicRecord, _) => format!("{topic}-{record}"),
        }
    }
}

/// The full name of the type that a schema defines: an Avro name with its namespace, the title of a
/// JSON Schema, none for what has no name. A Protobuf file has many types; whoever writes one knows
/// which.
pub fn record_name(kind: SchemaKind, text: &str) -> Option<String> {
    let schema: Value = crate::json::parse(text).ok()?;
    match kind {
        SchemaKind::Avro => {
            let name = schema["name"].as_str()?;
            match schema["namespace"].as_str() {
                // A name with dots is full already.
                Some(space) if !space.is_empty() && !name.contains('.') => {
                    Some(format!("{space}.{name}"))
                }
                _ => Some(name.to_owned()),
            }
        }
        SchemaKind::Json => Some(schema["title"].as_str()?.to_owned()),
        SchemaKind::Protobuf => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_strategy_names_its_subject() {
        let name = |strategy: Strategy, part| strategy.subject("orders", part, "shop.Order");
        assert_eq!(name(Strategy::Topic, Part::Value), "orders-value");
        assert_eq!(name(Strategy::Topic, Part::Key), "orders-key");
        assert_eq!(name(Strategy::Record, Part::Value), "shop.Order");
        assert_eq!(name(Strategy::Record, Part::Key), "shop.Order");
        assert_eq!(name(Strategy::TopicRecord, Part::Value), "orders-shop.Order");
    }

    #[test]
    fn a_schema_says_its_full_name() {
        let avro = |text| record_name(SchemaKind::Avro, text);
        let named = r#"{"type":"record","name":"Order","namespace":"shop","fields":[]}"#;
        assert_eq!(avro(named).as_deref(), Some("shop.Order"));
        let dotted = r#"{"type":"record","name":"a.Order","namespace":"shop","fields":[]}"#;
        assert_eq!(avro(dotted).as_deref(), Some("a.Order"));
        let bare = r#"{"type":"record","name":"Order","fields":[]}"#;
        assert_eq!(avro(bare).as_deref(), Some("Order"));
        assert_eq!(avro(r#""string""#), None);
        assert_eq!(avro("no json"), None);
        let titled = record_name(SchemaKind::Json, r#"{"title":"Order","type":"object"}"#);
        assert_eq!(titled.as_deref(), Some("Order"));
    }
}
