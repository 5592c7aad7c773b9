//! Against a real server of MongoDB's protocol, and against one that answers as the test says.
#![expect(clippy::unwrap_used, reason = "tests stop where they fail")]

mod changed;
mod conformance;
mod lookup;
mod sampled;
mod scripted;
mod secure;
mod sink;
mod support;
