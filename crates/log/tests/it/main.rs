//! The log as its users see it, and against disks that fail.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod codec;
mod crash;
mod fuzz;
mod grow;
mod kill;
mod log;
mod lossy;
mod numbered;
mod placed;
mod speed;
