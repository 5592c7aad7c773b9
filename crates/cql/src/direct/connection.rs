//! One connection: many requests under way, told apart by the numbers of their streams.
//!
//! A number is free again when its answer is there. One whose answer is late keeps it: the answer
//! may still come, and must not be taken for that of another request.

use super::frames::{Garbled, HEADER, Head, OVERLOADED, Said, UNAVAILABLE, WRITE_TIMEOUT};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How many requests may be under way.
const STREAMS_MAX: usize = 8192;
/// So many late ones, and it is another connection's turn.
const LATE_MAX: usize = 1024;
/// How often somebody looks for late ones.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const READ_AT_ONCE: usize = 32 << 10;
/// One that nobody uses for so long may have been forgotten on its way.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// What is kept of a buffer that was larger.
const SENT_AT_ONCE: usize = 256 << 10;

pub(crate) struct Connection {
    state: Mutex<State>,
    /// There is something to send, or it is closed.
    filled: Notify,
}

struct State {
    out: Vec<u8>,
    streams: Vec<Stream>,
    free: Vec<u16>,
    late: usize,
    /// When something came last.
    heard: Instant,
    closed: bool,
}

enum Stream {
    Free,
    Waits(Waiting),
    /// Nobody waits any more.
    Late,
}

struct Waiting {
    answers: Arc<Answers>,
    number: u32,
    since: Instant,
    until: Instant,
}

/// What was answered to the requests of one batch, which have numbers of its own.
#[derive(Default)]
pub(crate) struct Answers {
    came: Mutex<Vec<(u32, Answer)>>,
    some: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Stored,
    /// It has too much to do, or too few replicas are there.
    Busy,
    /// For whatever else.
    Refused,
    /// Not in time. It may come to pass yet.
    Late,
    /// The connection is gone. It may have come to pass.
    Lost,
}

/// However it ends: nobody waits for one that does nothing any more.
struct Closing<'a>(&'a Connection);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whom answers came for last: those of one batch often come together, and wake it once.
struct Told(Option<Arc<Answers>>);

impl Told {
    fn and(&mut self, answers: Arc<Answers>) {
        if !self.0.as_ref().is_some_and(|told| Arc::ptr_eq(told, &answers)) {
            drop(Told(self.0.replace(answers)));
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(told) = &self.0 {
            told.some.notify_one();
        }
    }
}

impl Answers {
    /// Waits until there are some. Cancel safe.
    pub async fn some(&self) {
        self.some.notified().await;
    }

    pub fn take(&self) -> Vec<(u32, Answer)> {
        std::mem::take(&mut *self.came.lock())
    }
}

impl Connection {
    pub fn new() -> Connection {
        let state = State {
            out: Vec::new(),
            streams: Vec::new(),
            free: Vec::new(),
            late: 0,
            heard: Instant::now(),
            closed: false,
        };
        Connection { state: Mutex::new(state), filled: Notify::new() }
    }

    /// Sends what `write` appends for a stream. Its answer comes to `answers` under `number`, once.
    /// False where it cannot be sent: nothing of it will be then.
    pub fn send(
        &self,
        answers: &Arc<Answers>,
        number: u32,
        (since, until): (Instant, Instant),
        write: impl FnOnce(i16, &mut Vec<u8>),
    ) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed {
            return false;
        }
        let stream = match state.free.pop() {
            Some(stream) => stream,
            None if state.streams.len() < STREAMS_MAX => {
                state.streams.push(Stream::Free);
                (state.streams.len() - 1) as u16
            }
            None => return false,
        };
        let answers = answers.clone();
        state.streams[usize::from(stream)] =
            Stream::Waits(Waiting { answers, number, since, until });
        if state.out.is_empty() {
            self.filled.notify_one();
        }
        write(stream.cast_signed(), &mut state.out);
        true
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Those who wait are told that it is lost.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.out = Vec::new();
        for stream in std::mem::take(&mut state.streams) {
            if let Stream::Waits(Waiting { answers, number, .. }) = stream {
                answers.came.lock().push((number, Answer::Lost));
                answers.some.notify_one();
            }
        }
        self.filled.notify_one();
    }

