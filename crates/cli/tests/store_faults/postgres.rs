//! PostgreSQL, as look-up and as sink at the same time. The table of events has no key: what is
//! stored twice is there twice.

use super::rig::{KEYS, NOTHING, Rig, Seen, Setup, Store, event};
use millstream_testkit::events::Event;
use millstream_testkit::proxy::{Direction, Fault, Proxy};
use millstream_testkit::services::{self, Postgres, unique};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Config, NoTls};

const EVENTS: &str = "CREATE TABLE KS.events (n bigserial, key text, seq bigint, fate text, crc text, \
                      number text, place text)";
const PLACES: &str = "CREATE TABLE KS.places (key text PRIMARY KEY, place text)";
/// As the server says it when its disk is full.
const FULL: &str = "CREATE FUNCTION KS.is_full() RETURNS trigger LANGUAGE plpgsql AS \
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
        config.user(files.user).password(files.password).connect_timeout(Duration::from_secs(3));
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
        let within = async { tokio::time::timeout(Duration::from_secs(6), asked).await };
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

/// Who waits is told by the table, or by whom it connects to.
const WAITS: Seen<'static> = Seen { line: &["waiting: "], reason: Some("\"reason\":") };

#[test]
fn own_postgres_is_paused_and_killed() {
    let (Some(kafka), Some((postgres, own))) = (services::kafka(), services::postgres_own()) else {
        return;
    };
    let (server, files) = (Server::new(&postgres), postgres.files());
    let setup = server.setup(server.address, &files.user, &files.password);
    let rig = Rig::start(&kafka, "own-postgres", server, &setup);
    for seconds in [60, 5] {
        let name = format!("paused for {seconds} s");
        let lasts = Duration::from_secs(seconds);
        rig.fault(&name, lasts, WAITS, || own.pause(), || own.resume());
    }
    rig.fault("killed", Duration::from_secs(3), WAITS, || own.kill(), || own.start());
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
    let rig = Rig::start(&kafka, "postgres", server, &setup);
    let store = rig.store.clone();
    let [brief, long] = [1_500, 6_000].map(Duration::from_millis);

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
    let slow = Fault::Delay { ms_min: 5, ms_max: 60 };
    rig.fault("slow", brief, NOTHING, || proxy.set_both(slow), || proxy.heal());
    rig.fault(
        "slower than the time-out",
        long,
        WAITS,
        || proxy.set_both(Fault::Hold),
        || proxy.heal(),
    );
    rig.fault("gone without a word", brief, NOTHING, || proxy.vanish(), || {});

    let full = Seen { line: &["waiting: ", "could not extend file"], reason: Some("extend") };
    rig.fault(
        "full",
        brief,
        full,
        || store.sql(FULL),
        || store.sql("DROP TRIGGER is_full ON KS.events"),
    );

    let no_table = Seen { line: &["waiting: ", "events"], reason: Some("events") };
    let drop_events = || rig.drop_table(|| store.sql("DROP TABLE KS.events"));
    rig.fault("no table of events", brief, no_table, drop_events, || store.sql(EVENTS));
    let no_table = Seen { line: &["waiting: ", "lookup places", "places"], reason: Some("places") };
    let made_places = places(PLACES, "'place-' || n");
    rig.fault(
        "no table of places",
        brief,
        no_table,
        || store.sql("DROP TABLE KS.places"),
        || store.sql(&made_places),
    );

    rig.fault(
        "comes back with more columns",
        brief,
        WAITS,
        || {
            proxy.refuse(true);
            proxy.reset();
            store.sql("ALTER TABLE KS.events ADD more text");
            store.sql("ALTER TABLE KS.places ADD more int");
        },
        || proxy.heal(),
    );
    // A number of as many bytes: without a look at the types it would take them for its own.
    let changed = Seen { line: &["waiting: ", "`seq`"], reason: Some("seq") };
    rig.fault(
        "a column that is written has another type",
        brief,
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
    let changed = Seen { line: &["waiting: ", "`place`"], reason: Some("place") };
    let drop_places = "DROP TABLE KS.places";
    let odd_places = places(&PLACES.replace("place text", "place int"), "n");
    rig.fault(
        "a column that is looked up has another type",
        brief,
        changed,
        || store.sql(&format!("{drop_places}; {odd_places}")),
        || store.sql(&format!("{drop_places}; {made_places}")),
    );

    let refused = Seen { line: &["password authentication failed"], reason: Some("password") };
    rig.fault(
        "the password is rotated",
        brief,
        refused,
        || {
            store.sql(&format!("ALTER ROLE {role} PASSWORD 'canary two'"));
            proxy.reset();
        },
        || drop(rig.program.write("password", "canary two\n")),
    );
    assert!(!rig.log().join("\n").contains("canary"), "a password is told");
    rig.end();
}
