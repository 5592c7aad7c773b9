//! What a transactional producer asks its coordinator, each question until it is answered.
//!
//! Brokers whose `transaction.version` is 2 or more (KIP-890) take partitions and offsets into a
//! transaction by themselves, and give every transaction an epoch of its own.

use super::cluster::{Cluster, Purpose, moved, topic_name};
use super::connection::Connection;
use super::error::{
    CONCURRENT_TRANSACTIONS, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING,
    INVALID_TXN_STATE, PRODUCER_FENCED, TRANSACTION_ABORTABLE, answered,
};
use super::producer::Partition;
use super::trouble::Trouble;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest,
    ProduceRequest, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use millstream_core::{Disposition, Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Who a producer is to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub id: i64,
    pub epoch: i16,
    /// Whether the brokers know what belongs to a transaction by themselves.
    pub newer: bool,
}

/// Another producer has our id now, or the coordinator has given our transaction up.
pub(super) const FENCED: &str = "fenced";
/// The transaction cannot be committed; another one may be begun.
pub(super) const ABORTABLE: &str = "transaction";

/// Pauses between two attempts.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The level from which on brokers have KIP-890.
const NEWER: i16 = 2;
/// How long an older transaction may take to end before we say so.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Coordinator {
    cluster: Cluster,
    id: StrBytes,
    timeout: Duration,
    /// Never as a newer client.
    older: bool,
    node: Mutex<Option<i32>>,
    trouble: Trouble,
}

impl Coordinator {
    pub fn new(cluster: Cluster, id: &str, timeout: Duration, older: bool) -> Self {
        Self {
            id: StrBytes::from_string(id.to_owned()),
            timeout,
            older,
            node: Mutex::default(),
            trouble: cluster.trouble(format!("transactions of `{id}`")),
            cluster,
        }
    }

    pub fn transactional_id(&self) -> TransactionalId {
        TransactionalId(self.id.clone())
    }

    /// A number for the id. Whoever had one before is fenced, and what it has open is given up.
    /// With `expected` only where nobody else has asked since.
    pub async fn init(&self, expected: Option<Number>) -> Result<Number> {
        let (id, epoch) = expected.map_or((-1, -1), |number| (number.id, number.epoch));
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(self.timeout.as_millis() as i32)
            .with_producer_id(id.into())
            .with_producer_epoch(epoch);
        let mut newer = false;
        let response = self
            .ask(
                "asking for a producer's number",
                &request,
                |connection| {
                    newer = !self.older
                        && connection.feature("transaction.version") >= NEWER
                        && connection.version::<ProduceRequest>(12)? >= 12
                        && connection.version::<EndTxnRequest>(5)? >= 5
                        && connection.version::<TxnOffsetCommitRequest>(5)? >= 5;
                    connection.version::<InitProducerIdRequest>(5)
                },
                |response| response.error_code,
            )
            .await?;
        Ok(Number { id: response.producer_id.0, epoch: response.producer_epoch, newer })
    }

    /// Tells an older coordinator what is part of the transaction.
    pub async fn add_partitions(&self, number: Number, partitions: &[Partition]) -> Result<()> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, index) in partitions {
            topics.entry(topic).or_default().push(*index);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            AddPartitionsToTxnTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions)
        });
        // Version 4 is for brokers.
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(number.id.into())
            .with_v3_and_below_producer_epoch(number.epoch)
            .with_v3_and_below_topics(topics.collect());
        let told = |response: &kafka_protocol::messages::AddPartitionsToTxnResponse| {
            let topics = &response.results_by_topic_v3_and_below;
            let codes = topics
                .iter()
                .flat_map(|t| t.results_by_partition.iter().map(|p| p.partition_error_code));
            // 55: not attempted because of another's error.
            codes.filter(|code| *code != 0).min_by_key(|code| *code == 55).unwrap_or(0)
        };
        self.ask(
            "adding partitions to a transaction",
            &request,
            |connection| connection.version::<AddPartitionsToTxnRequest>(3),
            told,
        )
        .await
        .map(drop)
    }

    /// Tells an older coordinator that a group's offsets are part of the transaction.
    pub async fn add_offsets(&self, number: Number, group: &str) -> Result<()> {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(number.id.into())
            .with_producer_epoch(number.epoch)
            .with_group_id(StrBytes::from_string(group.to_owned()).into());
        self.ask(
            "adding offsets to a transaction",
            &request,
            |connection| connection.version::<AddOffsetsToTxnRequest>(4),
            |response| response.error_code,
        )
        .await
        .map(drop)
    }

    /// Ends the transaction: asked with the same number until it is known. Gives the number of the
    /// next one.
    pub async fn end(&self, number: Number, commit: bool) -> Result<Number> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(number.id.into())
            .with_producer_epoch(number.epoch)
            .with_committed(commit);
        let doing = if commit { "committing a transaction" } else { "giving a transaction up" };
        let response = self
            .ask(
                doing,
                &request,
                |connection| connection.version::<EndTxnRequest>(if number.newer { 5 } else { 4 }),
                |response| response.error_code,
            )
            .await?;
        Ok(match number.newer && response.producer_id.0 >= 0 {
            true => {
                Number { id: response.producer_id.0, epoch: response.producer_epoch, newer: true }
            }
            false => number,
        })
    }

    /// Asks until there is an answer that no waiting changes.
    async fn ask<R: Request>(
        &self,
        doing: &str,
        request: &R,
        mut version: impl FnMut(&Connection) -> Result<i16>,
        code_of: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let (mut pause, since) = (PAUSE_MIN, Instant::now());
        loop {
            let asked = async {
                let connection = self.connection().await?;
                let version = version(&connection)?;
                connection.call(request, version, self.cluster.timeout()).await
            };
            let error = match asked.await {
                Ok(response) => match code_of(&response) {
                    0 => {
                        self.trouble.goes_on(0);
                        return Ok(response);
                    }
                    CONCURRENT_TRANSACTIONS => {
                        if since.elapsed() >= PATIENCE {
                            let told = format!("{doing}: the one before it is being ended");
                            self.trouble.waits(0, &Error::retry("ending", told));
                        }
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX / 4);
                        continue;
                    }
                    code => {
                        if moved(code) {
                            *self.node.lock() = None;
                        }
                        failed(doing, code)
                    }
                },
                Err(error) => {
                    *self.node.lock() = None;
                    error
                }
            };
            if error.disposition() == Disposition::Stop
                || matches!(error.kind(), FENCED | ABORTABLE)
            {
                return Err(error);
            }
            self.trouble.waits(0, &error);
            sleep(pause.max(PAUSE_MIN * 10)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let known = *self.node.lock();
        let node = match known {
            Some(node) => node,
            None => {
                let id = self.id.as_str();
                let node = self.cluster.transaction_coordinator(id).await?;
                *self.node.lock() = Some(node);
                node
            }
        };
        self.cluster.broker(node, Purpose::Transaction).await
    }
}

/// What a code means to a transaction.
pub(super) fn failed(doing: &str, code: i16) -> Error {
    let error = answered(doing, code);
    match code {
        INVALID_PRODUCER_EPOCH | PRODUCER_FENCED => Error::retry(FENCED, error.to_string()),
        INVALID_TXN_STATE | INVALID_PRODUCER_ID_MAPPING | TRANSACTION_ABORTABLE => {
            Error::retry(ABORTABLE, error.to_string())
        }
        _ => error,
    }
}
