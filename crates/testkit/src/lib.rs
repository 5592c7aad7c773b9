//! What tests of several crates share. Never part of the product.
//!
//! - [`conformance`]: what every look-up and every sink must do.
//! - [`events`]: numbered events and the checker that counts them at the end.
//! - [`logged`]: what a thread has logged.
//! - [`fuzz`]: mutants of a corpus for whatever parses bytes from outside.
//! - [`proxy`]: a TCP proxy that delays, cuts, resets, swallows and corrupts, from a seed.
//! - [`cql_proxy`]: a proxy for CQL that makes a share of the SELECTs or INSERTs slow, from a seed.
//! - [`services`]: real Kafka and a real schema registry, started by `dev/services`.

pub mod conformance;
pub mod cql_proxy;
pub mod events;
pub mod fuzz;
pub mod logged;
pub mod proxy;
pub mod python;
pub mod services;
