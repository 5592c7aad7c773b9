//! JSON objects into columns, and columns into JSON objects; one a record. JSON Lines is this on
//! the lines of a file.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod writer;

pub use decode::{JsonDecoder, JsonOptions};
pub use encode::JsonEncoder;
