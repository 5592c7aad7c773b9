//! `millstream completions`: for the shell.

use crate::cli::Cli;
use crate::failure::Result;
use crate::output;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  millstream completions bash > ~/.local/share/bash-completion/completions/millstream"
)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    pub fn run(self) -> Result<()> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "millstream", &mut text);
        output::out(String::from_utf8_lossy(&text))
    }
}
