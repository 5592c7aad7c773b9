//! What tests of several crates share. Never part of the product.
//!
//! - [`events`]: numbered events and the checker that counts them at the end.

pub mod events;
