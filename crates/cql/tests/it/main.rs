//! Against a real Cassandra.
#![expect(clippy::unwrap_used, reason = "tests stop where they fail")]

mod changed;
mod claim;
mod conformance;
mod lookup;
mod nodes;
mod secure;
mod sink;
mod slow;
mod support;
mod types;
