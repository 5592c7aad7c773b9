//! The suite that every sink passes.

use super::member::Member;
use super::*;
use crate::conformance::row;
use futures::FutureExt;
use millstream_core::{Place, Source};
use millstream_testkit::conformance::{self, Again, Stage};
use millstream_testkit::services::{self, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_does_what_all_do() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("conformance");
    kafka.create_topic(&topic, 3, KEEP);
    let cluster = cluster(&kafka.bootstrap());
    let source = source(&cluster, reading(&topic, &topic)).await;
    let member = Arc::new(Member::join(source.clone()));
    let stage = Stage {
        open: Box::new(move || {
            let options = KafkaSinkOptions {
                target: Target::Topic(topic.as_str().into()),
                columns: RecordColumns { key: Some("key".into()), ..RecordColumns::default() },
                codec: Codec::Lz4,
                encoder: Box::new(JsonEncoder::new(conformance::schema()).unwrap()),
            };
            Box::new(KafkaSink::new(options, cluster.clone(), Destinations::new(cluster.clone())))
        }),
        stored: Box::new(move || {
            let (source, member) = (source.clone(), member.clone());
            async move {
                until("it has its partitions", || member.owned() == 3).await;
                let mut all = 0;
                for partition in 0..source.partitions() {
                    all += source.offset_of(partition, Place::Latest).await.unwrap() as usize;
                }
                until("all are read", || member.seen() >= all).await;
                let seen = &member.notes.lock().seen;
                seen.iter().map(|seen| row(seen.value.as_ref().unwrap())).collect()
            }
            .boxed()
        }),
        again: Again::Repeats,
        by_key: false,
    };
    stage.run().await;
}
