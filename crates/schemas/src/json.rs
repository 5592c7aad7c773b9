//! A JSON Schema and those it refers to, with every `$id` and anchor found, so that a `$ref` is a
//! look-up.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Longer in all than any schema with its references that a registry takes.
const TEXT_BYTES_MAX: usize = 8 << 20;

/// A schema, and the resource that its references are relative to.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub value: &'a Value,
    resource: usize,
}

/// What lies under a URI of its own: a whole document, or a part with an `$id`.
#[derive(Debug)]
struct Resource {
    uri: String,
    document: usize,
    pointer: String,
}

/// A schema with what it refers to.
#[derive(Debug)]
pub struct Documents {
    /// The schema itself comes first.
    values: Vec<Value>,
    resources: Vec<Resource>,
    /// URIs and names of references.
    by_uri: HashMap<String, usize>,
    /// Names within resources, as pointers into their documents.
    anchors: HashMap<(usize, String), String>,
}

impl Documents {
    /// `references` are the texts of other schemas, under the names that this one uses for them.
    pub fn parse(text: &str, references: &[(String, Arc<str>)]) -> Result<Documents, String> {
        let bytes = text.len() + references.iter().map(|(_, text)| text.len()).sum::<usize>();
        if bytes > TEXT_BYTES_MAX {
            return Err(format!("it has {bytes} bytes, more than {TEXT_BYTES_MAX}"));
        }
        let mut documents = Documents {
            values: Vec::new(),
            resources: Vec::new(),
            by_uri: HashMap::new(),
            anchors: HashMap::new(),
        };
        documents.add("", text)?;
        for (name, text) in references {
            documents.add(name, text).map_err(|why| format!("reference `{name}`: {why}"))?;
        }
        Ok(documents)
    }

    /// The schema itself.
    pub fn root(&self) -> Place<'_> {
        Place { value: &self.values[0], resource: 0 }
    }

    /// A part of a schema.
    pub fn enter<'a>(&'a self, from: Place<'a>, part: &'a Value) -> Place<'a> {
        let own = part.get("$id").and_then(Value::as_str).filter(|id| !id.starts_with('#'));
        let resource = own.and_then(|id| {
            let uri = joined(&self.resources[from.resource].uri, id);
            self.by_uri.get(without_hash(&uri)).copied()
        });
        Place { value: part, resource: resource.unwrap_or(from.resource) }
    }

    /// What a `$ref` points to.
    pub fn resolve<'a>(&'a self, from: Place<'a>, reference: &str) -> Result<Place<'a>, String> {
        let missing = || format!("`{reference}` refers to nothing that is there");
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resource = match uri {
            "" => from.resource,
            uri => {
                let whole = joined(&self.resources[from.resource].uri, uri);
                let found = self.by_uri.get(reference).or_else(|| self.by_uri.get(uri));
                let found = found.or_else(|| self.by_uri.get(&whole)).ok_or_else(|| {
                    format!("it refers to `{uri}`, which is none of the schema's references")
                })?;
                *found
            }
        };
        let at = &self.resources[resource];
        let pointer = match fragment {
            "" => at.pointer.clone(),
            path if path.starts_with('/') => format!("{}{}", at.pointer, decoded(path)),
            name => self.anchors.get(&(resource, name.to_owned())).ok_or_else(missing)?.clone(),
        };
        let value = self.values[at.document].pointer(&pointer).ok_or_else(missing)?;
        let place = Place { value, resource };
        // A pointer may lead into a part that has a URI of its own.
        Ok(self.enter(place, value))
    }

    fn add(&mut self, name: &str, text: &str) -> Result<(), String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let document = self.values.len();
        let id = value.get("$id").or_else(|| value.get("id")).and_then(Value::as_str);
        let uri = without_hash(id.unwrap_or(name)).to_owned();
        let resource = self.resource(uri, document, String::new());
        if !name.is_empty() {
            // The name is what the schema's author wrote, whatever the other calls itself.
            self.by_uri.insert(without_hash(name).to_owned(), resource);
            self.by_uri.insert(name.to_owned(), resource);
        }
        let mut pointer = String::new();
        self.index(&value, resource, document, &mut pointer);
        self.values.push(value);
        Ok(())
    }

    fn resource(&mut self, uri: String, document: usize, pointer: String) -> usize {
        let at = self.resources.len();
        if !uri.is_empty() {
            self.by_uri.entry(uri.clone()).or_insert(at);
        }
        self.resources.push(Resource { uri, document, pointer });
        at
    }

    /// The depth is bounded by the parser.
    fn index(&mut self, value: &Value, resource: usize, document: usize, pointer: &mut String) {
        let length = pointer.len();
        match value {
            Value::Object(object) => {
                let mut resource = resource;
                let word = |key: &str| object.get(key).and_then(Value::as_str);
                match word("$id") {
                    Some(id) if id.starts_with('#') => {
                        self.anchors.insert((resource, id[1..].to_owned()), pointer.clone());
                    }
                    Some(id) if !pointer.is_empty() => {
                        let uri = joined(&self.resources[resource].uri, id);
                        let uri = without_hash(&uri).to_owned();
                        resource = self.resource(uri, document, pointer.clone());
                    }
                    _ => {}
                }
                for anchor in [word("$anchor"), word("$dynamicAnchor")].into_iter().flatten() {
                    self.anchors.insert((resource, anchor.to_owned()), pointer.clone());
                }
                for (key, part) in object {
                    // Values are data, not schemas.
                    if matches!(key.as_str(), "enum" | "const" | "default" | "examples") {
                        continue;
                    }
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    self.index(part, resource, document, pointer);
                    pointer.truncate(length);
                }
            }
            Value::Array(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    pointer.push_str(&format!("/{at}"));
                    self.index(part, resource, document, pointer);
                    pointer.truncate(length);
                }
            }
            _ => {}
        }
    }
}

