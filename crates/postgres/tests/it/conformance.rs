//! The suite that every look-up and sink passes.

use crate::support::world;
use arrow_schema::DataType;
use futures::FutureExt;
use millstream_postgres::{Mode, Operation, PgSinkOptions, PgTable};
use millstream_testkit::conformance::{self, Again, Stage};
use std::sync::Arc;

const TABLE: &str = "CREATE TABLE S.t (key text PRIMARY KEY, number bigint)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_does_what_all_do() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let rows: Vec<_> = conformance::stored().map(|(key, n)| format!("('{key}', {n})")).collect();
    world.sql(&format!("INSERT INTO S.t VALUES {}", rows.join(", "))).await;
    let lookup = world.lookup(world.looking("t"), &[("key", DataType::Utf8)]).await.unwrap();
    conformance::lookup(Arc::new(lookup)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_does_what_all_do() {
    for mode in [Mode::Copy, Mode::Insert] {
        let Some(world) = world().await else { return };
        world.sql(TABLE).await;
        let options = PgSinkOptions { mode, operation: Operation::Upsert, ..world.writing("t") };
        let table = PgTable::open(world.server.clone(), options, &conformance::schema()).await;
        let table = table.unwrap();
        let world = Arc::new(world);
        let stage = Stage {
            open: Box::new(move || table.sink()),
            stored: Box::new(move || {
                let world = world.clone();
                async move {
                    let rows = world.rows("SELECT key, number FROM S.t").await;
                    let row = |row: &String| {
                        let (key, number) = row.split_once(' ').unwrap();
                        (key.to_owned(), number.parse().unwrap())
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
}
