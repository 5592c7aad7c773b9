//! What goes together in the options of a schema registry, and which formats have one.

use super::{has, items, name_and_password, tls};
use crate::shape::Reader;
use serde_json::Value;

/// The formats whose records are written with a schema.
pub(super) const WITH_SCHEMA: [&str; 3] = ["avro", "json_schema", "protobuf"];

/// The registry of a source or sink.
pub(super) fn of(owner: &Value, path: &str, reader: &mut Reader) {
    let (path, format) = (format!("{path}/registry"), &owner["format"]);
    options(&owner["registry"], &path, reader);
    if owner["registry"].is_object()
        && let Some(format) = format.as_object().and_then(|format| format.keys().next())
        && !WITH_SCHEMA.contains(&format.as_str())
    {
        let message = format!("`{format}` has no schemas in a registry");
        reader.at_key(&path, message, Some("remove `registry`".into()));
    }
}

pub(super) fn options(options: &Value, path: &str, reader: &mut Reader) {
    for (index, url) in items(&options["url"]) {
        let Some(url) = url.as_str() else { continue };
        let path = format!("{path}/url/{index}");
        let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let place = rest.unwrap_or(url).split('/').next().unwrap_or_default();
        if place.contains('@') {
            reader.hide(&path);
            let hint = "write them as `username:` and `password:` beside `url:`";
            let message = "a name and a password do not belong into an address";
            reader.at_value(&path, message, Some(hint.into()));
        } else if rest.is_none() || place.is_empty() {
            let message = "this is not the address of a schema registry";
            let hint = "write `http://HOST:PORT` or `https://HOST:PORT`";
            reader.at_value(&path, message, Some(hint.into()));
        }
    }
    tls(&options["tls"], path, reader);
    if name_and_password(options, path, reader) && has(options, path, "token", reader) {
        let message = "`token` and `username` exclude each other";
        let path = format!("{path}/token");
        reader.at_key(&path, message, Some("keep one of them".into()));
    }
}
