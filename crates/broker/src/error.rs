//! What can go wrong with the broker itself, and the protocol's number for what goes wrong with the
//! log.

use kafka_protocol::ResponseError;
use millstream_log::codec::Invalid;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address} for Kafka clients")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} is damaged in line {line}: {what}; put back a copy of the file, nothing was changed",
        path.display()
    )]
    Damage { path: PathBuf, line: usize, what: String },
    #[error("{} is of version {found}, this program reads up to {known}: use a newer one", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("a change could not be written to {}: it is not kept", path.display())]
    NotKept { path: PathBuf },
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String },
    #[error("cannot use the certificates for TLS")]
    Tls(#[source] millstream_core::Error),
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &std::path::Path, source: io::Error) -> Error {
        Error::Io { doing, path: path.to_owned(), source }
    }
}

/// What a client is told of an error of the log.
pub fn code(error: &millstream_log::Error) -> ResponseError {
    use millstream_log::Error as Log;
    match error {
        Log::Damage(_) | Log::DiskFull { .. } | Log::Io { .. } | Log::SyncFailed { .. } => {
            ResponseError::KafkaStorageError
        }
        Log::Beyond { .. } => ResponseError::OffsetOutOfRange,
        Log::TopicExists(_) => ResponseError::TopicAlreadyExists,
        Log::NoTopic(_) | Log::Deleted(_) => ResponseError::UnknownTopicOrPartition,
        Log::TopicName { .. } => ResponseError::InvalidTopicException,
        Log::TopicOption { option: "partitions", .. } => ResponseError::InvalidPartitions,
        Log::TopicOption { .. } => ResponseError::InvalidConfig,
        Log::Closed => ResponseError::NotLeaderOrFollower,
        Log::TooLarge { .. } => ResponseError::MessageTooLarge,
        Log::Sequence { .. } => ResponseError::OutOfOrderSequenceNumber,
        Log::ProducerEpoch { .. } => ResponseError::InvalidProducerEpoch,
        Log::Batch(why) => invalid(why),
        _ => ResponseError::UnknownServerError,
    }
}

/// What a producer is told of bytes that are not a batch.
pub fn invalid(why: &Invalid) -> ResponseError {
    match why {
        Invalid::Magic(_) => ResponseError::UnsupportedForMessageFormat,
        Invalid::Codec(_) => ResponseError::UnsupportedCompressionType,
        Invalid::TooLarge => ResponseError::MessageTooLarge,
        Invalid::Short { .. } | Invalid::Length(_) | Invalid::Checksum { .. } => {
            ResponseError::CorruptMessage
        }
        _ => ResponseError::InvalidRecord,
    }
}
