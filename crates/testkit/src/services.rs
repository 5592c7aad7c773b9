//! Real Kafka, a real schema registry and real stores for tests, started by `dev/services` when they
//! are not up.
//!
//! ```no_run
//! # use millstream_testkit::services;
//! let Some(kafka) = services::kafka() else { return };
//! let topic = services::unique("orders");
//! kafka.create_topic(&topic, 3, &[]);
//! let brokers = kafka.brokers(services::Listener::Plain);
//! ```
//!
//! A service that cannot be had skips its test with a printed reason; where `CI` is set that is a
//! failure. [`kafka`] and [`registry`] are shared by all tests: what breaks something breaks it in
//! [`kafka_cluster`], which one test at a time has to itself, or behind a [`Proxy`].

mod client;
mod orders;
mod wire;

pub use client::{Client, Seen, Stored};
pub use orders::{Feeder, Right};

use crate::proxy::Proxy;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, process, thread};

/// The ways into a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Plain,
    Tls,
    /// Wants a client certificate; [`Files::client_cert`] is `User:alice`.
    MutualTls,
    /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER without a signature.
    Sasl,
    SaslTls,
}

/// Apache Kafka: one broker, or the three of the cluster.
#[derive(Debug)]
pub struct Kafka {
    settings: Settings,
    prefix: &'static str,
    /// Held while the cluster is this test's own.
    _own: Option<File>,
}

/// A Confluent-compatible registry that ends with its process. Subjects are shared by all tests:
/// give them [`unique`] names.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
}

/// Apache Cassandra: one node, or three in two racks. It wants a user, and over TLS a certificate.
#[derive(Debug)]
pub struct Cassandra {
    settings: Settings,
    prefix: &'static str,
    /// Held while the cluster is this test's own.
    own: Option<File>,
}

/// PostgreSQL. The user of [`Files`] logs in with SCRAM and may do everything.
#[derive(Debug)]
pub struct Postgres {
    settings: Settings,
    prefix: &'static str,
}

/// FerretDB, which speaks MongoDB's protocol; with TLS on a port of its own. It asks nobody who they
/// are.
#[derive(Debug)]
pub struct Mongo {
    settings: Settings,
    prefix: &'static str,
}

/// A store that is one test's own until this is dropped, to break as it likes.
#[derive(Debug)]
pub struct Own {
    unit: &'static str,
    _own: File,
}

/// Prometheus, shared with other tests: what it scrapes for one has a job of its own.
#[derive(Debug)]
pub struct Prometheus {
    settings: Settings,
}

/// What Prometheus scrapes until this is dropped.
#[derive(Debug)]
pub struct Scraped {
    targets: PathBuf,
    job: String,
}

/// Certificates and keys in PEM, and a user that may log in.
#[derive(Debug, Clone)]
pub struct Files {
    /// Signed what the services show.
    pub ca: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    /// Signed by somebody whom the services do not trust.
    pub stranger_cert: PathBuf,
    pub stranger_key: PathBuf,
    pub user: String,
    pub password: String,
}

/// Kafka whose brokers send clients through these proxies, in the order of their ids.
pub struct Proxied {
    pub proxies: Vec<Proxy>,
    pub bootstrap: String,
    _own: File,
}

/// One broker, shared with other tests: nobody kills it.
pub fn kafka() -> Option<Kafka> {
    static UP: OnceLock<Result<Settings, String>> = OnceLock::new();
    let settings = have("kafka", UP.get_or_init(|| up(&["kafka"])).clone())?;
    Some(Kafka { settings, prefix: "KAFKA", _own: None })
}

/// Three brokers, this test's own until the handle is dropped; all of them run at its start.
pub fn kafka_cluster() -> Option<Kafka> {
    let cluster = || {
        // The first call makes the directory of the lock; the second mends what others left.
        let settings = up(&["kafka-cluster"])?;
        let own = settings.lock("kafka-cluster")?;
        Ok((up(&["kafka-cluster"])?, own))
    };
    let (settings, own) = have("kafka-cluster", cluster())?;
    Some(Kafka { settings, prefix: "KAFKA_CLUSTER", _own: Some(own) })
}

