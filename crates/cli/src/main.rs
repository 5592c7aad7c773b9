//! `millstream`: the command line. Each command is a file in `commands/`.

mod cli;
mod commands;
mod elsewhere;
mod failure;
mod output;
mod plan_files;
mod process;
mod screen;
mod session;
mod told;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    failure::exit_code(cli::run())
}
