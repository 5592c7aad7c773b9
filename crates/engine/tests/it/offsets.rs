//! Where a pipeline begins, goes on, and is set to.

use crate::harness::{Bench, FakeSink, file, numbered, simple, written};
use futures::FutureExt;
use millstream_core::{Error, Place, Receipt};
use millstream_engine::PartitionState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_resumes_and_a_changed_source_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.topic("in2", 1);
    bench.produce("in", 0, &numbered(0..10)).await;
    bench.start(&[simple(dir.path(), "")]).await;
    bench.idle().await;
    bench.restart().await;
    bench.produce("in", 0, &numbered(10..20)).await;
    let text = "
pipeline: p
source: { topic: in, format: { json: { columns: { id: bigint } } } }
steps: [{ sql: SELECT id FROM input WHERE id % 2 = 0 }]
sinks: [{ topic: edited, format: json }]
";
    bench.start(&[file(dir.path(), "p.yaml", text)]).await;
    bench.idle().await;
    assert_eq!(bench.ids("edited"), [10, 12, 14, 16, 18]);
    assert_eq!(bench.counts("p"), (10, 5, 5, 0));

    bench.restart().await;
    let changed = file(dir.path(), "p.yaml", &text.replace("topic: in,", "topic: in2,"));
    let error = bench.open(&changed).await.err().expect("the source is another one");
    assert!(
        error.to_string().contains("offsets p reset")
            || error.to_string().contains("offsets reset p"),
        "{error}"
    );
    // A topic that was made again has other records under the same offsets.
    bench.home.log.delete_topic("in").unwrap();
    bench.topic("in", 1);
    assert!(bench.open(&file(dir.path(), "p.yaml", text)).await.is_err());
    assert_eq!(bench.committed("p", 0), Some(20), "a refusal changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_goes_to_each_kind_of_place() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 2);
    let mut builder = millstream_log::BatchBuilder::new(millstream_log::Codec::None);
    for (at, value) in numbered(0..10).iter().enumerate() {
        builder.push(at as i64 * 1000, None, Some(value.as_bytes()), &[]);
    }
    bench.append("in", 0, builder).await;
    bench.produce("in", 1, &numbered(100..110)).await;
    bench.start(&[simple(dir.path(), "")]).await;
    bench.idle().await;
    let mut read = 20;
    assert_eq!(bench.counts("p").0, read);
    for (place, partition, again) in [
        (Place::Earliest, None, 20),
        (Place::Offset(7), Some(0), 3),
        (Place::Time(3_500), Some(0), 6),
        (Place::Latest, None, 0),
        (Place::Earliest, Some(1), 10),
    ] {
        bench.engine.reset("p", place, partition).await.unwrap();
        bench.until("read", |b| b.report("p").state == PartitionState::Running).await;
        bench.idle().await;
        read += again;
        assert_eq!(bench.counts("p").0, read, "{place:?}");
    }
    for (place, partition) in [(Place::Offset(11), Some(0)), (Place::Earliest, Some(2))] {
        assert!(bench.engine.reset("p", place, partition).await.is_err());
    }
    assert!(bench.engine.reset("q", Place::Earliest, None).await.is_err());
    bench.idle().await;
    assert_eq!(bench.counts("p").0, read, "a reset that is refused moves nothing");
    assert_eq!(bench.committed("p", 0), Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_nobody_waits_for_any_more_comes_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..10)).await;
    let let_go = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = let_go.clone();
    let given = Arc::new(AtomicU32::new(0));
    let gives = given.clone();
    bench
        .start_with(&simple(dir.path(), ""), |pipeline| {
            pipeline.sinks[0].open = Box::new(move || {
                let (wait, gives) = (wait.clone(), gives.clone());
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    gives.fetch_add(1, Ordering::Relaxed);
                    let wait = wait.clone();
                    let durable = async move {
                        let _permit = wait.acquire().await.expect("it stays open");
                        Ok(())
                    };
                    Ok(Receipt { durable: durable.boxed(), ..written(ids.len()) })
                })))
            });
        })
        .await;
    bench.until("written", |_| given.load(Ordering::Relaxed) > 0).await;
    {
        let mut reset = std::pin::pin!(bench.engine.reset("p", Place::Earliest, None));
        tokio::select! {
            _ = &mut reset => panic!("its rows are not durable yet"),
            () = bench.until("asked", |b| b.report("p").state == PartitionState::Draining) => {}
        }
    }
    let_go.add_permits(1);
    bench.until("read again", |b| b.counts("p").0 == 20).await;
    bench.produce("in", 0, &numbered(10..20)).await;
    bench.until("going on", |b| b.committed("p", 0) == Some(20)).await;
    bench.engine.reset("p", Place::Earliest, None).await.unwrap();
    bench.until("read once more", |b| b.counts("p").0 == 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_latest_loses_nothing_that_comes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..10)).await;
    let text = "