/// One node, shared with other tests: keyspaces get [`unique`] names, and nobody kills it.
pub fn cassandra() -> Option<Cassandra> {
    static UP: OnceLock<Result<Settings, String>> = OnceLock::new();
    let settings = have("cassandra", UP.get_or_init(|| up(&["cassandra"])).clone())?;
    Some(Cassandra { settings, prefix: "CASSANDRA", own: None })
}

/// Three nodes, this test's own until the handle is dropped; all of them run at its start.
pub fn cassandra_cluster() -> Option<Cassandra> {
    let cluster = || {
        let settings = up(&["cassandra-cluster"])?;
        let own = settings.lock("cassandra-cluster")?;
        Ok((up(&["cassandra-cluster"])?, own))
    };
    let (settings, own) = have("cassandra-cluster", cluster())?;
    Some(Cassandra { settings, prefix: "CASSANDRA_CLUSTER", own: Some(own) })
}

/// One node that is this test's own, and runs at its start. What it has confirmed survives a kill.
pub fn cassandra_own() -> Option<(Cassandra, Own)> {
    let (settings, own) = have("cassandra-own", own("cassandra-own"))?;
    Some((Cassandra { settings, prefix: "CASSANDRA_OWN", own: None }, own))
}

/// A server that is this test's own, and runs at its start.
pub fn postgres_own() -> Option<(Postgres, Own)> {
    let (settings, own) = have("postgres-own", own("postgres-own"))?;
    Some((Postgres { settings, prefix: "POSTGRES_OWN" }, own))
}

/// A server that is this test's own, and runs at its start.
pub fn mongo_own() -> Option<(Mongo, Own)> {
    let (settings, own) = have("mongo-own", own("mongo-own"))?;
    Some((Mongo { settings, prefix: "MONGODB_OWN" }, own))
}

fn own(unit: &'static str) -> Result<(Settings, Own), String> {
    // The first call makes the directory of the lock; the second mends what others left.
    let lock = up(&[unit])?.lock(unit)?;
    Ok((up(&[unit])?, Own { unit, _own: lock }))
}

/// Shared with other tests: schemas get [`unique`] names, and nobody kills it.
pub fn postgres() -> Option<Postgres> {
    static UP: OnceLock<Result<Settings, String>> = OnceLock::new();
    let settings = have("postgres", UP.get_or_init(|| up(&["postgres"])).clone())?;
    Some(Postgres { settings, prefix: "POSTGRES" })
}

/// One server, shared with other tests: databases get [`unique`] names, and nobody kills it.
pub fn mongo() -> Option<Mongo> {
    static UP: OnceLock<Result<Settings, String>> = OnceLock::new();
    let settings = have("mongo", UP.get_or_init(|| up(&["mongo"])).clone())?;
    Some(Mongo { settings, prefix: "MONGODB" })
}

pub fn prometheus() -> Option<Prometheus> {
    static UP: OnceLock<Result<Settings, String>> = OnceLock::new();
    let settings = have("prometheus", UP.get_or_init(|| up(&["prometheus"])).clone())?;
    Some(Prometheus { settings })
}

pub fn registry() -> Option<Registry> {
    static UP: OnceLock<Result<Settings, String>> = OnceLock::new();
    let settings = have("registry", UP.get_or_init(|| up(&["registry"])).clone())?;
    Some(Registry { settings })
}

/// A name that no other test, process or run has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}-{:x}-{next}", now.as_millis(), process::id())
}

impl Kafka {
    /// `host:port` of every broker, with commas between.
    pub fn brokers(&self, listener: Listener) -> String {
        let way = match listener {
            Listener::Plain => "BOOTSTRAP",
            Listener::Tls => "TLS",
            Listener::MutualTls => "MTLS",
            Listener::Sasl => "SASL",
            Listener::SaslTls => "SASL_TLS",
        };
        self.settings.get(&format!("{}_{way}", self.prefix))
    }

