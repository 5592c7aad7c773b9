//! What commands print: aligned tables and plain lines for people, JSON for programs.

mod grid;
mod table;
mod text;

pub use grid::grid;
pub use table::Table;
pub use text::{bytes, count, counted, ms, percent, short, time};

use crate::failure::Result;
use clap::Args;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Every list can be had as JSON.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArg {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Writes to standard output. A closed pipe is an error of the kind `BrokenPipe`, which ends the
/// command quietly.
pub fn out(text: impl AsRef<str>) -> Result<()> {
    io::stdout().lock().write_all(text.as_ref().as_bytes())?;
    Ok(())
}

pub fn line(text: impl AsRef<str>) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref().as_bytes())?;
    stdout.write_all(b"\n")?;
    Ok(())
}

/// A remark for people that is no part of the answer.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// One JSON document, indented on a terminal.
pub fn json(value: &(impl Serialize + ?Sized)) -> Result<()> {
    line(match io::stdout().is_terminal() {
        true => serde_json::to_string_pretty(value)?,
        false => serde_json::to_string(value)?,
    })
}

/// One JSON document on one line, for streams.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(value)?)
}

pub fn colours() -> bool {
    millstream_host::colours_wanted(io::stdout().is_terminal())
}
