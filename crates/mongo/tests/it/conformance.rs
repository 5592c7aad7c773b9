//! The suite that every look-up and sink passes.

use crate::support::world;
use arrow_schema::DataType;
use futures::FutureExt;
use millstream_mongo::{MongoCollection, Operation};
use millstream_testkit::conformance::{self, Again, Stage};
use mongodb::IndexModel;
use mongodb::bson::doc;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_does_what_all_do() {
    let Some(world) = world().await else { return };
    let rows = conformance::stored().map(|(key, number)| doc! { "key": key, "number": number });
    world.fill("t", rows).await;
    let lookup = world.lookup("t", &[("number", "bigint")], &[("key", DataType::Utf8)]);
    conformance::lookup(Arc::new(lookup)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_does_what_all_do() {
    let Some(world) = world().await else { return };
    let index = IndexModel::builder().keys(doc! { "_id": 1 }).build();
    world.collection("t").create_index(index).await.unwrap();
    let mut options = world.sink("t", Operation::Upsert);
    options.columns =
        Some([("key", "_id"), ("number", "number")].map(|(a, b)| (a.into(), b.into())).into());
    let collection = MongoCollection::open(world.cluster.clone(), options, &conformance::schema());
    let collection = collection.unwrap();
    let world = Arc::new(world);
    let stage = Stage {
        open: Box::new(move || collection.sink()),
        stored: Box::new(move || {
            let world = world.clone();
            async move {
                let rows = world.stored("t").await;
                let row = |row: &mongodb::bson::Document| {
                    (row.get_str("_id").unwrap().to_owned(), row.get_i64("number").unwrap())
                };
                rows.iter().map(row).collect()
            }
            .boxed()
        }),
        again: Again::Once,
        by_key: true,
    };
    stage.run().await;
}
