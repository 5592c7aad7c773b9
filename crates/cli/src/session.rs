//! A command's conversation with the data directory: over the socket of the process that runs on
//! it, or with the directory itself.

use crate::cli::Global;
use crate::failure::Result;
use millstream_console::{Client, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

pub struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    /// Opens the directory as far as this request needs it; further ones must not need more.
    pub fn open(global: &Global, request: &Request) -> Result<Self> {
        let runtime = runtime()?;
        let client = runtime.block_on(Client::open(&global.data, request.access()))?;
        Ok(Self { runtime, client })
    }

    /// Whether a running process answers.
    pub fn is_remote(&self) -> bool {
        self.client.is_remote()
    }

    pub fn rows<T: DeserializeOwned>(&mut self, request: &Request) -> Result<Vec<T>> {
        Ok(self.runtime.block_on(self.client.rows(request))?)
    }

    pub fn end<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        Ok(self.runtime.block_on(self.client.end(request))?)
    }

    /// Gives each row as it comes, and the end.
    pub fn each(
        &mut self,
        request: &Request,
        mut row: impl FnMut(Value) -> Result<()>,
    ) -> Result<Value> {
        self.runtime.block_on(async {
            let mut answer = self.client.ask(request).await?;
            while let Some(next) = answer.next().await? {
                row(next)?;
            }
            Ok(answer.end())
        })
    }
}

/// Opens, asks, gives all rows.
pub fn rows<T: DeserializeOwned>(global: &Global, request: &Request) -> Result<Vec<T>> {
    Session::open(global, request)?.rows(request)
}

/// Opens, asks, gives the end.
pub fn end<T: DeserializeOwned>(global: &Global, request: &Request) -> Result<T> {
    Session::open(global, request)?.end(request)
}

/// For the short work of a command: one thread beside the main one.
pub fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .thread_name("command")
        .enable_all()
        .build()?)
}
