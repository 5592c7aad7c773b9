//! The protocol's error codes in words, each with what it asks its reader to do.

use kafka_protocol::error::ResponseError;
use millstream_core::{Disposition, Error};
use std::fmt::Display;

pub(super) const OFFSET_OUT_OF_RANGE: i16 = 1;
pub(super) const CORRUPT_MESSAGE: i16 = 2;
pub(super) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
pub(super) const LEADER_NOT_AVAILABLE: i16 = 5;
pub(super) const NOT_LEADER: i16 = 6;
pub(super) const MESSAGE_TOO_LARGE: i16 = 10;
pub(super) const COORDINATOR_LOADING: i16 = 14;
pub(super) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
pub(super) const NOT_COORDINATOR: i16 = 16;
pub(super) const RECORD_LIST_TOO_LARGE: i16 = 18;
pub(super) const NOT_ENOUGH_REPLICAS: i16 = 19;
pub(super) const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
pub(super) const ILLEGAL_GENERATION: i16 = 22;
pub(super) const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
pub(super) const UNKNOWN_MEMBER_ID: i16 = 25;
pub(super) const REBALANCE_IN_PROGRESS: i16 = 27;
pub(super) const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
pub(super) const GROUP_AUTHORIZATION_FAILED: i16 = 30;
pub(super) const INVALID_TIMESTAMP: i16 = 32;
pub(super) const UNSUPPORTED_VERSION: i16 = 35;
pub(super) const INVALID_REQUEST: i16 = 42;
pub(super) const OUT_OF_ORDER_SEQUENCE: i16 = 45;
pub(super) const DUPLICATE_SEQUENCE: i16 = 46;
pub(super) const INVALID_PRODUCER_EPOCH: i16 = 47;
pub(super) const INVALID_TXN_STATE: i16 = 48;
pub(super) const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
pub(super) const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
pub(super) const CONCURRENT_TRANSACTIONS: i16 = 51;
pub(super) const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
pub(super) const KAFKA_STORAGE_ERROR: i16 = 56;
pub(super) const UNKNOWN_PRODUCER_ID: i16 = 59;
pub(super) const MEMBER_ID_REQUIRED: i16 = 79;
pub(super) const GROUP_ID_NOT_FOUND: i16 = 69;
pub(super) const INVALID_RECORD: i16 = 87;
pub(super) const FENCED_INSTANCE_ID: i16 = 82;
pub(super) const PRODUCER_FENCED: i16 = 90;
pub(super) const UNKNOWN_TOPIC_ID: i16 = 100;
pub(super) const INCONSISTENT_TOPIC_ID: i16 = 103;
pub(super) const FENCED_MEMBER_EPOCH: i16 = 110;
pub(super) const UNRELEASED_INSTANCE_ID: i16 = 111;
pub(super) const STALE_MEMBER_EPOCH: i16 = 113;
pub(super) const TRANSACTION_ABORTABLE: i16 = 120;

/// The kind of the error of a coordinator that is being made, is loading, or has moved.
pub(super) const NO_COORDINATOR: &str = "no_coordinator";

/// What a code that a broker gave while `doing` something means.
pub(super) fn answered(doing: impl Display, code: i16) -> Error {
    let known = ResponseError::try_from_code(code);
    let (disposition, kind, hint) = match code {
        TOPIC_AUTHORIZATION_FAILED => {
            (Disposition::Stop, "not_authorised", ": give this user access to the topic")
        }
        GROUP_AUTHORIZATION_FAILED => {
            (Disposition::Stop, "not_authorised", ": give this user access to the group")
        }
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
            (Disposition::Stop, "not_authorised", ": allow this user to write with that id")
        }
        31 => (Disposition::Stop, "not_authorised", ": give this user that right"),
        INVALID_TRANSACTION_TIMEOUT => (
            Disposition::Stop,
            "transaction_timeout",
            ": choose a `transaction_timeout` that its `transaction.max.timeout.ms` allows",
        ),
        17 => (Disposition::Stop, "invalid_topic", ": that is no name of a topic"),
        24 => (Disposition::Stop, "invalid_group", ": choose another `group`"),
        26 => (
            Disposition::Stop,
            "session_timeout",
            ": the broker does not allow this `session_timeout`",
        ),
        INCONSISTENT_GROUP_PROTOCOL => (
            Disposition::Stop,
            "group_protocol",
            ": the group's other members share partitions out in another way; choose another `group`",
        ),
        FENCED_INSTANCE_ID => (
            Disposition::Stop,
            "fenced",
            ": another process uses the same `instance`; give each its own",
        ),
        UNSUPPORTED_VERSION => (Disposition::Stop, "unsupported", ": the broker is too old"),
        UNKNOWN_TOPIC_OR_PARTITION | UNKNOWN_TOPIC_ID => (Disposition::Retry, "no_topic", ""),
        LEADER_NOT_AVAILABLE | NOT_LEADER => (Disposition::Retry, "no_leader", ""),
        COORDINATOR_LOADING | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => {
            (Disposition::Retry, NO_COORDINATOR, "")
        }
        NOT_ENOUGH_REPLICAS | NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
            (Disposition::Retry, "too_few_replicas", "")
        }
        KAFKA_STORAGE_ERROR => (Disposition::Retry, "storage", ""),
        _ if known.is_none_or(|error| error.is_retriable()) => (Disposition::Retry, "broker", ""),
        _ => (Disposition::Stop, "broker", ""),
    };
    Error::new(disposition, kind, format!("{doing}: the broker says {}{hint}", words(code)))
}

/// The code's name as words: `not leader or follower`.
pub(super) fn words(code: i16) -> String {
    let Some(error) = ResponseError::try_from_code(code) else { return "nothing is wrong".into() };
    let mut text = String::new();
    for c in error.to_string().chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// Records that a broker will never take, by their place in a batch, each with its reason. None when
/// the broker does not say which of the batch's they are.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{said}")]
pub(super) struct Refused {
    pub said: String,
    pub records: Vec<(u32, String)>,
}

/// A message that cannot be written or read in the protocol: a defect, ours or the broker's.
pub(super) fn malformed(doing: impl Display, error: impl Display) -> Error {
    Error::retry("protocol", format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_what_to_do() {
        let error = answered("reading topic `t`", TOPIC_AUTHORIZATION_FAILED);
        assert_eq!(error.disposition(), Disposition::Stop);
        assert_eq!(
            error.to_string(),
            "reading topic `t`: the broker says topic authorization failed: give this user access \
             to the topic"
        );
        assert_eq!(answered("x", 6).disposition(), Disposition::Retry);
        assert_eq!(words(19), "not enough replicas");
    }
}
