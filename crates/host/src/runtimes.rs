//! The runtimes of the process, each with a name and the threads it was asked to have, so that no
//! service can starve another.
//!
//! ```text
//! pipelines   partition tasks: decode, SQL, encode (CPU)
//! io          sources, sinks, timers
//! clients     what Kafka clients ask of the listener, where there is one
//! console     admin socket, /metrics, health, schema registry
//! ```

use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};

/// How many threads each runtime has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    pub pipelines: usize,
    pub io: usize,
    /// None where there is no listener: the runtime is not made then.
    pub clients: usize,
    pub console: usize,
}

#[derive(Debug)]
pub struct Runtimes {
    pipelines: Runtime,
    io: Runtime,
    clients: Option<Runtime>,
    console: Runtime,
}

impl Default for Threads {
    /// A pipeline thread for each core that this process may use; one each for the others, and no clients.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self { pipelines: cores, io: 1, clients: 0, console: 1 }
    }
}

impl Runtimes {
    pub fn start(threads: Threads) -> io::Result<Self> {
        Ok(Self {
            pipelines: build("pipelines", threads.pipelines, 64)?,
            io: build("io", threads.io, 64)?,
            clients: match threads.clients {
                0 => None,
                threads => Some(build("clients", threads, 64)?),
            },
            console: build("console", threads.console, 16)?,
        })
    }

    pub fn pipelines(&self) -> &Handle {
        self.pipelines.handle()
    }

    pub fn io(&self) -> &Handle {
        self.io.handle()
    }

    /// Those of `io` where there are none.
    pub fn clients(&self) -> &Handle {
        self.clients.as_ref().map_or_else(|| self.io(), Runtime::handle)
    }

    pub fn console(&self) -> &Handle {
        self.console.handle()
    }

    /// Ends all of them, giving what still blocks a moment to finish.
    pub fn stop(self, patience: Duration) {
        self.console.shutdown_timeout(patience);
        if let Some(clients) = self.clients {
            clients.shutdown_timeout(patience);
        }
        self.pipelines.shutdown_timeout(patience);
        self.io.shutdown_timeout(patience);
    }
}

fn build(name: &str, threads: usize, blocking_max: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .thread_name(name)
        .worker_threads(threads.max(1))
        .max_blocking_threads(blocking_max)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtime_works_on_threads_of_its_own_name() {
        let runtimes =
            Runtimes::start(Threads { pipelines: 2, io: 1, clients: 2, console: 1 }).unwrap();
        for (name, handle) in [
            ("pipelines", runtimes.pipelines()),
            ("io", runtimes.io()),
            ("clients", runtimes.clients()),
            ("console", runtimes.console()),
        ] {
            let task = handle.spawn(async { std::thread::current().name().map(str::to_owned) });
            assert_eq!(handle.block_on(task).unwrap().as_deref(), Some(name));
        }
        runtimes.stop(Duration::from_secs(1));
    }

    #[test]
    fn without_a_listener_there_are_no_threads_for_it() {
        let runtimes = Runtimes::start(Threads { pipelines: 1, ..Threads::default() }).unwrap();
        let task =
            runtimes.clients().spawn(async { std::thread::current().name().map(str::to_owned) });
        assert_eq!(runtimes.io().block_on(task).unwrap().as_deref(), Some("io"));
        runtimes.stop(Duration::from_secs(1));
    }
}
