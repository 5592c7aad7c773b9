//! Cassandra, as look-up and as sink at the same time.

use super::rig::{KEYS, NOTHING, Rig, Seen, Setup, Store, event};
use millstream_testkit::cql_proxy::{Asked, CqlProxy, Refusal};
use millstream_testkit::events::Event;
use millstream_testkit::proxy::{Direction, Fault, Proxy};
use millstream_testkit::services::{self, Files, unique};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use std::time::Duration;
use tokio::runtime::Runtime;

const EVENTS: &str = "CREATE TABLE KS.events (key text, seq bigint, fate text, crc text, number text, \
                      place text, PRIMARY KEY (key, seq))";
const PLACES: &str = "CREATE TABLE KS.places (key text PRIMARY KEY, place text)";

/// A keyspace of one's own, and a session that goes past every proxy.
struct Cluster {
    keyspace: String,
    runtime: Runtime,
    session: Session,
}

impl Cluster {
    fn new(node: &str, files: &Files, copies: u32) -> Self {
        let runtime = Runtime::new().unwrap();
        let soon = Duration::from_secs(3);
        let profile = ExecutionProfile::builder().request_timeout(Some(soon)).build();
        let builder = SessionBuilder::new()
            .known_node(node)
            .user(&files.user, &files.password)
            .default_execution_profile_handle(profile.into_handle());
        let session = runtime.block_on(builder.build()).unwrap();
        let cluster = Self { keyspace: unique("faults").replace('-', "_"), runtime, session };
        cluster.cql(&format!(
            "CREATE KEYSPACE KS WITH replication = {{'class': 'SimpleStrategy', \
             'replication_factor': {copies}}}"
        ));
        cluster.cql(EVENTS);
        cluster.make_places(PLACES, "'");
        cluster
    }

