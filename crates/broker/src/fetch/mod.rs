//! Batches from the log to consumers, as they are.

mod answer;
pub mod session;

use crate::broker::{EPOCH, Inner};
use crate::connection::{Ends, kib, share};
use crate::dispatch::{Answered, Pending};
use crate::error::code;
use crate::out::Piece;
use crate::wire::{Refused, Request};
use answer::Head;
use futures::future::select_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use millstream_log::{PartitionLog, Raw};
use session::{Change, FIRST, LAST, Turn};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, sleep_until, timeout, timeout_at};
use uuid::Uuid;

/// How long an answer that is too small to be sent waits for more, at first and at most.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// Where others hold all the memory for answers this long, an answer is small and takes none of it.
const CROWDED: Duration = Duration::from_millis(100);
const SMALL_BYTES: usize = 64 << 10;
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Since when requests have sessions, and since when they name topics by their ids.
const WITH_SESSIONS: i16 = 7;
const WITH_IDS: i16 = 13;

/// A topic as a client names it: by its name, or by its id.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Name {
    name: Box<str>,
    id: Uuid,
}

/// What is asked of a partition.
#[derive(Clone)]
pub struct Wanted {
    topic: Arc<Name>,
    index: i32,
    offset: i64,
    max_bytes: usize,
    /// The epoch that the client believes the leader has.
    epoch: i32,
    log: Result<PartitionLog, ResponseError>,
}

/// What a partition gives.
#[derive(Default, Clone)]
pub struct Given {
    error: i16,
    high_watermark: i64,
    start: i64,
    records: Piece,
    /// There is more than the client has room for.
    cut: bool,
}

/// For how much, and how long.
#[derive(Clone, Copy)]
struct Terms {
    min_bytes: usize,
    max_bytes: usize,
    /// Of these, in memory.
    held_bytes: usize,
    until: Instant,
    /// Batches can be sent from where they lie.
    plain: bool,
}

/// What a request is to the session that it names.
enum Within {
    /// There is none.
    Nothing,
    /// One is to begin.
    Begins,
    Goes(Turn),
}

pub fn begin(broker: Arc<Inner>, ends: Ends, request: Request) -> Result<Pending, Refused> {
    Ok(Pending::later(async move {
        let (mut asked, request) = request.take::<FetchRequest>()?;
        let terms = terms(&broker, ends, &asked);
        let (within, wanted) = match within(&broker, &request, &mut asked) {
            Ok(taken) => taken,
            Err(error) => return Ok(failed(&request, error)),
        };
        drop(asked);
        let (given, permit) = wait(&broker, terms, &wanted).await;
        given.iter().for_each(|given| broker.counters.fetched(&given.records));
        let told: Vec<_> = wanted.iter().zip(given).collect();
        let (session, told) = match within {
            Within::Nothing => (0, told),
            Within::Begins => {
                let by_id = request.version >= WITH_IDS;
                (broker.sessions.begin(Instant::now(), by_id, &told), told)
            }
            Within::Goes(turn) => match broker.sessions.put(turn, told) {
                Ok(told) => (turn.session, told),
                Err(error) => return Ok(failed(&request, error)),
            },
        };
        let errors = told.iter().map(|(_, given)| given.error).filter(|error| *error != 0);
        let failures = errors.collect();
        let answer = answer::encode(&request, Head { error: 0, session }, &told);
        Ok(Answered { permit, ..Answered::with(answer, failures) })
    }))
}

fn failed(request: &Request, error: ResponseError) -> Answered {
    let head = Head { error: error.code(), session: 0 };
    Answered::with(answer::encode(request, head, &[]), vec![error.code()])
}

fn terms(broker: &Inner, ends: Ends, asked: &FetchRequest) -> Terms {
    let limits = &broker.options.limits;
    let max_bytes = bytes(asked.max_bytes).min(limits.fetch_bytes);
    let held_bytes = max_bytes.min(limits.fetch_held_bytes);
    let max_bytes = if ends.plain { max_bytes } else { held_bytes };
    let wait = Duration::from_millis(u64::try_from(asked.max_wait_ms).unwrap_or(0));
    Terms {
        // What is never given is not waited for.
        min_bytes: bytes(asked.min_bytes).min(max_bytes),
        max_bytes,
        held_bytes,
        until: Instant::now() + wait.min(WAIT_MAX),
        plain: ends.plain,
    }
}

