//! The three requests of Kafka's protocol that tests need without a client, and without a JVM.
//!
//! Layouts are those of the [protocol guide](https://kafka.apache.org/protocol.html), in the newest
//! versions that have no tagged fields.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const METADATA: (i16, i16) = (3, 4);
const CREATE_TOPICS: (i16, i16) = (19, 2);
const DELETE_TOPICS: (i16, i16) = (20, 1);
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn create_topic(
    brokers: &[SocketAddr],
    topic: &str,
    partitions: i32,
    replicas: i16,
    config: &[(&str, &str)],
) {
    let mut body = Body::default();
    body.i32(1).string(topic).i32(partitions).i16(replicas).i32(0).i32(config.len() as i32);
    for (name, value) in config {
        body.string(name).string(value);
    }
    body.i32(TIMEOUT.as_millis() as i32).bytes(&[0]);
    let mut answer = ask(brokers, CREATE_TOPICS, &body);
    let (_throttle, _count, _name) = (answer.i32(), answer.i32(), answer.string());
    let (code, message) = (answer.i16(), answer.string());
    assert_eq!(code, 0, "topic {topic} was not created: {message}");
    until(|| leaders(brokers, topic) == Some(partitions), || format!("{topic} has no leaders"));
}

pub(super) fn delete_topic(brokers: &[SocketAddr], topic: &str) {
    let mut body = Body::default();
    body.i32(1).string(topic).i32(TIMEOUT.as_millis() as i32);
    let mut answer = ask(brokers, DELETE_TOPICS, &body);
    let (_throttle, _count, _name) = (answer.i32(), answer.i32(), answer.string());
    assert_eq!(answer.i16(), 0, "topic {topic} was not deleted");
    until(|| leaders(brokers, topic).is_none(), || format!("{topic} is still there"));
}

/// How many partitions of a topic every broker knows the leader of; none when there is no topic.
fn leaders(brokers: &[SocketAddr], topic: &str) -> Option<i32> {
    let mut body = Body::default();
    body.i32(1).string(topic).bytes(&[0]);
    let counts = brokers.iter().map(|broker| leaders_seen_by(*broker, &body));
    counts.min().flatten()
}

fn leaders_seen_by(broker: SocketAddr, body: &Body) -> Option<i32> {
    let mut answer = ask(&[broker], METADATA, body);
    answer.i32();
    for _ in 0..answer.i32() {
        let (_node, _host, _port, _rack) =
            (answer.i32(), answer.string(), answer.i32(), answer.string());
    }
    let (_cluster, _controller, _topics) = (answer.string(), answer.i32(), answer.i32());
    if answer.i16() != 0 {
        return None;
    }
    let (_name, _internal) = (answer.string(), answer.take(1));
    let mut led = 0;
    for _ in 0..answer.i32() {
        let (code, _partition, leader) = (answer.i16(), answer.i32(), answer.i32());
        for _ in 0..2 {
            let nodes = answer.i32();
            answer.take(nodes as usize * 4);
        }
        led += i32::from(code == 0 && leader >= 0);
    }
    Some(led)
}

/// The answer of the first broker that gives one.
fn ask(brokers: &[SocketAddr], (key, version): (i16, i16), body: &Body) -> Answer {
    let mut frame = Body::default();
    frame.i16(key).i16(version).i32(1).string("testkit").bytes(&body.0);
    let failed: Vec<String> = match brokers.iter().map(|one| exchange(*one, &frame.0)).try_fold(
        Vec::new(),
        |mut failed, answer| match answer {
            // The correlation id is known: there is one request a connection.
            Ok(answer) => Err(Answer { bytes: answer, at: 4 }),
            Err(error) => {
                failed.push(error.to_string());
                Ok(failed)
            }
        },
    ) {
        Err(answer) => return answer,
        Ok(failed) => failed,
    };
    panic!("no broker of {brokers:?} answers: {failed:?}")
}

fn exchange(broker: SocketAddr, frame: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&broker, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT * 2))?;
    stream.write_all(&(frame.len() as u32).to_be_bytes())?;
    stream.write_all(frame)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn until(mut done: impl FnMut() -> bool, late: impl FnOnce() -> String) {
    let deadline = Instant::now() + TIMEOUT * 4;
    while !done() {
        assert!(Instant::now() < deadline, "{} in time", late());
        thread::sleep(Duration::from_millis(50));
    }
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn i16(&mut self, value: i16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn string(&mut self, text: &str) -> &mut Self {
        self.i16(text.len() as i16).bytes(text.as_bytes())
    }
}

struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.at;
        self.at += length;
        self.bytes.get(from..self.at).expect("an answer as long as the protocol says")
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    /// Null is the empty text.
    fn string(&mut self) -> String {
        let length = self.i16().max(0) as usize;
        String::from_utf8_lossy(self.take(length)).into_owned()
    }
}
