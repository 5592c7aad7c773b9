//! Several nodes in two racks: who is asked.

use crate::sink::{options as sink_options, read, rows, write};
use crate::support::{World, ask, longs, options, world, world_of};
use arrow_schema::DataType;
use millstream_core::Batch;
use millstream_cql::{Cluster, CqlLookupOptions, CqlSinkOptions, CqlTable, Execution};
use millstream_testkit::cql_proxy::{Asked, CqlProxy, Hold, Way};
use millstream_testkit::services;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::{Consistency, Statement};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const ROWS: i64 = 300;

/// How many requests each node has had from clients of this name.
async fn requests(world: &World, client: &str) -> Vec<i64> {
    let mut all = Vec::new();
    for node in world.cassandra.nodes() {
        let alone = NodeIdentifier::NodeAddress(node.parse().unwrap());
        let profile = ExecutionProfile::builder()
            .load_balancing_policy(SingleTargetLoadBalancingPolicy::new(alone, None))
            .consistency(Consistency::One);
        let mut query =
            Statement::new("SELECT driver_name, request_count FROM system_views.clients");
        query.set_execution_profile_handle(Some(profile.build().into_handle()));
        let answer = world.session.query_unpaged(query, ()).await.unwrap();
        let answer = answer.into_rows_result().unwrap();
        let clients = answer.rows::<(Option<String>, Option<i64>)>().unwrap().map(Result::unwrap);
        let counts =
            clients.filter(|(name, _)| name.as_deref().is_some_and(|n| n.contains(client)));
        all.push(counts.filter_map(|(_, count)| count).sum());
    }
    all
}

fn more(before: &[i64], after: &[i64]) -> Vec<i64> {
    before.iter().zip(after).map(|(before, after)| after - before).collect()
}

