//! What a member does while its coordinator or one of its partitions cannot be asked.

use super::super::fetcher::{FetchOptions, OnLostOffset};
use super::super::options::ClusterOptions;
use super::super::scripted::{Broker, Script, TOPIC};
use super::*;
use std::sync::atomic::AtomicBool;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// With who tells it of topics.
fn member(broker: &Broker) -> (Arc<Context>, watch::Sender<Arc<Subscribed>>) {
    let options = ClusterOptions::new(vec![broker.address.clone()], "test");
    let cluster = Cluster::new(options, Handle::current()).expect("the options are right");
    let options = FetchOptions {
        committed_only: true,
        on_lost_offset: OnLostOffset::Hold,
        partition_bytes: 64 << 10,
        fetch_bytes: 1 << 20,
    };
    let stop = CancellationToken::new();
    let fetcher = Fetcher::start(cluster.clone(), options, "the test", stop.clone());
    let ours = Arc::new(Ours::default());
    let found = Subscribed::default();
    let options = GroupOptions::new("g");
    Context::new(cluster, options, found, true, fetcher, ours, stop)
}

#[tokio::test]
async fn a_partition_that_nobody_leads_does_not_keep_the_others_from_beginning() {
    let broker = Broker::start(Script::default()).await;
    let (context, _topics) = member(&broker);
    // The broker leads the first one, and knows nothing of the others.
    context.take_in((0..3).map(|index| (Arc::from(TOPIC), index)));
    match context.ours.next().await {
        Ok(Change::Assigned(partitions)) => assert_eq!(partitions, [0]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_broker_that_does_not_answer_keeps_only_its_own_partitions_from_beginning() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let other = silent.local_addr().expect("it is bound").port();
    let broker = Broker::start(Script { other: Some(other), ..Script::default() }).await;
    let given_up = Arc::new(AtomicBool::new(false));
    let gives_up = given_up.clone();
    tokio::spawn(async move {
        let (mut stream, _) = silent.accept().await.expect("somebody asks");
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        gives_up.store(true, Ordering::Release);
    });
    let (context, _topics) = member(&broker);
    context.cluster.refresh(Some(&[TOPIC.into()])).await.expect("it knows the topic");
    context.take_in((0..2).map(|index| (Arc::from(TOPIC), index)));
    match context.ours.next().await {
        Ok(Change::Assigned(partitions)) => assert_eq!(partitions, [0]),
        other => panic!("{other:?}"),
    }
    // The end of a connection takes a moment to arrive.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!given_up.load(Ordering::Acquire), "it was waited for");
}

#[tokio::test]
async fn what_is_given_up_is_gone_before_the_next_round_also_when_heartbeats_fail() {
    let broker = Broker::start(Script::default()).await;
    let (context, _topics) = member(&broker);
    let gone = Arc::new(AtomicBool::new(false));
    let goes = gone.clone();
    let (done, asked) = oneshot::channel::<()>();
    let revoking = async move {
        let _ = asked.await;
        goes.store(true, Ordering::Release);
    };
    tokio::spawn(async move {
        // The first heartbeat fails long before this.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let _ = done.send(());
    });
    let _ = context.stay("m", 1, false, true, revoking).await;
    assert!(gone.load(Ordering::Acquire), "the engine had not given it up yet");
}
