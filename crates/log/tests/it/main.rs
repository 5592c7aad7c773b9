//! The log as its users see it, and against disks that fail.

mod codec;
mod crash;
mod log;
mod lossy;
