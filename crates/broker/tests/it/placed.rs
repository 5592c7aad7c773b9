//! Large batches, which go out from their files.

use crate::client::{Client, batch};
use crate::requests::{fetch, produce};
use crate::server::Server;
use bytes::Bytes;
use fetch_request::FetchPartition;
use kafka_protocol::messages::*;
use millstream_log::TopicOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use uuid::Uuid;

/// A batch as it comes back.
fn stored(produced: &Bytes, base_offset: i64) -> Vec<u8> {
    let mut bytes = produced.to_vec();
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes[12..16].copy_from_slice(&0i32.to_be_bytes());
    bytes
}

fn asked(offsets: &[i64]) -> FetchRequest {
    let mut request = fetch(12, "t", Uuid::nil(), 0).with_max_bytes(100 << 20);
    let partitions = offsets.iter().enumerate().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(index as i32)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20)
    });
    request.topics[0].partitions = partitions.collect();
    request
}

/// What each of three partitions has, of small batches and large ones.
fn fill(server: &Server) -> [Vec<u8>; 3] {
    server.topic("t", 3);
    let mut rng = StdRng::seed_from_u64(11);
    let mut client = Client::connect(server.address);
    let mut all = [const { Vec::new() }; 3];
    for at in 0..60 {
        let (small, large) = (rng.random_range(0..3_000), rng.random_range(20_000..200_000));
        let len = if rng.random_bool(0.3) { small } else { large };
        let value = ["x", "y", "z"][at % 3].repeat(len);
        let bytes = batch(&[&value], None);
        let mut request = produce(9, "t", Uuid::nil(), bytes.clone());
        request.topic_data[0].partition_data[0].index = at as i32 % 3;
        client.call(9, &request);
        all[at % 3].extend(stored(&bytes, at as i64 / 3));
    }
    all
}

#[test]
fn they_come_as_they_were_produced_also_to_a_slow_client_that_asks_ahead() {
    let server = Server::start();
    let all = fill(&server);
    let mut client = Client::connect(server.address);
    for _ in 0..4 {
        client.send(12, &asked(&[0, 0, 0]));
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut ends = [0; 3];
    for round in 0..4 {
        let answer = client.receive::<FetchRequest>(12);
        for (at, partition) in answer.responses[0].partitions.iter().enumerate() {
            let records = partition.records.as_ref().unwrap();
            assert!(all[at].starts_with(records), "partition {at}");
            assert!(round == 0 || ends[at] == records.len());
            ends[at] = records.len();
        }
        assert!(ends.iter().sum::<usize>() > 1 << 20);
    }
    let counted = server.meter.read();
    assert_eq!(counted.bytes_fetched, 4 * ends.iter().sum::<usize>() as u64);
    // To the end, and what is asked in between is answered in its place.
    let mut offsets = [0; 3];
    let mut found = [const { Vec::new() }; 3];
    while offsets != [20; 3] {
        client.send(12, &asked(&offsets));
        client.send(0, &ApiVersionsRequest::default());
        let answer = client.receive::<FetchRequest>(12);
        for (at, partition) in answer.responses[0].partitions.iter().enumerate() {
            let records = partition.records.clone().unwrap_or_default();
            for batch in millstream_log::codec::split(&records).unwrap() {
                offsets[at] += batch.len() as i64;
            }
            found[at].extend(records);
        }
        client.receive::<ApiVersionsRequest>(0);
    }
    assert!(found == all);
}

#[test]
fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let server = Server::start();
    let all = fill(&server);
    for _ in 0..20 {
        let mut leaver = Client::connect(server.address);
        leaver.send(12, &asked(&[0, 0, 0]));
    }
    let mut client = Client::connect(server.address);
    let answer = client.call(12, &asked(&[0, 0, 0]));
    let records = answer.responses[0].partitions[2].records.clone().unwrap();
    assert!(all[2].starts_with(&records) && !records.is_empty());
}

