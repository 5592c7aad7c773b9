//! Failpoints and seeded bugs: how the tests kill the process at a named place, or break it on
//! purpose to prove that they would notice. Debug builds only; a release build compiles them away.
//!
//! - `MILLSTREAM_FAILPOINT=name@3` aborts the process the third time the point `name` is passed.
//! - `MILLSTREAM_PANIC_ON=text` panics on every record whose value contains the text.
//! - `MILLSTREAM_BUG=name` switches the seeded bug `name` on.
//! - `MILLSTREAM_DISK_FULL=path` fills the disk for as long as a file of this name exists.
//! - `MILLSTREAM_STORES_AWAY=path` has no pipeline opened for as long as a file of this name exists.
//! - `MILLSTREAM_JOURNAL_FAILS=path` keeps the tables' journal from being synced or opened again for
//!   as long as a file of this name exists.

/// Dies here when the environment asks for it.
#[inline(always)]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    debug::point(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Whether the seeded bug of this name is on. Always false in a release build.
#[inline(always)]
pub fn bug(name: &str) -> bool {
    #[cfg(debug_assertions)]
    return debug::bug(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

/// Panics when the environment asks for it and one of the values contains its text.
#[inline(always)]
pub fn panic_on<'a, I: Iterator<Item = &'a [u8]>>(values: impl FnOnce() -> I) {
    #[cfg(debug_assertions)]
    if let Some(text) = &*debug::PANIC_ON {
        for value in values() {
            assert!(
                !value.windows(text.len()).any(|window| window == text.as_bytes()),
                "a value contains `{text}`"
            );
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = values;
}

/// Whether there is no space, because the environment's file exists. Always false in a release
/// build.
#[inline(always)]
pub fn disk_is_full() -> bool {
    #[cfg(debug_assertions)]
    return debug::DISK_FULL.as_ref().is_some_and(|file| file.exists());
    #[cfg(not(debug_assertions))]
    false
}

/// Whether the tables' journal fails, because the environment's file exists. Always false in a
/// release build.
#[inline(always)]
pub fn journal_fails() -> bool {
    #[cfg(debug_assertions)]
    return debug::JOURNAL_FAILS.as_ref().is_some_and(|file| file.exists());
    #[cfg(not(debug_assertions))]
    false
}

/// Whether what a pipeline names is away, because the environment's file exists. Always false in a
/// release build.
#[inline(always)]
pub fn stores_are_away() -> bool {
    #[cfg(debug_assertions)]
    return debug::STORES_AWAY.as_ref().is_some_and(|file| file.exists());
    #[cfg(not(debug_assertions))]
    false
}

#[cfg(debug_assertions)]
mod debug {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Failpoint {
        name: String,
        left: AtomicU64,
    }

    static FAILPOINT: LazyLock<Option<Failpoint>> = LazyLock::new(|| {
        let text = std::env::var("MILLSTREAM_FAILPOINT").ok()?;
        let (name, nth) = text.split_once('@').unwrap_or((&text, "1"));
        Some(Failpoint { name: name.to_owned(), left: AtomicU64::new(nth.parse().ok()?) })
    });

    pub static PANIC_ON: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("MILLSTREAM_PANIC_ON").ok().filter(|t| !t.is_empty()));
    pub static DISK_FULL: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("MILLSTREAM_DISK_FULL").map(PathBuf::from));
    pub static JOURNAL_FAILS: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("MILLSTREAM_JOURNAL_FAILS").map(PathBuf::from));
    pub static STORES_AWAY: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("MILLSTREAM_STORES_AWAY").map(PathBuf::from));
    static BUG: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("MILLSTREAM_BUG").ok());

    pub fn point(name: &str) {
        if let Some(failpoint) = &*FAILPOINT
            && failpoint.name == name
            && failpoint.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            // As SIGKILL would: no destructor, no flush.
            std::process::abort();
        }
    }

    pub fn bug(name: &str) -> bool {
        BUG.as_deref() == Some(name)
    }
}
