//! Against a server that answers as a test says.
#![expect(clippy::unwrap_used, reason = "tests stop where they fail")]

mod conformance;
mod lookup;
mod secure;
mod server;
mod sink;
