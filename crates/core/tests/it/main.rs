//! The contracts from outside: what parses text and bytes, against nonsense.

mod fuzz;
