//! A server of MongoDB's protocol, as look-up and as sink at the same time.

use super::faults::ledger::Store;
use super::faults::{KEYS, NOTHING};
use super::rig::{self, BRIEF, Setup, WAITS, event, own_fails, way_fails};
use millstream_testkit::events::Event;
use millstream_testkit::proxy::Proxy;
use millstream_testkit::services::{self, unique};
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, IndexModel};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A database of one's own, seen past every proxy.
struct Server {
    address: SocketAddr,
    database: String,
    runtime: Runtime,
    client: Client,
}

impl Server {
    fn new(address: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(async {
            let uri = format!("mongodb://{address}/");
            let mut options = ClientOptions::parse(uri).await.unwrap();
            options.server_selection_timeout = Some(Duration::from_secs(20));
            options.connect_timeout = Some(Duration::from_secs(20));
            Client::with_options(options).unwrap()
        });
        let server =
            Self { address, database: unique("faults").replace('-', "_"), runtime, client };
        server.fill();
        server
    }

    fn fill(&self) {
        let places = self.client.database(&self.database).collection::<Document>("places");
        let rows =
            (0..KEYS).map(|key| doc! { "_id": format!("k{key}"), "place": format!("place-{key}") });
        self.runtime.block_on(async { places.insert_many(rows).await }).unwrap();
    }

    fn setup(&self, at: SocketAddr) -> Setup {
        let server = format!("hosts: [\"{at}\"], database: {}, connect_timeout: 2s", self.database);
        Setup {
            lookup: format!("mongodb: {{ {server}, collection: places }}"),
            sink: format!("mongodb: {{ {server}, collection: events, timeout: 2s, retries: 1 }}"),
            select: "i.key || '/' || CAST(i.seq AS STRING) AS _id, ",
            key: "_id",
            appends: false,
            seed: 97,
            files: Vec::new(),
        }
    }
}

impl Store for Server {
    fn events(&self) -> Result<Vec<Event>, String> {
        let events = self.client.database(&self.database).collection::<Document>("events");
        let read = async {
            let mut cursor = events.find(doc! {}).batch_size(5_000).await?;
            let mut all = Vec::new();
            while cursor.advance().await? {
                all.push(cursor.deserialize_current()?);
            }
            Ok::<_, mongodb::error::Error>(all)
        };
        let within = async { tokio::time::timeout(Duration::from_secs(20), read).await };
        let all = match self.runtime.block_on(within) {
            Ok(all) => all.map_err(|error| error.to_string())?,
            Err(_) => return Err("no answer".into()),
        };
        let mut events: Vec<Event> = all
            .iter()
            .map(|document| {
                let text = |name: &str| document.get_str(name).unwrap().to_owned();
                let cells = ["key", "fate", "crc", "number"].map(text);
                event(cells, document.get_i64("seq").unwrap(), &text("place"))
            })
            .collect();
        events.sort_by_key(|event| event.seq);
        Ok(events)
    }
}

#[test]
fn own_mongo_is_paused_killed_and_full() {
    let (Some(kafka), Some((mongo, own))) = (services::kafka(), services::mongo_own()) else {
        return;
    };
    let server = Server::new(mongo.address());
    let setup = server.setup(server.address);
    let rig = rig::start(&kafka, "own-mongo", Arc::new(server), &setup);
    own_fails(&rig, &own);
    #[cfg(target_os = "linux")]
    rig.fault(
        "full",
        Duration::from_secs(3),
        WAITS,
        || own.limit_disk(Some(1)),
        || own.limit_disk(None),
    );
    rig.end();
}

/// A collection is made by whoever writes to it first: nobody waits where it is gone.
#[test]
fn shared_mongo_is_cut_off_and_its_collection_dropped() {
    let (Some(kafka), Some(mongo)) = (services::kafka(), services::mongo()) else { return };
    let server = Server::new(mongo.address());
    let proxy = Proxy::start(server.address, 13).unwrap();
    let setup = server.setup(proxy.address());
    let store = Arc::new(server);
    let rig = rig::start(&kafka, "mongo", store.clone(), &setup);
    way_fails(&rig, &proxy, Duration::from_secs(6), NOTHING);
    let drop_events = || {
        rig.drop_table(|| {
            let events = store.client.database(&store.database).collection::<Document>("events");
            store.runtime.block_on(async { events.drop().await }).unwrap();
        });
    };
    rig.fault("no collection of events", BRIEF, NOTHING, drop_events, || {});

    let database = store.client.database(&store.database);
    let times = Cell::new(1);
    rig.fault(
        "comes back with more fields and an index",
        BRIEF,
        WAITS,
        || {
            proxy.refuse(true);
            proxy.reset();
            let n = times.replace(times.get() + 1);
            let more = doc! { "$set": { format!("more_{n}"): { "n": n } } };
            let by_number = IndexModel::builder().keys(doc! { "seq": n, "key": 1 }).build();
            store.runtime.block_on(async {
                for name in ["places", "events"] {
                    let collection = database.collection::<Document>(name);
                    collection.update_many(doc! {}, more.clone()).await.unwrap();
                }
                database.collection::<Document>("events").create_index(by_number).await.unwrap();
            });
        },
        || proxy.heal(),
    );
    rig.end();
}