    pub fn bootstrap(&self) -> String {
        self.brokers(Listener::Plain)
    }

    pub fn files(&self) -> Files {
        self.settings.files()
    }

    /// Creates a topic, on all brokers when there are three, and waits until each partition has a
    /// leader. `config` is Kafka's own, such as `("cleanup.policy", "compact")`.
    pub fn create_topic(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) {
        let brokers = self.addresses("BOOTSTRAP");
        wire::create_topic(&brokers, topic, partitions, brokers.len() as i16, config);
    }

    pub fn delete_topic(&self, topic: &str) {
        wire::delete_topic(&self.addresses("BOOTSTRAP"), topic);
    }

    /// What one of Kafka's own tools prints, such as `["groups", "--list"]`; see
    /// `dev/services kafka`. Each call starts a JVM.
    pub fn tool(&self, arguments: &[&str]) -> String {
        let cluster: &[&str] = if self.is_cluster() { &["--cluster"] } else { &[] };
        let all = [&["kafka"], cluster, arguments].concat();
        run(&all).unwrap_or_else(|why| panic!("kafka {arguments:?}: {why}"))
    }

    /// Ends a broker of the cluster at once; its data stay.
    pub fn kill(&self, node: u32) {
        self.order("kill", node);
    }

    /// Stops a broker of the cluster as it stands; its connections stay open.
    pub fn pause(&self, node: u32) {
        self.order("pause", node);
    }

    pub fn resume(&self, node: u32) {
        self.order("resume", node);
    }

    /// Starts a broker that was killed, and waits until it answers.
    pub fn start(&self, node: u32) {
        self.order("up", node);
    }

    /// To look at it with while it fails, and to give it orders.
    pub fn client(&self) -> Client {
        Client::new(self.addresses("BOOTSTRAP"))
    }

    /// Lets no file of a broker of the cluster grow beyond so many bytes: writes fail, as on a disk
    /// that is full. `None` lifts that; a broker that starts again has no such bound.
    #[cfg(target_os = "linux")]
    pub fn limit_disk(&self, node: u32, bytes_max: Option<u64>) {
        assert!(self.is_cluster(), "only a broker of `kafka_cluster()` is a test's own to limit");
        limit_disk(&format!("kafka-{node}"), bytes_max);
    }

    /// Whether a broker of the cluster runs.
    pub fn is_up(&self, node: u32) -> bool {
        let status = run(&["status"]).unwrap_or_else(|why| panic!("status: {why}"));
        status.contains(&format!("kafka-{node} up, "))
    }

    /// Puts a proxy before each broker. One test at a time has them; others wait here.
    pub fn proxied(&self, seed: u64) -> Proxied {
        let own = self.settings.lock(&format!("{}-proxied", self.prefix.to_lowercase()));
        let own = own.expect("the lock of the proxied listener");
        let upstream = self.addresses("PROXIED_UPSTREAM");
        let told = self.addresses("PROXIED").into_iter().zip(upstream).zip(seed..);
        let listen = |((told, upstream), seed)| {
            Proxy::listen(told, upstream, seed).expect("the advertised port is free")
        };
        let bootstrap = self.settings.get(&format!("{}_PROXIED", self.prefix));
        Proxied { proxies: told.map(listen).collect(), bootstrap, _own: own }
    }

    fn is_cluster(&self) -> bool {
        self._own.is_some()
    }

    fn order(&self, command: &str, node: u32) {
        assert!(
            self.is_cluster(),
            "only a broker of `kafka_cluster()` is a test's own to {command}"
        );
        let unit = format!("kafka-{node}");
        run(&[command, &unit]).unwrap_or_else(|why| panic!("{command} {unit}: {why}"));
    }