/// All partitions that a request asks for, also those that only its session names.
fn within(
    broker: &Inner,
    request: &Request,
    asked: &mut FetchRequest,
) -> Result<(Within, Vec<Wanted>), ResponseError> {
    let (session, epoch) = match request.version >= WITH_SESSIONS {
        true => (asked.session_id, asked.session_epoch),
        false => (0, LAST),
    };
    let by_id = request.version >= WITH_IDS;
    let mut named = wanted(std::mem::take(&mut asked.topics), by_id);
    if epoch == FIRST || epoch == LAST {
        if session != 0 {
            broker.sessions.end(session);
        }
        find(broker, &mut named);
        let within = if epoch == FIRST { Within::Begins } else { Within::Nothing };
        return Ok((within, named));
    }
    let forgotten = std::mem::take(&mut asked.forgotten_topics_data);
    let forgotten = forgotten.into_iter().flat_map(|topic: ForgottenTopic| {
        let name = name(&topic.topic, topic.topic_id, by_id);
        topic.partitions.into_iter().map(move |index| (name.clone(), index))
    });
    let change = Change { session, epoch, by_id, named, forgotten: forgotten.collect() };
    match broker.sessions.take(Instant::now(), change)? {
        None => Ok((Within::Nothing, Vec::new())),
        Some((turn, mut all)) => {
            find(broker, &mut all);
            Ok((Within::Goes(turn), all))
        }
    }
}

fn wanted(topics: Vec<FetchTopic>, by_id: bool) -> Vec<Wanted> {
    let wanted = topics.into_iter().flat_map(|topic| {
        let name = name(&topic.topic, topic.topic_id, by_id);
        topic.partitions.into_iter().map(move |asked: FetchPartition| Wanted {
            topic: name.clone(),
            index: asked.partition,
            offset: asked.fetch_offset,
            max_bytes: bytes(asked.partition_max_bytes),
            epoch: asked.current_leader_epoch,
            log: Err(ResponseError::UnknownTopicOrPartition),
        })
    });
    wanted.collect()
}

/// A copy: a slice of the request would keep all of it for as long as the session lives.
fn name(name: &str, id: Uuid, by_id: bool) -> Arc<Name> {
    Arc::new(match by_id {
        true => Name { name: Box::default(), id },
        false => Name { name: name.into(), id: Uuid::nil() },
    })
}

/// Looks up the partitions that are not known yet, or were deleted since.
fn find(broker: &Inner, wanted: &mut [Wanted]) {
    let mut last: Option<(Arc<Name>, Option<millstream_log::Topic>)> = None;
    for wanted in wanted {
        let known = wanted.log.as_ref().is_ok_and(|log| !log.is_gone());
        if known {
            continue;
        }
        let name = &wanted.topic;
        let topic = match &last {
            Some((of, topic)) if of == name => topic,
            _ => {
                let topic = match name.id.is_nil() {
                    true => broker.log.topic(&name.name),
                    false => broker.log.topic_by_id(name.id),
                };
                &last.insert((name.clone(), topic)).1
            }
        };
        wanted.log = match topic {
            None if name.name.is_empty() => Err(ResponseError::UnknownTopicId),
            None => Err(ResponseError::UnknownTopicOrPartition),
            Some(topic) => u32::try_from(wanted.index)
                .ok()
                .and_then(|index| topic.partition(index))
                .ok_or(ResponseError::UnknownTopicOrPartition),
        };
    }
}

