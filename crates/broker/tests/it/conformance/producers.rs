//! Producers that number their batches.

use super::Log;
use crate::client::{Client, batch};
use crate::requests::produce;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::InitProducerIdRequest;
use krafka::Record;
use krafka::producer::Acks;
use std::time::Duration;

struct Producer {
    client: Client,
    topic: String,
    id: i64,
    epoch: i16,
}

impl Producer {
    async fn new(log: &Log) -> Producer {
        let topic = log.topic(1).await;
        let mut client = log.client();
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        let id = super::eventually("a producer has an id", async || {
            let given = client.call(4, &request);
            (given.error_code == 0).then_some((given.producer_id.0, given.producer_epoch))
        });
        let (id, epoch) = id.await;
        Producer { client, topic, id, epoch }
    }

    /// The error and the base offset.
    fn send(&mut self, values: &[&str], sequence: i32) -> (i16, i64) {
        let records = batch(values, Some((self.id, self.epoch, sequence)));
        let response = self.client.call(9, &produce(9, &self.topic, Default::default(), records));
        let partition = &response.responses[0].partition_responses[0];
        (partition.error_code, partition.base_offset)
    }
}

pub async fn duplicates(log: Log) {
    let mut producer = Producer::new(&log).await;
    for at in 0..7 {
        assert_eq!(producer.send(&["a", "b"], at * 2), (0, i64::from(at) * 2));
    }
    // The last five batches are known, and told where they are.
    for at in 2..7 {
        assert_eq!(producer.send(&["a", "b"], at * 2), (0, i64::from(at) * 2));
    }
    assert_eq!(producer.send(&["c"], 14), (0, 14));
    let records = log.read(&producer.topic, vec![0], 15).await;
    assert_eq!(records.last().unwrap().offset, 14);
}

pub async fn out_of_order(log: Log) {
    let gap = (ResponseError::OutOfOrderSequenceNumber.code(), -1);
    let mut producer = Producer::new(&log).await;
    for at in 0..7 {
        assert_eq!(producer.send(&["a", "b"], at * 2), (0, i64::from(at) * 2));
    }
    assert_eq!(producer.send(&["a", "b"], 16), gap, "one is missing");
    assert_eq!(producer.send(&["a"], 12), gap, "another batch under an old number");
    assert_eq!(producer.send(&["a", "b"], 0), gap, "too old to be known");
    assert_eq!(producer.send(&["a", "b"], 14), (0, 14), "what was due");
}

pub async fn fenced(log: Log) {
    let gap = (ResponseError::OutOfOrderSequenceNumber.code(), -1);
    let mut producer = Producer::new(&log).await;
    assert_eq!(producer.send(&["a"], 0), (0, 0));
    producer.epoch += 1;
    assert_eq!(producer.send(&["b"], 1), gap, "a new epoch begins at zero");
    assert_eq!(producer.send(&["b"], 0), (0, 1));
    producer.epoch -= 1;
    let old = (ResponseError::InvalidProducerEpoch.code(), -1);
    assert_eq!(producer.send(&["c"], 1), old);
}

pub async fn in_order(log: Log) {
    const COUNT: usize = 2_000;
    let topic = log.topic(2).await;
    let producer = log.kafka.producer().idempotent(true).acks(Acks::All);
    // Small batches, so that many are under way.
    let producer = producer.batch_size(512).linger(Duration::from_millis(1));
    let producer = producer.build().await.unwrap();
    let mut sent = Vec::new();
    for at in 0..COUNT {
        let record = Record::new(&topic, at.to_string()).partition((at % 2) as i32);
        sent.push(producer.enqueue(record).await.unwrap());
    }
    for (at, sent) in sent.into_iter().enumerate() {
        assert_eq!(sent.await.unwrap().offset, (at / 2) as i64);
    }
    producer.close().await.unwrap();
    let records = log.read(&topic, vec![0, 1], COUNT).await;
    for partition in 0..2 {
        let records = records.iter().filter(|record| record.partition == partition);
        let found: Vec<_> = records.map(|record| record.value_str().unwrap().to_owned()).collect();
        let expected: Vec<_> =
            (0..COUNT).skip(partition as usize).step_by(2).map(|at| at.to_string()).collect();
        assert_eq!(found, expected);
    }
}
