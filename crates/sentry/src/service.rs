//! The thread that gathers and sends: one task looks, one sends, a queue between them.

use crate::digest::{Count, Digest, Kind, Tally};
use crate::dsn::Dsn;
use crate::event::{Event, Level, Sender, clean_path};
use crate::limits::Limits;
use crate::transport;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts, Registry};
use std::io;
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often counters are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long one event may take.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// How long the end waits for what is still to be sent.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// Notes that wait to be looked at, and events that wait to be sent.
const QUEUE: usize = 64;
/// Panics of pipelines whose counter has not been seen yet.
const PANICS_MAX: usize = 16;

/// The word of the kind that counts a pipeline's panics.
const PANIC: &str = "panic";
/// What the threads are called that run the tasks of pipelines.
const PIPELINES: &str = "pipelines";

pub struct Options {
    pub dsn: Dsn,
    pub environment: String,
    /// What runs, as `NAME@VERSION`.
    pub release: String,
}

/// The service. Dropped, it sends what is left, for at most two seconds.
pub struct Sentry {
    handle: Handle,
    stop: CancellationToken,
    ended: Mutex<blocking::Receiver<()>>,
}

/// What tells the service something; nothing waits for it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    notes: mpsc::Sender<Note>,
    events: IntCounterVec,
}

type Look = Box<dyn FnMut() -> Vec<Tally> + Send>;

pub(crate) enum Note {
    Look(Look),
    Tally(Tally),
    Line { target: &'static str, at: String },
    Panic { thread: String, at: String },
}

struct Gatherer {
    digest: Digest,
    look: Option<Look>,
    queue: mpsc::Sender<Event>,
    events: IntCounterVec,
    /// Of pipelines' threads, and whether they have waited for their counter.
    panics: Vec<String>,
    waited: bool,
}

impl Sentry {
    pub fn start(options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .thread_name("sentry")
            .build()?;
        let (notes, noted) = mpsc::channel(QUEUE);
        let (ended, end) = blocking::channel();
        let stop = CancellationToken::new();
        let handle = Handle { notes, events: counters() };
        let events = handle.events.clone();
        let stopped = stop.clone();
        std::thread::Builder::new().name("sentry".into()).spawn(move || {
            runtime.block_on(work(options, noted, events, stopped));
            // A name that is still being resolved is not waited for.
            runtime.shutdown_background();
            let _ = ended.send(());
        })?;
        Ok(Self { handle, stop, ended: Mutex::new(end) })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.ended.lock().recv_timeout(FLUSH_WITHIN + Duration::from_millis(500));
    }
}

impl Handle {
    /// What is looked at every second. It replaces what was looked at before.
    pub fn watch(&self, look: impl FnMut() -> Vec<Tally> + Send + 'static) {
        self.note(Note::Look(Box::new(look)));
    }

    pub fn tell(&self, tally: Tally) {
        self.note(Note::Tally(tally));
    }

    /// Exports what became of the events.
    pub fn export(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.events.clone()))
    }

    pub(crate) fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            count(&self.events, "queue_full");
        }
    }
}

async fn work(
    options: Options,
    mut noted: mpsc::Receiver<Note>,
    events: IntCounterVec,
    stop: CancellationToken,
) {
    let (queue, queued) = mpsc::channel(QUEUE);
    let mut sending = tokio::spawn(send(options, queued, events.clone()));
    let mut gatherer = Gatherer {
        digest: Digest::default(),
        look: None,
        queue,
        events,
        panics: Vec::new(),
        waited: false,
    };
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => gatherer.look(),
            note = noted.recv() => match note {
                Some(note) => gatherer.note(note),
                None => break,
            },
        }
    }
    while let Ok(note) = noted.try_recv() {
        gatherer.note(note);
    }
    // The second time panics do not wait for a counter any more.
    gatherer.look();
    gatherer.look();
    drop(gatherer);
    if tokio::time::timeout(FLUSH_WITHIN, &mut sending).await.is_err() {
        sending.abort();
    }
}

