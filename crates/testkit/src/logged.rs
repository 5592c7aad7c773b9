//! What the code under test has logged.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Once;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the lines of each thread apart: a subscriber of one thread only is not always asked for what
/// another thread logs first.
pub struct Lines;

impl Lines {
    /// From now on, in all threads of the process. Forgets what this one has logged: tests that run
    /// one after the other may share it.
    pub fn listen() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let heard = tracing::subscriber::set_global_default(Lines);
            heard.expect("nobody else listens in a test");
        });
        LINES.take();
    }

    /// What this thread has logged.
    pub fn of(level: Level) -> Vec<String> {
        let is_of = |(of, line): &(Level, String)| (*of == level).then(|| line.clone());
        LINES.with_borrow(|lines| lines.iter().filter_map(is_of).collect())
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("millstream")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        LINES.with_borrow_mut(|lines| lines.push((*event.metadata().level(), line.0)));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        self.0 += &format!("{value:?}");
    }
}