    fn addresses(&self, way: &str) -> Vec<SocketAddr> {
        let list = self.settings.get(&format!("{}_{way}", self.prefix));
        list.split(',').map(|one| one.parse().expect("an address and a port")).collect()
    }
}

impl Cassandra {
    /// `host:port` of every node.
    pub fn nodes(&self) -> Vec<String> {
        let nodes = self.settings.get(&format!("{}_NODES", self.prefix));
        nodes.split(',').map(str::to_owned).collect()
    }

    pub fn files(&self) -> Files {
        self.settings.files()
    }

    /// Ends a node of the cluster at once; its data stay.
    pub fn kill(&self, node: u32) {
        self.order("kill", node);
    }

    /// Stops a node of the cluster as it stands; its connections stay open.
    pub fn pause(&self, node: u32) {
        self.order("pause", node);
    }

    pub fn resume(&self, node: u32) {
        self.order("resume", node);
    }

    /// Starts a node that was killed, and waits until it answers.
    pub fn start(&self, node: u32) {
        self.order("up", node);
    }

    fn order(&self, command: &str, node: u32) {
        assert!(self.own.is_some(), "only a node of `cassandra_cluster()` is one's own");
        let unit = format!("cassandra-{node}");
        run(&[command, &unit]).unwrap_or_else(|why| panic!("{command} {unit}: {why}"));
    }
}

impl Own {
    /// Ends it at once; its data stay.
    pub fn kill(&self) {
        self.order("kill");
    }

    /// Stops it as it stands; its connections stay open.
    pub fn pause(&self) {
        self.order("pause");
    }

    pub fn resume(&self) {
        self.order("resume");
    }

    /// Starts it again, and waits until it answers.
    pub fn start(&self) {
        self.order("up");
    }

    /// Lets no file of it grow beyond so many bytes: writes fail, as on a disk that is full. `None`
    /// lifts that.
    #[cfg(target_os = "linux")]
    pub fn limit_disk(&self, bytes_max: Option<u64>) {
        limit_disk(self.unit, bytes_max);
    }

    fn order(&self, command: &str) {
        run(&[command, self.unit]).unwrap_or_else(|why| panic!("{command} {}: {why}", self.unit));
    }
}

impl Postgres {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let address = self.settings.get(&format!("{}_ADDRESS", self.prefix));
        address.parse().expect("an address and a port")
    }

    pub fn files(&self) -> Files {
        self.settings.files()
    }
}

impl Mongo {
    /// Where it listens, for drivers and for a proxy before it.
    pub fn address(&self) -> SocketAddr {
        self.at("URI")
    }

    /// The same over TLS; [`Files::ca`] signed its certificate.
    pub fn tls_address(&self) -> SocketAddr {
        self.at("TLS_URI")
    }

    pub fn files(&self) -> Files {
        self.settings.files()
    }

    fn at(&self, key: &str) -> SocketAddr {
        let uri = self.settings.get(&format!("{}_{key}", self.prefix));
        let address = uri.split('/').nth(2).expect("an address after two slashes");
        address.parse().expect("an address and a port")
    }
}

impl Registry {
    pub fn url(&self) -> String {
        self.settings.get("SCHEMA_REGISTRY_URL")
    }

    /// The same registry over TLS; [`Registry::ca`] signed its certificate.
    pub fn tls_url(&self) -> String {
        self.settings.get("SCHEMA_REGISTRY_TLS_URL")
    }

    pub fn ca(&self) -> PathBuf {
        self.settings.get("SERVICES_CA").into()
    }

    /// Where it listens, for a proxy before it.
    pub fn address(&self) -> SocketAddr {
        let url = self.url();
        let address = url.split('/').nth(2).expect("an address after two slashes");
        address.parse().expect("an address and a port")
    }

    pub fn files(&self) -> Files {
        self.settings.files()
    }
}

