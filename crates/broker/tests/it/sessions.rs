//! Consumers that name their partitions once, against what one that does not is told.

use crate::client::{Client, batch};
use crate::requests::{fetch, produce, topic};
use crate::server::Server;
use fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// A consumer's side of a session, as the Java client does it.
pub struct Reader {
    topic: String,
    version: i16,
    id: Uuid,
    pub session: i32,
    epoch: i32,
    /// What it reads, and from where.
    pub offsets: BTreeMap<i32, i64>,
    /// What the session has of that.
    told: BTreeMap<i32, i64>,
    max_bytes: i32,
}

impl Reader {
    pub fn new(
        version: i16,
        (topic, id): (&str, Uuid),
        partitions: impl Iterator<Item = i32>,
    ) -> Reader {
        let offsets = partitions.map(|index| (index, 0)).collect();
        let told = BTreeMap::new();
        let topic = topic.to_owned();
        Reader { topic, version, id, session: 0, epoch: 0, offsets, told, max_bytes: 1 << 20 }
    }

    pub fn request(&self) -> FetchRequest {
        let named = |topic: FetchTopic| match self.version {
            13.. => topic.with_topic_id(self.id),
            _ => topic.with_topic(crate::requests::topic(&self.topic)),
        };
        let changed = self.offsets.iter().filter(|(index, at)| self.told.get(index) != Some(at));
        let changed = changed.map(|(index, at)| {
            FetchPartition::default()
                .with_partition(*index)
                .with_fetch_offset(*at)
                .with_partition_max_bytes(self.max_bytes)
        });
        let gone = self.told.keys().filter(|index| !self.offsets.contains_key(index)).copied();
        let gone: Vec<i32> = gone.collect();
        let forgotten = ForgottenTopic::default().with_partitions(gone.clone());
        let forgotten = match self.version {
            13.. => forgotten.with_topic_id(self.id),
            _ => forgotten.with_topic(topic(&self.topic)),
        };
        let forgotten = if gone.is_empty() { Vec::new() } else { vec![forgotten] };
        let changed: Vec<_> = changed.collect();
        let topics = match changed.is_empty() {
            true => Vec::new(),
            false => vec![named(FetchTopic::default().with_partitions(changed))],
        };
        FetchRequest::default()
            .with_max_bytes(self.max_bytes)
            .with_session_id(self.session)
            .with_session_epoch(self.epoch)
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten)
    }

    /// Gives the partitions that were told of, and takes their records.
    pub fn fetch(&mut self, client: &mut Client) -> Vec<i32> {
        let answer = client.call(self.version, &self.request());
        assert_eq!(answer.error_code, 0);
        assert_ne!(answer.session_id, 0);
        assert!(self.session == 0 || self.session == answer.session_id);
        self.session = answer.session_id;
        self.epoch += 1;
        self.told = self.offsets.clone();
        let mut told = Vec::new();
        for partition in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            assert_eq!(partition.error_code, 0);
            told.push(partition.partition_index);
            let at = self.offsets.get_mut(&partition.partition_index).unwrap();
            // One record a batch, so that the last byte of a batch's offset tells of it.
            let mut records = &partition.records.clone().unwrap_or_default()[..];
            while !records.is_empty() {
                let base = i64::from_be_bytes(*records.first_chunk().unwrap());
                assert_eq!(base, *at, "of partition {}", partition.partition_index);
                let len = i32::from_be_bytes(*records[8..].first_chunk().unwrap());
                records = &records[12 + len as usize..];
                *at += 1;
            }
        }
        told
    }
}

/// Appends one record.
pub fn put(client: &mut Client, id: Uuid, partition: i32) {
    let mut request = produce(13, "t", id, batch(&["v"], None));
    request.topic_data[0].partition_data[0].index = partition;
    let answer = client.call(13, &request);
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
}

#[test]
fn an_answer_has_what_changed_and_nothing_else() {
    for version in [7, 11, 12, 13, 17] {
        let server = Server::start();
        server.topic("t", 200);
        let id = server.log.topic("t").unwrap().id();
        let mut client = Client::connect(server.address);
        let mut reader = Reader::new(version, ("t", id), 0..200);
        assert_eq!(reader.fetch(&mut client).len(), 200, "all of them, the first time");
        assert!(reader.fetch(&mut client).is_empty(), "nothing is new");
        put(&mut client, id, 17);
        put(&mut client, id, 170);
        let asked = reader.request();
        assert!(asked.topics.is_empty(), "the request names none");
        let mut told = reader.fetch(&mut client);
        told.sort_unstable();
        assert_eq!(told, [17, 170]);
        assert!(reader.fetch(&mut client).is_empty());

        // One that is forgotten is told no more; one that comes back is.
        reader.offsets.remove(&17);
        assert!(reader.fetch(&mut client).is_empty());
        put(&mut client, id, 17);
        put(&mut client, id, 18);
        assert_eq!(reader.fetch(&mut client), [18]);
        reader.offsets.insert(17, 1);
        assert_eq!(reader.fetch(&mut client), [17]);
        // The start moves.
        server.log.topic("t").unwrap().partition(170).unwrap().delete_before(1).unwrap();
        assert_eq!(reader.fetch(&mut client), [170]);
        assert_eq!(server.meter.read().fetch_sessions, 1);
        // Forgetting all of them ends it.
        reader.offsets.clear();
        let answer = client.call(version, &reader.request());
        assert_eq!((answer.error_code, answer.session_id), (0, 0));
        assert_eq!(server.meter.read().fetch_sessions, 0);
    }
}

