//! A table that changes while a batch is written, and who may write at all.

use crate::support::{World, client, longs, options, rows, texts, world};
use millstream_core::{Batch, Credential};
use millstream_postgres::{Server, ServerOptions};
use std::time::Duration;
use tokio::runtime::Handle;

/// Microseconds: as many bytes as a time has, which counts them from another year.
const AT: i64 = 1_700_000_000_000_000;

fn at(ids: &[i64]) -> Batch {
    let ids: Vec<_> = ids.iter().copied().map(Some).collect();
    rows(vec![("id", longs(&ids)), ("at", longs(&vec![Some(AT); ids.len()]))])
}

/// Until a query about who waits says so.
async fn until(world: &World, query: &str) {
    while world.rows(query).await != ["t"] {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_is_to_change_waits_for_all_parts_of_a_batch() {
    let Some(world) = world().await else { return };
    let key = format!("hashtext('{}')", world.schema);
    // The first row waits as long as the test wants; one row is refused.
    world
        .sql(&format!(
            "CREATE TABLE S.t (id bigint, at bigint); \
             CREATE FUNCTION S.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.id = 0 THEN PERFORM pg_advisory_xact_lock_shared({key}); END IF; \
             IF NEW.id = 5 THEN RAISE 'not that one'; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER wait BEFORE INSERT ON S.t FOR EACH ROW EXECUTE FUNCTION S.wait(); \
             SELECT pg_advisory_lock({key})",
        ))
        .await;
    let batch = at(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let other = client(&world.postgres).await;
    let alter = world.named(
        "ALTER TABLE S.t ALTER COLUMN at TYPE timestamp \
         USING to_timestamp(at / 1000000) AT TIME ZONE 'UTC'",
    );
    let controlling = async {
        until(
            &world,
            &format!(
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = '{}' \
             AND wait_event_type = 'Lock' AND wait_event = 'advisory'",
                world.schema
            ),
        )
        .await;
        let altering = tokio::spawn(async move { other.batch_execute(&alter).await });
        until(&world, &world.named(
            "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'S.t'::regclass AND NOT granted")).await;
        world.sql(&format!("SELECT pg_advisory_unlock({key})")).await;
        altering.await.unwrap().unwrap();
    };
    let (written, ()) = tokio::join!(world.write(world.writing("t"), &batch), controlling);
    let receipt = written.unwrap();
    let refused: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!((receipt.rows, refused), (7, vec![5]));
    let stored = world.rows("SELECT at, count(*) FROM S.t GROUP BY at").await;
    assert_eq!(stored, ["2023-11-14 22:13:20 7"]);
}

/// What the lock needs, COPY needs too: rights on some columns, a view that has a trigger, partitions,
/// domains that take no NULL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_copy_may_write() {
    let Some(world) = world().await else { return };
    let role = format!("{}_role", world.schema);
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'canary'; GRANT USAGE ON SCHEMA S TO {role}; \
             CREATE TABLE S.base (id bigint NOT NULL, at bigint, v text) PARTITION BY RANGE (id); \
             CREATE TABLE S.part PARTITION OF S.base FOR VALUES FROM (0) TO (100); \
             CREATE VIEW S.t AS SELECT id, at FROM S.base; \
             CREATE FUNCTION S.put() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
             INSERT INTO S.base (id, at) VALUES (NEW.id, NEW.at); RETURN NEW; END $$; \
             CREATE TRIGGER put INSTEAD OF INSERT ON S.t FOR EACH ROW EXECUTE FUNCTION S.put(); \
             GRANT SELECT ON S.base, S.t TO {role}; GRANT INSERT (id, at) ON S.base, S.t TO {role}",
        ))
        .await;
    let restricted = ServerOptions {
        user: role.clone(),
        password: Some(Credential::given("canary")),
        ..options(&world.postgres)
    };
    let world = World { server: Server::new(restricted, Handle::current()), ..world };
    for (table, id) in [("base", 1), ("t", 2)] {
        let receipt = world.write(world.writing(table), &at(&[id])).await.unwrap();
        assert_eq!((receipt.rows, receipt.rejected), (1, vec![]), "{table}");
    }
    assert_eq!(
        world.rows("SELECT id, at FROM S.base ORDER BY id").await,
        [format!("1 {AT}"), format!("2 {AT}")]
    );
    let more = rows(vec![("id", longs(&[Some(3)])), ("v", texts(&[Some("x")]))]);
    let told = world.write(world.writing("base"), &more).await.err().unwrap();
    assert!(told.contains("permission denied for table base"), "{told}");
    world
        .sql(
            "CREATE DOMAIN S.given AS bigint NOT NULL CHECK (value > 0); \
             CREATE TABLE S.own (id bigint GENERATED BY DEFAULT AS IDENTITY, at S.given)",
        )
        .await;
    world.sql(&format!("GRANT INSERT ON S.own TO {role}; GRANT SELECT ON S.own TO {role}")).await;
    let receipt = world.write(world.writing("own"), &at(&[7])).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected), (1, vec![]));
    world.sql(&format!("DROP OWNED BY {role}")).await;
    drop(world.server);
    world.client.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
}
