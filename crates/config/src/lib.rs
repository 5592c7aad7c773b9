//! The pipeline file: YAML to typed options, with the place of every value.

mod cases;
mod spec;
mod values;

pub use cases::*;
pub use spec::*;
pub use values::*;
