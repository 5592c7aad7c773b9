//! What the texts of schemas say, for those who read records with them (the formats) and those who
//! compare them (the registry).

pub mod json;
pub mod protobuf;
