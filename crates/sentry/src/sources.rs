//! Where errors are noticed that no counter of a pipeline has: the log of the process, and panics.
//! Of both only the place in the source code is taken.

use crate::service::{Handle, Note};
use std::panic::PanicHookInfo;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::{Layer, Registry};

/// Sees the lines of the log that are errors. What they say is not looked at.
struct Lines(Handle);

/// Where the lines are written that tell of one pipeline: its counters tell of the same.
const COUNTED: [&str; 3] =
    ["millstream_engine::engine", "millstream_engine::group", "millstream::commands::run"];

impl Handle {
    /// For the process's subscriber.
    pub fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        Lines(self.clone()).with_filter(LevelFilter::ERROR).boxed()
    }

    /// Notices panics from now on, wherever they are caught, before the hook that was there.
    pub fn notice_panics(&self) {
        let handle = self.clone();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let at = info.location();
            handle.note(Note::Panic {
                thread: std::thread::current().name().unwrap_or("unnamed").to_owned(),
                at: at.map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line())),
            });
            before(info);
        }));
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() == Level::ERROR && !is_counted(metadata) {
            let (file, line) = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or(0));
            self.0.note(Note::Line { target: metadata.target(), at: format!("{file}:{line}") });
        }
    }
}

fn is_counted(metadata: &Metadata<'_>) -> bool {
    COUNTED.contains(&metadata.target()) && metadata.fields().field("pipeline").is_some()
}
