//! Where the process's own words go: standard error, as text for people or as JSON for machines.

use std::io::IsTerminal;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Something else that sees what is logged, by a filter of its own.
pub type LogLayer = Box<dyn Layer<Registry> + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line of text an event, with colours on a terminal.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

#[derive(Debug)]
pub enum Error {
    /// The filter cannot be read; the text says why.
    Filter(String),
    AlreadySet(TryInitError),
}

/// The driver of Cassandra says four times a second that a cluster is away, whose users say it once.
/// A filter that names it is heard.
const QUIET: &str = "scylla=off";

/// Installs the process's subscriber. `filter` is `info`, or `warn,millstream_log=debug` and the
/// like; it does not hold for what `more` see.
pub fn init(format: LogFormat, filter: &str, more: Vec<LogLayer>) -> Result<(), Error> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| Error::Filter(error.to_string()))?;
    let layer =
        tracing_subscriber::fmt::layer().with_timer(SystemTime).with_writer(std::io::stderr);
    let mut layers = more;
    layers.push(match format {
        LogFormat::Text => {
            let ansi = colours_wanted(std::io::stderr().is_terminal());
            layer.with_ansi(ansi).with_target(false).with_filter(filter).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    });
    tracing_subscriber::registry().with(layers).try_init().map_err(Error::AlreadySet)
}

/// Colours go to a terminal only, and never where `NO_COLOR` is set or the terminal is dumb.
/// See <https://no-color.org>.
pub fn colours_wanted(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Filter(why) => write!(f, "the log filter cannot be read: {why}"),
            Error::AlreadySet(_) => f.write_str("logging is already set up in this process"),
        }
    }
}

impl std::error::Error for Error {}
