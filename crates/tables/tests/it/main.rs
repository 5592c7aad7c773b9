//! The tables as their users see them: only the public API, on real directories.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod crash;
mod life;
mod lookups;
mod memory;
mod model;
mod offsets;
mod opening;
mod rows;
mod scans;
mod support;
