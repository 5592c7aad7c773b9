//! The process itself: what it logs, on which threads it works, which signals it heeds, and what
//! it knows of its own memory and time. Nothing here knows what a pipeline is.

mod logging;
pub mod process;
mod runtimes;
mod signals;

pub use logging::{Error as LogError, LogFormat, LogLayer, colours_wanted, init as init_logging};
pub use runtimes::{Runtimes, Threads};
pub use signals::{DRAIN_DEADLINE, Shutdown};
