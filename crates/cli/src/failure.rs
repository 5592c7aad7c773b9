//! How a command ends: 0, or a sentence and 1 for a failure, 2 for the user's mistake.

use millstream_console::Code;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

pub type Result<T> = anyhow::Result<T>;

/// The user has to write something else.
#[derive(Debug)]
pub struct Mistake(String);

/// The command has said what there was to say, and ends with this code.
#[derive(Debug)]
pub struct Said(pub u8);

impl Mistake {
    #[expect(clippy::new_ret_no_self, reason = "a mistake is only ever returned as an error")]
    pub fn new(sentence: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Mistake(sentence.into()))
    }
}

pub fn exit_code(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // The reader has seen enough: `millstream tap t | head` is no failure.
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    if let Some(Said(code)) = error.downcast_ref::<Said>() {
        return ExitCode::from(*code);
    }
    if let Some(mistakes) = error.downcast_ref::<millstream_config::Mistakes>() {
        return say(mistakes);
    }
    if let Some(error) = error.downcast_ref::<millstream_console::Error>()
        && error.code == Code::File
    {
        return say(&relative(error.mistakes.clone()));
    }
    let code = match error.downcast_ref::<millstream_console::Error>() {
        Some(error) if matches!(error.code, Code::Mistake | Code::NeedsRun) => 2,
        _ if error.downcast_ref::<Mistake>().is_some() => 2,
        _ => 1,
    };
    let label = if colours() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    let mut said = sentence(&error);
    if error.is::<millstream_console::Error>() {
        said = from_here(&said);
    }
    let _ = writeln!(io::stderr(), "{label}: {said}");
    ExitCode::from(code)
}

fn say(mistakes: &millstream_config::Mistakes) -> ExitCode {
    let text = mistakes.render(colours());
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
    ExitCode::from(if mistakes.are_failures() { 1 } else { 2 })
}

/// Mistakes with the paths that people wrote: the process that runs was asked with absolute ones.
pub fn relative(mistakes: Vec<millstream_config::Mistake>) -> millstream_config::Mistakes {
    let mut mistakes = millstream_config::Mistakes(mistakes);
    for mistake in &mut mistakes.0 {
        mistake.file = from_here(&mistake.file);
        mistake.message = from_here(&mistake.message);
        mistake.hint = mistake.hint.take().map(|hint| from_here(&hint));
    }
    mistakes
}

fn from_here(text: &str) -> String {
    match std::env::current_dir() {
        Ok(here) if here.parent().is_some() => text.replace(&format!("{}/", here.display()), ""),
        _ => text.to_owned(),
    }
}

/// The chain in one line, without a layer that only repeats the one above it.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

fn colours() -> bool {
    millstream_host::colours_wanted(io::stderr().is_terminal())
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Said {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_layer_that_repeats_its_cause_is_said_once() {
        let error: Result<()> = Err(io::Error::other("the disk is gone")).context("reading x");
        assert_eq!(sentence(&error.unwrap_err()), "reading x: the disk is gone");
        let error = Err::<(), _>(anyhow::anyhow!("gone")).context("reading x: gone").unwrap_err();
        assert_eq!(sentence(&error), "reading x: gone");
    }

    #[test]
    fn a_closed_pipe_is_no_failure_wherever_it_was_noticed() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = anyhow::Error::new(pipe).context("writing rows");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::Error::new(io::Error::other("x"))));
    }
}
