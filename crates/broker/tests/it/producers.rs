//! Producers that number their batches: one sent twice is kept once, whatever happened between.

use crate::client::{Client, batch};
use crate::requests::produce;
use crate::server::Server;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use std::collections::HashSet;
use uuid::Uuid;

struct Producer {
    client: Client,
    id: i64,
    epoch: i16,
}

impl Producer {
    fn new(server: &Server) -> Producer {
        let mut client = Client::connect(server.address);
        let given = client.call(4, &InitProducerIdRequest::default().with_transactional_id(None));
        assert_eq!(given.error_code, 0);
        Producer { client, id: given.producer_id.0, epoch: given.producer_epoch }
    }

    /// The error and the base offset.
    fn send(&mut self, values: &[&str], sequence: i32) -> (i16, i64) {
        let records = batch(values, Some((self.id, self.epoch, sequence)));
        let response = self.client.call(9, &produce(9, "t", Uuid::nil(), records));
        let partition = &response.responses[0].partition_responses[0];
        (partition.error_code, partition.base_offset)
    }
}

#[test]
fn a_batch_sent_twice_is_kept_once_also_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(dir.path(), |_| {});
    server.topic("t", 1);
    let mut producer = Producer::new(&server);
    let gap = ResponseError::OutOfOrderSequenceNumber.code();
    let old = ResponseError::InvalidProducerEpoch.code();
    for at in 0..7 {
        assert_eq!(producer.send(&["a", "b"], at * 2), (0, i64::from(at) * 2));
    }
    for restart in 0..3 {
        // The last five batches are known by their numbers, and told where they are.
        for at in 2..7 {
            assert_eq!(producer.send(&["a", "b"], at * 2), (0, i64::from(at) * 2), "{restart}");
        }
        assert_eq!(producer.send(&["a", "b"], 0), (gap, -1), "too old");
        assert_eq!(producer.send(&["a", "b"], 16), (gap, -1), "one is missing");
        assert_eq!(producer.send(&["a"], 12), (gap, -1), "another batch under an old number");
        let log = server.log.clone();
        assert_eq!(log.topic("t").unwrap().partition(0).unwrap().end_offset(), 14);
        drop(server);
        if restart == 1 {
            // Without what was noted aside, the log itself says it.
            let noted = dir.path().join("log/topics/t/0/producers");
            std::fs::write(noted, b"torn").unwrap();
        }
        server = Server::start_in(dir.path(), |_| {});
        producer.client = Client::connect(server.address);
    }
    assert_eq!(producer.send(&["c"], 14), (0, 14));
    // A new epoch begins at zero and ends the one before.
    producer.epoch += 1;
    assert_eq!(producer.send(&["d"], 15), (gap, -1));
    assert_eq!(producer.send(&["d"], 0), (0, 15));
    producer.epoch -= 1;
    assert_eq!(producer.send(&["e"], 15), (old, -1));
    // One that the partition does not know may begin anywhere.
    let mut another = Producer::new(&server);
    assert_eq!(another.send(&["f"], 100), (0, 16));
    assert_eq!(another.send(&["f"], 100), (0, 16));
}

#[test]
fn no_id_is_given_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let server = Server::start_in(dir.path(), |_| {});
        for _ in 0..20 {
            assert!(ids.insert(Producer::new(&server).id));
        }
    }
}

#[test]
fn requests_behind_each_other_are_appended_and_answered_in_order() {
    let server = Server::start();
    server.topic("t", 1);
    let mut producer = Producer::new(&server);
    for at in 0..200 {
        let records = batch(&["v"], Some((producer.id, 0, at)));
        producer.client.send(9, &produce(9, "t", Uuid::nil(), records));
    }
    for at in 0..200 {
        let response = producer.client.receive::<ProduceRequest>(9);
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, at));
    }
    let stats = server.log.stats();
    assert!(stats.fsyncs < 200, "{} syncs for 200 requests: they did not overlap", stats.fsyncs);
}

#[test]
fn acks_of_zero_are_not_answered_and_still_kept() {
    let server = Server::start();
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    for _ in 0..10 {
        let request = produce(9, "t", Uuid::nil(), batch(&["v"], None)).with_acks(0);
        client.send(9, &request);
    }
    // The next answer is that of the next request.
    let request = produce(9, "t", Uuid::nil(), batch(&["v"], None)).with_acks(1);
    let response = client.call(9, &request);
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 10);
}
