//! Cassandra, as look-up and as sink at the same time.

use super::faults::ledger::Store;
use super::faults::{KEYS, NOTHING};
use super::rig::{self, BRIEF, HALTS, Setup, WAITS, event, own_fails, waits, way_fails};
use millstream_testkit::cql_proxy::{Asked, CqlProxy, Refusal};
use millstream_testkit::events::Event;
use millstream_testkit::proxy::{Fault, Proxy};
use millstream_testkit::services::{self, Files, unique};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::{Consistency, Statement};
use std::cell::Cell;
use std::sync::Arc;
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
        // A schema changes slowly on a busy machine.
        let patient = Duration::from_secs(60);
        let profile = ExecutionProfile::builder().request_timeout(Some(patient)).build();
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

    /// How many requests a node has had on connections for writing that are open, if it says so.
    fn written_directly(&self, node: &str) -> i64 {
        let alone = NodeIdentifier::NodeAddress(node.parse().unwrap());
        let profile = ExecutionProfile::builder()
            .load_balancing_policy(SingleTargetLoadBalancingPolicy::new(alone, None))
            .consistency(Consistency::One);
        let mut all = Statement::new("SELECT driver_name, request_count FROM system_views.clients");
        all.set_execution_profile_handle(Some(profile.build().into_handle()));
        let Ok(rows) = self.runtime.block_on(self.session.query_unpaged(all, ())) else { return 0 };
        let rows = rows.into_rows_result().unwrap();
        let rows = rows.rows::<(Option<String>, Option<i64>)>().unwrap().map(Result::unwrap);
        rows.filter(|(name, _)| name.as_deref() == Some("millstream"))
            .filter_map(|(_, requests)| requests)
            .sum()
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
        let mut all = Statement::new(text);
        // Whoever looks must look again soon after a store stood still.
        all.set_request_timeout(Some(Duration::from_secs(15)));
        let rows = self.runtime.block_on(self.session.query_unpaged(all, ()));
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

#[test]
fn own_cassandra_is_paused_and_killed() {
    let (Some(kafka), Some((cassandra, own))) = (services::kafka(), services::cassandra_own())
    else {
        return;
    };
    let (node, files) = (cassandra.nodes().remove(0), cassandra.files());
    let cluster = Cluster::new(&node, &files, 1);
    let setup = cluster.setup(&node, &files.user, &files.password);
    let rig = rig::start(&kafka, "own-cassandra", Arc::new(cluster), &setup);
    own_fails(&rig, &own);
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
    let store = Arc::new(cluster);
    let rig = rig::start(&kafka, "cassandra", store.clone(), &setup);
    way_fails(&rig, &proxy, Duration::from_secs(9), WAITS);

    // The node refuses to write, then says that too much is asked.
    for (name, refusal) in [("full", Refusal::WriteFailed), ("overloaded", Refusal::Overloaded)] {
        rig.fault(
            name,
            BRIEF,
            WAITS,
            || frames.refuse(Asked::Insert, Some(refusal)),
            || frames.heal(),
        );
    }
    assert!(frames.seen(Asked::Insert).refused > 0);

    let drop_events = || rig.drop_table(|| store.cql("DROP TABLE KS.events"));
    let no_table = waits(&["waiting: ", "events"], "events");
    rig.fault("no table of events", BRIEF, no_table, drop_events, || store.cql(EVENTS));
    // What is looked up is there before anybody sees the table.
    let again = |made: &dyn Fn()| {
        proxy.set_both(Fault::Hold);
        made();
        proxy.heal();
    };
    let no_table = waits(&["waiting: ", "lookup places"], "places");
    rig.fault(
        "no table of places",
        BRIEF,
        no_table,
        || store.cql("DROP TABLE KS.places"),
        || again(&|| store.make_places(PLACES, "'")),
    );

    let times = Cell::new(1);
    rig.fault(
        "comes back with more columns",
        BRIEF,
        WAITS,
        || {
            proxy.refuse(true);
            proxy.reset();
            let n = times.replace(times.get() + 1);
            store.cql(&format!("ALTER TABLE KS.events ADD more_{n} text"));
            store.cql(&format!("ALTER TABLE KS.places ADD more_{n} int"));
        },
        || proxy.heal(),
    );
    let changed = waits(&["waiting: ", "`number` is int now, and was text"], "number");
    rig.fault(
        "a column that is written has another type",
        BRIEF,
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
    let changed = waits(&["waiting: ", "`place` is int now, and was text"], "place");
    rig.fault(
        "a column that is looked up has another type",
        BRIEF,
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

    let refused = waits(&["waiting: ", "password"], "password");
    rig.fault(
        "the password is rotated",
        BRIEF,
        refused,
        || {
            times.set(times.get() + 1);
            let n = times.get();
            store.cql(&format!("ALTER ROLE {role} WITH PASSWORD = 'canary {n}'"));
            proxy.reset();
        },
        || drop(rig.program.write("password", format!("canary {}\n", times.get()))),
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
    let watched = Arc::new(cluster);
    let rig = rig::start(&kafka, "three-cassandras", watched.clone(), &setup);
    rig.fault(
        "one is killed",
        BRIEF,
        NOTHING,
        || {
            cassandra.kill(2);
            rig.commits_go_on("one of three is killed");
        },
        || cassandra.start(2),
    );
    rig.fault(
        "one stands still",
        BRIEF,
        NOTHING,
        || {
            cassandra.pause(3);
            rig.commits_go_on("one of three stands still");
        },
        || cassandra.resume(3),
    );
    rig.fault(
        "two stand still",
        BRIEF,
        HALTS,
        || [2, 3].iter().for_each(|node| cassandra.pause(*node)),
        || [2, 3].iter().for_each(|node| cassandra.resume(*node)),
    );
    crate::program::eventually("each node is written to", || {
        nodes.iter().all(|node| watched.written_directly(node) > 10).then_some(())
    });
    rig.end();
}
