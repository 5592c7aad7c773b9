//! The console from outside.

#![expect(clippy::unwrap_used, reason = "what does not unwrap fails its test")]

mod fuzz;
