//! Rows that are stored, and rows that cannot be.

use crate::support::{World, longs, rows, texts, world};
use arrow_array::{ArrayRef, Int32Array};
use millstream_core::Batch;
use millstream_postgres::{Conflict, Mode, Operation, PgSinkOptions};
use std::sync::Arc;

const MODES: [Mode; 2] = [Mode::Copy, Mode::Insert];

fn options(world: &World, mode: Mode, operation: Operation) -> PgSinkOptions {
    PgSinkOptions { mode, operation, ..world.writing("t") }
}

fn pairs(pairs: &[(i64, &str)]) -> Batch {
    let ids: Vec<_> = pairs.iter().map(|(id, _)| Some(*id)).collect();
    let values: Vec<_> = pairs.iter().map(|(_, v)| Some(*v)).collect();
    rows(vec![("id", longs(&ids)), ("v", texts(&values))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_inserted_replaced_kept_and_deleted() {
    for mode in MODES {
        let Some(world) = world().await else { return };
        world.sql("CREATE TABLE S.t (id bigint PRIMARY KEY, v text)").await;
        let with = |operation| options(&world, mode, operation);
        let batch = pairs(&[(1, "a"), (2, "b"), (3, "c")]);
        let receipt = world.write(with(Operation::Insert), &batch).await.unwrap();
        assert_eq!((receipt.rows, receipt.rejected.len()), (3, 0));
        // Of a key that is there twice the last row wins.
        let again = pairs(&[(2, "x"), (4, "d"), (2, "y"), (4, "e")]);
        let receipt = world.write(with(Operation::Upsert), &again).await.unwrap();
        assert_eq!((receipt.rows, receipt.rejected.len()), (4, 0));
        let all = "SELECT id, v FROM S.t ORDER BY id";
        assert_eq!(world.rows(all).await, ["1 a", "2 y", "3 c", "4 e"], "{mode:?}");

        let mut kept = with(Operation::Insert);
        kept.conflict = Conflict::Nothing;
        world.write(kept, &pairs(&[(1, "z"), (5, "f"), (5, "g")])).await.unwrap();
        assert_eq!(world.rows(all).await, ["1 a", "2 y", "3 c", "4 e", "5 f"], "{mode:?}");
        let gone = pairs(&[(1, ""), (9, ""), (4, "")]);
        world.write(with(Operation::Delete), &gone).await.unwrap();
        assert_eq!(world.rows(all).await, ["2 y", "3 c", "5 f"], "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_poison_row_of_500_costs_itself() {
    for mode in MODES {
        for operation in [Operation::Insert, Operation::Upsert] {
            let Some(world) = world().await else { return };
            // Its own fault, and what only the server can tell: a check, a null, a length, a
            // trigger, and a constraint that waits for the commit.
            world
                .sql(
                    "CREATE TABLE S.parent (id int PRIMARY KEY); INSERT INTO S.parent VALUES (0); \
                     CREATE TABLE S.t (id bigint PRIMARY KEY, v varchar(8) NOT NULL, n smallint \
                     CHECK (n <> 77), p int REFERENCES S.parent DEFERRABLE INITIALLY DEFERRED); \
                     CREATE FUNCTION S.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                     IF NEW.id = 450 THEN RAISE 'not that one'; END IF; RETURN NEW; END $$; \
                     CREATE TRIGGER no BEFORE INSERT ON S.t FOR EACH ROW EXECUTE FUNCTION S.no()",
                )
                .await;
            let mut values: Vec<_> = (0..500).map(|n| Some(format!("v{n}"))).collect();
            let mut numbers: Vec<i64> = (0..500).map(|n| n % 70).collect();
            let mut parents: Vec<i64> = vec![0; 500];
            values[11] = Some("a\0b".into());
            values[22] = None;
            values[23] = None;
            values[33] = Some("far too long".into());
            numbers[44] = 40_000;
            numbers[55] = 77;
            parents[499] = 1;
            let values: Vec<_> = values.iter().map(Option::as_deref).collect();
            let some =
                |numbers: &[i64]| longs(&numbers.iter().copied().map(Some).collect::<Vec<_>>());
            let batch = rows(vec![
                ("id", some(&(0..500).collect::<Vec<_>>())),
                ("v", texts(&values)),
                ("n", some(&numbers)),
                ("p", some(&parents)),
            ]);
            let receipt = world.write(options(&world, mode, operation), &batch).await.unwrap();
            let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
            assert_eq!(rejected, [11, 22, 23, 33, 44, 55, 450, 499], "{mode:?} {operation:?}");
            let told: Vec<_> = receipt.rejected.iter().map(|(_, why)| why.as_str()).collect();
            let words = [
                "NUL",
                "null value",
                "null value",
                "too long",
                "out of range",
                "t_n_check",
                "not that one",
                "foreign key",
            ];
            for (told, words) in told.iter().zip(words) {
                assert!(told.contains(words), "{told}: {words}");
            }
            assert_eq!(receipt.rows, 492);
            assert_eq!(
                world.rows("SELECT count(*), count(DISTINCT id) FROM S.t").await,
                ["492 492"]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_which_nothing_can_be_stored_ends() {
    let Some(world) = world().await else { return };
    world.sql("CREATE TABLE S.t (id bigint PRIMARY KEY, v text CHECK (false))").await;
    let ids: Vec<_> = (0..40).map(Some).collect();
    let batch = rows(vec![("id", longs(&ids)), ("v", texts(&[Some("x"); 40]))]);
    let receipt = world.write(world.writing("t"), &batch).await.unwrap();
    assert_eq!((receipt.rejected.len(), receipt.rows), (40, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_null_and_columns_that_are_mapped() {
    let Some(world) = world().await else { return };
    world
        .sql(
            "CREATE TABLE S.t (a int, b text, \"V w\" jsonb, made int GENERATED ALWAYS AS (a + 1) \
             STORED, UNIQUE (b, a))",
        )
        .await;
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
    let batch = rows(vec![
        ("x", numbers),
        ("y", texts(&[Some("k"), Some("k"), Some("k")])),
        ("z", texts(&[Some("{\"a\": 1}"), Some("{}"), Some("{")])),
    ]);
    for mode in MODES {
        let mut mapped = options(&world, mode, Operation::Upsert);
        mapped.key = Some(vec!["a".into(), "b".into()]);
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        mapped.columns = Some(vec![pair("x", "a"), pair("y", "b"), pair("z", "V w")]);
        let receipt = world.write(mapped, &batch).await.unwrap();
        let rejected: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
        assert_eq!(rejected, [1, 2], "{:?}", receipt.rejected);
        assert!(receipt.rejected[0].1.contains("column `a` of the key is null"));
        assert!(receipt.rejected[1].1.contains("invalid input syntax for type json"));
        assert_eq!(world.rows("SELECT a, b, made, \"V w\" FROM S.t").await, ["1 k 2 {\"a\": 1}"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_only_the_server_finds_equal_collapse() {
    let Some(world) = world().await else { return };
    world.sql("CREATE TABLE S.t (id numeric PRIMARY KEY, v text)").await;
    for mode in MODES {
        let batch = rows(vec![
            ("id", texts(&[Some("1.0"), Some("2"), Some("1")])),
            ("v", texts(&[Some("a"), Some("b"), Some("c")])),
        ]);
        world.write(options(&world, mode, Operation::Upsert), &batch).await.unwrap();
        assert_eq!(world.rows("SELECT v FROM S.t ORDER BY id").await, ["c", "b"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_mapping_is_a_sentence() {
    let Some(world) = world().await else { return };
    world.sql("CREATE TABLE S.t (id bigint, v inet)").await;
    let told = |batch: Batch, mode, operation| {
        let world = &world;
        async move { world.write(options(world, mode, operation), &batch).await.err().unwrap() }
    };
    let batch = pairs(&[(1, "x")]);
    let no_key = told(batch.clone(), Mode::Copy, Operation::Upsert).await;
    assert!(no_key.contains("has no primary key: name the columns in `key`"), "{no_key}");
    let other = rows(vec![("id", longs(&[Some(1)])), ("w", longs(&[Some(1)]))]);
    let extra = told(other, Mode::Copy, Operation::Insert).await;
    assert!(extra.contains("has no column `w`; it has id, v; SELECT what it has"), "{extra}");
    let typed = rows(vec![("id", texts(&[Some("1")]))]);
    let typed = told(typed, Mode::Insert, Operation::Insert).await;
    assert!(typed.contains("column `id`: string cannot be written as bigint; CAST"), "{typed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_dropped_changed_and_made_again_is_written_on() {
    use millstream_core::Disposition;
    use millstream_postgres::PgTable;
    for mode in MODES {
        for operation in [Operation::Insert, Operation::Upsert] {
            let Some(world) = world().await else { return };
            let make = "CREATE TABLE S.t (id bigint PRIMARY KEY, v text)";
            world.sql(make).await;
            let batch = |id| pairs(&[(id, "a")]);
            let schema = batch(1).rows.schema();
            let options = options(&world, mode, operation);
            let table = PgTable::open(world.server.clone(), options, &schema).await.unwrap();
            let mut sink = table.sink();
            sink.write(&batch(1)).await.unwrap().durable.await.unwrap();

            world.sql("DROP TABLE S.t").await;
            let error = sink.write(&batch(2)).await.err().unwrap();
            assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
            world.sql(make).await;
            let mut written = sink.write(&batch(2)).await;
            if written.is_err() {
                written = sink.write(&batch(2)).await;
            }
            written.unwrap().durable.await.unwrap();
            assert_eq!(world.rows("SELECT id FROM S.t").await, ["2"]);

            // A narrower column: the same values, in another form.
            world.sql("ALTER TABLE S.t ALTER COLUMN id TYPE int").await;
            let mut written = sink.write(&batch(3)).await;
            for _ in 0..2 {
                if let Err(error) = &written {
                    assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
                    written = sink.write(&batch(3)).await;
                }
            }
            let receipt = written.unwrap();
            assert_eq!(receipt.rejected, []);
            receipt.durable.await.unwrap();
            assert_eq!(world.rows("SELECT id FROM S.t ORDER BY id").await, ["2", "3"]);

            // What cannot be written waits for the table to be mended.
            world.sql("ALTER TABLE S.t DROP COLUMN v").await;
            let _ = sink.write(&batch(4)).await.err().unwrap();
            let error = sink.write(&batch(4)).await.err().unwrap();
            assert_eq!(error.disposition(), Disposition::Retry);
            assert!(error.chain().contains("has no column `v`"), "{}", error.chain());
            world.sql("ALTER TABLE S.t ADD COLUMN v text").await;
            let mut written = sink.write(&batch(4)).await;
            if written.is_err() {
                written = sink.write(&batch(4)).await;
            }
            written.unwrap().durable.await.unwrap();
            assert_eq!(world.rows("SELECT id FROM S.t WHERE v = 'a' ORDER BY id").await, ["4"]);

            // Bytes of a whole number are as many as those of a fraction.
            for (id, of) in [(5, "bigint"), (6, "float8")] {
                world.sql(&format!("ALTER TABLE S.t ALTER COLUMN id TYPE {of}")).await;
                let mut written = sink.write(&batch(id)).await;
                if let Err(error) = &written {
                    assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
                    written = sink.write(&batch(id)).await;
                }
                // What does not fit waits.
                let stored = match written {
                    Ok(receipt) => receipt.durable.await.map(|()| id).unwrap(),
                    Err(error) => {
                        assert!(error.chain().contains("`id`"), "{}", error.chain());
                        5
                    }
                };
                let last = "SELECT id FROM S.t WHERE id > 4 OR id < 1 ORDER BY id DESC LIMIT 1";
                assert_eq!(world.rows(last).await, [stored.to_string()], "{of}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_must_have_a_value_is_told_unless_the_server_gives_one() {
    let Some(world) = world().await else { return };
    world
        .sql(
            "CREATE DOMAIN S.kind AS text DEFAULT 'any' NOT NULL; \
             CREATE TABLE S.given (id bigint PRIMARY KEY, a int NOT NULL DEFAULT 1, k S.kind NOT NULL, \
               n bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY, \
               t bigint NOT NULL GENERATED ALWAYS AS (id + 1) STORED); \
             CREATE TABLE S.filled (id bigint PRIMARY KEY, v text NOT NULL); \
             CREATE FUNCTION S.fill() RETURNS trigger LANGUAGE plpgsql AS \
               'BEGIN NEW.v := NEW.id; RETURN NEW; END'; \
             CREATE TRIGGER fill BEFORE INSERT ON S.filled FOR EACH ROW EXECUTE FUNCTION S.fill(); \
             CREATE TABLE S.lacking (id bigint PRIMARY KEY, v varchar(9) NOT NULL)",
        )
        .await;
    let batch = rows(vec![("id", longs(&[Some(1)]))]);
    for table in ["given", "filled"] {
        assert_eq!(world.write(world.writing(table), &batch).await.unwrap().rows, 1);
    }
    assert_eq!(world.rows("SELECT a, k, t FROM S.given").await, ["1 any 2"]);
    for operation in [Operation::Insert, Operation::Upsert] {
        let options = PgSinkOptions { operation, ..world.writing("lacking") };
        let told = world.write(options, &batch).await.err().unwrap();
        assert!(
            told.contains("character varying(9) NOT NULL") && told.contains("no `v`"),
            "{told}"
        );
    }
}
