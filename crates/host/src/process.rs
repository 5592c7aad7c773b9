//! What the kernel knows of this process, read from `/proc` when asked (absent elsewhere), and what it
//! is not to keep of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

/// One reading. See proc(5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// The most that was ever resident.
    pub resident_bytes_max: u64,
    pub cpu_seconds: f64,
    pub threads: u64,
    pub open_fds: u64,
    pub started: SystemTime,
}

/// `None` where there is no `/proc`.
pub fn read() -> Option<Reading> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command, in brackets, may hold spaces; the fields proper begin after it, with the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let page = rustix::param::page_size() as u64;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident_bytes = field(24)? * page;
    Some(Reading {
        resident_bytes,
        virtual_bytes: field(23)?,
        // The kernel brings its high-water mark up to date only now and then.
        resident_bytes_max: kilobytes(&status, "VmHWM:").unwrap_or(0).max(resident_bytes),
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks as f64,
        threads: field(20)?,
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        started: booted()? + Duration::from_millis(field(22)? * 1000 / ticks),
    })
}

/// The most memory that was ever resident in this process.
pub fn resident_bytes_max() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// From now on the kernel writes no core file of this process, which would hold every secret that is in
/// its memory. The hard limit stays as it is: an operator may raise the other with prlimit(1).
pub fn forbid_core_files() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    // 1 is none, also where cores are piped to a program, which 0 does not keep from its core; see
    // core(5).
    let current = Some(maximum.map_or(1, |maximum| maximum.min(1)));
    Ok(setrlimit(Resource::Core, Rlimit { current, maximum })?)
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

fn booted() -> Option<SystemTime> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_reading_grows_with_what_is_held() {
        let before = read().unwrap();
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let file = fs::File::open("/proc/self/stat").unwrap();
        let after = read().unwrap();
        assert!(after.resident_bytes >= before.resident_bytes + (60 << 20));
        assert!(after.resident_bytes_max >= after.resident_bytes);
        // Other tests of this process open and close files meanwhile.
        assert!(after.open_fds > 0);
        assert!(after.started <= SystemTime::now() && after.threads > 0);
        drop((held, file));
    }
}
