//! What every look-up and every sink must do, whatever it is of. A connector's tests open theirs on
//! the real store and run the suite on it.
//!
//! Rows have two columns: `key`, a text, and `number`, 64 bits.

mod lookups;
mod sinks;

pub use lookups::{lookup, stored};
pub use sinks::{Again, Stage, Stored, schema};
