//! Against real PostgreSQL: every type, look-ups, rows that are stored and rows that cannot be, and
//! connections that break in the middle.

mod changed;
mod conformance;
mod lookup;
mod once;
mod secure;
mod sink;
mod support;
mod types;
