//! `millstream serve`: the topics for Kafka clients and the registry, without a pipeline.

use crate::cli::Global;
use crate::commands::kafka::KafkaArgs;
use crate::failure::{Result, Said};
use crate::process::{Options, Process};
use clap::Args;
use millstream_console::HttpOptions;
use millstream_host::Threads;
use std::net::SocketAddr;

/// Serve the topics to Kafka clients, without a pipeline
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millstream serve\n  kcat -b 127.0.0.1:9092 -L\n  millstream serve --kafka-listen 0.0.0.0:9092 --kafka-users users.txt --kafka-tls-cert c.pem --kafka-tls-key k.pem\n\nWhat a client is told is written is on disk, whatever acks it asked for. `run` serves clients\ntoo, beside its pipelines, with the same options."
)]
pub struct ServeArgs {
    /// Where Kafka clients can read and write the topics
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9092",
        help_heading = "Kafka"
    )]
    kafka_listen: SocketAddr,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Where /metrics, /health and the schema registry answer; nowhere unless given
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = None)]
    listen: Option<SocketAddr>,
    /// Threads that serve clients; as many as there are cores unless given
    #[arg(long, value_name = "N", help_heading = None, value_parser = clap::value_parser!(u16).range(1..=1024))]
    io_threads: Option<u16>,
}

impl ServeArgs {
    pub fn run(self, global: &Global) -> Result<()> {
        let threads = Threads::default();
        let options = Options {
            waits: false,
            data: global.data.clone(),
            threads: Threads {
                // There are no pipelines: the cores are for the clients.
                clients: self.io_threads.map_or(threads.pipelines, usize::from),
                pipelines: 1,
                io: 1,
                console: 1,
            },
            http: self.listen.map(|listen| HttpOptions { listen, registry_listen: None }),
            kafka: self.kafka.options(Some(self.kafka_listen), &global.data)?,
            sentry: None,
        };
        let process = Process::start(options, &[])?;
        process.say_where();
        process.block_on(process.shutdown.wait());
        match process.end() {
            true => Ok(()),
            false => Err(Said(1).into()),
        }
    }
}
