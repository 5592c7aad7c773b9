//! How long messages take at a steady rate: the floor that librdkafka sets, and what a reader of the
//! end sees.

use crate::{Meter, Result, config};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, Timestamp, TopicPartitionList};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Said when everything that is written from now on is read.
const READY: &str = "ready";
const QUIET: Duration = Duration::from_secs(3);

/// Milliseconds of each message, in the order they were told.
type Times = Arc<Mutex<Vec<f32>>>;

/// Notes when each message is acknowledged.
struct Acknowledged(Times);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, read: Box<Instant>) {
        assert!(result.is_ok(), "a message was not taken: {result:?}");
        let taken = read.elapsed().as_secs_f32() * 1e3;
        self.0.lock().expect("nobody panics with it").push(taken);
    }
}

pub fn relay(bootstrap: &str, from: &str, to: &str, messages: u64) -> Result<()> {
    let times = Times::default();
    let producer: ThreadedProducer<Acknowledged> = config(bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "1")
        .create_with_context(Acknowledged(times.clone()))?;
    let consumer = reader(bootstrap, from)?;
    let meter = Meter::start();
    let (mut read, mut bytes) = (0, 0);
    while read < messages {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        let payload = message.payload().unwrap_or_default();
        let mut record = BaseRecord::with_opaque_to(to, Box::new(Instant::now())).payload(payload);
        record.key = message.key();
        record.timestamp = message.timestamp().to_millis();
        producer.send(record).map_err(|(error, _)| error)?;
        bytes += payload.len();
        read += 1;
    }
    producer.flush(Duration::from_secs(60))?;
    report(&meter, "bare rdkafka, read and write", bytes, &times)
}

/// Ends when nothing has come for a while: a job leaves some messages out.
pub fn watch(bootstrap: &str, topic: &str) -> Result<()> {
    let times = Times::default();
    let consumer = reader(bootstrap, topic)?;
    let meter = Meter::start();
    let (mut bytes, mut last) = (0, None::<Instant>);
    while last.is_none_or(|last| last.elapsed() < QUIET) {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let Timestamp::CreateTime(sent) = message.timestamp() else { continue };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e3;
        // Timestamps are whole milliseconds: on average half of one is cut off.
        let taken = (now - sent as f64 - 0.5).max(0.0);
        times.lock().expect("nobody panics with it").push(taken as f32);
        bytes += message.payload().map_or(0, <[u8]>::len);
        last = Some(Instant::now());
    }
    report(&meter, "from produced to readable", bytes, &times)
}

/// Reads all partitions of a topic from their beginning, in no group.
fn reader(bootstrap: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = config(bootstrap)
        .set("group.id", format!("rdkafka-{}", std::process::id()))
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        partitions.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    // The first answers have come before somebody counts on us.
    consumer.poll(Duration::from_secs(1));
    println!("{READY}");
    Ok(consumer)
}

fn report(meter: &Meter, name: &str, bytes: usize, times: &Times) -> Result<()> {
    let mut times = times.lock().expect("nobody panics with it");
    let messages = times.len() as u64;
    let steady = &mut times[messages as usize / 10..];
    steady.sort_unstable_by(f32::total_cmp);
    let at = |q: f64| steady.get((steady.len() as f64 * q) as usize).copied().unwrap_or(f32::NAN);
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    let extra = format!("\"p50_ms\":{p50:.3},\"p99_ms\":{p99:.3},\"p999_ms\":{p999:.3}");
    meter.report_with(name, messages, bytes, &extra);
    Ok(())
}
