//! The console from outside.

mod fuzz;
