//! What is measured against real stores: look-ups, sinks, the production pipeline, and its latency
//! behind a store whose answers are slow.
//!
//! The client and the server share the machine: what counts is the client's CPU, of a process of its
//! own. Rows a second are those of both together.

mod cassandra;
mod lookup;
mod mongo;
mod pipeline;
mod plot;
mod postgres;
mod sink;
mod tail;

use crate::job::{Job, Measured};
use crate::python::Peers;
use crate::report::{Row, Target, cpu_ratio, rate_ratio};
use crate::services::Kafka;
use crate::suites::{Setup, Suite};
use anyhow::Result;
use cassandra::{Cassandra, KEYSPACE};
use mongo::Mongo;
use postgres::Postgres;
use serde::{Deserialize, Serialize};

pub const STORE_SUITES: [(&str, Suite); 5] = [
    ("cql_lookup", lookups),
    ("cql_sink", sinks),
    ("cql_pipeline", production),
    ("cql_tail", tail::suite),
    ("postgres_sink", postgres_sink),
];

const ROUNDS: usize = 3;
/// A store has a tenth of the messages that a topic has: it takes ten times as long.
const SHARE: u64 = 10;
const PEAK_RSS_MB: f64 = 300.0;

/// What a process of its own does. It finds the store in its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    LookUp,
    /// One SELECT a key on the driver by itself.
    Select,
    Write,
    /// The same rows on the driver by itself.
    Insert,
    /// Rows into PostgreSQL.
    Copy,
    Pipeline,
    /// What of it is on Cassandra.
    OnCassandra,
    /// That part, which also tells how long it took between polls and checks the order of its writes.
    Polls,
}

pub fn run(work: Work, count: u64) -> Result<Measured> {
    match work {
        Work::LookUp => lookup::own(count),
        Work::Select => lookup::bare(count),
        Work::Write => sink::own(count),
        Work::Insert => sink::bare(count),
        Work::Copy => postgres::own(count),
        Work::Pipeline => pipeline::whole(count),
        Work::OnCassandra => pipeline::on_cassandra(count),
        Work::Polls => tail::run(count),
    }
}

fn lookups(setup: &Setup) -> Result<Vec<Row>> {
    let store = Cassandra::fresh()?;
    store.load_users()?;
    let keys = setup.messages / SHARE;
    let (own, bare) =
        in_turns(Work::LookUp, Work::Select, rate_ratio, |work| store.measure(work, keys, &[]))?;
    let number = own.cpu_us_per_message();
    let name = format!("{}, client µs a key", own.name);
    let mut rows = vec![
        Row::number(&own, &name, number).target(Target::AtMost(3.0)),
        Row {
            name: format!("{}, keys/s", own.name),
            ..Row::against(&own, &bare, rate_ratio(&own, &bare))
        }
        .target(Target::AtLeast(2.0)),
    ];
    if let Some(peers) = setup.store_peers()? {
        let python = peers.store("cql_lookup.py", &store.arguments(keys / SHARE))?;
        let faster = Row::against(&own, &python, cpu_ratio(&python, &own)).times_faster();
        rows.extend([faster.target(Target::AtLeast(8.0)), Row::plain(&python)]);
    }
    rows.push(Row::plain(&bare));
    store.flush_users()?;
    let (mut own, mut bare) =
        in_turns(Work::LookUp, Work::Select, rate_ratio, |work| store.measure(work, keys, &[]))?;
    for measured in [&mut own, &mut bare] {
        measured.name += ", on disk";
    }
    rows.push(Row::against(&own, &bare, rate_ratio(&own, &bare)));
    rows.push(Row::plain(&bare));
    Ok(rows)
}

/// Two works on one server in turns. Each round has one of them first and last, the other twice in
/// between, so that neither has more of what the other leaves; of the rounds the one with the middle ratio
/// counts, as what else the machine does comes and goes. Three turns of each that do not count come
/// before: a server that was just started becomes twice as fast while it is asked, by whomever.
fn in_turns(
    own: Work,
    bare: Work,
    ratio: fn(&Measured, &Measured) -> f64,
    mut measure: impl FnMut(Work) -> Result<Measured>,
) -> Result<(Measured, Measured)> {
    for _ in 0..3 {
        measure(bare)?;
        measure(own)?;
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let [bare_1, own_1] = [measure(bare)?, measure(own)?];
        let [own_2, bare_2] = [measure(own)?, measure(bare)?];
        rounds.push((mean([own_1, own_2]), mean([bare_1, bare_2])));
    }
    rounds.sort_by(|one, other| ratio(&one.0, &one.1).total_cmp(&ratio(&other.0, &other.1)));
    let told: Vec<_> = rounds
        .iter()
        .map(|(own, bare)| {
            let (own_us, bare_us) = (own.cpu_us_per_message(), bare.cpu_us_per_message());
            format!("{:.2} ({own_us:.2} µs to {bare_us:.2})", ratio(own, bare))
        })
        .collect();
    println!("{}, by rounds: {}", rounds[ROUNDS / 2].0.name, told.join(", "));
    Ok(rounds.swap_remove(ROUNDS / 2))
}

