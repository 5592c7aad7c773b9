//! What the tests of faults have in common, of Kafka's as of the stores': one rig that breaks things
//! around the running binary, and one ledger of what went in and came out.
//!
//! What must hold is held each time a fault is made: nothing is lost, nothing is there twice where it
//! may not, commits are sound, the memory and the log stay within their bounds, everything goes on by
//! itself. Only what depends on what was going on at that moment, the words of a line and whether a
//! reason was up while somebody looked, is tried again.

pub mod ledger;
mod rig;
mod seen;

pub use ledger::{Out, PARTITIONS};
pub use rig::{KEYS, Load, Pace, Rig};
pub use seen::{NOTHING, Seen};
