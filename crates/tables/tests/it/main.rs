//! The tables as their users see them: only the public API, on real directories.

mod crash;
mod life;
mod lookups;
mod model;
mod offsets;
mod opening;
mod rows;
mod scans;
mod support;