#[test]
fn every_record_is_read_once_and_no_partition_starves() {
    let server = Server::start();
    server.topic("t", 200);
    let id = server.log.topic("t").unwrap().id();
    let mut client = Client::connect(server.address);
    let mut writer = Client::connect(server.address);
    let mut rng = StdRng::seed_from_u64(7);
    let mut reader = Reader::new(13, ("t", id), 0..100);
    // Room for few of them in each answer.
    reader.max_bytes = 1_000;
    let mut ends: BTreeMap<i32, i64> = (0..200).map(|index| (index, 0)).collect();
    let mut paused: BTreeMap<i32, i64> = (100..200).map(|index| (index, 0)).collect();
    for round in 0..400 {
        let partition = rng.random_range(0..200);
        put(&mut writer, id, partition);
        *ends.get_mut(&partition).unwrap() += 1;
        if round % 5 == 0 {
            // Some are paused and others go on, as when a consumer still has records of them.
            let out = rng.random_range(0..200);
            match (reader.offsets.remove(&out), paused.remove(&out)) {
                (Some(at), _) => drop(paused.insert(out, at)),
                (_, at) => drop(reader.offsets.insert(out, at.unwrap())),
            }
        }
        reader.fetch(&mut client);
    }
    reader.offsets.append(&mut paused);
    // Less than the first ones get.
    reader.max_bytes = 400;
    for _ in 0..200 {
        // The first ones always have something new.
        for partition in 0..10 {
            put(&mut writer, id, partition);
            *ends.get_mut(&partition).unwrap() += 1;
        }
        reader.fetch(&mut client);
    }
    let late = |reader: &Reader, from: i32| {
        reader.offsets.range(from..).filter(|(index, at)| ends[index] != **at).count()
    };
    assert_eq!(late(&reader, 10), 0, "the busy ones do not hold up the others");
    while late(&reader, 0) > 0 {
        reader.fetch(&mut client);
    }
}

#[test]
fn a_session_out_of_turn_is_refused_and_begun_again() {
    let server = Server::start_with(|options| {
        options.limits.fetch_sessions = 2;
        options.limits.fetch_session_idle = Duration::from_secs(3_600);
    });
    server.topic("t", 2);
    let id = server.log.topic("t").unwrap().id();
    let mut client = Client::connect(server.address);
    let mut reader = Reader::new(13, ("t", id), 0..2);
    reader.fetch(&mut client);
    let mut refused = |request: FetchRequest, version: i16, error: ResponseError| {
        let answer = client.call(version, &request);
        assert_eq!((answer.error_code, answer.session_id), (error.code(), 0));
        assert!(answer.responses.is_empty());
    };
    let asked =
        |session, epoch| FetchRequest::default().with_session_id(session).with_session_epoch(epoch);
    refused(asked(reader.session ^ 1, 1), 13, ResponseError::FetchSessionIdNotFound);
    refused(asked(0, 1), 13, ResponseError::FetchSessionIdNotFound);
    refused(asked(reader.session, 2), 13, ResponseError::InvalidFetchSessionEpoch);
    refused(asked(reader.session, -7), 13, ResponseError::InvalidFetchSessionEpoch);
    refused(asked(reader.session, 1), 12, ResponseError::FetchSessionTopicIdError);
    reader.fetch(&mut client);

    // A request from the beginning ends the one that it names.
    let mut again = reader.request();
    again.session_epoch = 0;
    again.topics = fetch(13, "", id, 0).topics;
    let begun = client.call(13, &again);
    assert!(begun.session_id != 0 && begun.session_id != reader.session);
    assert_eq!(server.meter.read().fetch_sessions, 1);
    // The last request of one ends it too, and begins no other.
    let last = again.with_session_id(begun.session_id).with_session_epoch(-1);
    assert_eq!(client.call(13, &last).session_id, 0);
    assert_eq!(server.meter.read().fetch_sessions, 0);

    // Without room there is none, and the answer is whole all the same.
    let whole = || fetch(13, "", id, 0).with_session_epoch(0);
    let sessions = [0, 1, 2].map(|_| client.call(13, &whole()).session_id);
    assert!(sessions[0] != 0 && sessions[1] != 0 && sessions[2] == 0);
    let answer = client.call(13, &whole());
    assert_eq!((answer.session_id, answer.responses[0].partitions.len()), (0, 1));
    assert_eq!(server.meter.read().fetch_sessions, 2);
}

