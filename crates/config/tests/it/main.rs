//! Pipeline files as an operator writes them: whole ones, and broken ones with what is said of them.

#![expect(clippy::unwrap_used, reason = "what does not unwrap fails its test")]

mod accepted;
mod broken;
mod files;
mod fuzz;
mod places;
mod schema;
mod secrets;
mod tests_file;

use millstream_config::{Mistakes, Pipeline, parse};
use std::path::Path;

/// The environment of all tests.
fn env(name: &str) -> Option<String> {
    match name {
        "TOPIC" => Some("navigation".into()),
        "ROWS" => Some("512".into()),
        "FOLLOW" => Some("true".into()),
        "EMPTY" => Some(String::new()),
        "PASSWORD" => Some("hunter2".into()),
        "COLUMN" => Some("a_much_longer_column".into()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Pipeline, Mistakes> {
    parse(text, Path::new("pipeline.yaml"), &env)
}

/// What is said of a broken file.
fn said(text: &str) -> String {
    match read(text) {
        Ok(pipeline) => format!("accepted: {:?}", pipeline.spec),
        Err(mistakes) => mistakes.to_string(),
    }
}
