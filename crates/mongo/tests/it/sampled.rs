//! Columns that are learnt from the documents of a collection.

use crate::support::world;
use millstream_mongo::{ReadFrom, sample};
use mongodb::bson::doc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_of_a_collection_are_looked_at() {
    let Some(world) = world().await else { return };
    let documents = (0..50).map(|n| match n {
        0 => doc! { "_id": n, "old": "x" },
        49 => doc! { "_id": n, "new": [{ "a": 1.5 }] },
        _ => doc! { "_id": n, "v": n },
    });
    world.fill("t", documents).await;
    let seconds = Duration::from_secs(10);
    let sampled =
        |count| sample(&world.cluster, &world.database, "t", count, ReadFrom::Primary, seconds);
    let few = sampled(5).await.unwrap();
    assert_eq!(few.documents, 10);
    assert_eq!(
        few.declaration(),
        "columns: { _id: bigint, old: string, v: bigint, new: \"struct<a double>[]\" }"
    );
    assert_eq!(sampled(100).await.unwrap().documents, 50);
    let none = sample(&world.cluster, &world.database, "no", 5, ReadFrom::Primary, seconds).await;
    assert!(none.unwrap_err().chain().contains("has no documents to learn its columns from"));
}
