//! A broker in this process, on a port and a directory of its own.

use crate::disk::Disk;
use millstream_broker::stats::Meter;
use millstream_broker::{Broker, Options};
use millstream_log::{Log, TopicOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct Server {
    pub address: SocketAddr,
    pub log: Log,
    pub meter: Meter,
    runtime: Runtime,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
    dir: Option<TempDir>,
}

impl Server {
    pub fn start() -> Server {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Options)) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self::start_in(dir.path(), change);
        server.dir = Some(dir);
        server
    }

    pub fn start_in(dir: &Path, change: impl FnOnce(&mut Options)) -> Server {
        Self::start_at("127.0.0.1:0".parse().unwrap(), dir, change)
    }

    /// On a disk that fails when it is told to.
    pub fn start_on(disk: Disk) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self::start_on_in(disk, dir.path());
        server.dir = Some(dir);
        server
    }

    pub fn start_on_in(disk: Disk, dir: &Path) -> Server {
        Self::start_at("127.0.0.1:0".parse().unwrap(), dir, |options| {
            options.files = Arc::new(disk);
        })
    }

    pub fn start_at(listen: SocketAddr, dir: &Path, change: impl FnOnce(&mut Options)) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut options = Options::new(dir.join("broker"));
        options.groups.initial_delay = std::time::Duration::from_millis(100);
        change(&mut options);
        let files = options.files.clone();
        let of_log = millstream_log::Options { files, ..Default::default() };
        let log = Log::open(&dir.join("log"), of_log).unwrap();
        let listener = runtime.block_on(Broker::listen(listen)).unwrap();
        let broker = {
            let _inside = runtime.enter();
            Broker::open(listener, log.clone(), options).unwrap()
        };
        // As if a pipeline read it.
        broker.keep_used(|topic| (topic == "used").then(|| "the pipeline `p`".to_owned()));
        let meter = broker.meter();
        let address = broker.address().unwrap();
        let stop = CancellationToken::new();
        let serving = Some(runtime.spawn(broker.serve(stop.clone())));
        Server { address, log, meter, runtime, stop, serving, dir: None }
    }

    pub fn topic(&self, name: &str, partitions: u32) {
        let options = TopicOptions { partitions, ..TopicOptions::default() };
        self.log.create_topic(name, options).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            let _ = self.runtime.block_on(serving);
        }
        self.log.close();
    }
}
