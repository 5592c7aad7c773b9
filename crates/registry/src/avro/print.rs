//! Writes schemas back as JSON text, in forms under which equal schemas are equal text.

use super::{Field, Id, Kind, Named, Schema, split};
use crate::json;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

impl Schema {
    /// The schema without insignificant spaces and with attributes in one order; everything that
    /// was said is kept. Types of references are named, not written out.
    pub fn canonical(&self) -> String {
        self.print(Form::Canonical, false)
    }

    /// As [`Schema::canonical`], with full names and with unknown attributes in order.
    pub fn normalized(&self) -> String {
        self.print(Form::Normalized, false)
    }

    /// As [`Schema::canonical`], with the types of references written out where they are first
    /// used, so that the text stands alone.
    pub fn resolved(&self) -> String {
        self.print(Form::Canonical, true)
    }

    fn print(&self, form: Form, inline: bool) -> String {
        let mut printer = Printer { schema: self, form, inline, written: HashSet::new() };
        printer.value(self.root, "").to_string()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Canonical,
    Normalized,
}

struct Printer<'a> {
    schema: &'a Schema,
    form: Form,
    inline: bool,
    written: HashSet<Id>,
}

impl Printer<'_> {
    /// Recurses no deeper than types nest, which the parser bounds.
    fn value(&mut self, id: Id, space: &str) -> Value {
        let node = &self.schema.nodes[id];
        let mut object = Map::new();
        match &node.kind {
            Kind::Union(branches) => {
                return branches.iter().map(|branch| self.value(*branch, space)).collect();
            }
            Kind::Array(items) => {
                object.insert("type".into(), json!("array"));
                object.insert("items".into(), self.value(*items, space));
            }
            Kind::Map(values) => {
                object.insert("type".into(), json!("map"));
                object.insert("values".into(), self.value(*values, space));
            }
            Kind::Record { named, .. } | Kind::Enum { named, .. } | Kind::Fixed { named, .. } => {
                if (node.external && !self.inline) || !self.written.insert(id) {
                    return json!(self.reference(&named.name, space));
                }
                self.definition(id, named, space, &mut object);
            }
            primitive => {
                if node.props.is_empty() {
                    return json!(primitive.word());
                }
                object.insert("type".into(), json!(primitive.word()));
            }
        }
        self.props(&node.props, &mut object);
        if let Some(named) = node.kind.named() {
            self.aliases(named, &mut object);
        }
        Value::Object(object)
    }

    fn definition(&mut self, id: Id, named: &Named, outer: &str, object: &mut Map<String, Value>) {
        let kind = &self.schema.nodes[id].kind;
        let (space, short) = split(&named.name);
        object.insert("type".into(), json!(kind.word()));
        match self.form {
            Form::Normalized => {
                object.insert("name".into(), json!(named.name));
            }
            Form::Canonical => {
                object.insert("name".into(), json!(short));
                if space != outer {
                    object.insert("namespace".into(), json!(space));
                }
            }
        }
        if let Some(doc) = &named.doc {
            object.insert("doc".into(), json!(doc));
        }
        match kind {
            Kind::Record { fields, .. } => {
                let fields = fields.iter().map(|field| self.field(field, space)).collect();
                object.insert("fields".into(), fields);
            }
            Kind::Enum { symbols, default, .. } => {
                object.insert("symbols".into(), json!(symbols));
                if let Some(default) = default {
                    object.insert("default".into(), json!(default));
                }
            }
            Kind::Fixed { size, .. } => {
                object.insert("size".into(), json!(size));
            }
            _ => {}
        }
    }

    fn field(&mut self, field: &Field, space: &str) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(field.name));
        object.insert("type".into(), self.value(field.node, space));
        if let Some(doc) = &field.doc {
            object.insert("doc".into(), json!(doc));
        }
        if let Some(default) = &field.default {
            object.insert("default".into(), default.clone());
        }
        if let Some(order) = &field.order {
            object.insert("order".into(), json!(order));
        }
        if !field.aliases.is_empty() {
            object.insert("aliases".into(), json!(field.aliases));
        }
        self.props(&field.props, &mut object);
        Value::Object(object)
    }

    /// A name alone means one in the namespace around it; one without a namespace cannot be named
    /// shorter than a dot before it, and Avro's tools find it by its bare name.
    fn reference(&self, name: &str, space: &str) -> String {
        let (own, short) = split(name);
        match self.form == Form::Canonical && own == space {
            true => short.to_owned(),
            false => name.to_owned(),
        }
    }

    fn props(&self, props: &Map<String, Value>, object: &mut Map<String, Value>) {
        let props = match self.form {
            Form::Canonical => Value::Object(props.clone()),
            Form::Normalized => json::sorted(&Value::Object(props.clone())),
        };
        if let Value::Object(props) = props {
            object.extend(props);
        }
    }

    fn aliases(&self, named: &Named, object: &mut Map<String, Value>) {
        if named.aliases.is_empty() {
            return;
        }
        let own = split(&named.name).0;
        let aliases: Vec<_> = named
            .aliases
            .iter()
            .map(|alias| match split(alias) {
                (space, short) if space == own && self.form == Form::Canonical => short.to_owned(),
                ("", short) if !own.is_empty() => format!(".{short}"),
                _ => alias.clone(),
            })
            .collect();
        object.insert("aliases".into(), json!(aliases));
    }
}
