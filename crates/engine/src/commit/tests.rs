//! What of a group's offers is committed, tried again, and forgotten.

use super::*;
use crate::metrics::Metrics;
use async_trait::async_trait;
use millstream_connectors::HomeOptions;
use millstream_core::{Change, Partition, Result, Transactions};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// What a commit is answered with: the partitions that it takes, or that it fails.
type Answer = Option<Vec<u32>>;

/// Tells of each commit, and waits for the answer to it.
struct Scripted {
    asked: mpsc::Sender<Vec<(u32, i64)>>,
    answers: tokio::sync::Mutex<mpsc::Receiver<Answer>>,
}

#[async_trait]
impl Group for Scripted {
    async fn next(&self) -> Result<Change> {
        std::future::pending().await
    }

    fn start_of(&self, _partition: u32) -> Option<i64> {
        None
    }

    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>> {
        let mut sorted = offsets.to_vec();
        sorted.sort_unstable();
        self.asked.send(sorted.clone()).await.expect("the test listens");
        let answer = self.answers.lock().await.recv().await.expect("the test answers");
        let taken = answer.ok_or_else(|| millstream_core::Error::retry("broker", "not now"))?;
        Ok(sorted.into_iter().filter(|(partition, _)| taken.contains(partition)).collect())
    }

    async fn leave(&self) {}
}

struct World {
    committer: Committer,
    metrics: Arc<PipelineMetrics>,
    asked: mpsc::Receiver<Vec<(u32, i64)>>,
    answers: mpsc::Sender<Answer>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (asks, asked) = mpsc::channel(1);
        let (answers, told) = mpsc::channel(1);
        let group = Scripted { asked: asks, answers: tokio::sync::Mutex::new(told) };
        let world = Self::with(|tables, _| {
            let stop = CancellationToken::new();
            tables.for_group(Arc::new(group), false, Duration::from_millis(1), stop)
        });
        Self { asked, answers, ..world }
    }

    /// One whose commits go elsewhere.
    fn with(to: impl FnOnce(&Committer, Arc<PipelineMetrics>) -> Committer) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::open(dir.path(), HomeOptions::default()).expect("a home");
        let (tables, _) = Committer::new(home, Duration::from_millis(1), Handle::current());
        let metrics = Arc::new(Metrics::new().pipeline("p", None));
        let committer = to(&tables, metrics.clone());
        let (asked, answers) = (mpsc::channel(1).1, mpsc::channel(1).0);
        Self { committer, metrics, asked, answers, _dir: dir }
    }

    fn offer(&self, offsets: &[(u32, i64)]) {
        for (partition, next) in offsets {
            let owner = Owner { pipeline: "p".into(), partition: *partition };
            let metrics = self.metrics.partition(&place(*partition));
            let session = self.committer.session();
            self.committer.offer(session, owner, *next, None, metrics, self.metrics.clone());
        }
    }

    fn committed(&self, partition: u32) -> i64 {
        self.metrics.partition(&place(partition)).committed.get()
    }

    /// Answers the next commits, of which this is expected.
    async fn expect(&mut self, script: &[(&[(u32, i64)], Answer)]) {
        let mut script: VecDeque<_> = script.iter().collect();
        while let Some((offsets, answer)) = script.pop_front() {
            assert_eq!(self.asked.recv().await.expect("a commit"), *offsets);
            self.answers.send(answer.clone()).await.expect("the group listens");
        }
    }
}

#[tokio::test]
async fn what_was_not_taken_is_tried_again_before_anything_is_said_to_be_durable() {
    let mut world = World::new();
    // Both have the same offset, so that only the partition tells them apart.
    world.offer(&[(0, 7), (1, 7)]);
    let flushing = world.committer.clone();
    let flushed = tokio::spawn(async move { flushing.flush().await });
    world.expect(&[(&[(0, 7), (1, 7)], Some(vec![0]))]).await;
    assert_eq!(world.asked.recv().await, Some(vec![(1, 7)]));
    assert_eq!((world.committed(0), world.committed(1)), (7, 0));
    assert!(!flushed.is_finished());
    world.answers.send(Some(vec![1])).await.unwrap();
    flushed.await.unwrap();
    assert_eq!(world.committed(1), 7);
}

#[tokio::test]
async fn a_partition_that_came_back_is_not_committed_as_it_was_before() {
    let mut world = World::new();
    world.offer(&[(0, 7), (1, 9)]);
    assert_eq!(world.asked.recv().await, Some(vec![(0, 7), (1, 9)]));
    world.committer.forget(&[0]);
    world.answers.send(None).await.unwrap();
    world.expect(&[(&[(1, 9)], Some(vec![0, 1]))]).await;
    world.committer.flush().await;
    assert_eq!((world.committed(0), world.committed(1)), (0, 9));
    world.offer(&[(0, 3)]);
    world.expect(&[(&[(0, 3)], Some(vec![0]))]).await;
}

#[tokio::test]
async fn what_is_offered_after_the_tables_were_opened_again_is_committed() {
    let mut world = World::new();
    world.offer(&[(0, 7)]);
    assert_eq!(world.asked.recv().await, Some(vec![(0, 7)]));
    world.committer.reopened();
    world.offer(&[(1, 5)]);
    let flushing = world.committer.clone();
    let flushed = tokio::spawn(async move { flushing.flush().await });
    world.answers.send(None).await.unwrap();
    world.expect(&[(&[(1, 5)], Some(vec![1]))]).await;
    flushed.await.unwrap();
    assert_eq!(world.committed(1), 5);
}

/// Notes what is committed.
#[derive(Default)]
struct Noted(Mutex<Vec<(u32, i64)>>);

#[async_trait]
impl Transactions for Noted {
    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<()> {
        self.0.lock().extend_from_slice(offsets);
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn rows_of_a_partition_that_is_lost_as_the_gate_closes_are_not_committed() {
    let noted = Arc::new(Noted::default());
    let to = ExactlyOnce { gate: Arc::default(), transactions: noted.clone() };
    let world = World::with(|tables, metrics| {
        // Nothing is committed but by this test.
        let stop = CancellationToken::new();
        stop.cancel();
        tables.for_transactions(to.clone(), metrics, Duration::from_millis(1), stop)
    });
    world.offer(&[(0, 7), (1, 5)]);
    assert!(to.gate.close().await, "all is settled");
    world.committer.forget(&[0]);
    transactional::commit(&world.committer.shared, &to, &world.metrics).await;
    assert!(noted.0.lock().is_empty(), "the transaction has rows of both");
    assert!(to.gate.is_broken());
}

fn place(index: u32) -> Partition {
    Partition { source: "t".into(), index }
}
