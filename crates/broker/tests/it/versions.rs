//! Every request in every version that is listed is answered in that version.

use crate::client::Client;
use crate::requests::{self, Each};
use crate::server::Server;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Request;
use std::collections::BTreeMap;

struct Calls<'a> {
    client: &'a mut Client,
    answered: BTreeMap<i16, (i16, i16)>,
}

impl Each for Calls<'_> {
    fn each<Q: Request>(&mut self, version: i16, request: Q) {
        self.client.call(version, &request);
        let range = self.answered.entry(Q::KEY).or_insert((version, version));
        *range = (range.0.min(version), range.1.max(version));
    }
}

#[test]
fn every_listed_version_is_answered_in_its_own_form() {
    let server = Server::start();
    server.topic("t", 3);
    let id = server.log.topic("t").unwrap().id();
    let mut client = Client::connect(server.address);
    let mut calls = Calls { client: &mut client, answered: BTreeMap::new() };
    requests::each("t", id, &mut calls);
    let mut answered = calls.answered;
    // Those of transactions are answered and not listed.
    for key in [24, 25, 26, 28] {
        assert!(answered.remove(&key).is_some());
    }
    let listed = client.call(4, &ApiVersionsRequest::default());
    let listed: BTreeMap<i16, (i16, i16)> = listed
        .api_keys
        .iter()
        .map(|api| {
            // The versions of Produce before 3 are listed for some clients, and were never sent.
            let min = if api.api_key == 0 { 3 } else { api.min_version };
            (api.api_key, (min, api.max_version))
        })
        .collect();
    assert_eq!(answered, listed);
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    let mut frame = crate::client::frame(4, 77, &ApiVersionsRequest::default());
    frame[6..8].copy_from_slice(&99i16.to_be_bytes());
    use std::io::Write;
    client.stream.write_all(&frame).unwrap();
    let response = client.receive::<ApiVersionsRequest>(0);
    assert_eq!(response.error_code, ResponseError::UnsupportedVersion.code());
    assert!(response.api_keys.iter().any(|api| api.api_key == 18 && api.max_version == 4));
    // The connection goes on.
    assert_eq!(client.call(3, &ApiVersionsRequest::default()).error_code, 0);
}

#[test]
fn a_batch_goes_in_and_out_as_it_was() {
    let server = Server::start();
    server.topic("t", 1);
    let id = server.log.topic("t").unwrap().id();
    let mut client = Client::connect(server.address);
    for (at, version) in (3..=13).enumerate() {
        let sent = crate::client::batch(&["one", "two", "three"], None);
        let response = client.call(version, &requests::produce(version, "t", id, sent.clone()));
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, at as i64 * 3));
        for fetched in 4..=17 {
            let offset = at as i64 * 3 + 1;
            let response = client.call(fetched, &requests::fetch(fetched, "t", id, offset));
            let partition = &response.responses[0].partitions[0];
            assert_eq!((partition.error_code, partition.high_watermark), (0, (at as i64 + 1) * 3));
            assert_eq!(partition.last_stable_offset, partition.high_watermark);
            let records = partition.records.clone().unwrap();
            assert_eq!(records[..8], (at as i64 * 3).to_be_bytes(), "its base offset");
            assert_eq!(records[12..16], [0; 4], "its epoch");
            assert_eq!(records[16..], sent[16..], "the rest is as it was sent");
        }
    }
}
