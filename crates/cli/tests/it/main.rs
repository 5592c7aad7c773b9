//! The built binary, as a user or a script meets it.

mod bad_input;
mod both_ways;
mod demo;
mod help;
mod program;
mod run;