/// Waits until there is enough, or one partition has an error, or the time is over.
async fn wait(
    broker: &Inner,
    terms: Terms,
    wanted: &[Wanted],
) -> (Vec<Given>, Option<OwnedSemaphorePermit>) {
    let mut pause = PAUSE;
    loop {
        let over = Instant::now() >= terms.until || wanted.is_empty();
        // Known before anything is read, so that nothing that comes meanwhile is slept over.
        let ends: Vec<i64> = wanted.iter().map(Wanted::end).collect();
        let news = wanted.iter().zip(&ends).any(|(wanted, end)| wanted.offset != *end);
        if news || over || terms.min_bytes == 0 {
            let (given, permit) = read_within(broker, terms, wanted, news).await;
            let bytes: usize = given.iter().map(|given| given.records.len()).sum();
            let enough = given.iter().any(|given| given.error != 0 || given.cut);
            if over || enough || bytes >= terms.min_bytes {
                let held = given.iter().map(|given| given.records.held()).sum();
                return (given, permit.and_then(|permit| part(permit, held)));
            }
        }
        let beyond: Vec<_> = wanted
            .iter()
            .zip(ends)
            .filter_map(|(wanted, end)| Some(Box::pin(wanted.log.as_ref().ok()?.beyond(end))))
            .collect();
        if beyond.is_empty() {
            sleep_until(terms.until).await;
        } else if timeout_at(terms.until, select_all(beyond)).await.is_ok() && news {
            sleep_until(terms.until.min(Instant::now() + pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Reads under a share of the memory for answers.
async fn read_within(
    broker: &Inner,
    terms: Terms,
    wanted: &[Wanted],
    news: bool,
) -> (Vec<Given>, Option<OwnedSemaphorePermit>) {
    let budget = &broker.budgets.fetches;
    let most = broker.options.limits.fetches_held_bytes;
    let mut alone = None;
    loop {
        let mut held_bytes = terms.held_bytes;
        let permit = match alone {
            _ if !news => None,
            Some((_, bytes)) => {
                held_bytes = bytes;
                share(budget, most.min(bytes)).await.ok()
            }
            None => match timeout(CROWDED, share(budget, most.min(held_bytes))).await {
                Ok(permit) => permit.ok(),
                Err(_) => {
                    held_bytes = held_bytes.min(SMALL_BYTES);
                    None
                }
            },
        };
        match read(&broker.budgets.files, Terms { held_bytes, ..terms }, wanted, alone) {
            Ok(given) => return (given, permit),
            // The share goes back before a larger one is waited for.
            Err(larger) => alone = Some(larger),
        }
    }
}

/// Fails with a partition whose batch comes first and is larger than all that was asked for, and
/// with its size: it is given nevertheless, `alone`, so that a reader gets past it.
fn read(
    files: &Arc<Semaphore>,
    terms: Terms,
    wanted: &[Wanted],
    alone: Option<(usize, usize)>,
) -> Result<Vec<Given>, (usize, usize)> {
    let (mut left, mut held_left) = (terms.max_bytes, terms.held_bytes);
    let mut first = true;
    let mut given = Vec::with_capacity(wanted.len());
    for (at, wanted) in wanted.iter().enumerate() {
        let log = match wanted.leader() {
            Ok(log) => log,
            Err(error) => {
                let nowhere = Given { high_watermark: -1, start: -1, ..Given::default() };
                given.push(Given { error: error.code(), ..nowhere });
                continue;
            }
        };
        let mut found = Given {
            high_watermark: log.end_offset(),
            start: log.start_offset(),
            ..Given::default()
        };
        if wanted.offset < found.start {
            found.error = ResponseError::OffsetOutOfRange.code();
        } else if left > 0 || first || wanted.offset > found.high_watermark {
            let (max, held) = match alone {
                Some((alone, bytes)) if alone == at && first => (bytes, bytes),
                _ => {
                    let max = left.min(wanted.max_bytes);
                    (max, max.min(held_left))
                }
            };
            let file = terms.plain.then(|| files.clone().try_acquire_owned().ok()).flatten();
            let raw = match &file {
                None => log.read_raw(wanted.offset, held),
                Some(_) => match log.find_raw(wanted.offset, max, held) {
                    // Where it can stay where it lies it takes no memory to be waited for.
                    Ok(Raw::Larger(bytes)) if first => log.find_raw(wanted.offset, bytes, 0),
                    raw => raw,
                },
            };
            match raw {
                Ok(Raw::End) => {}
                Ok(Raw::Batches { bytes, next }) => {
                    held_left = held_left.saturating_sub(bytes.len());
                    found.cut = next < found.high_watermark;
                    found.records = Piece::Bytes(bytes);
                }
                Ok(Raw::Placed { placed, next }) => {
                    found.cut = next < found.high_watermark;
                    found.records = match file {
                        Some(file) => Piece::Placed(placed, Arc::new(file)),
                        None => Piece::default(),
                    };
                }
                Ok(Raw::Larger(bytes)) if first => return Err((at, bytes)),
                Ok(Raw::Larger(_)) => found.cut = true,
                Err(error) => found.error = code(&error).code(),
            }
        } else {
            found.cut = wanted.offset < found.high_watermark;
        }
        first &= found.records.is_empty();
        left = left.saturating_sub(found.records.len());
        given.push(found);
    }
    Ok(given)
}

/// So much of a share; the rest goes back.
fn part(mut permit: OwnedSemaphorePermit, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let kept = kib(bytes) as usize;
    match kept {
        0 => None,
        _ if kept >= permit.num_permits() => Some(permit),
        _ => permit.split(kept),
    }
}

impl Wanted {
    fn leader(&self) -> Result<&PartitionLog, ResponseError> {
        match &self.log {
            Ok(_) if self.epoch > EPOCH => Err(ResponseError::UnknownLeaderEpoch),
            Ok(log) => Ok(log),
            Err(error) => Err(*error),
        }
    }

    /// The end of what can be read; -2, which nobody asks for, where that is an error.
    fn end(&self) -> i64 {
        match self.leader() {
            Ok(log) if log.refused().is_none() && !log.is_gone() => log.end_offset(),
            _ => -2,
        }
    }
}

fn bytes(bytes: i32) -> usize {
    usize::try_from(bytes).unwrap_or(0)
}