impl Gatherer {
    fn note(&mut self, note: Note) {
        match note {
            Note::Look(look) => self.look = Some(look),
            Note::Tally(tally) => self.once(tally, None),
            Note::Line { target, at } => {
                // The place tells two lines of a module apart.
                let kind = Kind::of_process(target, &clean_path(&at));
                let says = "an error in the process's log";
                let tally = Tally { kind, level: Level::Error, says, count: Count::Once };
                self.once(tally, Some(&at));
            }
            // Its counter grows after this, and knows the pipeline.
            Note::Panic { thread, at } if thread == PIPELINES && self.look.is_some() => {
                if self.panics.len() < PANICS_MAX {
                    self.panics.push(at);
                }
            }
            Note::Panic { thread, at } => self.panic(&thread, &at),
        }
    }

    fn look(&mut self) {
        let tallies = self.look.as_mut().map_or_else(Vec::new, |look| look());
        let is_panic = |tally: &&Tally| tally.kind.word == PANIC && self.digest.is_news(tally);
        let panicked: Vec<Kind> = tallies.iter().filter(is_panic).map(|t| t.kind.clone()).collect();
        self.digest.add(tallies);
        if !panicked.is_empty() {
            let places = std::mem::take(&mut self.panics);
            for kind in &panicked {
                places.iter().for_each(|at| self.digest.place(kind, at));
            }
        }
        self.send();
        let waited = std::mem::replace(&mut self.waited, !self.panics.is_empty());
        if waited && !self.panics.is_empty() {
            // They were in no pipeline's task: nothing counts them.
            self.waited = false;
            for at in std::mem::take(&mut self.panics) {
                self.panic(PIPELINES, &at);
            }
        }
    }

    fn panic(&mut self, thread: &str, at: &str) {
        let kind = Kind::of_process(&format!("thread {thread}"), PANIC);
        let tally = Tally { kind, level: Level::Error, says: "a panic", count: Count::Once };
        self.once(tally, Some(at));
    }

    fn once(&mut self, tally: Tally, at: Option<&str>) {
        let kind = tally.kind.clone();
        self.digest.add(vec![tally]);
        if let Some(at) = at {
            self.digest.place(&kind, at);
        }
        self.send();
    }

    fn send(&mut self) {
        for event in self.digest.due(Instant::now()) {
            if self.queue.try_send(event).is_err() {
                count(&self.events, "queue_full");
            }
        }
    }
}

/// Sends until the queue is closed and empty.
async fn send(options: Options, mut queued: mpsc::Receiver<Event>, events: IntCounterVec) {
    let Options { dsn, environment, release } = options;
    let server = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
    let sender = Sender { release, environment, server };
    let mut limits = Limits::default();
    let mut fails = false;
    while let Some(event) = queued.recv().await {
        if limits.forbid(Instant::now()) {
            count(&events, "rate_limited");
            continue;
        }
        let post = transport::post(&dsn, event.envelope(&sender));
        let why = match tokio::time::timeout(SEND_WITHIN, post).await {
            Ok(Ok(answer)) => {
                let (told, after) = (answer.limits.as_deref(), answer.retry_after.as_deref());
                limits.learn(Instant::now(), answer.status, told, after);
                match answer.status {
                    200..=299 => None,
                    429 => {
                        count(&events, "rate_limited");
                        continue;
                    }
                    status => Some(format!("it answers {status}")),
                }
            }
            Ok(Err(why)) => Some(why),
            Err(_) => Some(format!("no answer within {SEND_WITHIN:?}")),
        };
        let Some(why) = why else {
            count(&events, "sent");
            if std::mem::take(&mut fails) {
                tracing::info!("{dsn} takes events again");
            }
            continue;
        };
        count(&events, "failed");
        if !std::mem::replace(&mut fails, true) {
            tracing::warn!("{dsn} does not take events, they are dropped: {why}");
        }
    }
}

fn counters() -> IntCounterVec {
    let opts = Opts::new(
        "millstream_sentry_events_total",
        "Events for Sentry: sent, or dropped because the service limits them (rate_limited), because \
         they could not be sent (failed), or because too many waited (queue_full).",
    );
    let family = IntCounterVec::new(opts, &["outcome"]).expect("the name and labels are valid");
    for outcome in ["sent", "rate_limited", "failed", "queue_full"] {
        family.with_label_values(&[outcome]);
    }
    family
}

fn count(events: &IntCounterVec, outcome: &str) {
    events.with_label_values(&[outcome]).inc();
}