pipeline: p
source: { topic: in, start: latest, format: { json: { columns: { id: bigint } } } }
sinks: [{ topic: out, format: json }]
";
    let tries = Arc::new(AtomicU32::new(0));
    let tried = tries.clone();
    let kept = Arc::new(parking_lot::Mutex::new(Vec::<i64>::new()));
    let keep = kept.clone();
    bench
        .start_with(&file(dir.path(), "p.yaml", text), |pipeline| {
            pipeline.sinks[0].open = Box::new(move || {
                let (tried, kept) = (tried.clone(), keep.clone());
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    // The first batch fails before anything of it was committed.
                    assert_ne!(tried.fetch_add(1, Ordering::Relaxed), 0, "the first try fails");
                    kept.lock().extend(&ids);
                    Ok(written(ids.len()))
                })))
            });
        })
        .await;
    bench.until("started", |b| b.committed("p", 0) == Some(10)).await;
    bench.produce("in", 0, &numbered(10..15)).await;
    bench.until("done", |b| b.committed("p", 0) == Some(15)).await;
    assert_eq!(*kept.lock(), [10, 11, 12, 13, 14]);
    assert!(tries.load(Ordering::Relaxed) > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_never_goes_back_and_never_beyond_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..300)).await;
    let tries = Arc::new(AtomicU32::new(0));
    bench
        .start_with(&simple(dir.path(), "batch: { max_rows: 5 }"), |pipeline| {
            pipeline.sinks[0].open = Box::new(move || {
                let tries = tries.clone();
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    assert_ne!(tries.fetch_add(1, Ordering::Relaxed) % 13, 12, "now and then");
                    Ok(written(ids.len()))
                })))
            });
        })
        .await;
    let mut highest = 0;
    while highest < 300 {
        let now = bench.committed("p", 0).unwrap_or(0);
        assert!(now >= highest, "{now} after {highest}");
        highest = now;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.counts("p"), (300, 300, 0, 0));

    // An offset beyond the end is damage, never a reset.
    bench.restart().await;
    let offsets = bench.home.tables.offsets();
    let source = offsets.get("p").unwrap().source;
    offsets.reset("p", &source, &[(0, 5_000)]).unwrap();
    let error = bench.open(&simple(dir.path(), "")).await.err().expect("records were lost");
    assert!(format!("{error:#}").contains("beyond the log's end"), "{error:#}");
    assert_eq!(bench.committed("p", 0), Some(5_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pipeline_that_fails_leaves_its_neighbours_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..10)).await;
    let other = file(
        dir.path(),
        "q.yaml",
        "
pipeline: q
source: { topic: in, format: { json: { columns: { id: bigint } } } }
sinks: [{ topic: q, format: json }]
",
    );
    bench
        .start_with(&simple(dir.path(), ""), |pipeline| {
            pipeline.sinks[0].open = Box::new(|| {
                Ok(Box::new(FakeSink(|_: Vec<i64>| Err(Error::stop("broken", "for good")))))
            });
        })
        .await;
    bench.start(&[other]).await;
    bench.until("done", |b| b.committed("q", 0) == Some(10)).await;
    assert_eq!(bench.report("p").state, PartitionState::Holding);
    assert_eq!(bench.counts("q"), (10, 10, 0, 0));
    assert_eq!(bench.committed("p", 0), None);
}
