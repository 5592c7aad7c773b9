//! A topic of the embedded log, as source and sink.

mod sink;
mod source;

pub use sink::{TopicSink, TopicSinkOptions};
pub use source::{TopicSource, TopicSourceOptions};
