//! Transactions: rows and offsets are there together or not at all, whoever had the id before writes
//! no more, and a reader passes over what was taken back.

use super::member::Member;
use super::*;
use millstream_connectors::kafka::{KafkaTransactions, TransactionOptions};
use millstream_core::{Change, Disposition, Group, Source, Transactions};
use millstream_testkit::services::{self, unique};

const PARTITIONS: i32 = 3;

/// A pipeline without its tasks: a member that has every partition of its input, and a sink.
struct Work {
    transactions: Arc<KafkaTransactions>,
    source: KafkaSource,
    group: Arc<dyn Group>,
    sink: KafkaSink,
}

async fn begin(cluster: &Cluster, id: &str, older: bool) -> Arc<KafkaTransactions> {
    let timeout = Duration::from_secs(60);
    let options = TransactionOptions { id: id.to_owned(), timeout, older };
    Arc::new(KafkaTransactions::open(cluster.clone(), options).await.unwrap())
}

fn sink_in(transactions: &KafkaTransactions, topic: &str) -> KafkaSink {
    let rows = rows(&events(1, 1));
    let columns = RecordColumns { key: Some("key".into()), ..RecordColumns::default() };
    let encoder = Box::new(JsonEncoder::new(rows.schema()).unwrap());
    let target = Target::Topic(topic.into());
    let options = KafkaSinkOptions { target, columns, codec: Codec::Lz4, encoder };
    KafkaSink::in_transactions(options, transactions)
}

impl Work {
    async fn start(cluster: &Cluster, input: &str, output: &str, id: &str, older: bool) -> Self {
        let transactions = begin(cluster, id, older).await;
        let mut source = KafkaSource::open(cluster.clone(), reading(input, input)).await.unwrap();
        source.commit_in(transactions.clone());
        let group = source.group().unwrap();
        let mut ours = 0;
        while ours < PARTITIONS as usize {
            match group.next().await.unwrap() {
                Change::Assigned(partitions) => ours += partitions.len(),
                other => panic!("{other:?}"),
            }
        }
        let sink = sink_in(&transactions, output);
        Self { transactions, source, group, sink }
    }

    async fn write(&mut self, events: &[Event]) -> millstream_core::Result<()> {
        for part in events.chunks(50) {
            self.sink.write(&batch(rows(part))).await?.durable.await?;
        }
        Ok(())
    }

    fn starts(&self) -> Vec<i64> {
        (0..self.source.partitions()).map(|p| self.group.start_of(p).unwrap()).collect()
    }

    /// A task that comes after this one has a sink of its own.
    fn sink_anew(&mut self, output: &str) {
        self.sink = sink_in(&self.transactions, output);
    }
}

/// The input has as many records in each partition as the offsets that are committed here.
async fn topics(cluster: &Cluster, kafka: &services::Kafka) -> (String, String) {
    let (input, output) = (unique("tx-in"), unique("tx-out"));
    for topic in [&input, &output] {
        kafka.create_topic(topic, PARTITIONS, KEEP);
    }
    produce(cluster, &input, Codec::Lz4, &events(5, 600)).await;
    (input, output)
}

