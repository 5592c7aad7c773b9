//! Logs that are cut back, served by a broker that is a script: what a real one does in an unclean
//! election, in every version of the protocol.

use super::super::cluster::Cluster;
use super::super::feed::{Feed, Place, Reader};
use super::super::fetcher::{FetchOptions, Fetcher, OnLostOffset};
use super::super::options::ClusterOptions;
use super::super::scripted::{Broker, Script, TOPIC, topic_id};
use millstream_core::{Disposition, Error, PartitionReader, Records};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(30);

/// The ways in which a client can learn that a log was cut back: by asking each new leader, by the
/// answer to a fetch, or by both.
const WAYS: [(i16, bool); 3] = [(16, true), (16, false), (11, true)];

struct Bench {
    broker: Broker,
    fetcher: Arc<Fetcher>,
    feed: Arc<Feed>,
    _stop: DropGuard,
}

impl Bench {
    async fn new(script: Script, on_lost_offset: OnLostOffset) -> Self {
        let broker = Broker::start(script).await;
        let mut options = ClusterOptions::new(vec![broker.address.clone()], "test");
        options.request_timeout = Duration::from_secs(5);
        let cluster = Cluster::new(options, Handle::current()).unwrap();
        let options = FetchOptions {
            committed_only: true,
            on_lost_offset,
            partition_bytes: 64 << 10,
            fetch_bytes: 1 << 20,
        };
        let stop = CancellationToken::new();
        let fetcher = Fetcher::start(cluster, options, "the test", stop.clone());
        let bench = Self { broker, feed: feed(), fetcher, _stop: stop.drop_guard() };
        bench.fetcher.add(bench.feed.clone());
        bench
    }

    /// A member that begins where the group's commit is.
    fn begin_anew(&mut self, epoch: i32, offset: i64) {
        self.fetcher.remove(self.feed.id);
        self.feed = feed();
        self.feed.begins_after(epoch, offset);
        self.fetcher.add(self.feed.clone());
    }

    fn reader(&self, offset: i64) -> Reader {
        Reader::new(self.feed.clone(), self.fetcher.clone(), offset, 1_000, 1 << 20)
    }
}

fn feed() -> Arc<Feed> {
    Arc::new(Feed::new(0, TOPIC.into(), topic_id(), 0))
}

async fn next(reader: &mut Reader) -> Result<Records, Error> {
    let records = tokio::time::timeout(PATIENCE, reader.next()).await.expect("it says something");
    records.map(Option::unwrap)
}

/// Reads up to an offset; gives the epochs that the values name, each with its first offset.
async fn read_to(reader: &mut Reader, end: i64) -> Vec<(String, i64)> {
    let mut found: Vec<(String, i64)> = Vec::new();
    loop {
        let records = next(reader).await.unwrap();
        for record in records.iter() {
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            if found.last().is_none_or(|(last, _)| *last != value) {
                found.push((value, record.offset));
            }
        }
        if records.next_offset() >= end {
            return found;
        }
    }
}

fn named(list: &[(&str, i64)]) -> Vec<(String, i64)> {
    list.iter().map(|(value, offset)| ((*value).to_owned(), *offset)).collect()
}

/// Offsets 0 to 100 of epoch 5, and up to 200 of epoch 6.
fn whole((fetch_version, asks): (i16, bool)) -> Script {
    let mut script = Script { fetch_version, tells_epochs: asks, ..Script::default() };
    script.append(5, 100);
    script.append(6, 200);
    script
}