/// How many of so many rows each node was sent, once it is connected to.
async fn sent(world: &World, cluster: Arc<Cluster>) -> Vec<i64> {
    cluster.refresh().await.unwrap();
    let ids: Vec<_> = (0..ROWS).map(Some).collect();
    let batch = rows(vec![("id", longs(&ids)), ("n", longs(&ids))]);
    let schema = batch.rows.schema();
    let table = CqlTable::open(cluster, sink_options(world, "t"), &schema).await.unwrap();
    for _ in 0..50 {
        let (before, direct) = (requests(world, "millstream").await, table.stored_directly());
        let receipt = table.sink().write(&batch).await.unwrap();
        assert_eq!((receipt.rows, receipt.rejected), (ROWS as u64, vec![]));
        if table.stored_directly() - direct == ROWS as u64 {
            return more(&before, &requests(world, "millstream").await);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not all nodes are connected to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_go_to_who_has_them_and_to_the_rack_that_is_near() {
    let cassandra = tokio::task::spawn_blocking(services::cassandra_cluster).await.unwrap();
    let Some(cassandra) = cassandra else { return };
    let world = world_of(cassandra, 1).await;
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, n bigint)").await;
    let sent_to = sent(&world, world.cluster.clone()).await;
    world.session.refresh_metadata().await.unwrap();
    let state = world.session.get_cluster_state();
    let owners = (0..ROWS).map(|id| {
        let (owner, _) = state.get_endpoints(&world.keyspace, "t", &(id,)).unwrap().remove(0);
        format!("{}:{}", owner.address.ip(), owner.address.port())
    });
    let owners: Vec<_> = owners.collect();
    let nodes = world.cassandra.nodes();
    let owned =
        nodes.iter().map(|node| owners.iter().filter(|owner| *owner == node).count() as i64);
    assert_eq!(sent_to, owned.collect::<Vec<_>>());
    assert!(sent_to.iter().all(|rows| *rows > 0), "{sent_to:?}");

    let keyspace = &world.keyspace;
    let everywhere = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    world.cql(&format!("ALTER KEYSPACE {keyspace} WITH replication = {everywhere}")).await;
    // The second node is alone in its rack.
    let mut near = options(&world.cassandra);
    (near.datacenter, near.rack) = (Some("dc1".into()), Some("rack1".into()));
    let near = Cluster::connect(near, &Handle::current()).await.unwrap();
    assert_eq!(sent(&world, near.clone()).await, [0, ROWS, 0]);

    let world = World { cluster: near, ..world };
    let mut by_id = world.options("t");
    by_id.group = 4;
    let lookup = world.lookup(by_id, &[("id", DataType::Int64)]).await.unwrap();
    let before = requests(&world, "ylla").await;
    for _ in 0..4 {
        let ids: Vec<_> = (0..ROWS).map(Some).collect();
        let found = ask(&lookup, vec![("id", longs(&ids))]).await.unwrap();
        assert_eq!(found.rows.num_rows(), ROWS as usize);
    }
    // The driver has requests of its own.
    let asked = more(&before, &requests(&world, "ylla").await);
    assert!(asked[1] >= ROWS && asked[0] < 50 && asked[2] < 50, "{asked:?}");
}

/// A proxy before each node. They have one port: the driver finds them by the nodes' own addresses.
fn proxies(nodes: &[String]) -> Vec<CqlProxy> {
    let nodes: Vec<SocketAddr> = nodes.iter().map(|node| node.parse().unwrap()).collect();
    for _ in 0..20 {
        let first = CqlProxy::start(nodes[0], 7).unwrap();
        let others = nodes[1..].iter().map(|node| {
            CqlProxy::listen(SocketAddr::new(node.ip(), first.address().port()), *node, 7)
        });
        if let Ok(others) = others.collect::<Result<Vec<_>, _>>() {
            return std::iter::once(first).chain(others).collect();
        }
    }
    panic!("no port is free on all addresses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_is_asked_where_the_first_is_silent() {
    let cassandra = tokio::task::spawn_blocking(services::cassandra_cluster).await.unwrap();
    let Some(cassandra) = cassandra else { return };
    let world = world_of(cassandra, 3).await;
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, n bigint)").await;
    let proxies = proxies(&world.cassandra.nodes());
    let mut near = options(&world.cassandra);
    near.nodes = vec![proxies[0].address().to_string()];
    (near.datacenter, near.rack) = (Some("dc1".into()), Some("rack1".into()));
    let world =
        World { cluster: Cluster::connect(near, &Handle::current()).await.unwrap(), ..world };
    let ids: Vec<_> = (0..40).map(Some).collect();
    let batch = rows(vec![("id", longs(&ids)), ("n", longs(&ids))]);

    // The second node is alone in its rack, and says nothing for longer than a request may take.
    let silent = Duration::from_secs(60);
    let hold = Hold { share: 1.0, way: Way::Answer, least: silent, most: silent };
    for asked in [Asked::Select, Asked::Insert] {
        proxies[1].hold(asked, Some(hold));
    }
    let execution = |speculative_after| Execution {
        timeout: Duration::from_secs(2),
        speculative_after,
        ..world.options("t").execution
    };
    let soon = Some(Duration::from_millis(20));
    let others = |asked| [&proxies[0], &proxies[2]].map(|node| node.seen(asked).requests);

    let with = |after| CqlSinkOptions {
        execution: execution(after),
        retries: 0,
        ..sink_options(&world, "t")
    };
    let one = Batch::same(batch.rows.slice(0, 1));
    let error = write(&world, with(None), &one).await.err().unwrap();
    assert!(error.contains("writing"), "{error}");
    assert_eq!(
        (others(Asked::Insert), proxies[1].seen(Asked::Insert).requests > 0),
        ([0, 0], true)
    );
    let stored = write(&world, CqlSinkOptions { retries: 3, ..with(soon) }, &batch).await.unwrap();
    assert_eq!((stored.rows, stored.rejected), (40, vec![]));
    assert!(others(Asked::Insert).iter().sum::<u64>() >= 40, "{:?}", others(Asked::Insert));

    for group in [1, 8] {
        let with =
            |after| CqlLookupOptions { execution: execution(after), group, ..world.options("t") };
        let by = [("id", DataType::Int64)];
        let patient = world.lookup(with(None), &by).await.unwrap();
        ask(&patient, vec![("id", longs(&ids[..1]))]).await.unwrap_err();
        let lookup = world.lookup(with(soon), &by).await.unwrap();
        let found = ask(&lookup, vec![("id", longs(&ids))]).await.unwrap();
        assert_eq!(found.rows.num_rows(), 40);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_to_another_data_centre() {
    let Some(world) = world().await else { return };
    world.cql("CREATE TABLE KS.t (id bigint PRIMARY KEY, n bigint)").await;
    let mut elsewhere = options(&world.cassandra);
    elsewhere.datacenter = Some("elsewhere".into());
    let Ok(cluster) = Cluster::connect(elsewhere, &Handle::current()).await else { return };
    cluster.refresh().await.unwrap();
    let batch = rows(vec![("id", longs(&[Some(1)])), ("n", longs(&[Some(1)]))]);
    let schema = batch.rows.schema();
    let opened = CqlTable::open(cluster, sink_options(&world, "t"), &schema).await;
    if let Ok(table) = opened {
        for _ in 0..3 {
            assert!(table.sink().write(&batch).await.is_err());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(read(&world, "SELECT id FROM KS.t").await, Vec::<String>::new());
}
