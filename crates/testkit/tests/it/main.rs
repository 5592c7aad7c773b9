//! The testkit's own parts, held to what they promise.

#![expect(clippy::unwrap_used, reason = "what does not unwrap fails its test")]

mod cql_proxy;
mod proxy;
mod services;
