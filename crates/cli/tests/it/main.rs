//! The built binary, as a user or a script meets it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod both_ways;
mod changes;
mod checks;
mod cql;
mod demo;
mod disk;
mod exactly_once;
mod examples;
mod files;
mod help;
mod kafka;
mod kafka_commands;
mod kafka_faults;
mod kafka_group;
mod kafka_source;
mod migrate;
mod mongo;
mod postgres;
mod production;
mod program;
mod registry;
mod rolling;
mod run;
mod secrets;
mod sentry;
mod tap;
mod web;
