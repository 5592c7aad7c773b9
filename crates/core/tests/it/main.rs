//! The contracts from outside: what parses text and bytes, against nonsense.

#![expect(clippy::unwrap_used, reason = "what does not unwrap fails its test")]

mod fuzz;
