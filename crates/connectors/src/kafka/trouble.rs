//! What something waits for, said once when it begins and once when it is over.

use parking_lot::Mutex;

pub(super) struct Trouble {
    /// What is being tried.
    doing: String,
    now: Mutex<Option<String>>,
}

impl Trouble {
    pub fn new(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), now: Mutex::default() }
    }

    pub fn is(&self, what: &str) {
        let mut now = self.now.lock();
        if now.as_deref() != Some(what) {
            tracing::warn!("{}: trying again: {what}", self.doing);
            *now = Some(what.to_owned());
        }
    }

    pub fn over(&self) {
        if self.now.lock().take().is_some() {
            tracing::info!("{}: goes on", self.doing);
        }
    }
}
