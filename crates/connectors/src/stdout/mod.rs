//! The standard output, as sink: for a look at rows, and for other programs.

mod sink;

pub use sink::{Output, Shown, StdoutSink, StdoutSinkOptions};