/// What a reader of committed records sees, how far it came, and its lag at the end.
async fn seen(cluster: &Cluster, topic: &str, count: usize) -> Vec<String> {
    let member = Member::join(source(cluster, reading(topic, &unique("reader"))).await);
    until("all are read", || member.seen() >= count && member.owned() == PARTITIONS as usize).await;
    // What is behind is markers and what was taken back: the position passes over them too.
    let mut at_end = false;
    for _ in 0..300 {
        at_end = (0..PARTITIONS as u32).all(|partition| {
            let end = member.source.end_of(partition).unwrap_or(0);
            let committed = member.notes.lock().committed.get(&(topic.into(), partition)).copied();
            committed.unwrap_or(0) == end
        });
        if at_end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let notes = member.notes.clone();
    let committed = notes.lock().committed.clone();
    assert!(at_end, "the lag reaches 0: {committed:?}");
    member.leave().await;
    let notes = notes.lock();
    let texts = notes.seen.iter().map(|seen| {
        let row: serde_json::Value = serde_json::from_slice(seen.value.as_ref().unwrap()).unwrap();
        row["line"].as_str().unwrap().to_owned()
    });
    let mut texts: Vec<_> = texts.collect();
    texts.sort_unstable();
    texts
}

fn lines(parts: &[&[Event]]) -> Vec<String> {
    let mut lines: Vec<_> = parts.iter().flat_map(|part| part.iter().map(Event::line)).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_seen_once_and_what_was_taken_back_never() {
    let Some(kafka) = services::kafka() else { return };
    let cluster = cluster(&kafka.bootstrap());
    for older in [false, true] {
        let (input, output) = topics(&cluster, &kafka).await;
        let mut work = Work::start(&cluster, &input, &output, &unique("tx"), older).await;
        assert_eq!(work.starts(), [0, 0, 0]);
        let all = events(9, 900);
        let (first, rest) = all.split_at(300);
        let (bad, second) = rest.split_at(300);
        work.write(first).await.unwrap();
        work.transactions.commit(&[(0, 5), (1, 6), (2, 7)]).await.unwrap();
        assert_eq!(work.starts(), [5, 6, 7]);
        work.write(bad).await.unwrap();
        work.transactions.abort().await.unwrap();
        assert_eq!(work.starts(), [5, 6, 7], "older: {older}");
        // Nothing was written: nothing is to be taken back.
        work.transactions.abort().await.unwrap();
        work.sink_anew(&output);
        for part in second.chunks(30) {
            // The transaction before may still be ending: that is waited for.
            work.write(part).await.unwrap();
            work.transactions.commit(&[(0, 8), (2, 9)]).await.unwrap();
        }
        // Offsets alone: every row was dropped by the SQL.
        work.transactions.commit(&[(1, 11)]).await.unwrap();
        assert_eq!(work.starts(), [8, 11, 9]);
        work.write(bad).await.unwrap();
        work.transactions.abort().await.unwrap();
        let seen = seen(&cluster, &output, 600).await;
        assert!(seen == lines(&[first, second]), "{} rows, older: {older}", seen.len());
        // Somebody else of the group begins there.
        work.group.leave().await;
        drop(work);
        let next = Work::start(&cluster, &input, &output, &unique("tx"), older).await;
        assert_eq!(next.starts(), [8, 11, 9]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_id_now_fences_the_one_before_and_takes_its_rows_back() {
    let Some(kafka) = services::kafka() else { return };
    let cluster = cluster(&kafka.bootstrap());
    for older in [false, true] {
        let (input, output) = topics(&cluster, &kafka).await;
        let id = unique("tx");
        let mut first = Work::start(&cluster, &input, &output, &id, older).await;
        let sent = events(13, 400);
        let (lost, kept) = sent.split_at(200);
        first.write(lost).await.unwrap();
        // At once, not after the time-out.
        let second = begin(&cluster, &id, older).await;
        let mut sink = sink_in(&second, &output);
        let committed = first.transactions.commit(&[(0, 1)]).await.unwrap_err();
        assert_eq!(committed.disposition(), Disposition::Retry, "{committed}");
        let fenced = first.transactions.abort().await.unwrap_err();
        assert_eq!(fenced.disposition(), Disposition::Stop);
        assert!(fenced.to_string().contains(&id) && fenced.to_string().contains("only one"));
        first.write(lost).await.unwrap_err();
        sink.write(&batch(rows(kept))).await.unwrap().durable.await.unwrap();
        first.group.leave().await;
        drop(first);
        let mut reader = KafkaSource::open(cluster.clone(), reading(&input, &input)).await.unwrap();
        reader.commit_in(second.clone());
        let group = reader.group().unwrap();
        assert!(matches!(group.next().await, Ok(Change::Assigned(_))));
        second.commit(&[(0, 2)]).await.unwrap();
        let seen = seen(&cluster, &output, 200).await;
        assert!(seen == lines(&[kept]), "{} rows, older: {older}", seen.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_partitions_went_to_another_commits_nothing() {
    let Some(kafka) = services::kafka() else { return };
    let cluster = cluster(&kafka.bootstrap());
    let (input, output) = topics(&cluster, &kafka).await;
    let mut zombie = Work::start(&cluster, &input, &output, &unique("tx"), false).await;
    let sent = events(17, 200);
    zombie.write(&sent).await.unwrap();
    zombie.group.leave().await;
    let mut next = Work::start(&cluster, &input, &output, &unique("tx"), false).await;
    next.write(&sent).await.unwrap();
    next.transactions.commit(&[(0, 3), (1, 4), (2, 5)]).await.unwrap();
    let refused = zombie.transactions.commit(&[(0, 9), (1, 9), (2, 9)]).await.unwrap_err();
    assert_eq!(refused.disposition(), Disposition::Retry, "{refused}");
    zombie.transactions.abort().await.unwrap();
    let seen = seen(&cluster, &output, 200).await;
    assert!(seen == lines(&[&sent]), "{} rows", seen.len());
    assert_eq!(next.starts(), [3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_took_too_long_is_taken_back_and_the_next_one_goes_on() {
    let Some(kafka) = services::kafka() else { return };
    let cluster = cluster(&kafka.bootstrap());
    let (input, output) = topics(&cluster, &kafka).await;
    let mut work = Work::start(&cluster, &input, &output, &unique("tx"), false).await;
    // The coordinator looks every ten seconds.
    let options =
        TransactionOptions { id: unique("tx"), timeout: Duration::from_secs(1), older: false };
    let slow = KafkaTransactions::open(cluster.clone(), options).await.unwrap();
    let sent = events(19, 200);
    let mut sink = sink_in(&slow, &output);
    sink.write(&batch(rows(&sent))).await.unwrap().durable.await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sink.write(&batch(rows(&sent[..1]))).await.unwrap().durable.await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it is never given up");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    slow.abort().await.unwrap();
    work.write(&sent).await.unwrap();
    work.transactions.commit(&[(0, 3)]).await.unwrap();
    let seen = seen(&cluster, &output, 200).await;
    assert!(seen == lines(&[&sent]), "{} rows", seen.len());
}
