//! The options of the listener for Kafka clients, which `run` and `serve` share.

use crate::failure::{Mistake, Result};
use clap::Args;
use millstream_broker::{Broker, Error, Options, TlsOptions, Users};
use millstream_log::Log;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;

#[derive(Debug, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// What Kafka clients are told to connect to; the address that they reached unless given
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    kafka_advertise: Option<(String, u16)>,
    /// Clients must log in (SASL PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512) as one of these: a file of
    /// `name:password` lines that only its owner may read
    #[arg(long, value_name = "FILE")]
    kafka_users: Option<PathBuf>,
    /// Talk TLS, with this chain of certificates (PEM)
    #[arg(long, value_name = "FILE", requires = "kafka_tls_key")]
    kafka_tls_cert: Option<PathBuf>,
    /// The private key of --kafka-tls-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "kafka_tls_cert")]
    kafka_tls_key: Option<PathBuf>,
    /// Clients must have a certificate that one of these signed (PEM)
    #[arg(long, value_name = "FILE", requires = "kafka_tls_cert")]
    kafka_tls_client_ca: Option<PathBuf>,
    /// Partitions of a topic that is made because a client asked for it; 0: none is made
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    kafka_auto_create: u32,
}

/// A listener that was asked for.
pub struct Kafka {
    listen: SocketAddr,
    options: Options,
}

impl KafkaArgs {
    pub fn options(&self, listen: Option<SocketAddr>, data: &Path) -> Result<Option<Kafka>> {
        let Some(listen) = listen else {
            if self.kafka_users.is_some() || self.kafka_tls_cert.is_some() {
                return Err(Mistake::new(
                    "--kafka-users and --kafka-tls-cert need --kafka-listen: nothing listens \
                     without it",
                ));
            }
            return Ok(None);
        };
        let mut options = Options::new(data.join("broker"));
        options.advertise = self.kafka_advertise.clone();
        options.auto_create = (self.kafka_auto_create > 0).then_some(self.kafka_auto_create);
        let users = self.kafka_users.as_deref().map(Users::load).transpose();
        options.users = users.map_err(|error| explained(error, listen))?;
        options.tls = self.kafka_tls_cert.clone().zip(self.kafka_tls_key.clone()).map(
            |(certificates, key)| TlsOptions {
                certificates,
                key,
                client_ca: self.kafka_tls_client_ca.clone(),
            },
        );
        let mutual = options.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !listen.ip().is_loopback() && options.users.is_none() && !mutual {
            tracing::warn!(
                "anybody who reaches {listen} may read and write every topic: give --kafka-users, \
                 or --kafka-tls-client-ca"
            );
        }
        if options.users.is_some() && options.tls.is_none() && !listen.ip().is_loopback() {
            tracing::warn!(
                "passwords and records travel to {listen} in the clear: give --kafka-tls-cert"
            );
        }
        if listen.ip().is_unspecified() && options.advertise.is_none() {
            tracing::info!(
                "clients are told the address by which they came; --kafka-advertise says another"
            );
        }
        Ok(Some(Kafka { listen, options }))
    }
}

impl Kafka {
    pub async fn listen(&self) -> Result<TcpListener> {
        Broker::listen(self.listen).await.map_err(|error| explained(error, self.listen))
    }

    pub fn open(self, listener: TcpListener, log: Log) -> Result<Broker> {
        let listen = self.listen;
        Broker::open(listener, log, self.options).map_err(|error| explained(error, listen))
    }
}

/// With what to do, where the user can choose something else.
fn explained(error: Error, listen: SocketAddr) -> anyhow::Error {
    match &error {
        Error::Bind { source, .. } => match source.kind() {
            ErrorKind::AddrInUse => Mistake::new(format!(
                "port {} of {} is in use by another process: choose another with --kafka-listen \
                 ADDRESS:PORT",
                listen.port(),
                listen.ip()
            )),
            ErrorKind::PermissionDenied => Mistake::new(format!(
                "this user may not listen on {listen}: choose a port above 1023 with --kafka-listen"
            )),
            ErrorKind::AddrNotAvailable => Mistake::new(format!(
                "{} is no address of this machine: choose another with --kafka-listen",
                listen.ip()
            )),
            _ => error.into(),
        },
        Error::File { .. } => Mistake::new(error.to_string()),
        Error::Tls(error) => Mistake::new(error.chain()),
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            Mistake::new(format!("{error}: there is no such file"))
        }
        _ => error.into(),
    }
}

fn host_port(text: &str) -> std::result::Result<(String, u16), String> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some((host.to_owned(), port.parse().ok()?)).filter(|_| !host.is_empty())
    });
    parts.ok_or_else(|| "write HOST:PORT, as events.example:9092".to_owned())
}
