//! Joins what all producers have for one broker into few requests.
//!
//! A broker works on one request of a connection at a time, and is done with it when all replicas
//! have it: twenty requests of one batch take twenty times as long as one of twenty batches. So what
//! comes while requests are under way waits for the next one, and goes together. While nothing is
//! under way nothing waits.
//!
//! The batches of a partition keep their order: a request holds one of them, and requests are sent
//! one after the other.

use super::cluster::{Cluster, Purpose, topic_name};
use super::connection::Answer;
use super::producer::{Held, Partition};
use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use millstream_core::{Error, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

/// One that the broker works on, and one that it finds when that is done.
const IN_FLIGHT: usize = 2;
/// As many where a request's worth of bytes waits, so that a long way to the broker is used.
const IN_FLIGHT_MAX: usize = 5;
const WORTH_A_REQUEST: usize = 256 << 10;
/// What one request carries, if more than one batch.
const REQUEST_BYTES: usize = 4 << 20;

/// What is on its way to one broker.
pub(super) struct Writes {
    node: i32,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Part>,
    bytes: usize,
    in_flight: usize,
    /// Somebody sends what is in the queue.
    sending: bool,
}

/// One batch, and who waits for what the broker says of it.
struct Part {
    partition: Partition,
    bytes: Bytes,
    held: Option<Held>,
    answer: oneshot::Sender<Result<ProduceResponse>>,
}

enum Next {
    Request(Vec<Part>),
    Wait,
    Nothing,
}

impl Writes {
    pub fn new(node: i32) -> Self {
        Self { node, state: Mutex::default(), changed: Notify::new() }
    }

    /// Takes a batch in, behind those that were given before. Resolves to the answer, which is about
    /// this batch only.
    pub fn submit(
        self: &Arc<Self>,
        cluster: &Cluster,
        partition: Partition,
        bytes: Bytes,
        held: Option<Held>,
    ) -> impl Future<Output = Result<ProduceResponse>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let idle = {
            let mut state = self.state.lock();
            state.bytes += bytes.len();
            state.queue.push_back(Part { partition, bytes, held, answer });
            !std::mem::replace(&mut state.sending, true)
        };
        match idle {
            true => drop(cluster.io().spawn(self.clone().send_all(cluster.clone()))),
            false => self.changed.notify_one(),
        }
        async move {
            let lost =
                || Error::retry("disconnected", "the process ends before the broker answers");
            answered.await.unwrap_or_else(|_| Err(lost()))
        }
    }

    async fn send_all(self: Arc<Self>, cluster: Cluster) {
        loop {
            let next = self.state.lock().next();
            match next {
                Next::Request(parts) => self.send(&cluster, parts).await,
                Next::Wait => self.changed.notified().await,
                Next::Nothing => return,
            }
        }
    }

    async fn send(self: &Arc<Self>, cluster: &Cluster, mut parts: Vec<Part>) {
        let timeout = cluster.timeout();
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(timeout.as_millis() as i32)
            .with_topic_data(by_topic(&parts));
        let sending = async {
            let connection = cluster.broker(self.node, Purpose::Produce).await?;
            let version = connection.version::<ProduceRequest>(11)?;
            // Its place in the connection's order is taken before anything else is sent.
            connection.send(&request, version).await
        };
        let answer: Answer<ProduceRequest> = match sending.await {
            Ok(answer) => answer,
            Err(error) => return tell(parts, Err(error)),
        };
        parts.iter_mut().for_each(|part| part.held = None);
        self.state.lock().in_flight += 1;
        let writes = self.clone();
        cluster.io().spawn(async move {
            // The broker's own time-out comes first.
            let answer = answer.wait(timeout + timeout / 2).await;
            writes.state.lock().in_flight -= 1;
            writes.changed.notify_one();
            tell(parts, answer);
        });
    }
}

impl State {
    fn next(&mut self) -> Next {
        // Nobody waits for what a producer that is gone has left: its rows come again, from here or
        // from whoever has the partition now, and must not be followed by old ones.
        self.queue.retain(|part| {
            let is_left = part.answer.is_closed();
            self.bytes -= if is_left { part.bytes.len() } else { 0 };
            !is_left
        });
        if self.queue.is_empty() {
            self.sending = false;
            return Next::Nothing;
        }
        let limit = if self.bytes < WORTH_A_REQUEST { IN_FLIGHT } else { IN_FLIGHT_MAX };
        if self.in_flight >= limit {
            return Next::Wait;
        }
        let (mut parts, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        let mut met = HashSet::new();
        for part in self.queue.drain(..) {
            let fits = parts.is_empty() || bytes + part.bytes.len() <= REQUEST_BYTES;
            // One that stays keeps those of its partition behind it.
            if met.insert(part.partition.clone()) && fits {
                bytes += part.bytes.len();
                parts.push(part);
            } else {
                left.push_back(part);
            }
        }
        self.queue = left;
        self.bytes -= bytes;
        Next::Request(parts)
    }
}

fn by_topic(parts: &[Part]) -> Vec<TopicProduceData> {
    let mut topics: BTreeMap<&Arc<str>, Vec<PartitionProduceData>> = BTreeMap::new();
    for Part { partition: (topic, index), bytes, .. } in parts {
        topics.entry(topic).or_default().push(
            PartitionProduceData::default().with_index(*index).with_records(Some(bytes.clone())),
        );
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(partitions)
    });
    topics.collect()
}

