//! Each row once, whatever happens to the connection, the process or the commit.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::support::{World, options, world};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use millstream_core::{
    Batch, Beginning, Disposition, Origin, Partition, Records, RecordsBuilder, Rejection, Sink,
};
use millstream_postgres::{Mode, Operation, PgSinkOptions, PgTable, Positions, Server};
use millstream_testkit::events::{Checker, Event, Fate};
use millstream_testkit::proxy::{Direction, Fault, Proxy};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

fn once(world: &World, operation: Operation) -> PgSinkOptions {
    let positions = Positions { pipeline: "p'1".into(), sink: "s".into() };
    PgSinkOptions { operation, positions: Some(positions), ..world.writing("t") }
}

/// A partition of numbered records, as an engine would work on it: a record becomes its rows, or a
/// dead letter, and what is lost comes again from the last commit.
struct Source {
    events: Vec<Event>,
    /// Where the engine has committed, and the letters that are durable.
    committed: usize,
    letters: BTreeMap<i64, String>,
    batch: usize,
    /// How often something had to be tried again.
    failures: usize,
}

fn beginning(from: usize) -> Beginning {
    let place = Partition { source: "topic".into(), index: 3 };
    Beginning { place, identity: "id".into(), from: from as i64 }
}

fn records(from: usize, events: &[Event]) -> Arc<Records> {
    let mut builder = RecordsBuilder::new();
    for (at, event) in events.iter().enumerate() {
        let line = event.line();
        let offset = (from + at) as i64;
        builder.push(millstream_core::Record {
            offset,
            timestamp: 0,
            key: None,
            value: Some(line.as_bytes()),
            headers: millstream_core::Headers::default(),
        });
    }
    Arc::new(builder.finish((from + events.len()) as i64))
}

/// Two rows an event that goes out; an event with the fate `dead` is refused by the server.
fn batch(events: &[Event]) -> Batch {
    let mut origin = Vec::new();
    let (mut ids, mut seqs, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for (at, event) in events.iter().enumerate() {
        for part in 0..2 {
            match event.fate {
                Fate::Drop => continue,
                Fate::Dead if part == 1 => continue,
                _ => {}
            }
            origin.push(at as u32);
            ids.push(format!("{}/{}/{part}", event.key, event.seq));
            seqs.push(if event.fate == Fate::Dead { -1 } else { event.seq as i64 });
            bodies.push(event.line());
        }
    }
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(StringArray::from(ids)) as ArrayRef, true),
        ("seq", Arc::new(Int64Array::from(seqs)) as ArrayRef, true),
        ("body", Arc::new(StringArray::from(bodies)) as ArrayRef, true),
    ]);
    Batch::new(rows.unwrap(), Origin::Rows(origin.into()))
}

impl Source {
    fn new(seed: u64, count: usize) -> (Source, Checker) {
        let mut generator = millstream_testkit::events::Generator::new(seed, 9);
        let events: Vec<_> = (0..count).map(|_| generator.event()).collect();
        let mut checker = Checker::default();
        events.iter().for_each(|event| checker.sent(event));
        (Source { events, committed: 0, letters: BTreeMap::new(), batch: 50, failures: 0 }, checker)
    }

    /// Works from the last commit on until the end or the first error that loses the task. Letters
    /// and commits lag behind by what `lag` says.
    async fn work(&mut self, sink: &mut dyn Sink, rng: &mut StdRng) -> Result<(), String> {
        let mut from = self.committed;
        sink.begin(&beginning(from));
        let mut outstanding = Vec::new();
        while from < self.events.len() {
            let size = rng.random_range(1..=self.batch);
            let to = (from + size).min(self.events.len());
            let part = &self.events[from..to];
            sink.stems_from(&records(from, part), &[]);
            let rows = batch(part);
            let mut tries = 0;
            let receipt = loop {
                match sink.write(&rows).await {
                    Ok(receipt) => break receipt,
                    Err(error) if error.disposition() == Disposition::Retry && tries < 8 => {
                        tries += 1;
                        self.failures += 1;
                        if error.kind() == "lost" {
                            return Err(error.chain());
                        }
                        tokio::time::sleep(Duration::from_millis(5 << tries)).await;
                    }
                    Err(error) => return Err(error.chain()),
                }
            };
            let letters: Vec<_> = receipt
                .rejected
                .iter()
                .map(|(row, why)| {
                    (from as i64 + i64::from(rows.origin.of(*row as usize)), why.clone())
                })
                .collect();
            outstanding.push((to, letters, receipt.durable));
            // What is durable is committed with a delay, or not before the crash.
            if outstanding.len() > 3 || (to == self.events.len()) {
                for (to, letters, durable) in outstanding.drain(..) {
                    durable.await.map_err(|error| error.chain())?;
                    self.letters.extend(letters);
                    self.committed = to;
                    sink.settled(to as i64);
                }
            }
            from = to;
            if rng.random_ratio(1, 12) {
                return Err("the process died".into());
            }
        }
        Ok(())
    }
}

