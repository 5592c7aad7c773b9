//! librdkafka by itself: what a client costs that hands over message by message.
//!
//! ```text
//! bench-clients consume BOOTSTRAP TOPIC MESSAGES
//! bench-clients produce BOOTSTRAP TOPIC RECORDS MESSAGES [PER_SECOND]
//! bench-clients relay BOOTSTRAP FROM TO MESSAGES
//! bench-clients watch BOOTSTRAP TOPIC
//! ```
//!
//! RECORDS is a file of framed `Navigation` records; it is read again from its start as often as
//! MESSAGES needs. The key is the record's uid, its first field.
//!
//! `relay` writes what it reads, with its timestamps, and tells how long after it was read each
//! message was acknowledged. `watch` tells how long after its timestamp each message can be read.
//! Both say `ready` when they read, and leave the first tenth out of their figures. What is produced
//! PER_SECOND lingers as long as librdkafka's default says.

mod latency;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["consume", bootstrap, topic, messages] => consume(bootstrap, topic, messages.parse()?),
        ["produce", bootstrap, topic, records, messages] => {
            produce(bootstrap, topic, records, messages.parse()?, None)
        }
        ["produce", bootstrap, topic, records, messages, rate] => {
            produce(bootstrap, topic, records, messages.parse()?, Some(rate.parse()?))
        }
        ["relay", bootstrap, from, to, messages] => {
            latency::relay(bootstrap, from, to, messages.parse()?)
        }
        ["watch", bootstrap, topic] => latency::watch(bootstrap, topic),
        _ => Err("see the top of bench/peers/clients/src/main.rs".into()),
    }
}

fn consume(bootstrap: &str, topic: &str, messages: u64) -> Result<()> {
    let consumer: BaseConsumer = config(bootstrap)
        .set("group.id", format!("rdkafka-{}", std::process::id()))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "1048576")
        .create()?;
    consumer.subscribe(&[topic])?;
    let mut meter = None;
    let (mut read, mut bytes) = (0, 0);
    while read < messages {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        meter.get_or_insert_with(Meter::start);
        bytes += message.payload().map_or(0, <[u8]>::len);
        read += 1;
    }
    meter.ok_or("nothing to read")?.report("bare rdkafka, consume", read, bytes);
    Ok(())
}

fn produce(
    bootstrap: &str,
    topic: &str,
    records: &str,
    messages: u64,
    rate: Option<u64>,
) -> Result<()> {
    let file = std::fs::read(records)?;
    let records = frames(&file);
    let producer: ThreadedProducer<_> = config(bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", if rate.is_some() { "5" } else { "20" })
        .set("batch.size", "524288")
        .set("queue.buffering.max.messages", "500000")
        .create()?;
    let meter = Meter::start();
    let mut bytes = 0;
    for sent in 0..messages {
        if let Some(rate) = rate {
            pace(&meter, sent, rate);
        }
        let frame = records[sent as usize % records.len()];
        bytes += frame.len();
        let mut record = BaseRecord::to(topic).payload(frame).key(uid(frame));
        while let Err((error, back)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            if error != full {
                return Err(error.into());
            }
            record = back;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    producer.flush(Duration::from_secs(60))?;
    meter.report("bare rdkafka, produce lz4", messages, bytes);
    Ok(())
}

/// Waits until it is time for the next message.
fn pace(meter: &Meter, sent: u64, rate: u64) {
    let due = Duration::from_secs_f64(sent as f64 / rate as f64);
    while let Some(early) = due.checked_sub(meter.since.elapsed()) {
        std::thread::sleep(early.max(Duration::from_micros(500)));
    }
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set_log_level(RDKafkaLogLevel::Error);
    config
}

/// The records of a file: each is a little-endian u32 length and that many bytes.
fn frames(file: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    let mut rest = file;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let (frame, tail) = tail.split_at(u32::from_le_bytes(*head) as usize);
        frames.push(frame);
        rest = tail;
    }
    frames
}

/// A short Avro string after the five bytes of the frame.
fn uid(frame: &[u8]) -> &[u8] {
    let length = usize::from(frame[5] >> 1);
    &frame[6..6 + length]
}

struct Meter {
    cpu: f64,
    since: Instant,
}

impl Meter {
    fn start() -> Self {
        Self { cpu: cpu(), since: Instant::now() }
    }

    fn report(&self, name: &str, messages: u64, bytes: usize) {
        self.report_with(name, messages, bytes, "");
    }

    /// `extra` is what stands between the braces of a JSON object.
    fn report_with(&self, name: &str, messages: u64, bytes: usize, extra: &str) {
        let (cpu, wall) = (cpu() - self.cpu, self.since.elapsed().as_secs_f64());
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<f64>().ok());
        println!(
            "{{\"name\":\"{name}\",\"messages\":{messages},\"bytes\":{bytes},\
             \"cpu_seconds\":{cpu:.4},\"wall_seconds\":{wall:.4},\"peak_rss_mb\":{:.1},\"extra\":{{{extra}}}}}",
            peak.unwrap_or_default() / 1024.0
        );
    }
}

/// CPU seconds of all threads of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
