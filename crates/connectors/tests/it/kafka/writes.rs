//! Many producers, whose batches go to a broker together.

use super::*;
use millstream_core::Disposition;
use millstream_testkit::events::Fate;
use millstream_testkit::proxy::{Direction, Fault};
use millstream_testkit::services::{self, unique};

const SINKS: u64 = 8;
const BATCHES: u64 = 150;
const ROWS: u64 = 25;

/// The rows of one batch of one sink: each sink has keys of its own, in every partition.
fn part(sink: u64, at: u64) -> Vec<Event> {
    let events = (0..ROWS).map(|row| {
        let seq = (at * ROWS + row) * SINKS + sink;
        Event::new(format!("{sink}-{}", row % 9), seq + 1, Fate::Out)
    });
    events.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_write_together_over_a_bad_network_is_there_once_and_in_order() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("together");
    kafka.create_topic(&topic, 3, KEEP);
    let proxied = tokio::task::block_in_place(|| kafka.proxied(17));
    let mut options = options(&proxied.bootstrap);
    options.request_timeout = Duration::from_secs(2);
    let cluster = Cluster::new(options, Handle::current()).unwrap();
    let writing: Vec<_> = (0..SINKS)
        .map(|number| {
            let rows_of = |at| rows(&part(number, at));
            let target = Target::Topic(topic.as_str().into());
            let mut sink = sink(&cluster, target, Codec::Lz4, &rows_of(0));
            tokio::spawn(async move {
                let mut durable = Vec::new();
                for at in 0..BATCHES {
                    let receipt = loop {
                        match sink.write(&batch(rows(&part(number, at)))).await {
                            Ok(receipt) => break receipt,
                            // It could not ask what the topic takes.
                            Err(error) => {
                                assert_eq!(error.disposition(), Disposition::Retry);
                                assert_ne!(error.kind(), "producer_forgotten");
                            }
                        }
                    };
                    durable.push(receipt.durable);
                    // So that batches of all of them meet.
                    tokio::time::sleep(Duration::from_millis(at % 7 * 5)).await;
                }
                for receipt in durable {
                    receipt.await.unwrap();
                }
            })
        })
        .collect();
    // That answers are lost again and again, while the broker takes more, is one of them.
    let lost = [(Direction::ToClient, Fault::ResetAfter(300), 250); 4];
    let lost = lost
        .into_iter()
        .chain((1..=12).map(|n| (Direction::ToClient, Fault::ResetAfter(400 * n), 60)));
    for (direction, fault, ms) in lost.chain([
        (Direction::ToServer, Fault::CutAfter(20_000), 250),
        (Direction::ToClient, Fault::Hold, 250),
    ]) {
        tokio::time::sleep(Duration::from_millis(60)).await;
        proxied.proxies[0].set(direction, fault);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        proxied.proxies[0].set(direction, Fault::None);
    }
    for writing in writing {
        tokio::time::timeout(PATIENCE, writing).await.unwrap().unwrap();
    }
    let sent: Vec<Event> =
        (0..BATCHES).flat_map(|at| (0..SINKS).flat_map(move |number| part(number, at))).collect();
    let direct = super::cluster(&kafka.bootstrap());
    faults::check(&sent, &faults::read_all(&direct, &topic, sent.len()).await, 0);
}