/// Everything that should be there is, once, and what the server refused is a letter.
async fn verify(world: &World, source: &Source, mut checker: Checker) {
    let bodies = world.rows("SELECT body FROM S.t ORDER BY n").await;
    let bodies: Vec<Event> =
        bodies.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Each event has two rows.
    let halves = |odd: usize| {
        let each = bodies.iter().skip(odd).step_by(2);
        each.cloned().collect::<Vec<_>>()
    };
    checker.arrived("even rows", Fate::Out, &halves(0), true, 0);
    checker.arrived("odd rows", Fate::Out, &halves(1), true, 0);
    let letters = source.letters.keys().map(|offset| source.events[*offset as usize].clone());
    checker.arrived("letters", Fate::Dead, &letters.collect::<Vec<_>>(), true, 0);
    assert_eq!(checker.faults(), []);
    let doubled = "SELECT id FROM S.t GROUP BY id HAVING count(*) > 1";
    assert_eq!(world.rows(doubled).await, Vec::<String>::new());
}

/// No key: a row that is written twice is there twice.
const TABLE: &str =
    "CREATE TABLE S.t (n bigserial, id text, seq bigint CHECK (seq >= 0), body text)";

/// Gives how often something was broken, or nothing where there is no PostgreSQL.
async fn through_faults(seed: u64, mode: Mode) -> Option<u64> {
    let world = world().await?;
    world.sql(TABLE).await;
    let proxy = Proxy::start(world.postgres.address(), seed).unwrap();
    let mut broken = options(&world.postgres);
    broken.hosts = vec![proxy.address().to_string()];
    broken.timeout = Duration::from_millis(300);
    broken.connect_timeout = Duration::from_secs(2);
    let server = Server::new(broken, Handle::current());
    let options = PgSinkOptions { mode, ..once(&world, Operation::Insert) };
    let schema = batch(&[]).rows.schema();
    let (mut source, checker) = Source::new(seed, 1200);
    let mut rng = StdRng::seed_from_u64(seed);
    let over = Arc::new(AtomicBool::new(false));
    let beaten = Arc::new(AtomicU64::new(0));
    let trouble = {
        let mut rng = StdRng::seed_from_u64(seed + 1);
        let proxy = Arc::new(proxy);
        let (breaking, over, beaten) = (proxy.clone(), over.clone(), beaten.clone());
        let task = tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(rng.random_range(5..40))).await;
                match rng.random_range(0..7) {
                    0 => breaking.cut(),
                    // Nothing comes any more, and nobody is told.
                    6 => breaking.vanish(),
                    1 => breaking.reset(),
                    // The answer to what was sent, maybe to a commit, is lost.
                    2 => {
                        let bytes = rng.random_range(1..400);
                        breaking.set(Direction::ToClient, Fault::CutAfter(bytes));
                    }
                    3 => {
                        let bytes = rng.random_range(1..20_000);
                        breaking.set(Direction::ToServer, Fault::CutAfter(bytes));
                    }
                    4 => breaking.set_both(Fault::Delay { ms_min: 1, ms_max: 5 }),
                    _ => breaking.set(Direction::ToClient, Fault::ResetAfter(1)),
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(1..20))).await;
                breaking.heal();
                // Slower and slower, so that a busy machine comes to the end.
                let gap = rng.random_range(20..80) + 4 * beaten.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(gap)).await;
            }
            breaking.heal();
        });
        (task, proxy)
    };
    let mut restarts = 0;
    loop {
        // A process that starts again knows nothing.
        let opened = PgTable::open(server.clone(), options.clone(), &schema).await;
        let ended = match opened {
            Ok(table) => source.work(&mut *table.sink(), &mut rng).await,
            Err(error) => Err(error.chain()),
        };
        match ended {
            Ok(()) => break,
            Err(_) => restarts = beaten.fetch_add(1, Ordering::SeqCst) + 1,
        }
        assert!(restarts < 500, "it never ends");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    over.store(true, Ordering::SeqCst);
    trouble.0.await.unwrap();
    println!("seed {seed}: {restarts} starts anew, {} tries again", source.failures);
    verify(&world, &source, checker).await;
    Some(restarts + source.failures as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_break_anywhere_and_each_row_is_there_once() {
    let rounds = std::env::var("MILLSTREAM_FAULTS_ROUNDS");
    let rounds = rounds.ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let mut broken = 0;
    for seed in 0..rounds {
        let Some(copying) = through_faults(seed * 2, Mode::Copy).await else { return };
        let Some(inserting) = through_faults(seed * 2 + 1, Mode::Insert).await else { return };
        broken += copying + inserting;
    }
    assert!(broken > 2, "nothing was broken");
}

/// Gives records to a sink as the engine does; the letters of its rejected rows are lost.
async fn give(sink: &mut dyn Sink, from: usize, events: &[Event], dead: &[Rejection]) -> Vec<u32> {
    sink.stems_from(&records(from, events), dead);
    let gone: Vec<u32> = dead.iter().map(|dead| dead.source_row).collect();
    let rows = batch(events).without(&gone).unwrap();
    let receipt = sink.write(&rows).await.unwrap();
    receipt.durable.await.unwrap();
    receipt.rejected.iter().map(|(row, _)| rows.origin.of(*row as usize)).collect()
}

fn events(fates: &[Fate]) -> Vec<Event> {
    let events = fates.iter().zip(1..);
    events.map(|(fate, seq)| Event::new("k".into(), seq, *fate)).collect()
}

async fn opened(world: &World) -> Arc<PgTable> {
    let schema = batch(&[]).rows.schema();
    let options = once(world, Operation::Insert);
    PgTable::open(world.server.clone(), options, &schema).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_a_crash_lost_is_written_again() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let table = opened(&world).await;
    use Fate::{Dead, Out};
    let all = events(&[Out, Dead, Out, Out]);
    let dead = Rejection { source_row: 2, kind: "timeout", reason: "no answer".into() };
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    // The server refuses 1, and a step before has refused 2.
    assert_eq!(give(&mut *sink, 0, &all, &[dead]).await, [1]);
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["4"]);

    // A crash before anything was committed. Now the step finds what it did not find then.
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    assert_eq!(give(&mut *sink, 0, &all, &[]).await, [1, 2, 2]);
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["4"]);

    // Cut into other batches it is the same; and what comes after is stored.
    let mut more = all.clone();
    more.extend(events(&[Out, Out]));
    let mut sink = table.sink();
    sink.begin(&beginning(1));
    assert_eq!(give(&mut *sink, 1, &more[1..3], &[]).await, [0, 1, 1]);
    assert_eq!(give(&mut *sink, 3, &more[3..], &[]).await, Vec::<u32>::new());
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["8"]);

    // What is committed is forgotten.
    let mut sink = table.sink();
    sink.begin(&beginning(6));
    give(&mut *sink, 6, &events(&[Out]), &[]).await;
    assert_eq!(world.rows("SELECT count(*) FROM S.millstream_refused").await, ["0"]);
    let position =
        "SELECT pipeline, sink, source, partition, \"offset\" FROM S.millstream_positions";
    assert_eq!(world.rows(position).await, ["p'1 s topic 3 7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_not_durable_is_known_after_the_connection_broke() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let table = opened(&world).await;
    let all = events(&[Fate::Out, Fate::Dead, Fate::Out, Fate::Out]);
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    assert_eq!(give(&mut *sink, 0, &all[..2], &[]).await, [1]);
    world.cut().await;
    sink.stems_from(&records(2, &all[2..]), &[]);
    let rows = batch(&all[2..]);
    if let Err(error) = sink.write(&rows).await {
        assert_eq!(error.disposition(), Disposition::Retry);
        sink.write(&rows).await.unwrap().durable.await.unwrap();
    }
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    assert_eq!(give(&mut *sink, 0, &all, &[]).await, [1]);
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_source_of_the_same_name_begins_anew() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let table = opened(&world).await;
    let all = events(&[Fate::Out, Fate::Out]);
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    give(&mut *sink, 0, &all, &[]).await;
    let mut sink = table.sink();
    sink.begin(&Beginning { identity: "made again".into(), ..beginning(0) });
    give(&mut *sink, 0, &all, &[]).await;
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["8"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_write_a_partition_each_row_is_there_once() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let (one, other) = (opened(&world).await, opened(&world).await);
    let all = events(&[Fate::Out; 6]);
    let (mut one, mut other) = (one.sink(), other.sink());
    one.begin(&beginning(0));
    other.begin(&beginning(0));
    give(&mut *one, 0, &all[..2], &[]).await;
    give(&mut *other, 0, &all[..4], &[]).await;
    // It does not know yet that the other went on.
    one.stems_from(&records(2, &all[2..6]), &[]);
    let rows = batch(&all[2..6]);
    let error = one.write(&rows).await.err().unwrap();
    assert_eq!((error.kind(), error.disposition()), ("moved", Disposition::Retry));
    one.write(&rows).await.unwrap().durable.await.unwrap();
    assert_eq!(world.rows("SELECT count(*), count(DISTINCT id) FROM S.t").await, ["12 12"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_under_way_is_waited_for() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let table = opened(&world).await;
    let all = events(&[Fate::Out; 4]);
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    give(&mut *sink, 0, &all[..2], &[]).await;
    // Somebody's transaction has moved the position, and is not over.
    world.sql("BEGIN; UPDATE S.millstream_positions SET \"offset\" = 4").await;
    let mut successor = table.sink();
    successor.begin(&beginning(2));
    let rest = all[2..].to_vec();
    let waiting = tokio::spawn(async move { give(&mut *successor, 2, &rest, &[]).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    world.sql("COMMIT").await;
    waiting.await.unwrap();
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["4"], "the other stored the rest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_what_it_confirmed_is_told() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let table = opened(&world).await;
    let all = events(&[Fate::Out; 6]);
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    give(&mut *sink, 0, &all[..2], &[]).await;
    give(&mut *sink, 2, &all[2..4], &[]).await;
    world.sql("UPDATE S.millstream_positions SET \"offset\" = 2").await;
    sink.stems_from(&records(4, &all[4..]), &[]);
    let rows = batch(&all[4..]);
    assert_eq!(sink.write(&rows).await.err().unwrap().kind(), "moved");
    let error = sink.write(&rows).await.err().unwrap();
    assert_eq!(error.disposition(), Disposition::Stop);
    assert!(error.chain().contains("was stored up to 4 and the server has it up to 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_that_were_dropped_are_made_again() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let table = opened(&world).await;
    let all = events(&[Fate::Out; 4]);
    let drop = "DROP TABLE S.millstream_positions, S.millstream_refused";
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    give(&mut *sink, 0, &all[..2], &[]).await;
    world.sql(drop).await;
    sink.stems_from(&records(2, &all[2..3]), &[]);
    let rows = batch(&all[2..3]);
    let error = sink.write(&rows).await.err().unwrap();
    assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());
    sink.write(&rows).await.unwrap().durable.await.unwrap();
    world.sql(drop).await;
    let mut sink = table.sink();
    sink.begin(&beginning(3));
    give(&mut *sink, 3, &all[3..], &[]).await;
    assert_eq!(world.rows("SELECT \"offset\" FROM S.millstream_positions").await, ["4"]);
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["8"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_sends_again_keeps_no_position() {
    let Some(world) = world().await else { return };
    world.sql(TABLE).await;
    let table = opened(&world).await;
    let all = events(&[Fate::Out; 2]);
    let mut sink = table.sink();
    sink.begin(&beginning(0));
    give(&mut *sink, 0, &all, &[]).await;
    // A dead letter from below the position.
    let mut again = table.sink();
    again.write(&batch(&all[..1])).await.unwrap().durable.await.unwrap();
    assert_eq!(world.rows("SELECT count(*) FROM S.t").await, ["6"]);
}