    /// Sends and receives until the connection ends, whoever ends it.
    pub async fn run(&self, read: impl AsyncRead + Unpin, write: impl AsyncWrite + Unpin) {
        let _closing = Closing(self);
        let why = tokio::select! {
            heard = self.hear(read) => heard,
            spoken = self.speak(write) => spoken,
            silent = self.watch() => silent,
        };
        if let Err(why) = why {
            tracing::debug!("a connection for writing to Cassandra ended: {why}");
        }
    }

    async fn speak(&self, mut write: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut sending = Vec::new();
        loop {
            self.filled.notified().await;
            loop {
                {
                    let mut state = self.state.lock();
                    if state.closed {
                        return Ok(());
                    }
                    std::mem::swap(&mut state.out, &mut sending);
                }
                if sending.is_empty() {
                    break;
                }
                write.write_all(&sending).await?;
                write.flush().await?;
                sending.clear();
                sending.shrink_to(SENT_AT_ONCE);
            }
        }
    }

    async fn hear(&self, mut read: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        loop {
            bytes.reserve(READ_AT_ONCE);
            if read.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.state.lock().heard = Instant::now();
            self.take(&mut bytes).map_err(|Garbled(why)| io::Error::other(why))?;
        }
    }

    /// Gives the answers that are whole to those who wait.
    fn take(&self, bytes: &mut BytesMut) -> Result<(), Garbled> {
        let mut told = Told(None);
        let mut state = self.state.lock();
        while let Some(head) = Head::read(bytes)? {
            let Some(body) = bytes.get(HEADER..HEADER + head.length) else { break };
            // One below 0 tells of an event, of which we asked for none.
            if let Ok(stream) = u16::try_from(head.stream) {
                let answer = match head.said(body)? {
                    Said::Result => Answer::Stored,
                    Said::Error(UNAVAILABLE | OVERLOADED | WRITE_TIMEOUT, _) => Answer::Busy,
                    Said::Error(..) => Answer::Refused,
                    _ => return Err(Garbled("it is no answer to a statement")),
                };
                let place = state.streams.get_mut(usize::from(stream));
                let place = place.ok_or(Garbled("nobody asked for an answer"))?;
                match std::mem::replace(place, Stream::Free) {
                    Stream::Free => return Err(Garbled("nobody asked for an answer")),
                    Stream::Late => state.late -= 1,
                    Stream::Waits(Waiting { answers, number, .. }) => {
                        answers.came.lock().push((number, answer));
                        told.and(answers);
                    }
                }
                state.free.push(stream);
            }
            bytes.advance(HEADER + head.length);
        }
        Ok(())
    }

    /// Tells those whose answers are late. Ends when the other end is silent, or often late, and when
    /// nobody has used the connection for long.
    async fn watch(&self) -> io::Result<()> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Instant::now();
            let mut state = self.state.lock();
            let state = &mut *state;
            let (mut is_silent, mut is_idle) = (false, now - state.heard > IDLE_MAX);
            for stream in &mut state.streams {
                let Stream::Waits(waiting) = stream else { continue };
                is_idle = false;
                if waiting.until > now {
                    continue;
                }
                is_silent |= state.heard < waiting.since;
                state.late += 1;
                waiting.answers.came.lock().push((waiting.number, Answer::Late));
                waiting.answers.some.notify_one();
                *stream = Stream::Late;
            }
            if state.closed || is_idle {
                return Ok(());
            }
            if is_silent || state.late > LATE_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;

    const LONG: Duration = Duration::from_secs(60);
    const RESULT: &[u8] = &[8, 0, 0, 0, 4, 0, 0, 0, 1];
    const REFUSED: &[u8] = &[0, 0, 0, 0, 6, 0, 0, 0x22, 0, 0, 0];
    const BUSY: &[u8] = &[0, 0, 0, 0, 6, 0, 0, 0x10, 1, 0, 0];

    /// The store's end, which answers as a test says.
    struct Store(DuplexStream);

