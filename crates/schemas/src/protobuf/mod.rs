//! Protobuf files as they are written.

mod lex;
pub mod parse;