impl Prometheus {
    /// Where its HTTP API answers.
    pub fn address(&self) -> SocketAddr {
        let url = self.settings.get("PROMETHEUS_URL");
        let address = url.split('/').nth(2).expect("an address after two slashes");
        address.parse().expect("an address and a port")
    }

    /// Scrapes an address every second, as a job with a [`unique`] name.
    pub fn scrape(&self, job: &str, address: SocketAddr) -> Scraped {
        let targets = PathBuf::from(self.settings.get("PROMETHEUS_TARGETS"));
        let target = format!("{{\"targets\":[\"{address}\"],\"labels\":{{\"job\":\"{job}\"}}}}");
        change_lines(&targets, |lines| lines.push(target));
        Scraped { targets, job: job.to_owned() }
    }
}

impl Drop for Scraped {
    fn drop(&mut self) {
        let job = format!("\"{}\"", self.job);
        change_lines(&self.targets, |lines| lines.retain(|line| !line.contains(&job)));
    }
}

#[cfg(target_os = "linux")]
fn limit_disk(unit: &str, bytes_max: Option<u64>) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let status = run(&["status"]).unwrap_or_else(|why| panic!("status: {why}"));
    let begin = format!("{unit} up, pid ");
    let Some(pid) = status.lines().find_map(|line| line.strip_prefix(&begin)) else { return };
    let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid above 0");
    let limit = Rlimit { current: bytes_max, maximum: None };
    // It may be ending already.
    let _ = prlimit(Some(pid), Resource::Fsize, limit);
}

/// Changes a JSON array of which each element stands in a line, while others change it too.
fn change_lines(file: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let lock = File::create(file.with_extension("lock")).expect("a lock beside the targets");
    lock.lock().expect("the lock");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let elements = text.lines().map(|line| line.trim_matches(['[', ']', ',', ' ']));
    let mut lines: Vec<String> =
        elements.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    change(&mut lines);
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, format!("[\n{}\n]\n", lines.join(",\n"))).expect("the targets");
    std::fs::rename(fresh, file).expect("the targets");
}

/// What `dev/services` prints, a `KEY=VALUE` a line.
#[derive(Debug, Clone)]
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn get(&self, key: &str) -> String {
        self.0.get(key).unwrap_or_else(|| panic!("dev/services does not say {key}")).clone()
    }

    fn files(&self) -> Files {
        Files {
            ca: self.get("SERVICES_CA").into(),
            client_cert: self.get("SERVICES_CLIENT_CERT").into(),
            client_key: self.get("SERVICES_CLIENT_KEY").into(),
            stranger_cert: self.get("SERVICES_STRANGER_CERT").into(),
            stranger_key: self.get("SERVICES_STRANGER_KEY").into(),
            user: self.get("SERVICES_USER"),
            password: self.get("SERVICES_PASSWORD"),
        }
    }

    /// Waits for what only one test of all processes may have at a time.
    fn lock(&self, name: &str) -> Result<File, String> {
        let path = Path::new(&self.get("SERVICES_HOME")).join(format!("{name}.lock"));
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        file.lock().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(file)
    }
}

/// What there is, or the reason why the test does nothing.
fn have<T>(name: &str, what: Result<T, String>) -> Option<T> {
    match what {
        Ok(what) => Some(what),
        Err(why) => {
            let required = env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false");
            assert!(!required, "{name} is due where CI is set: {why}");
            let test = thread::current();
            let test = test.name().unwrap_or("a test");
            eprintln!("skipped {test}, {name} cannot be had here: {why}");
            None
        }
    }
}

fn up(names: &[&str]) -> Result<Settings, String> {
    let lines = run(&[&["up"], names].concat())?;
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    Ok(Settings(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
}

fn run(arguments: &[&str]) -> Result<String, String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/services");
    let run = Command::new(&program).args(arguments).output();
    let run = run.map_err(|error| format!("dev/services needs Python 3: {error}"))?;
    match run.status.success() {
        true => Ok(String::from_utf8_lossy(&run.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&run.stderr).trim().to_owned()),
    }
}