    impl Store {
        /// The stream of the next request, and its body.
        async fn next(&mut self) -> (i16, Vec<u8>) {
            let mut head = [0; HEADER];
            self.0.read_exact(&mut head).await.unwrap();
            assert_eq!(head[..2], [4, 0]);
            let mut body = vec![0; u32::from_be_bytes(head[5..].try_into().unwrap()) as usize];
            self.0.read_exact(&mut body).await.unwrap();
            (i16::from_be_bytes([head[2], head[3]]), body)
        }

        async fn say(&mut self, stream: i16, what: &[u8]) {
            self.say_all([(stream, what)], 5).await;
        }

        /// In pieces, as the network may have it.
        async fn say_all<'a>(
            &mut self,
            all: impl IntoIterator<Item = (i16, &'a [u8])>,
            piece: usize,
        ) {
            let frames = all.into_iter().flat_map(|(stream, what)| {
                let [high, low] = stream.to_be_bytes();
                [&[0x84, 0, high, low], what].concat()
            });
            for part in frames.collect::<Vec<_>>().chunks(piece) {
                self.0.write_all(part).await.unwrap();
            }
        }
    }

    fn connected() -> (Arc<Connection>, Arc<Answers>, Store, JoinHandle<()>) {
        let (own, other) = tokio::io::duplex(700);
        let connection = Arc::new(Connection::new());
        let (read, write) = tokio::io::split(own);
        let running = connection.clone();
        let task = tokio::spawn(async move { running.run(read, write).await });
        (connection, Arc::default(), Store(other), task)
    }

    fn send(to: &Connection, answers: &Arc<Answers>, number: u32, patience: Duration) -> bool {
        let now = Instant::now();
        to.send(answers, number, (now, now + patience), |stream, out| {
            let [high, low] = stream.to_be_bytes();
            out.extend_from_slice(&[4, 0, high, low, 10, 0, 0, 0, 4]);
            out.extend_from_slice(&number.to_be_bytes());
        })
    }

    async fn answered(answers: &Answers, count: usize) -> BTreeMap<u32, Answer> {
        let mut all = BTreeMap::new();
        while all.len() < count {
            tokio::time::timeout(LONG, answers.some()).await.unwrap();
            for (number, answer) in answers.take() {
                assert!(all.insert(number, answer).is_none(), "{number} is answered twice");
            }
        }
        all
    }

    #[tokio::test]
    async fn each_is_told_what_was_said_of_it_in_whatever_order() {
        let (connection, answers, mut store, _task) = connected();
        let other = Arc::default();
        for (round, piece) in (0_u32..).zip([5, 100, 5_000]) {
            for number in 0..200 {
                let to = if number % 3 == 0 { &other } else { &answers };
                assert!(send(&connection, to, number + round, LONG));
            }
            let mut asked = Vec::new();
            for _ in 0..200 {
                let (stream, body) = store.next().await;
                asked.push((stream, u32::from_be_bytes(body.try_into().unwrap()) - round));
            }
            asked.rotate_left(71);
            let answering = tokio::spawn(async move {
                let said = asked.into_iter().rev().map(|(stream, number)| {
                    (stream, [BUSY, REFUSED, RESULT][(number % 7).min(2) as usize])
                });
                store.say_all(said, piece).await;
                store
            });
            let (mut all, of_other) = (answered(&answers, 133).await, answered(&other, 67).await);
            assert!(of_other.keys().all(|number| (number - round) % 3 == 0));
            all.extend(of_other);
            for (number, answer) in all {
                let expected = match (number - round) % 7 {
                    0 => Answer::Busy,
                    1 => Answer::Refused,
                    _ => Answer::Stored,
                };
                assert_eq!(answer, expected, "{number}");
            }
            store = answering.await.unwrap();
        }
        assert_eq!(connection.state.lock().streams.len(), 200, "their numbers are used again");
    }

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_that_of_another() {
        let (connection, answers, mut store, _task) = connected();
        assert!(send(&connection, &answers, 0, Duration::ZERO));
        assert!(send(&connection, &answers, 1, LONG));
        let (late, _) = store.next().await;
        let (stream, _) = store.next().await;
        store.say(stream, RESULT).await;
        let said = answered(&answers, 2).await;
        assert_eq!(said, [(0, Answer::Late), (1, Answer::Stored)].into());
        assert!(send(&connection, &answers, 2, LONG) && send(&connection, &answers, 3, LONG));
        let [(second, _), (third, _)] = [store.next().await, store.next().await];
        assert!(second != late && third != late);
        store.say(late, RESULT).await;
        store.say(second, BUSY).await;
        store.say(third, RESULT).await;
        let said = answered(&answers, 2).await;
        assert_eq!(said, [(2, Answer::Busy), (3, Answer::Stored)].into());
        assert_eq!(connection.state.lock().free.len(), 3);
    }

