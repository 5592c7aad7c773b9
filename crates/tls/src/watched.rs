//! What was made of files, made anew when they change.

use millstream_core::Result;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What was made of some files last. Files that cannot be used do not end what works: they are tried
/// again at each call, and what was made before is used until then.
#[derive(Debug)]
pub struct Watched<T> {
    /// The files in a sentence.
    what: &'static str,
    paths: Vec<PathBuf>,
    kept: Mutex<Option<Kept<T>>>,
}

#[derive(Debug)]
struct Kept<T> {
    made: T,
    /// The files that it was made of; none when these are read again whatever they look like.
    times: Option<Times>,
    /// The files as they could not be used, and why: both have been told.
    unusable: Option<(Times, String)>,
}

/// When the files were written, and how long they are: one that is written in two steps may be so
/// within a tick of its clock.
type Times = Vec<Option<(SystemTime, u64)>>;

impl<T: Clone> Watched<T> {
    /// Nothing is read yet.
    pub fn new(what: &'static str, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { what, paths: paths.into_iter().collect(), kept: Mutex::default() }
    }

    /// What `make` makes of the files as they are now. Only where nothing was made before it fails.
    pub fn now(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut kept = self.kept.lock();
        // The times before the content: a change in between is seen again.
        let times = self.times();
        let Some(known) = &mut *kept else {
            let made = make()?;
            *kept = Some(Kept { made: made.clone(), times: Some(times), unusable: None });
            return Ok(made);
        };
        if known.times.as_ref() == Some(&times) {
            known.unusable = None;
            return Ok(known.made.clone());
        }
        let what = self.what;
        match make() {
            Ok(made) => {
                tracing::info!("{what} changed: new connections use them");
                *known = Kept { made, times: Some(times), unusable: None };
            }
            Err(error) => {
                let unusable = Some((times, error.chain()));
                if known.unusable != unusable {
                    tracing::warn!("{what} changed and cannot be used yet: {}", error.chain());
                }
                known.unusable = unusable;
            }
        }
        Ok(known.made.clone())
    }

    /// Has the files read again by the next call though they may look the same.
    pub fn again(&self) {
        if let Some(known) = &mut *self.kept.lock() {
            known.times = None;
        }
    }

    fn times(&self) -> Times {
        let time = |path: &Path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
        };
        self.paths.iter().map(|path| time(path)).collect()
    }
}