fn without_hash(uri: &str) -> &str {
    uri.strip_suffix('#').unwrap_or(uri)
}

/// A URI relative to another one, as far as schemas go: whole, from the root, or beside it.
fn joined(base: &str, uri: &str) -> String {
    let is_whole = uri.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    if is_whole || base.is_empty() {
        return uri.to_owned();
    }
    let path = base.find("://").map_or(0, |at| at + 3);
    let path = base[path..].find('/').map_or(base.len(), |at| path + at);
    if uri.starts_with('/') {
        return format!("{}{uri}", &base[..path]);
    }
    let uri = uri.strip_prefix("./").unwrap_or(uri);
    match base.rfind('/').filter(|at| *at >= path) {
        Some(slash) => format!("{}/{uri}", &base[..slash]),
        None if path < base.len() || base.contains("://") => format!("{base}/{uri}"),
        None => uri.to_owned(),
    }
}

/// With `%25` and the like read.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_join() {
        for (base, uri, whole) in [
            ("http://a.b/c/d.json", "e.json", "http://a.b/c/e.json"),
            ("http://a.b/c/d.json", "./e.json", "http://a.b/c/e.json"),
            ("http://a.b/c/d.json", "/e.json", "http://a.b/e.json"),
            ("http://a.b", "e.json", "http://a.b/e.json"),
            ("http://a.b/c", "urn:x:y", "urn:x:y"),
            ("schemas/d.json", "e.json", "schemas/e.json"),
            ("d.json", "e.json", "e.json"),
            ("", "e.json", "e.json"),
        ] {
            assert_eq!(joined(base, uri), whole);
        }
        assert_eq!(decoded("/a%25b%2Fc%"), "/a%b/c%");
    }

    #[test]
    fn references_find_names_ids_pointers_and_anchors() {
        let main = r##"{"$id":"http://x/main.json","$defs":{
            "a":{"$anchor":"here","title":"a"},"b":{"$id":"part.json","$defs":{"c":{"title":"c"}},
            "title":"b"},"old":{"$id":"#old","title":"old"}}}"##;
        let other: Arc<str> = r#"{"$id":"http://y/z.json","title":"other"}"#.into();
        let documents = Documents::parse(main, &[("other.json".to_owned(), other)]).unwrap();
        let root = documents.root();
        let title = |from, reference: &str| {
            documents.resolve(from, reference).map(|place| place.value["title"].clone())
        };
        for (reference, found) in [
            ("#/$defs/a", "a"),
            ("#here", "a"),
            ("#old", "old"),
            ("part.json", "b"),
            ("part.json#/$defs/c", "c"),
            ("http://x/part.json#", "b"),
            ("other.json", "other"),
            ("http://y/z.json", "other"),
        ] {
            assert_eq!(title(root, reference).unwrap(), found, "{reference}");
        }
        let part = documents.resolve(root, "part.json").unwrap();
        assert_eq!(title(part, "#/$defs/c").unwrap(), "c");
        for reference in ["#/nowhere", "#none", "missing.json"] {
            assert!(title(root, reference).is_err(), "{reference}");
        }
    }
}
