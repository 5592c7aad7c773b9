//! The process that runs pipelines: everything opened, started and ended in one order, for `run`
//! and for the demo.

use crate::commands::kafka::Kafka;
use crate::failure::{self, Result, Said};
use crate::told;
use anyhow::Context;
use millstream_broker::Broker;
use millstream_config::{Mistake, Mistakes, Pipeline};
use millstream_connectors::{Home, HomeOptions};
use millstream_console::{Client, Collectors, Http, HttpOptions, Request, SOCKET, Service, Socket};
use millstream_engine::{Catalog, Committer, Engine, Metrics, Plan};
use millstream_host::{DRAIN_DEADLINE, Runtimes, Shutdown, Threads};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// How often old records and rows that nobody sees are removed.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How long to wait before a cluster or a registry that is away is asked again: at first, and at most.
const AWAY_PAUSE: Duration = Duration::from_millis(250);
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A start that takes longer answers those who ask how it does.
const OPENING_LONG: Duration = Duration::from_secs(1);
/// How long a start waits for a command that reads or writes a stopped directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

pub struct Options {
    pub data: PathBuf,
    pub threads: Threads,
    /// None: no HTTP.
    pub http: Option<HttpOptions>,
    /// None: no Kafka clients.
    pub kafka: Option<Kafka>,
    /// Who tells others of errors.
    pub sentry: Option<millstream_sentry::Handle>,
    /// A cluster or a registry that is away at the start is waited for.
    pub waits: bool,
}

/// A running process. It must be ended by [`Process::end`].
pub struct Process {
    pub home: Home,
    pub engine: Engine,
    pub committer: Committer,
    pub service: Service,
    pub shutdown: Shutdown,
    /// Where HTTP is answered.
    pub address: Option<SocketAddr>,
    pub registry_address: Option<SocketAddr>,
    pub kafka_address: Option<SocketAddr>,
    runtimes: Runtimes,
    console: CancellationToken,
}

impl Process {
    /// Opens the directory, checks the files against it and starts them. Nothing is left running
    /// after an error.
    pub fn start(options: Options, files: &[Pipeline]) -> Result<Self> {
        let runtimes = Runtimes::start(options.threads).context("cannot start threads")?;
        match Self::start_on(&runtimes, options, files) {
            Ok(start) => Ok(start(runtimes)),
            Err(error) => {
                runtimes.stop(Duration::from_secs(1));
                Err(error)
            }
        }
    }

    fn start_on(
        runtimes: &Runtimes,
        options: Options,
        files: &[Pipeline],
    ) -> Result<impl FnOnce(Runtimes) -> Process + use<>> {
        let shutdown = Shutdown::on_signals(runtimes.io()).context("cannot watch signals")?;
        millstream_console::check_directory(&options.data)?;
        runtimes.console().block_on(refuse_second(&options))?;
        // A port in use is found before anything is opened.
        let http = match &options.http {
            Some(options) => Some(runtimes.console().block_on(Http::bind(options))?),
            None => None,
        };
        let kafka = match &options.kafka {
            Some(kafka) => Some(runtimes.clients().block_on(kafka.listen())?),
            None => None,
        };
        let address = http.as_ref().and_then(Http::address);
        let registry_address = http.as_ref().and_then(Http::registry_address);
        let home = open_home(runtimes, &options, &shutdown)?;
        if let Some(cut) = home.tables.report().journal_cut {
            tracing::warn!("{cut}");
        }
        for (topic, partition, error) in home.log.refused() {
            tracing::error!(topic = &*topic, partition, "{error}");
        }
        let broker = match (kafka, options.kafka) {
            (Some(listener), Some(kafka)) => {
                let _inside = runtimes.clients().enter();
                Some(kafka.open(listener, home.log.clone())?)
            }
            _ => None,
        };
        let kafka_address = broker.as_ref().and_then(Broker::address);
        let socket = {
            let _inside = runtimes.console().enter();
            Socket::bind(&options.data)?
        };

        let metrics = Metrics::new();
        let interval = files.iter().map(|file| file.spec.commit_interval.0).min();
        let interval = interval.unwrap_or(Duration::from_millis(100));
        let (committer, committing) = Committer::new(home.clone(), interval, runtimes.io().clone());
        runtimes.io().spawn(committing);
        let engine = Engine::new(runtimes.pipelines().clone());
        let service = Service::running(home.clone(), engine.clone(), address);
        if let Some(sentry) = &options.sentry {
            sentry.export(metrics.registry())?;
            sentry.watch(told::look(metrics.clone(), engine.clone()));
        }
        if let Some(broker) = &broker {
            let service = service.clone();
            broker.keep_used(move |topic| {
                Some(format!("the pipeline `{}`", service.pipeline_using(topic)?))
            });
        }
        let console = CancellationToken::new();
        // Who asks is answered once the pipelines are there, or while they are waited for.
        let mut served = Some(|| {
            runtimes.console().spawn(socket.serve(service.clone(), console.clone()));
            if let Some(http) = http {
                let meter = broker.as_ref().map(Broker::meter);
                let collectors = Collectors::new(home.clone(), metrics.registry().clone(), meter);
                runtimes.console().spawn(http.serve(
                    collectors,
                    engine.clone(),
                    home.registry.clone(),
                    console.clone(),
                ));
            }
            if let Some(broker) = broker {
                runtimes.clients().spawn(broker.serve(console.clone()));
            }
        });
        let pipelines = runtimes.pipelines().block_on(async {
            let tell = |reason: String| {
                engine.awaits(Some(reason));
                if let Some(serve) = served.take() {
                    serve();
                }
            };
            let mut patience = Patience::new(&shutdown, options.waits.then_some(tell));
            loop {
                let plans = plan(files, &home, &mut patience).await?;
                let opening = open(plans, files, &home, &committer, &metrics);
                let says_so = async {
                    tokio::time::sleep(OPENING_LONG).await;
                    patience
                        .tell("no pipeline is started yet: what they name is being opened".into());
                    std::future::pending::<Infallible>().await
                };
                let opened = tokio::select! {
                    opened = opening => opened,
                    () = shutdown.wait() => return Err(nothing_begun()),
                    never = says_so => match never {},
                };
                match opened {
                    Ok(pipelines) => return Ok(pipelines),
                    // What was there a moment ago has gone.
                    Err(error) if patience.is_there() && millstream_engine::may_pass(&error) => {
                        patience.wait(failure::sentence(&error)).await?;
                    }
                    Err(error) => return Err(error),
                }
            }
        })?;
        for pipeline in pipelines {
            tracing::info!(
                pipeline = &*pipeline.name,
                source = pipeline.source.name(),
                partitions = pipeline.source.partitions(),
                "started"
            );
            engine.start(pipeline);
        }
        engine.awaits(None);
        if let Some(serve) = served.take() {
            serve();
        }
        runtimes.io().spawn(keep_house(home.clone(), console.clone()));
        Ok(move |runtimes| Process {
            home,
            engine,
            committer,
            service,
            shutdown,
            address,
            registry_address,
            kafka_address,
            runtimes,
            console,
        })
    }