    #[tokio::test]
    async fn what_is_under_way_at_the_end_is_lost() {
        let (connection, answers, mut store, task) = connected();
        (0..3).for_each(|number| assert!(send(&connection, &answers, number, LONG)));
        let (stream, _) = store.next().await;
        store.say(stream, RESULT).await;
        assert_eq!(answered(&answers, 1).await, [(0, Answer::Stored)].into());
        drop(store);
        task.await.unwrap();
        let said = answered(&answers, 2).await;
        assert_eq!(said, [(1, Answer::Lost), (2, Answer::Lost)].into());
        assert!(connection.is_closed() && !send(&connection, &answers, 3, LONG));
        assert_eq!(answers.take(), [], "nothing of it is sent");
    }

    #[tokio::test]
    async fn one_that_is_silent_or_says_what_nobody_asked_for_ends() {
        let (connection, answers, _store, task) = connected();
        assert!(send(&connection, &answers, 0, Duration::from_millis(50)));
        assert!(send(&connection, &answers, 1, LONG));
        task.await.unwrap();
        assert_eq!(answered(&answers, 2).await, [(0, Answer::Late), (1, Answer::Lost)].into());

        for (stream, what) in [(5, RESULT), (0, &[7, 0, 0, 0, 0]), (0, &[8, 0x7f, 0, 0, 0])] {
            let (connection, answers, mut store, task) = connected();
            assert!(send(&connection, &answers, 0, LONG));
            store.next().await;
            store.say(stream, what).await;
            task.await.unwrap();
            assert_eq!(answered(&answers, 1).await, [(0, Answer::Lost)].into());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_uses_ends_and_one_that_is_used_does_not() {
        let (connection, answers, mut store, task) = connected();
        for number in 0..10 {
            tokio::time::sleep(IDLE_MAX / 3).await;
            assert!(send(&connection, &answers, number, LONG));
            let (stream, _) = store.next().await;
            store.say(stream, RESULT).await;
            assert_eq!(answered(&answers, 1).await, [(number, Answer::Stored)].into());
        }
        assert!(send(&connection, &answers, 10, IDLE_MAX * 4));
        tokio::time::sleep(IDLE_MAX * 2).await;
        assert!(!connection.is_closed(), "somebody waits");
        let (stream, _) = store.next().await;
        store.say(stream, RESULT).await;
        assert_eq!(answered(&answers, 1).await, [(10, Answer::Stored)].into());
        let since = Instant::now();
        task.await.unwrap();
        assert!(since.elapsed() < IDLE_MAX * 2);
    }

    #[tokio::test]
    async fn one_whose_task_is_given_up_leaves_nobody_waiting() {
        let (connection, answers, _store, task) = connected();
        assert!(send(&connection, &answers, 0, LONG));
        tokio::time::sleep(LOOK_EVERY / 2).await;
        task.abort();
        assert_eq!(answered(&answers, 1).await, [(0, Answer::Lost)].into());
    }

    #[tokio::test]
    async fn one_whose_other_end_takes_nothing_ends_when_it_is_closed() {
        let (connection, answers, _store, task) = connected();
        assert_eq!(
            (0..200).filter(|number| send(&connection, &answers, *number, LONG)).count(),
            200
        );
        tokio::time::sleep(LOOK_EVERY / 2).await;
        connection.close();
        tokio::time::timeout(LONG, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn no_more_are_under_way_than_there_are_numbers() {
        let (connection, answers, _store, _task) = connected();
        let sent = (0..9_000).filter(|number| send(&connection, &answers, *number, LONG)).count();
        assert_eq!(sent, STREAMS_MAX);
        connection.close();
        assert_eq!(answered(&answers, sent).await.len(), sent);
    }
}
