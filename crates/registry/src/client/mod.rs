//! A registry elsewhere: Confluent's REST interface behind [`millstream_core::Schemas`].
//!
//! ```text
//! by_id, by_guid ─► cache ─► one flight an id ─► attempts with backoff ─► transport ─► HTTP(S)
//! ```
//!
//! A schema never changes under its id, so that what was fetched once is kept, and a registry that
//! is down stops nobody who needs only known ids; whoever needs another is told to retry. Nothing is
//! registered unless [`Options::auto_register`] says so.

mod answer;
mod flights;
mod import;
mod manage;
mod subject;
mod transport;

pub use import::Missing;
pub use manage::Versioned;
pub use millstream_tls::TlsOptions;
pub use subject::{Part, Strategy, record_name};
pub use transport::Auth;

use crate::level::kind_word;
use answer::{Failure, Found};
use async_trait::async_trait;
use flights::Flights;
use millstream_core::{Guid, RegisteredSchema, Result, SchemaKind, Schemas};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use transport::Transport;

/// How deep references may refer, and how many schemas one may need in all.
const REFERENCES_MAX: usize = 1000;

/// How many exchanges there are at the same time: each has a connection of its own.
const AT_ONCE: usize = 16;

/// Where the registry is and how it is asked. No `Debug`: an address may have a password in it.
#[derive(Clone)]
pub struct Options {
    /// One address, or several of one cluster; the next is tried when one cannot be reached.
    /// A user and a password may be in the address: `https://user:password@host:8081`.
    pub urls: Vec<String>,
    pub auth: Auth,
    pub tls: TlsOptions,
    /// Registers the schemas of sinks. Without it a schema must be there already.
    pub auto_register: bool,
    /// How long one attempt may take, connecting and all.
    pub timeout: Duration,
    /// How often one question is asked before its answer is "not now", at least once.
    pub attempts: u32,
    /// The pause after the first attempt; doubled after each.
    pub backoff: Duration,
}

/// A handle; clones share connections' settings and what is known already.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    /// Bounds the exchanges that are under way.
    room: Semaphore,
    options: Options,
    by_id: Flights<u32>,
    by_guid: Flights<Guid>,
    /// Ids of what was registered or found.
    registered: Mutex<HashMap<Sent, u32>>,
}

/// Subject, kind and text of a schema that we have sent.
type Sent = (String, SchemaKind, Arc<str>);

impl Options {
    pub fn new(url: impl Into<String>) -> Options {
        Options {
            urls: vec![url.into()],
            auth: Auth::None,
            tls: TlsOptions::default(),
            auto_register: false,
            timeout: Duration::from_secs(10),
            attempts: 4,
            backoff: Duration::from_millis(100),
        }
    }
}

impl Client {
    /// Checks the options; connects only when there is something to ask.
    pub fn new(options: Options) -> Result<Client> {
        let transport = Transport::new(&options)?;
        let (by_id, by_guid) = (Flights::default(), Flights::default());
        let registered = Mutex::default();
        let room = Semaphore::new(AT_ONCE);
        let shared = Shared { transport, room, options, by_id, by_guid, registered };
        Ok(Client { shared: Arc::new(shared) })
    }

    /// Why a schema could not become the next version of a subject; empty when it could, also when
    /// there is no such subject. Cancel safe.
    pub async fn incompatibilities(
        &self,
        subject: &str,
        kind: SchemaKind,
        text: &str,
    ) -> Result<Vec<String>> {
        self.compare(subject, None, &schema_body(kind, text)).await
    }

    async fn compare(
        &self,
        subject: &str,
        version: Option<&str>,
        body: &Value,
    ) -> Result<Vec<String>> {
        let one = version.map(|one| ["compatibility", "subjects", subject, "versions", one]);
        let all = ["compatibility", "subjects", subject, "versions"];
        let path = one.as_ref().map_or(&all[..], |one| one);
        let newest = ["compatibility", "subjects", subject, "versions", "latest"];
        let verbose = Some("verbose=true");
        let answer = match self.ask("POST", path, verbose, Some(body)).await {
            // Not every registry compares with all the versions that the level asks for.
            Err(failure) if failure.is_no_such_path() && version.is_none() => {
                self.ask("POST", &newest, verbose, Some(body)).await
            }
            answer => answer,
        };
        match answer {
            Ok(answer) => Ok(answer::incompatibilities(&answer)),
            // Nothing to be compared with; but a version that was named must be there.
            Err(failure) if failure.is_not_found() && version.is_none() => Ok(Vec::new()),
            Err(failure) => Err(failure.to_error()),
        }
    }