    /// Tells the log where it listens.
    pub fn say_where(&self) {
        if let Some(address) = self.address {
            tracing::info!(
                metrics = format!("http://{address}/metrics"),
                registry = format!("http://{address}/registry"),
                "listening"
            );
        }
        if let Some(address) = self.registry_address {
            tracing::info!(registry = format!("http://{address}"), "listening");
        }
        if let Some(address) = self.kafka_address {
            tracing::info!(kafka = %address, "listening");
        }
    }

    /// Runs a future to its end on the console's threads, where it holds up no pipeline.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtimes.console().block_on(future)
    }

    /// Finishes and commits what is in flight, at most for the drain deadline, and closes
    /// everything. False when something was still in flight.
    pub fn end(self) -> bool {
        let drained = self.runtimes.io().block_on(self.engine.drain(DRAIN_DEADLINE));
        self.console.cancel();
        if let Err(error) = self.home.tables.write_out() {
            tracing::warn!(%error, "the tables could not be persisted at the end");
        }
        self.home.log.close();
        self.runtimes.stop(Duration::from_secs(2));
        drained
    }
}

/// A start that goes on trying while what its files name is away.
struct Patience<'a, T> {
    shutdown: &'a Shutdown,
    /// Who is told why. Nobody: what is away ends the start.
    tell: Option<T>,
    pause: Duration,
    said: String,
}

impl<'a, T: FnMut(String)> Patience<'a, T> {
    fn new(shutdown: &'a Shutdown, tell: Option<T>) -> Self {
        Self { shutdown, tell, pause: AWAY_PAUSE, said: String::new() }
    }

    fn is_there(&self) -> bool {
        self.tell.is_some()
    }

    fn tell(&mut self, reason: String) {
        if let Some(tell) = &mut self.tell {
            tell(reason);
        }
    }

    /// Says why, once while it lasts, and waits a moment.
    async fn wait(&mut self, why: String) -> Result<()> {
        let reason = format!("no pipeline is started yet: {why}");
        if self.said != reason {
            tracing::warn!("waiting: {reason}");
            self.said.clone_from(&reason);
        }
        self.tell(reason);
        tokio::select! {
            () = tokio::time::sleep(self.pause) => {}
            () = self.shutdown.wait() => return Err(nothing_begun()),
        }
        self.pause = (self.pause * 2).min(AWAY_PAUSE_MAX);
        Ok(())
    }
}

/// Checks the files against what there is. With patience it goes on trying while nothing is wrong
/// with them but that a cluster or a registry which they name cannot be asked.
async fn plan(
    files: &[Pipeline],
    home: &Home,
    patience: &mut Patience<'_, impl FnMut(String)>,
) -> Result<Vec<Plan>> {
    let bound = |file| millstream_engine::check_bound(file, home);
    let bound: Vec<Mistake> = files.iter().filter_map(bound).collect();
    loop {
        let mut catalog = Catalog::new(home.clone());
        let planned = tokio::select! {
            planned = millstream_engine::plan_all(files, &mut catalog) => planned,
            () = patience.shutdown.wait() => return Err(nothing_begun()),
        };
        let mistakes = match planned {
            Ok(plans) if bound.is_empty() => return Ok(plans),
            Ok(_) => return Err(Mistakes(bound).into()),
            Err(found) => Mistakes([bound.clone(), found.0].concat()),
        };
        if !patience.is_there() || !mistakes.are_failures() {
            return Err(mistakes.into());
        }
        let mut reasons: Vec<String> = Vec::new();
        for mistake in mistakes.0 {
            if !reasons.contains(&mistake.message) {
                reasons.push(mistake.message);
            }
        }
        patience.wait(reasons.join("; ")).await?;
    }
}