fn sinks(setup: &Setup) -> Result<Vec<Row>> {
    let store = Cassandra::up()?;
    let count = setup.messages / SHARE;
    let (own, bare) = in_turns(Work::Write, Work::Insert, cpu_ratio, |work| {
        store.empty_pages()?;
        let measured = store.measure(work, count, &[])?;
        store.has_pages(count)?;
        Ok(measured)
    })?;
    let mut rows =
        vec![Row::against(&own, &bare, cpu_ratio(&own, &bare)).target(Target::AtMost(1.2))];
    if let Some(peers) = setup.store_peers()? {
        store.empty_pages()?;
        let python = peers.store("cql_sink.py", &store.arguments(count / SHARE))?;
        store.has_pages(count / SHARE)?;
        let faster = Row::against(&own, &python, cpu_ratio(&python, &own)).times_faster();
        rows.extend([faster.target(Target::AtLeast(6.0)), Row::plain(&python)]);
    }
    rows.push(Row::plain(&bare));
    Ok(rows)
}

fn postgres_sink(setup: &Setup) -> Result<Vec<Row>> {
    let store = Postgres::up()?;
    let count = setup.messages / SHARE;
    store.empty()?;
    let own = store.measure(count)?;
    store.has(count)?;
    let mut rows = Vec::new();
    if let Some(peers) = setup.store_peers()? {
        store.empty()?;
        let few = count / SHARE;
        let python = peers.store("postgres_sink.py", &store.arguments(few))?;
        store.has(few)?;
        let rate = Row::against(&own, &python, rate_ratio(&own, &python));
        let rate = Row { name: format!("{}, rows/s", own.name), ..rate };
        rows.push(rate.target(Target::AtLeast(3.0)));
        rows.push(Row::against(&own, &python, cpu_ratio(&python, &own)).times_faster());
        rows.push(Row::plain(&python));
    } else {
        rows.push(Row::plain(&own));
    }
    Ok(rows)
}

fn production(setup: &Setup) -> Result<Vec<Row>> {
    let (store, kafka, mongo) = (Cassandra::up()?, Kafka::up()?, Mongo::up()?);
    store.load_sites()?;
    mongo.load_owners()?;
    let messages = setup.messages / 4;
    let (source, target) = (fill(&kafka, messages)?, kafka.topic("enriched")?);
    let run = |behind: &[&str], work| {
        store.empty_pages()?;
        let mut env = environment(&kafka, &source);
        env.extend([("BENCH_MONGODB", mongo.host.clone()), ("BENCH_TARGET", target.clone())]);
        store.measure_behind(behind, work, messages, &env)
    };
    let own = run(&[], Work::Pipeline)?;
    let mut one_core = run(&["taskset", "-c", "0"], Work::Pipeline)?;
    one_core.name += ", one core";
    let on_cassandra = run(&[], Work::OnCassandra)?;
    let per_core = |own: &Measured| own.messages as f64 / own.cpu_seconds;
    let hits = own.extra.get("hits").copied().unwrap_or(f64::NAN);
    let named = |own: &Measured| format!("{}, messages/s a core of ours", own.name);
    let mut rows = vec![
        Row::number(&own, &named(&own), per_core(&own)).target(Target::AtLeast(100_000.0)),
        Row::number(&one_core, &named(&one_core), per_core(&one_core)),
        Row::number(&own, "part of the keys that the caches have", hits)
            .target(Target::Between(0.93, 0.97)),
    ];
    if let Some(peers) = setup.store_peers()? {
        store.empty_pages()?;
        let few = messages / SHARE;
        let group = format!("python-{source}");
        let (from, to) = ([kafka.brokers.clone(), source.clone(), group], target.clone());
        let arguments = [&store.arguments(few)[..], &from, &[to, mongo.host.clone()]].concat();
        let python = peers.store("production.py", &arguments)?;
        let faster = Row::against(&own, &python, cpu_ratio(&python, &own)).times_faster();
        rows.extend([faster.target(Target::AtLeast(10.0)), Row::plain(&python)]);
    }
    rows.push(Row::peak_rss(&[&own, &one_core]).target(Target::AtMost(PEAK_RSS_MB)));
    rows.push(Row::number(&on_cassandra, &named(&on_cassandra), per_core(&on_cassandra)));
    kafka.delete(&source)?;
    kafka.delete(&target)?;
    Ok(rows)
}

/// Of several runs: what the machine does beside them changes.
fn mean<const RUNS: usize>(runs: [Measured; RUNS]) -> Measured {
    let of = |value: &dyn Fn(&Measured) -> f64| runs.iter().map(value).sum::<f64>() / RUNS as f64;
    let mut mean = runs[0].clone();
    mean.wall_seconds = of(&|run| run.wall_seconds);
    mean.cpu_seconds = of(&|run| run.cpu_seconds);
    mean.peak_rss_mb = of(&|run| run.peak_rss_mb);
    for (name, value) in &mut mean.extra {
        *value = of(&|run| run.extra.get(name).copied().unwrap_or(*value));
    }
    mean
}

/// A topic with so many records.
fn fill(kafka: &Kafka, messages: u64) -> Result<String> {
    let topic = kafka.topic("production")?;
    let brokers = kafka.brokers.clone();
    Job::KafkaProduce { brokers, topic: topic.clone(), messages }.measure()?;
    Ok(topic)
}

/// What the pipelines' files read beside the stores.
fn environment(kafka: &Kafka, source: &str) -> Vec<(&'static str, String)> {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    vec![
        ("BENCH_BROKERS", kafka.brokers.clone()),
        ("BENCH_SOURCE", source.to_owned()),
        ("BENCH_GROUP", format!("stores-{since}")),
        ("BENCH_KEYSPACE", KEYSPACE.to_owned()),
    ]
}

impl Setup {
    fn store_peers(&self) -> Result<Option<Peers>> {
        self.python.then(Peers::for_stores).transpose()
    }
}
