//! The broker as Kafka's clients see it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod client;
mod conformance;
mod disk;
mod fuzz;
mod groups;
mod hostile;
mod java;
mod kcat;
mod kill;
mod librdkafka;
mod meter;
mod placed;
mod producers;
mod python;
mod requests;
mod secure;
mod server;
mod sessions;
mod versions;