    /// The id of a schema that a subject has already, as it is written or in another form of it.
    /// Cancel safe.
    pub async fn id_of(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<Option<u32>> {
        let found = self.find(subject, &schema_body(kind, text)).await;
        found.map_err(|failure| failure.to_error())
    }

    async fn ask(
        &self,
        method: &'static str,
        path: &[&str],
        query: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        self.shared.ask(method, path, query, body).await
    }

    async fn find(&self, subject: &str, body: &Value) -> Result<Option<u32>, Failure> {
        for query in [None, Some("normalize=true")] {
            match self.ask("POST", &["subjects", subject], query, Some(body)).await {
                Ok(answer) => return answer::id(&answer).map(Some),
                Err(failure) if failure.is_not_found() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Schemas for Client {
    /// Cancel safe; others who wait for the same id go on.
    async fn by_id(&self, id: u32) -> Result<Arc<RegisteredSchema>> {
        let shared = self.shared.clone();
        let fetch = async move { shared.fetch("ids", &id.to_string()).await };
        self.shared.by_id.get(id, fetch).await.map_err(|failure| failure.to_error())
    }

    /// Cancel safe; others who wait for the same GUID go on.
    async fn by_guid(&self, guid: Guid) -> Result<Arc<RegisteredSchema>> {
        let shared = self.shared.clone();
        let fetch = async move { shared.fetch("guids", &guid.to_string()).await };
        self.shared.by_guid.get(guid, fetch).await.map_err(|failure| {
            if failure.is_no_such_path() {
                let message = format!(
                    "the schema registry cannot be asked for GUIDs, and so not for {guid}; let \
                     its writers put ids before their records"
                );
                return millstream_core::Error::stop("no_guids", message).because(failure);
            }
            failure.to_error()
        })
    }

    /// Cancel safe.
    async fn latest(&self, subject: &str) -> Result<Option<Arc<RegisteredSchema>>> {
        let path = ["subjects", subject, "versions", "latest"];
        let found = match self.ask("GET", &path, None, None).await {
            Ok(answer) => Found::read(&answer),
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => Err(failure),
        };
        let found = found.map_err(|failure| failure.to_error())?;
        // The answer has the id, and the cache may have the rest.
        let id = found.id.ok_or_else(|| Failure::nonsense("no id").to_error())?;
        self.by_id(id).await.map(Some)
    }

    /// Cancelled, the schema may or may not be registered; asking again gives the same id.
    async fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u32> {
        let key = (subject.to_owned(), kind, Arc::from(text));
        if let Some(id) = self.shared.registered.lock().get(&key) {
            return Ok(*id);
        }
        let body = schema_body(kind, text);
        let found = self.find(subject, &body).await.map_err(|failure| failure.to_error())?;
        let id = match found {
            Some(id) => id,
            None if !self.shared.options.auto_register => {
                return Err(millstream_core::Error::stop(
                    "schema_not_registered",
                    format!(
                        "subject `{subject}` of the schema registry does not have this schema; \
                         register it, or let the sink do so with `auto_register: true` in \
                         `registry`"
                    ),
                ));
            }
            None => {
                let path = ["subjects", subject, "versions"];
                let answer = self.ask("POST", &path, None, Some(&body)).await;
                let id = answer.and_then(|answer| answer::id(&answer));
                id.map_err(|failure| failure.to_error())?
            }
        };
        self.shared.registered.lock().insert(key, id);
        Ok(id)
    }
}

impl Shared {
    /// Asks until there is an answer that another attempt would not change.
    async fn ask(
        &self,
        method: &'static str,
        path: &[&str],
        query: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut pause = self.options.backoff;
        let mut attempt = 1;
        loop {
            // Attempts go round the addresses, beginning with the one that answered last.
            let answer = {
                let _room = self.room.acquire().await;
                self.transport.exchange(method, path, query, &body).await
            };
            match answer.and_then(answer::read) {
                Err(failure) if failure.may_pass() && attempt < self.options.attempts => {
                    tracing::debug!(%failure, attempt, "the schema registry is asked again");
                    tokio::time::sleep(pause).await;
                    (pause, attempt) = (pause * 2, attempt + 1);
                }
                other => return other,
            }
        }
    }

    /// The schema of one of the `ids` or `guids`.
    async fn fetch(&self, by: &str, name: &str) -> Result<Arc<RegisteredSchema>, Failure> {
        let mut pause = self.options.backoff;
        let mut attempt = 1;
        let answer = loop {
            match self.ask("GET", &["schemas", by, name], None, None).await {
                // A replica of the registry may be behind the producer that has just registered it.
                Err(failure) if failure.is_not_found() && attempt < self.options.attempts => {
                    tokio::time::sleep(pause).await;
                    (pause, attempt) = (pause * 2, attempt + 1);
                }
                answer => break answer?,
            }
        };
        let found = Found::read(&answer)?;
        let references = self.references(found.references).await?;
        // An answer to an id does not repeat it; one to a GUID need not say its id, nobody asks.
        let id = name.parse().ok().or(found.id).unwrap_or(0);
        Ok(Arc::new(RegisteredSchema { id, kind: found.kind, text: found.text, references }))
    }

    /// The texts of references and of what they refer to, dependencies first, each once.
    async fn references(
        &self,
        direct: Vec<answer::Reference>,
    ) -> Result<Vec<(String, Arc<str>)>, Failure> {
        enum Step {
            Visit(answer::Reference),
            /// All that it needs is there.
            Leave(String, Arc<str>),
        }
        let mut texts: Vec<(String, Arc<str>)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut steps: Vec<Step> = direct.into_iter().rev().map(Step::Visit).collect();
        while let Some(step) = steps.pop() {
            let reference = match step {
                Step::Leave(name, text) => {
                    texts.push((name, text));
                    continue;
                }
                Step::Visit(reference) => reference,
            };
            if !seen.insert(reference.name.clone()) {
                continue;
            }
            if seen.len() > REFERENCES_MAX {
                return Err(Failure::nonsense("a schema with more than 1000 references"));
            }
            let version = reference.version.to_string();
            let path = ["subjects", &reference.subject, "versions", &version];
            // What a schema refers to counts even after it was deleted softly.
            let answer = self.ask("GET", &path, Some("deleted=true"), None).await;
            let answer = answer.map_err(|failure| failure.of_reference(&reference))?;
            let found = Found::read(&answer)?;
            steps.push(Step::Leave(reference.name, found.text));
            steps.extend(found.references.into_iter().rev().map(Step::Visit));
        }
        Ok(texts)
    }
}

fn schema_body(kind: SchemaKind, text: &str) -> Value {
    match kind {
        // Older registries know only this kind, and no word for it.
        SchemaKind::Avro => json!({"schema": text}),
        _ => json!({"schema": text, "schemaType": kind_word(kind)}),
    }
}