#[test]
fn a_partition_that_fails_is_told_until_it_does_not() {
    let server = Server::start();
    server.topic("t", 1);
    let id = server.log.topic("t").unwrap().id();
    for version in [12, 13] {
        let mut client = Client::connect(server.address);
        // The second is not there yet.
        let mut request = fetch(version, "t", id, 0).with_session_epoch(0);
        let second = FetchPartition::default().with_partition(1).with_partition_max_bytes(1 << 20);
        request.topics[0].partitions.push(second);
        let begun = client.call(version, &request);
        let unknown = ResponseError::UnknownTopicOrPartition.code();
        let told = |answer: &FetchResponse| -> Vec<(i32, i16)> {
            let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|p| (p.partition_index, p.error_code)).collect()
        };
        let next = |epoch| {
            FetchRequest::default().with_session_id(begun.session_id).with_session_epoch(epoch)
        };
        if version == 12 {
            assert_eq!(told(&begun), [(0, 0), (1, unknown)]);
            assert_eq!(told(&client.call(version, &next(1))), [(1, unknown)]);
            server.log.add_partitions("t", 2).unwrap();
            assert_eq!(told(&client.call(version, &next(2))), [(1, 0)]);
            assert_eq!(told(&client.call(version, &next(3))), []);
        } else {
            assert_eq!(told(&client.call(version, &next(1))), []);
            server.log.delete_topic("t").unwrap();
            server.topic("t", 2);
            let unknown = ResponseError::UnknownTopicId.code();
            let answer = client.call(version, &next(2));
            assert_eq!(told(&answer), [(0, unknown), (1, unknown)]);
        }
    }
}

#[test]
fn a_fetch_that_waits_for_a_topic_is_told_when_it_is_deleted() {
    let server = Server::start();
    server.topic("t", 2);
    let mut client = Client::connect(server.address);
    // Longer than the test's patience.
    let waiting = fetch(12, "t", Uuid::nil(), 0).with_max_wait_ms(300_000);
    client.send(12, &waiting);
    // It waits when the next one of this connection is not answered.
    client.send(0, &ApiVersionsRequest::default());
    client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.frame().is_err());
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    server.log.delete_topic("t").unwrap();
    let answer = client.receive::<FetchRequest>(12);
    let error = answer.responses[0].partitions[0].error_code;
    assert_eq!(error, ResponseError::UnknownTopicOrPartition.code());
}

#[test]
fn a_fetch_is_answered_when_no_more_fits() {
    let server = Server::start_with(|options| options.limits.fetch_bytes = 10_000);
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    let value = "x".repeat(6_000);
    for _ in 0..3 {
        client.call(9, &produce(9, "t", Uuid::nil(), batch(&[&value], None)));
    }
    let patient = |bytes: i32| {
        let request = fetch(12, "t", Uuid::nil(), 0).with_max_wait_ms(300_000);
        request.with_min_bytes(bytes).with_max_bytes(100 << 20)
    };
    // More than this server gives at once, and more than fits with what is there.
    for bytes in [50 << 20, 10_000] {
        let answer = client.call(12, &patient(bytes));
        let records = answer.responses[0].partitions[0].records.as_ref().unwrap();
        assert_eq!(records.len() / 6_000, 1);
    }
}

#[test]
fn a_batch_larger_than_was_asked_for_comes_alone() {
    let server = Server::start();
    server.topic("t", 3);
    let mut client = Client::connect(server.address);
    let large = "x".repeat(100_000);
    for (partition, value) in [(0, "small"), (1, large.as_str()), (2, "small")] {
        let mut request = produce(9, "t", Uuid::nil(), batch(&[value], None));
        request.topic_data[0].partition_data[0].index = partition;
        client.call(9, &request);
    }
    let mut ask = |order: [i32; 3]| {
        let asked = order.map(|index| {
            FetchPartition::default().with_partition(index).with_partition_max_bytes(1_000)
        });
        let mut request = fetch(12, "t", Uuid::nil(), 0).with_max_bytes(50_000);
        request.topics[0].partitions = asked.into();
        let answer = client.call(12, &request);
        let partitions = &answer.responses[0].partitions;
        let len = |at: usize| partitions[at].records.as_ref().map_or(0, |records| records.len());
        [len(0), len(1), len(2)]
    };
    let [first, second, third] = ask([0, 1, 2]);
    assert!(first > 0 && second == 0 && third > 0);
    let [first, second, third] = ask([1, 0, 2]);
    assert!(first > 100_000 && second == 0 && third == 0);
}