#[test]
fn what_is_removed_while_it_is_sent_still_comes() {
    let server = Server::start();
    let options = TopicOptions { segment_bytes: 300_000, ..TopicOptions::default() };
    let topic = server.log.create_topic("t", options).unwrap();
    let mut client = Client::connect(server.address);
    let produced = batch(&[&"x".repeat(900_000)], None);
    for _ in 0..12 {
        client.call(9, &produce(9, "t", Uuid::nil(), produced.clone()));
    }
    // More than the sockets hold.
    for _ in 0..12 {
        client.send(12, &asked(&[0]));
    }
    std::thread::sleep(Duration::from_millis(300));
    let partition = topic.partition(0).unwrap();
    partition.delete_before(partition.end_offset()).unwrap();
    let answer = client.receive::<FetchRequest>(12);
    let partition = &answer.responses[0].partitions[0];
    assert!(partition.records.as_ref().unwrap() == &stored(&produced, 0));
    for _ in 1..12 {
        let answer = client.receive::<FetchRequest>(12);
        let partition = &answer.responses[0].partitions[0];
        let records = partition.records.clone().unwrap_or_default();
        assert!(partition.error_code != 0 || records == stored(&produced, 0));
    }
}

#[test]
fn what_is_held_in_memory_is_bounded_by_itself() {
    let server = Server::start_with(|options| {
        options.limits.fetch_bytes = 1 << 20;
        options.limits.fetch_held_bytes = 50_000;
    });
    server.topic("t", 3);
    let mut client = Client::connect(server.address);
    for (index, value) in [(0, 1_000), (1, 100_000), (2, 1_000)] {
        for _ in 0..100 {
            let batch = batch(&[&"x".repeat(value)], None);
            let mut request = produce(9, "t", Uuid::nil(), batch);
            request.topic_data[0].partition_data[0].index = index;
            client.call(9, &request);
        }
    }
    let answer = client.call(12, &asked(&[0, 0, 0]).with_min_bytes(1 << 20));
    let partitions = &answer.responses[0].partitions;
    let len = |at: usize| partitions[at].records.as_ref().map_or(0, |records| records.len());
    assert!((40_000..=50_000).contains(&len(0)), "{}", len(0));
    assert!((900_000..1 << 20).contains(&len(1)), "{}", len(1));
    assert!(len(2) < 10_000, "{}", len(2));
    // No more than the client asks for, of whichever kind.
    let answer = client.call(12, &asked(&[0, 0, 0]).with_max_bytes(20_000));
    let records = answer.responses[0]
        .partitions
        .iter()
        .map(|partition| partition.records.as_ref().map_or(0, |records| records.len()));
    assert!((15_000..=20_000).contains(&records.sum::<usize>()));
}

#[test]
fn batches_of_middling_size_fill_an_answer() {
    let server = Server::start();
    server.topic("t", 3);
    let mut client = Client::connect(server.address);
    for value in [2_000, 4_000, 6_000, 10_000] {
        let (at, before) = {
            let partition = server.log.topic("t").unwrap().partition(0).unwrap();
            (partition.end_offset(), partition.bytes())
        };
        for _ in 0..60 {
            let batch = batch(&[&"x".repeat(value)], None);
            client.call(9, &produce(9, "t", Uuid::nil(), batch));
        }
        let partition = server.log.topic("t").unwrap().partition(0).unwrap();
        let answer = client.call(12, &asked(&[at, 0, 0]));
        let records = answer.responses[0].partitions[0].records.clone().unwrap();
        assert_eq!(records.len() as u64, partition.bytes() - before, "of {value} bytes each");
    }
}

#[test]
fn more_files_than_answers_may_keep_open_are_read() {
    let server = Server::start_with(|options| options.limits.fetches_files = 1);
    let all = fill(&server);
    let mut client = Client::connect(server.address);
    for _ in 0..3 {
        client.send(12, &asked(&[0, 0, 0]));
    }
    for _ in 0..3 {
        let answer = client.receive::<FetchRequest>(12);
        for (at, partition) in answer.responses[0].partitions.iter().enumerate() {
            let records = partition.records.as_ref().unwrap();
            assert!(all[at].starts_with(records) && records.len() > 500_000, "partition {at}");
        }
    }
}

#[test]
fn a_large_batch_in_its_file_waits_for_no_memory() {
    let server = Server::start_with(|options| {
        options.limits.fetch_held_bytes = 100_000;
        options.limits.fetches_held_bytes = 100_000;
    });
    server.topic("t", 3);
    let mut client = Client::connect(server.address);
    let large = batch(&[&"x".repeat(900_000)], None);
    client.call(9, &produce(9, "t", Uuid::nil(), large.clone()));
    let mut request = asked(&[0, 0, 0]).with_max_bytes(1_000);
    request.topics[0].partitions[0].partition_max_bytes = 1_000;
    let answer = client.call(12, &request);
    let records = answer.responses[0].partitions[0].records.clone().unwrap();
    assert!(records == stored(&large, 0));
}
