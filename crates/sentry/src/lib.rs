//! Errors told to Sentry, or to a service that understands its envelopes.
//!
//! ```text
//!  counters, states ─(every second)─┐
//!  panics ──────────────────────────┼─► digest: one event a kind and minute ─► queue ─► HTTP
//!  errors of the log ───────────────┘
//! ```
//!
//! An event is made of what the program itself knows: names of pipelines and steps, words for kinds
//! of errors, numbers, places in the source code. No text of an error or of the log gets into it,
//! for such texts name rows, paths and addresses. All of it happens on a thread of its own.

mod digest;
mod dsn;
mod event;
mod limits;
mod service;
mod sources;
mod transport;

pub use digest::{Count, Kind, Tally};
pub use dsn::{Dsn, DsnError};
pub use event::Level;
pub use service::{Handle, Options, Sentry};
