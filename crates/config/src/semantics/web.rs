//! What goes together in the options of HTTP servers and files.

use super::{has, name_and_password, tls};
use crate::shape::Reader;
use serde_json::Value;

pub(super) fn http_lookup(lookup: &Value, path: &str, reader: &mut Reader) {
    let http = &lookup["http"];
    if http.is_null() {
        return;
    }
    let at = format!("{path}/http");
    client(http, &at, reader);
    if !lookup["range"].is_null() {
        let message = "a server is asked by equality, not by a range";
        let hint = "remove `range`, and join by the key's columns";
        reader.at_key(&format!("{path}/range"), message, Some(hint.into()));
    }
    if http["key"].is_null() {
        for field in ["body", "max_keys"] {
            if has(http, &at, field, reader) {
                let message = format!("`{field}` has no use without `key`");
                let hint = "name the columns of the key, or remove it";
                reader.at_key(&format!("{at}/{field}"), message, Some(hint.into()));
            }
        }
    }
    if let Some(body) = http["body"].as_str()
        && !body.contains("{keys}")
    {
        let message = "the body says nowhere where the keys go";
        reader.at_value(&format!("{at}/body"), message, Some("write `{keys}` there".into()));
    }
    for key in http["key"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if http["columns"].is_object() && http["columns"][key].is_null() {
            let message = format!("the column `{key}` of the key is not among the columns");
            let hint = format!("add `{key}` with its type to `columns`");
            reader.at_value(&format!("{at}/key"), message, Some(hint));
        }
    }
    if let Some(rows) = http["rows"].as_str()
        && !rows.is_empty()
        && !rows.starts_with('/')
    {
        let message = "a JSON pointer begins with `/`";
        reader.at_value(&format!("{at}/rows"), message, Some(format!("write `/{rows}`")));
    }
}

pub(super) fn http_sink(http: &Value, path: &str, reader: &mut Reader) {
    if http.is_null() {
        return;
    }
    client(http, path, reader);
    if has(http, path, "url", reader) == has(http, path, "url_column", reader) {
        let message = "an `http` sink has either `url` or `url_column`";
        let hint = "write the address that all rows go to, or name the column that has it";
        reader.at_key(path, message, Some(hint.into()));
    }
    if http["body"].is_null() || http["body"] == "row" {
        for field in ["batch_rows", "batch_bytes"] {
            if has(http, path, field, reader) {
                let message = format!("`{field}` has no use: a request holds one row");
                let hint = "write `body: array` or `body: lines` beside it, or remove it";
                reader.at_key(&format!("{path}/{field}"), message, Some(hint.into()));
            }
        }
    }
}

pub(super) fn files_sink(files: &Value, path: &str, reader: &mut Reader) {
    if files.is_null() {
        return;
    }
    let lines = files["format"] == "json_lines";
    let (wrong, hint) = match lines {
        true => ("snappy", "`none`, `gzip` or `zstd`"),
        false => ("gzip", "`none`, `zstd` or `snappy`"),
    };
    if files["compression"] == wrong {
        let what = if lines { "JSON Lines are" } else { "Parquet is" };
        let message = format!("{what} not packed with {wrong}");
        let path = format!("{path}/compression");
        reader.at_value(&path, message, Some(format!("write {hint}")));
    }
}

fn client(http: &Value, path: &str, reader: &mut Reader) {
    tls(&http["tls"], path, reader);
    let user = name_and_password(http, path, reader);
    let [token, file] = ["token", "token_file"].map(|name| has(http, path, name, reader));
    if usize::from(user) + usize::from(token) + usize::from(file) > 1 {
        let message = "`username`, `token` and `token_file` exclude each other";
        reader.at_key(path, message, Some("keep one of them".into()));
    }
}
