//! What tests of several crates share. Never part of the product.
//!
//! - [`events`]: numbered events and the checker that counts them at the end.
//! - [`fuzz`]: mutants of a corpus for whatever parses bytes from outside.

pub mod events;
pub mod fuzz;