/// A replica that lacks epoch 6 has become leader, and took other records up to `end`.
fn cut(script: &mut Script, end: i64) {
    script.cut(100);
    script.append(7, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_back_under_a_reader_is_never_read_on_in_silence() {
    for way in WAYS {
        for end in [150, 200, 250] {
            let bench = Bench::new(whole(way), OnLostOffset::Hold).await;
            let mut reader = bench.reader(0);
            let read = read_to(&mut reader, 200).await;
            assert_eq!(read, named(&[("epoch 5", 0), ("epoch 6", 100)]), "{way:?}");
            assert_eq!((bench.feed.epoch_before(200), bench.feed.epoch_before(100)), (6, 5));
            bench.broker.change(|script| cut(script, end));
            let error = next(&mut reader).await.unwrap_err();
            assert_eq!(error.disposition(), Disposition::Stop, "{way:?} {end}: {error}");
            let told = error.to_string();
            assert!(
                told.contains("partition 0 of `t` was cut back")
                    && told.contains("up to offset 200")
                    && told.contains("from offset 100 on"),
                "{way:?} {end}: {told}"
            );
            // Whoever begins again without having decided anything is told again.
            let error = next(&mut bench.reader(200)).await.unwrap_err();
            assert_eq!(error.kind(), "log_cut", "{way:?} {end}");
            // The operator goes on where the log is now.
            bench.feed.forget_eras();
            let mut reader = bench.reader(100);
            assert_eq!(read_to(&mut reader, end).await, named(&[("epoch 7", 100)]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_the_earliest_reads_what_took_the_place_of_what_was_lost() {
    for way in WAYS {
        for end in [150, 200, 250] {
            let bench = Bench::new(whole(way), OnLostOffset::Earliest).await;
            let mut reader = bench.reader(0);
            read_to(&mut reader, 200).await;
            bench.broker.change(|script| cut(script, end));
            let error = next(&mut reader).await.unwrap_err();
            assert_eq!(error.disposition(), Disposition::Retry, "{way:?} {end}: {error}");
            assert_eq!(bench.feed.epoch_before(200), 6, "until then it is known what was read");
            let start = bench.feed.rewound().unwrap();
            assert_eq!(start, 100);
            let mut reader = bench.reader(start);
            assert_eq!(
                read_to(&mut reader, end).await,
                named(&[("epoch 7", 100)]),
                "{way:?} {end}"
            );
            assert_eq!(bench.feed.epoch_before(end), 7);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_the_latest_goes_on_at_the_end_and_counts_what_is_missing() {
    for way in WAYS {
        for end in [150, 200, 250] {
            let bench = Bench::new(whole(way), OnLostOffset::Latest).await;
            let mut reader = bench.reader(0);
            read_to(&mut reader, 200).await;
            bench.broker.change(|script| cut(script, end));
            let mut reader = match end {
                // A reader that is there goes on at a later offset.
                200.. => reader,
                _ => {
                    assert_eq!(next(&mut reader).await.unwrap_err().kind(), "log_cut");
                    bench.reader(bench.feed.rewound().unwrap())
                }
            };
            let noticed = async {
                let at_end = |place: Place| (place.offset, place.epoch) == (end, -1);
                while !bench.feed.wanted(usize::MAX).is_some_and(at_end) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, noticed).await.expect("it goes on at the end");
            bench.broker.change(|script| script.append(7, end + 10));
            let records = next(&mut reader).await.unwrap();
            assert_eq!(records.first_offset(), Some(end), "{way:?}");
            assert_eq!(records.skipped(), end as u64 - 100, "{way:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_knows_the_epoch_so_that_a_restart_notices() {
    for way in WAYS {
        for end in [150, 200, 250] {
            let mut bench = Bench::new(whole(way), OnLostOffset::Earliest).await;
            bench.broker.change(|script| cut(script, end));
            bench.begin_anew(6, 200);
            let error = next(&mut bench.reader(200)).await.unwrap_err();
            assert_eq!(error.kind(), "log_cut", "{way:?} {end}");
            assert_eq!(bench.feed.rewound(), Some(100), "{way:?} {end}");
        }
    }
}

/// The epoch that both know went on in the new leader's log; where ours had ended is not known after
/// a restart. Rather too much is read than too little.
#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_knows_since_when_it_differs_the_whole_epoch_is_read_again() {
    for way in WAYS {
        let mut script = Script { fetch_version: way.0, tells_epochs: way.1, ..Script::default() };
        script.append(4, 30);
        script.append(5, 240);
        script.append(7, 250);
        // The third way is only there with the request that this needs too.
        script.tells_epochs = true;
        let mut bench = Bench::new(script, OnLostOffset::Earliest).await;
        bench.begin_anew(6, 200);
        assert_eq!(next(&mut bench.reader(200)).await.unwrap_err().kind(), "log_cut");
        assert_eq!(bench.feed.rewound(), Some(30), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_has_everything_disturbs_nobody() {
    for way in WAYS {
        let mut bench = Bench::new(whole(way), OnLostOffset::Hold).await;
        let mut reader = bench.reader(0);
        read_to(&mut reader, 200).await;
        bench.broker.change(|script| script.append(7, 260));
        assert_eq!(read_to(&mut reader, 260).await, named(&[("epoch 7", 200)]), "{way:?}");
        // Nor one that has lost its beginning to retention, or a commit that says no epoch.
        bench.broker.change(|script| script.start = 150);
        for (epoch, offset) in [(6, 200), (-1, 150), (5, 150), (7, 260)] {
            bench.begin_anew(epoch, offset);
            let mut reader = bench.reader(offset);
            bench.broker.change(|script| script.append(7, script.end() + 1));
            let end = bench.broker.look(Script::end);
            read_to(&mut reader, end).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_retention_has_taken_more_than_was_read_it_goes_on_where_the_log_begins() {
    for way in WAYS {
        let bench = Bench::new(whole(way), OnLostOffset::Earliest).await;
        let mut reader = bench.reader(0);
        read_to(&mut reader, 200).await;
        bench.broker.change(|script| {
            cut(script, 300);
            script.start_soon = 250;
        });
        let records = next(&mut reader).await.unwrap();
        assert_eq!((records.first_offset(), records.skipped()), (Some(250), 50), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_never_where_the_partition_is_does_not_hold_it_in_silence() {
    let mut script = whole((16, true));
    script.displaced = Some(25);
    let bench = Bench::new(script, OnLostOffset::Hold).await;
    let mut reader = bench.reader(0);
    assert_eq!(read_to(&mut reader, 20).await, named(&[("epoch 5", 0)]));
    let error = next(&mut reader).await.unwrap_err();
    assert_eq!((error.kind(), error.disposition()), ("damaged", Disposition::Retry));
    assert!(error.to_string().contains("at offset 20 is damaged"), "{error}");
    bench.broker.change(|script| script.displaced = None);
    read_to(&mut bench.reader(20), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_beyond_the_end_is_told_where_no_epoch_is_known() {
    let mut bench = Bench::new(whole((16, true)), OnLostOffset::Hold).await;
    bench.begin_anew(-1, 300);
    let told = next(&mut bench.reader(300)).await.unwrap_err().to_string();
    assert!(told.contains("offset 300 of partition 0 of `t` is gone"), "{told}");
    assert!(told.contains("the broker has 0 to 200"), "{told}");
}