/// Gives each batch its part of the answer; none where the broker did not name it.
fn tell(parts: Vec<Part>, answer: Result<ProduceResponse>) {
    let response = match answer {
        Ok(response) => response,
        Err(error) => {
            let told = error.chain();
            for part in parts {
                let error = Error::new(error.disposition(), error.kind(), told.clone());
                let _ = part.answer.send(Err(error));
            }
            return;
        }
    };
    let mut said: HashMap<Partition, PartitionProduceResponse> = HashMap::new();
    for topic in response.responses {
        let name: Arc<str> = topic.name.as_str().into();
        for partition in topic.partition_responses {
            said.insert((name.clone(), partition.index), partition);
        }
    }
    for part in parts {
        let topics = said.remove(&part.partition).map(|partition| {
            TopicProduceResponse::default()
                .with_name(topic_name(&part.partition.0))
                .with_partition_responses(vec![partition])
        });
        let _ = part
            .answer
            .send(Ok(ProduceResponse::default().with_responses(topics.into_iter().collect())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answers = Vec<oneshot::Receiver<Result<ProduceResponse>>>;

    fn part(partition: i32, bytes: usize) -> (Part, oneshot::Receiver<Result<ProduceResponse>>) {
        let (answer, answered) = oneshot::channel();
        let bytes = vec![partition as u8; bytes].into();
        (Part { partition: ("t".into(), partition), bytes, held: None, answer }, answered)
    }

    /// With those who wait for the answers.
    fn state(parts: &[(i32, usize)]) -> (State, Answers) {
        let (queue, answers) =
            parts.iter().map(|(partition, bytes)| part(*partition, *bytes)).unzip();
        let bytes = parts.iter().map(|(_, bytes)| bytes).sum();
        (State { queue, bytes, in_flight: 0, sending: true }, answers)
    }

    /// The sizes tell batches of a partition apart.
    fn next(state: &mut State) -> Option<Vec<(i32, usize)>> {
        match state.next() {
            Next::Request(parts) => {
                state.in_flight += 1;
                Some(parts.iter().map(|part| (part.partition.1, part.bytes.len())).collect())
            }
            Next::Wait => None,
            Next::Nothing => Some(Vec::new()),
        }
    }

    #[test]
    fn a_request_has_one_batch_of_a_partition_and_keeps_their_order() {
        let (mut state, _answers) = state(&[(0, 10), (1, 11), (0, 20), (0, 30), (2, 12), (1, 21)]);
        assert_eq!(next(&mut state).unwrap(), [(0, 10), (1, 11), (2, 12)]);
        assert_eq!(next(&mut state).unwrap(), [(0, 20), (1, 21)]);
        assert!(next(&mut state).is_none(), "two are under way, and little waits");
        state.in_flight = 1;
        assert_eq!(next(&mut state).unwrap(), [(0, 30)]);
        assert_eq!((state.bytes, next(&mut state).unwrap().len()), (0, 0));
        assert!(!state.sending);
    }

    #[test]
    fn one_that_does_not_fit_is_not_overtaken_by_its_partition() {
        let large = REQUEST_BYTES - 5;
        let (mut state, _answers) = state(&[(0, large), (1, 10), (1, 1), (2, 5)]);
        assert_eq!(next(&mut state).unwrap(), [(0, large), (2, 5)]);
        assert_eq!(next(&mut state).unwrap(), [(1, 10)]);
        state.in_flight = 0;
        assert_eq!(next(&mut state).unwrap(), [(1, 1)]);
    }

    #[test]
    fn what_a_producer_that_is_gone_has_left_is_not_sent() {
        let (mut state, mut answers) = state(&[(0, 10), (1, 11), (0, 20), (1, 21)]);
        answers.remove(2);
        answers.remove(1);
        assert_eq!(next(&mut state).unwrap(), [(0, 10), (1, 21)]);
        assert_eq!((state.bytes, next(&mut state).unwrap().len()), (0, 0));
    }

    #[test]
    fn much_that_waits_does_not_wait_for_the_first_two() {
        let parts: Vec<_> = (0..7).map(|_| (0, WORTH_A_REQUEST)).collect();
        let (mut state, _answers) = state(&parts);
        for _ in 0..IN_FLIGHT_MAX {
            assert_eq!(next(&mut state).unwrap().len(), 1);
        }
        assert!(next(&mut state).is_none());
    }

    #[test]
    fn each_batch_is_told_of_its_own_partition() {
        let (parts, answers): (Vec<_>, Vec<_>) = (0..3).map(|index| part(index, 1)).unzip();
        let say = |index, code| {
            PartitionProduceResponse::default().with_index(index).with_error_code(code)
        };
        let topic = TopicProduceResponse::default()
            .with_name(topic_name("t"))
            .with_partition_responses(vec![say(2, 0), say(0, 6)]);
        tell(parts, Ok(ProduceResponse::default().with_responses(vec![topic])));
        let said: Vec<_> = answers
            .into_iter()
            .map(|mut answer| {
                let response = answer.try_recv().unwrap().unwrap();
                let topic = response.responses.first()?;
                let partition = topic.partition_responses.first()?;
                Some((partition.index, partition.error_code))
            })
            .collect();
        assert_eq!(said, [Some((0, 6)), None, Some((2, 0))]);
    }
}
