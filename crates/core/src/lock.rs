//! The lock by which one process at a time owns a file.

use std::fs::{File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

/// A child that another thread starts has this process's files, and with them its locks, from fork
/// to exec. A lock that was let go a moment ago can look taken for as long as that.
const GRACE: Duration = Duration::from_secs(2);

/// Locks a file for as long as it is open. False when another process has it.
pub fn lock(file: &File) -> io::Result<bool> {
    retry(|| match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    })
    .map(|locked| locked.is_some())
}

/// Calls until there is an answer, `None` for "locked", or the grace is over.
pub fn retry<T, E>(mut open: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    let since = Instant::now();
    let mut wait = Duration::from_millis(1);
    loop {
        match open()? {
            None if since.elapsed() < GRACE => std::thread::sleep(wait),
            ended => return Ok(ended),
        }
        wait = (wait * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_soon_is_had_and_one_that_is_kept_is_not() {
        let path = std::env::temp_dir().join(format!("millstream-lock-{}", std::process::id()));
        let open = || File::options().write(true).create(true).truncate(false).open(&path);
        let (first, second) = (open().expect("a file"), open().expect("a file"));
        assert!(lock(&first).expect("a lock"));
        assert!(!lock(&second).expect("an answer"));
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        assert!(lock(&second).expect("a lock"));
        release.join().expect("the thread");
        std::fs::remove_file(&path).expect("the file is there");
    }
}
