//! Files as a partition task writes them, and what is in the folder afterwards.
#![expect(clippy::unwrap_used, reason = "tests stop where they fail")]

mod conformance;
mod crashes;
mod support;
mod written;
