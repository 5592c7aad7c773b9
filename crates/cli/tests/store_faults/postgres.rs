//! PostgreSQL, as look-up and as sink at the same time. The table of events has no key: what is
//! stored twice is there twice.

use super::faults::ledger::Store;
use super::faults::{KEYS, NOTHING};
use super::rig::{self, BRIEF, Setup, WAITS, event, own_fails, waits, way_fails};
use millstream_testkit::events::Event;
use millstream_testkit::proxy::Proxy;
use millstream_testkit::services::{self, Postgres, unique};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Config, NoTls};

const EVENTS: &str = "CREATE TABLE KS.events (n bigserial, key text, seq bigint, fate text, crc text, \
                      number text, place text)";
const PLACES: &str = "CREATE TABLE KS.places (key text PRIMARY KEY, place text)";
/// As the server says it when its disk is full.
const FULL: &str = "CREATE OR REPLACE FUNCTION KS.is_full() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$; \
    CREATE TRIGGER is_full BEFORE INSERT ON KS.events FOR EACH ROW EXECUTE FUNCTION KS.is_full()";

/// A schema of one's own.
struct Server {
    address: SocketAddr,
    config: Config,
    schema: String,
    runtime: Runtime,
}

impl Server {
    fn new(postgres: &Postgres) -> Self {
        let (address, files) = (postgres.address(), postgres.files());
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port()).dbname("postgres");
        config.user(files.user).password(files.password).connect_timeout(Duration::from_secs(20));
        let runtime = Runtime::new().unwrap();
        let schema = unique("faults").replace('-', "_");
        let server = Self { address, config, schema, runtime };
        server.sql(&format!("CREATE SCHEMA KS; {EVENTS}; {}", places(PLACES, "'place-' || n")));
        server
    }

    /// Executes statements in one transaction; `KS` in them is the schema.
    fn sql(&self, statements: &str) {
        let statements = statements.replace("KS", &self.schema);
        let done = self.with(async |client| client.batch_execute(&statements).await);
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// On a connection of its own, past every proxy, and not for longer than a moment.
    fn with<T>(
        &self,
        ask: impl AsyncFnOnce(Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, String> {
        let asked = async {
            let (client, connection) = self.config.connect(NoTls).await?;
            let connection = tokio::spawn(connection);
            let answer = ask(client).await;
            connection.abort();
            answer
        };
        let within = async { tokio::time::timeout(Duration::from_secs(20), asked).await };
        match self.runtime.block_on(within) {
            Ok(answer) => answer.map_err(|error| format!("{error:?}")),
            Err(_) => Err("no answer".into()),
        }
    }

    fn setup(&self, at: SocketAddr, user: &str, password: &str) -> Setup {
        let server = format!(
            "hosts: [\"{at}\"], database: postgres, username: {user}, \
             password: {{ file: password }}, schema: {}, connect_timeout: 2s",
            self.schema
        );
        Setup {
            lookup: format!("postgres: {{ {server}, table: places }}"),
            sink: format!("postgres: {{ {server}, table: events, timeout: 2s }}"),
            select: "",
            key: "key",
            appends: true,
            seed: 89,
            files: vec![("password", format!("{password}\n"))],
        }
    }
}

impl Store for Server {
    fn events(&self) -> Result<Vec<Event>, String> {
        let query = format!(
            "SELECT key, seq, fate, crc, number::text, place FROM {}.events ORDER BY n",
            self.schema
        );
        let rows = self.with(async |client| client.query(&query, &[]).await)?;
        Ok(rows
            .iter()
            .map(|row| {
                let cells = [0, 2, 3, 4].map(|at| row.get::<_, String>(at));
                event(cells, row.get(1), row.get(5))
            })
            .collect())
    }
}

/// The table of what is looked up, with its rows from its beginning on.
fn places(table: &str, place: &str) -> String {
    format!(
        "{table}; INSERT INTO KS.places SELECT 'k' || n, {place} FROM generate_series(0, {KEYS}) n"
    )
}

#[test]
fn own_postgres_is_paused_and_killed() {
    let (Some(kafka), Some((postgres, own))) = (services::kafka(), services::postgres_own()) else {
        return;
    };
    let (server, files) = (Server::new(&postgres), postgres.files());
    let setup = server.setup(server.address, &files.user, &files.password);
    let rig = rig::start(&kafka, "own-postgres", Arc::new(server), &setup);
    own_fails(&rig, &own);
    rig.end();
}

#[test]
fn shared_postgres_is_cut_off_changed_and_full() {
    let (Some(kafka), Some(postgres)) = (services::kafka(), services::postgres()) else { return };
    let server = Server::new(&postgres);
    let proxy = Proxy::start(server.address, 11).unwrap();
    let role = unique("role").replace('-', "_");
    server.sql(&format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'canary one'"));
    let setup = server.setup(proxy.address(), &role, "canary one");
    let store = Arc::new(server);
    let rig = rig::start(&kafka, "postgres", store.clone(), &setup);
    way_fails(&rig, &proxy, Duration::from_secs(6), NOTHING);

    let full = waits(&["waiting: ", "could not extend file"], "extend");
    rig.fault(
        "full",
        BRIEF,
        full,
        || store.sql(FULL),
        || store.sql("DROP TRIGGER is_full ON KS.events"),
    );

    let no_table = waits(&["waiting: ", "events"], "events");
    let drop_events = || rig.drop_table(|| store.sql("DROP TABLE KS.events"));
    rig.fault("no table of events", BRIEF, no_table, drop_events, || store.sql(EVENTS));
    let no_table = waits(&["waiting: ", "lookup places"], "places");
    let made_places = places(PLACES, "'place-' || n");
    rig.fault(
        "no table of places",
        BRIEF,
        no_table,
        || store.sql("DROP TABLE KS.places"),
        || store.sql(&made_places),
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
            store.sql(&format!("ALTER TABLE KS.events ADD more_{n} text"));
            store.sql(&format!("ALTER TABLE KS.places ADD more_{n} int"));
        },
        || proxy.heal(),
    );
    // A number of as many bytes: without a look at the types it would take them for its own.
    let changed = waits(&["waiting: ", "`seq`"], "seq");
    rig.fault(
        "a column that is written has another type",
        BRIEF,
        changed,
        || {
            rig.drop_table(|| store.sql("DROP TABLE KS.events"));
            store.sql(&EVENTS.replace("seq bigint", "seq timestamptz"));
        },
        || {
            let query = format!("SELECT count(*) FROM {}.events", store.schema);
            let row = store.with(async |client| client.query_one(&query, &[]).await).unwrap();
            assert_eq!(row.get::<_, i64>(0), 0, "a number was stored as a time");
            store.sql(&format!("DROP TABLE KS.events; {EVENTS}"));
        },
    );
    let changed = waits(&["waiting: ", "`place`"], "place");
    let drop_places = "DROP TABLE KS.places";
    let odd_places = places(&PLACES.replace("place text", "place int"), "n");
    rig.fault(
        "a column that is looked up has another type",
        BRIEF,
        changed,
        || store.sql(&format!("{drop_places}; {odd_places}")),
        || store.sql(&format!("{drop_places}; {made_places}")),
    );

    let refused = waits(&["password authentication failed"], "password");
    rig.fault(
        "the password is rotated",
        BRIEF,
        refused,
        || {
            times.set(times.get() + 1);
            let n = times.get();
            store.sql(&format!("ALTER ROLE {role} PASSWORD 'canary {n}'"));
            proxy.reset();
        },
        || drop(rig.program.write("password", format!("canary {}\n", times.get()))),
    );
    assert!(!rig.log().join("\n").contains("canary"), "a password is told");
    rig.end();
}