    /// Executes a statement; `KS` in it is the keyspace.
    fn cql(&self, statement: &str) {
        self.try_cql(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn try_cql(&self, statement: &str) -> Result<(), String> {
        let statement = statement.replace("KS", &self.keyspace);
        let done = self.runtime.block_on(self.session.query_unpaged(statement.as_str(), ()));
        done.map(drop).map_err(|error| error.to_string())
    }

    fn make_places(&self, table: &str, quote: &str) {
        self.cql(table);
        let row = |key| {
            let place = match quote {
                "" => format!("{key}"),
                _ => format!("'place-{key}'"),
            };
            format!("INSERT INTO KS.places (key, place) VALUES ('k{key}', {place});")
        };
        let rows: String = (0..KEYS).map(row).collect();
        self.cql(&format!("BEGIN UNLOGGED BATCH {rows} APPLY BATCH"));
    }

    fn count(&self, table: &str) -> i64 {
        let text = format!("SELECT count(*) FROM {}.{table}", self.keyspace);
        let rows = self.runtime.block_on(self.session.query_unpaged(text, ())).unwrap();
        rows.into_rows_result().unwrap().single_row::<(i64,)>().unwrap().0
    }

    fn setup(&self, node: &str, user: &str, password: &str) -> Setup {
        let cluster = format!(
            "nodes: [\"{node}\"], username: {user}, password: {{ file: password }}, keyspace: {}, \
             connect_timeout: 2s",
            self.keyspace
        );
        Setup {
            lookup: format!("cql: {{ {cluster}, table: places }}"),
            sink: format!("cql: {{ {cluster}, table: events, timeout: 2s, retries: 2 }}"),
            select: "",
            key: "key",
            appends: false,
            seed: 83,
            files: vec![("password", format!("{password}\n"))],
        }
    }
}

impl Store for Cluster {
    fn events(&self) -> Result<Vec<Event>, String> {
        let text =
            format!("SELECT key, seq, fate, crc, number, place FROM {}.events", self.keyspace);
        let rows = self.runtime.block_on(self.session.query_unpaged(text, ()));
        let rows = rows.map_err(|error| error.to_string())?;
        let rows = rows.into_rows_result().map_err(|error| error.to_string())?;
        let rows = rows.rows::<(String, i64, String, String, String, String)>();
        // Other columns are a fault of the test's own making.
        let rows = rows.map_err(|error| error.to_string())?;
        let mut rows: Vec<_> = rows.map(Result::unwrap).collect();
        rows.sort_by_key(|row| row.1);
        Ok(rows
            .into_iter()
            .map(|(key, seq, fate, crc, number, place)| {
                event([key, fate, crc, number], seq, &place)
            })
            .collect())
    }
}

/// Who waits is told by the keyspace.
const WAITS: Seen<'static> = Seen { line: &["waiting: "], reason: Some("faults_") };

#[test]
fn own_cassandra_is_paused_and_killed() {
    let (Some(kafka), Some((cassandra, own))) = (services::kafka(), services::cassandra_own())
    else {
        return;
    };
    let (node, files) = (cassandra.nodes().remove(0), cassandra.files());
    let cluster = Cluster::new(&node, &files, 1);
    let setup = cluster.setup(&node, &files.user, &files.password);
    let rig = Rig::start(&kafka, "own-cassandra", cluster, &setup);
    let pause = |seconds| {
        let name = format!("paused for {seconds} s");
        rig.fault(&name, Duration::from_secs(seconds), WAITS, || own.pause(), || own.resume());
    };
    pause(60);
    pause(5);
    rig.fault("killed", Duration::from_secs(3), WAITS, || own.kill(), || own.start());
    rig.end();
}

#[test]
fn shared_cassandra_is_cut_off_changed_and_full() {
    let (Some(kafka), Some(cassandra)) = (services::kafka(), services::cassandra()) else { return };
    let (node, files) = (cassandra.nodes().remove(0), cassandra.files());
    let cluster = Cluster::new(&node, &files, 1);
    let frames = CqlProxy::start(node.parse().unwrap(), 5).unwrap();
    let proxy = Proxy::start(frames.address(), 7).unwrap();
    let role = unique("role").replace('-', "_");
    cluster.cql(&format!(
        "CREATE ROLE {role} WITH PASSWORD = 'canary one' AND LOGIN = true AND SUPERUSER = true"
    ));
    let setup = cluster.setup(&proxy.address().to_string(), &role, "canary one");
    let rig = Rig::start(&kafka, "cassandra", cluster, &setup);
    let store = rig.store.clone();
    let [brief, long] = [1_500, 9_000].map(Duration::from_millis);

    rig.fault(
        "connections are reset in the middle of what is written",
        brief,
        NOTHING,
        || proxy.set(Direction::ToServer, Fault::ResetAfter(6_000)),
        || proxy.heal(),
    );
    rig.fault(
        "answers are reset",
        brief,
        NOTHING,
        || proxy.set(Direction::ToClient, Fault::ResetAfter(2_500)),
        || proxy.heal(),
    );
    let slow = Fault::Delay { ms_min: 5, ms_max: 90 };
    rig.fault("slow", brief, NOTHING, || proxy.set_both(slow), || proxy.heal());
    rig.fault(
        "slower than the time-out",
        long,
        WAITS,
        || proxy.set_both(Fault::Hold),
        || proxy.heal(),
    );
    rig.fault("gone without a word", brief, WAITS, || proxy.vanish(), || {});

    // The node refuses to write, then says that too much is asked.
    for (name, refusal) in [("full", Refusal::WriteFailed), ("overloaded", Refusal::Overloaded)] {
        rig.fault(
            name,
            brief,
            WAITS,
            || frames.refuse(Asked::Insert, Some(refusal)),
            || frames.heal(),
        );
    }
    assert!(frames.seen(Asked::Insert).refused > 0);

    let drop_events = || rig.drop_table(|| store.cql("DROP TABLE KS.events"));
    let no_table = Seen { line: &["waiting: ", "writing ", "events"], reason: Some("events") };
    rig.fault("no table of events", brief, no_table, drop_events, || store.cql(EVENTS));
    // What is looked up is there before anybody sees the table.
    let again = |made: &dyn Fn()| {
        proxy.set_both(Fault::Hold);
        made();
        proxy.heal();
    };
    let no_table = Seen { line: &["waiting: ", "lookup places", "places"], reason: Some("places") };
    rig.fault(
        "no table of places",
        brief,
        no_table,
        || store.cql("DROP TABLE KS.places"),
        || again(&|| store.make_places(PLACES, "'")),
    );

    rig.fault(
        "comes back with more columns",
        brief,
        WAITS,
        || {
            proxy.refuse(true);
            proxy.reset();
            store.cql("ALTER TABLE KS.events ADD more text");
            store.cql("ALTER TABLE KS.places ADD more int");
        },
        || proxy.heal(),
    );
    let changed =
        Seen { line: &["waiting: ", "`number` is int now, and was text"], reason: Some("number") };
    rig.fault(
        "a column that is written has another type",
        brief,
        changed,
        || {
            drop_events();
            store.cql(&EVENTS.replace("number text", "number int"));
        },
        || {
            assert_eq!(store.count("events"), 0, "bytes of a text were stored as a number");
            store.cql("DROP TABLE KS.events");
            store.cql(EVENTS);
        },
    );
    let changed =
        Seen { line: &["waiting: ", "`place` is int now, and was text"], reason: Some("place") };
    rig.fault(
        "a column that is looked up has another type",
        brief,
        changed,
        || {
            again(&|| {
                store.cql("DROP TABLE KS.places");
                store.make_places(&PLACES.replace("place text", "place int"), "");
            });
        },
        || {
            again(&|| {
                store.cql("DROP TABLE KS.places");
                store.make_places(PLACES, "'");
            });
        },
    );

    let refused = Seen { line: &["waiting: ", "password"], reason: Some("password") };
    rig.fault(
        "the password is rotated",
        brief,
        refused,
        || {
            store.cql(&format!("ALTER ROLE {role} WITH PASSWORD = 'canary two'"));
            proxy.reset();
        },
        || drop(rig.program.write("password", "canary two\n")),
    );
    assert!(!rig.log().join("\n").contains("canary"), "a password is told");
    rig.end();
}

/// What is stored is on a quorum of the three.
#[test]
fn a_node_of_cassandra_may_die_and_two_may_stand_still() {
    let (Some(kafka), Some(cassandra)) = (services::kafka(), services::cassandra_cluster()) else {
        return;
    };
    let (nodes, files) = (cassandra.nodes(), cassandra.files());
    let cluster = Cluster::new(&nodes[0], &files, 3);
    let setup = cluster.setup(&nodes.join("\", \""), &files.user, &files.password);
    let rig = Rig::start(&kafka, "three-cassandras", cluster, &setup);
    let brief = Duration::from_secs(2);
    rig.fault(
        "one is killed",
        brief,
        NOTHING,
        || {
            cassandra.kill(2);
            rig.commits_go_on("one of three is killed");
        },
        || cassandra.start(2),
    );
    rig.fault(
        "one stands still",
        brief,
        NOTHING,
        || {
            cassandra.pause(3);
            rig.commits_go_on("one of three stands still");
        },
        || cassandra.resume(3),
    );
    rig.fault(
        "two stand still",
        brief,
        WAITS,
        || [2, 3].iter().for_each(|node| cassandra.pause(*node)),
        || [2, 3].iter().for_each(|node| cassandra.resume(*node)),
    );
    rig.end();
}
