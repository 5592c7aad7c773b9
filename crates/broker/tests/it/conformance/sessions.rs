//! Consumers that name their partitions once (KIP-227).

use super::{Log, eventually};
use crate::requests::fetch;
use crate::sessions::{Reader, put};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchRequest;

pub async fn what_changed(log: Log) {
    let topic = log.topic(20).await;
    let id = log.id(&topic).await;
    let mut client = log.client();
    eventually("all partitions are led", async || {
        let all = Reader::new(13, (&topic, id), 0..20).request().with_session_epoch(-1);
        let answer = client.call(13, &all);
        let mut partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
        partitions.all(|partition| partition.error_code == 0).then_some(())
    })
    .await;
    for (round, version) in [7, 12, 13, 17].into_iter().enumerate() {
        let mut reader = Reader::new(version, (&topic, id), 0..20);
        reader.offsets.values_mut().for_each(|at| *at = 0);
        assert_eq!(reader.fetch(&mut client).len(), 20, "all of them, the first time");
        // What was put there before is taken first.
        while !reader.fetch(&mut client).is_empty() {}
        assert_eq!(reader.offsets.values().sum::<i64>(), 4 * round as i64);
        put(&mut client, id, 3);
        put(&mut client, id, 17);
        let mut told = reader.fetch(&mut client);
        told.sort_unstable();
        assert_eq!(told, [3, 17]);
        assert!(reader.fetch(&mut client).is_empty(), "nothing is new");

        let at = reader.offsets.remove(&3).unwrap();
        assert!(reader.fetch(&mut client).is_empty());
        put(&mut client, id, 3);
        put(&mut client, id, 4);
        assert_eq!(reader.fetch(&mut client), [4], "one that is forgotten is told no more");
        reader.offsets.insert(3, at);
        assert_eq!(reader.fetch(&mut client), [3]);

        let last = reader.request().with_session_epoch(-1);
        assert_eq!(client.call(version, &last).session_id, 0);
        let after = reader.request();
        let error = client.call(version, &after).error_code;
        assert_eq!(error, ResponseError::FetchSessionIdNotFound.code());
    }
}

pub async fn out_of_turn(log: Log) {
    let topic = log.topic(1).await;
    let id = log.id(&topic).await;
    let mut client = log.client();
    let mut reader = Reader::new(13, (&topic, id), 0..1);
    reader.fetch(&mut client);
    let mut refused = |session, epoch, version, error: ResponseError| {
        let request = FetchRequest::default().with_session_id(session).with_session_epoch(epoch);
        let answer = client.call(version, &request);
        assert_eq!((answer.error_code, answer.session_id), (error.code(), 0));
        assert!(answer.responses.is_empty());
    };
    refused(reader.session, 2, 13, ResponseError::InvalidFetchSessionEpoch);
    refused(reader.session, 1, 12, ResponseError::FetchSessionTopicIdError);
    refused(reader.session ^ 1, 1, 13, ResponseError::FetchSessionIdNotFound);
    // It goes on as if nothing had been.
    reader.fetch(&mut client);
    // A request from the beginning ends the one that it names.
    let again = fetch(13, "", id, 0).with_session_id(reader.session).with_session_epoch(0);
    let begun = client.call(13, &again);
    assert!(begun.session_id != 0 && begun.session_id != reader.session);
    let old = client.call(13, &reader.request()).error_code;
    assert_eq!(old, ResponseError::FetchSessionIdNotFound.code());
}
