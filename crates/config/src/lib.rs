//! The pipeline file: YAML to typed options, with the place of every value.
//!
//! ```text
//! text ─► yaml ─► tree with places ─► shape (by the JSON Schema of the options) ─► value ─► spec
//!                                      ├ env: ${VAR}, secrets                      └ semantics
//!                                      └ mistakes, all of a file at once
//! ```
//!
//! The options and their help are in [`PipelineSpec`] and below; [`json_schema`] gives them to
//! editors. Nothing here opens what a file names, secrets excepted.

mod cases;
mod cql;
mod document;
mod env;
mod files;
mod formats;
mod http;
mod kafka;
mod load;
mod mistake;
mod mongo;
mod places;
mod postgres;
mod reference;
mod registry;
mod schema;
mod semantics;
mod shape;
mod source;
mod spec;
mod values;
mod yaml;

pub use cases::*;
pub use cql::*;
pub use document::{
    Document, Pipeline, TestFile, json_schema, parse, parse_as, parse_tests, reference,
    tests_json_schema,
};
pub use env::{Env, ProcessEnv};
pub use files::*;
pub use http::*;
pub use kafka::*;
pub use load::{
    Loaded, is_tests_path, load, load_each, load_many, load_tests, pipeline_path, tests_path,
};
pub use mistake::{Mistake, Mistakes, TextMistake};
pub use mongo::*;
pub use places::{Place, Places};
pub use postgres::*;
pub use registry::*;
pub use spec::*;
pub use values::*;