async fn open(
    plans: Vec<Plan>,
    files: &[Pipeline],
    home: &Home,
    committer: &Committer,
    metrics: &Metrics,
) -> Result<Vec<millstream_engine::Pipeline>> {
    let mut pipelines = Vec::new();
    for plan in plans {
        let name = plan.spec.pipeline.clone();
        let file = files.iter().find(|file| file.spec.pipeline == name);
        let file = file.with_context(|| format!("the plan of {name} has no file"))?;
        let opened = millstream_engine::open(plan, file, home, committer.clone(), metrics).await;
        pipelines.push(opened.with_context(|| format!("opening pipeline {name}"))?);
    }
    Ok(pipelines)
}

/// It was asked to end before any row was read.
fn nothing_begun() -> anyhow::Error {
    tracing::info!("ended: nothing was begun");
    Said(0).into()
}

/// Opens the data directory, also when a short command has it for a moment.
fn open_home(runtimes: &Runtimes, options: &Options, shutdown: &Shutdown) -> Result<Home> {
    let data = &options.data;
    let since = Instant::now();
    let mut is_said = false;
    loop {
        let error = match Home::open(data, HomeOptions::default()) {
            Ok(home) => return Ok(home),
            Err(error) => error,
        };
        if !millstream_console::is_locked(&error) {
            return Err(millstream_console::opening(data, error).into());
        }
        let who = match millstream_console::holder(data) {
            Some(pid) => format!("the process {pid}"),
            None => "another process".into(),
        };
        if since.elapsed() >= LOCK_PATIENCE || shutdown.begun() {
            // One that has come up meanwhile says more.
            runtimes.console().block_on(refuse_second(options))?;
            return Err(failure::Mistake::new(format!(
                "{who} has {} open and did not let go of it: wait for it or end it, then start \
                 again, or choose another --data",
                data.display()
            )));
        }
        if !std::mem::replace(&mut is_said, true) {
            tracing::info!("waiting for {who}, which has {} open", data.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A better sentence than that a lock is held.
async fn refuse_second(options: &Options) -> Result<()> {
    if !options.data.join(SOCKET).exists() {
        return Ok(());
    }
    let Ok(mut client) = Client::connect(&options.data).await else { return Ok(()) };
    let process: millstream_console::answers::Process = client.end(&Request::Process).await?;
    Err(failure::Mistake::new(format!(
        "the process {} runs on {} already, with {}: stop it first, or choose another --data",
        process.pid,
        options.data.display(),
        match process.pipelines.as_slice() {
            [] => "no pipeline".into(),
            names => names.join(", "),
        }
    )))
}

/// Retention of topics, and rows of tables that nobody sees any more.
async fn keep_house(home: Home, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(housekeeping_interval());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let home = home.clone();
        let swept = tokio::task::spawn_blocking(move || clean(&home)).await;
        if let Err(error) = swept {
            tracing::error!(%error, "cleaning up failed");
        }
    }
}

/// Tests cannot wait for a minute: a debug build takes another interval from its environment.
fn housekeeping_interval() -> Duration {
    let shorter = std::env::var("MILLSTREAM_HOUSEKEEPING_MS").ok().and_then(|ms| ms.parse().ok());
    match shorter {
        Some(ms) if cfg!(debug_assertions) => Duration::from_millis(ms),
        _ => HOUSEKEEPING,
    }
}

fn clean(home: &Home) {
    // Pipelines that have committed here and do not run now keep their records too.
    let offsets = home.tables.offsets();
    for name in offsets.pipelines() {
        let Some(known) = offsets.get(&name) else { continue };
        let Some(id) = known.source.id.strip_prefix("topic:") else { continue };
        let topics = home.log.topics();
        let Some(topic) = topics.iter().find(|topic| topic.id().to_string() == id) else {
            continue;
        };
        for (partition, offset) in &known.offsets {
            if let Err(error) = home.log.set_low_commit(topic.name(), *partition, &name, *offset) {
                tracing::error!(pipeline = name, %error, "its offsets cannot be honoured");
                return;
            }
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    match home.log.enforce_retention(now) {
        Ok(removed) => {
            for removed in removed {
                tracing::info!(?removed, "removed what retention no longer keeps");
            }
        }
        Err(error) => tracing::warn!(%error, "retention could not be enforced"),
    }
    for table in home.tables.tables() {
        if table.spec().ttl.is_none() {
            continue;
        }
        if let Err(error) = table.sweep() {
            tracing::warn!(table = table.name(), %error, "expired rows could not be removed");
        }
    }
}
