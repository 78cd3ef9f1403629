//! Test databases and clusters: each test gets its own database, a cluster can be crashed, and nothing remains on the
//! machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use catbird_testkit::cluster::{OwnCluster, TestDatabase, database};
use futures_util::future::join_all;
use tokio_postgres::{Client, Config, NoTls};
use ulid::Ulid;

/// Maximum time until a condition holds.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn two_databases_are_independent() {
    let (ours, theirs) = (database().await, database().await);
    let (our_client, their_client) = (ours.connect().await, theirs.connect().await);
    for client in [&our_client, &their_client] {
        client.batch_execute("create table only_here (n int); select pg_advisory_lock(1)").await.unwrap();
    }
    our_client.batch_execute("insert into only_here values (1)").await.unwrap();
    assert!(their_client.query("select from only_here", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_url_and_the_config_of_a_database_agree() {
    let database = database().await;
    let (by_url, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(name_of(&by_url).await, name_of(&database.connect().await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_can_be_made_and_dropped_all_at_once() {
    let databases: Vec<TestDatabase> =
        join_all((0..8).map(|_| tokio::spawn(database()))).await.into_iter().map(Result::unwrap).collect();
    let names = join_all(databases.iter().map(|database| async { name_of(&database.connect().await).await })).await;
    join_all(databases.into_iter().map(|database| tokio::task::spawn_blocking(move || drop(database)))).await;

    let remaining = names_of_databases(&database().await.config).await;
    assert!(names.iter().all(|name| !remaining.contains(name)), "{remaining:?}");
}

#[tokio::test]
async fn a_database_is_dropped_despite_open_connections() {
    let observer = database().await;
    let doomed = database().await;
    let client = doomed.connect().await;
    let name = name_of(&client).await;
    assert!(names_of_databases(&observer.config).await.contains(&name));
    drop(doomed);
    assert!(!names_of_databases(&observer.config).await.contains(&name));
    client.query("select", &[]).await.unwrap_err();
}

#[tokio::test]
async fn an_own_cluster_crashes_and_recovers_at_the_same_address() {
    let mut cluster = OwnCluster::start().await;
    let (tcp, socket) = (cluster.config(), cluster.socket_config());
    let client = connect(&tcp).await;
    client.batch_execute("create table kept (n int); insert into kept values (1)").await.unwrap();
    client.batch_execute("begin; insert into kept values (2)").await.unwrap();

    cluster.restart_immediate().await;
    client.query("select", &[]).await.unwrap_err();
    for config in [&tcp, &socket] {
        let rows = connect(config).await.query("select n from kept", &[]).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [1]);
    }

    cluster.stop().await;
    tcp.connect(NoTls).await.err().expect("a stopped cluster takes no connections");
    cluster.resume().await;
    connect(&tcp).await.query("select n from kept", &[]).await.unwrap();
}

#[tokio::test]
async fn a_test_process_leaves_neither_processes_nor_directories() {
    let temp = Scratch::new();
    let output = run(A_TEST, &[("TMPDIR", temp.0.to_str().unwrap()), ("TEST_DATABASE_URL", "")]);
    assert!(output.status.success(), "{output:?}");
    until("nothing is left", || fs::read_dir(&temp.0).unwrap().next().is_none() && !is_named_by_a_process(&temp)).await;
}

#[tokio::test]
async fn the_server_in_test_database_url_is_used_and_left_as_it_was() {
    let cluster = OwnCluster::start().await;
    let before = names_of_databases(&cluster.config()).await;
    for url in [cluster.url(), format!("host=127.0.0.1 port={} user=catbird", cluster.port())] {
        let output = run(A_TEST, &[("TEST_DATABASE_URL", &url)]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(names_of_databases(&cluster.config()).await, before);
    }

    let url = cluster.url();
    let mut cluster = cluster;
    cluster.stop().await;
    assert!(!run(A_TEST, &[("TEST_DATABASE_URL", &url)]).status.success(), "no other server takes its place");
}

/// A test for [`run`] that needs databases.
const A_TEST: &str = "cluster::two_databases_are_independent";

/// Runs one test of this file in its own process.
fn run(test: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

/// A directory that PostgreSQL's user may write to, for use as the temporary directory.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("catbird-test-{}", Ulid::new().to_string().to_lowercase()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is empty unless the test failed, and then that failure counts.
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn name_of(client: &Client) -> String {
    client.query_one("select current_database()::text", &[]).await.unwrap().get(0)
}

async fn names_of_databases(config: &Config) -> Vec<String> {
    let rows = connect(config).await.query("select datname::text from pg_database order by 1", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn is_named_by_a_process(dir: &Scratch) -> bool {
    let ps = Command::new("ps").args(["-eo", "args="]).output().unwrap();
    String::from_utf8_lossy(&ps.stdout).contains(dir.0.to_str().unwrap())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
