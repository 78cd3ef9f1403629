//! Faults of the service itself: of its processes, their memory and their connections.

use catbird_client::random_did;
use catbird_client::xrpc::Xrpc;
use catbird_server::clock::Clock;
use catbird_testkit::app::validated;
use catbird_testkit::chaos::Chaos;
use catbird_testkit::cluster::{OwnCluster, database};
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::port::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::case::Case;
use super::machine::{Cgroup, other_version};
use super::prometheus::JOB;
use super::tools::{Stable, logged, until};
use super::uploads::Uploads;

pub async fn the_targets_are_misnamed(case: &mut Case) {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    case.watch(&[&replica.base], &database.url).await;
    case.prometheus().rename_job("catbird-servers").await;
    case.fires().await;
    case.follow().await.has("# HELP");
    case.says("Correct the targets in `prometheus.yml`");
    case.prometheus().rename_job(JOB).await;
    case.resolves().await;
}

pub async fn a_process_is_killed(case: &mut Case) {
    let database = database().await;
    let mut stable = Stable::start(Mode::Advisory, &database.url, &[]).await;
    case.watch(&[&stable.replica.base], &database.url).await;
    stable.replica.kill();
    case.fires().await;
    case.follow_in_vain().await.has("Failed to connect");
    case.says("`Failed to connect`: the process has ended");
    let _stable = stable.revive(Mode::Advisory, &database.url, &[]).await;
    case.follow().await.has("OK");
    case.resolves().await;
}

pub async fn postgres_is_stopped(case: &mut Case) {
    let mut cluster = OwnCluster::start().await;
    let url = cluster.url();
    let replicas = [Replica::start(Mode::Advisory, &url, &[]).await, Replica::start(Mode::Actors, &url, &[]).await];
    case.watch(&[&replicas[0].base, &replicas[1].base], &url).await;
    cluster.stop().await;
    case.fires().await;
    case.follow_in_vain().await.has("\"database\":false").has("Connection refused");
    case.turn_to("CatbirdReplicaNotReady");
    case.follow().await.has("readiness_check{check=\"database\"} 0");
    cluster.resume().await;
    case.resolves().await;
}

pub async fn one_replica_cannot_reach_postgres(case: &mut Case) {
    let database = database().await;
    let chaos = Chaos::before(&database.config).await;
    let cut_off = Replica::start(Mode::Advisory, &chaos.url(), &[]).await;
    let other = Replica::start(Mode::Advisory, &database.url, &[]).await;
    case.watch(&[&cut_off.base, &other.base], &database.url).await;
    chaos.black_hole(true);
    case.fires().await;
    case.follow().await.has("\"database\":false").has("readiness_check{check=\"database\"} 0");
    case.says("PostgreSQL does not answer this replica");
    assert!(!case.prometheus().firing().await.contains(&"CatbirdNotReady".to_owned()), "the other one is ready");
    chaos.black_hole(false);
    case.resolves().await;
}

pub async fn a_process_is_killed_again_and_again(case: &mut Case) {
    let database = database().await;
    let mut stable = Stable::start(Mode::Advisory, &database.url, &[]).await;
    case.watch(&[&stable.replica.base], &database.url).await;
    for _ in 0..4 {
        let start = async || {
            let series =
                case.prometheus().query("process_start_time_seconds{job=\"catbird\"} and on (instance) up == 1").await;
            series.first().map(|series| series["value"][1].clone())
        };
        let before = start().await;
        stable.replica.kill();
        stable = stable.revive(Mode::Advisory, &database.url, &[]).await;
        until("a scrape of the new process", async || start().await.is_some_and(|now| Some(now) != before)).await;
    }
    case.fires().await;
    case.follow().await.has(&Clock::system().now().format("%Y-").to_string());
    case.says("killed repeatedly");
    case.resolves().await;
}

/// Retention cannot read the state of work without a date, and panics. The server needs no retention.
pub async fn a_task_panics(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    db.batch_execute("alter table sweeps alter since drop not null").await.unwrap();
    db.batch_execute("insert into sweeps (job, started_at, since) values ('ghost', now(), null)").await.unwrap();
    let stable = Stable::start(Mode::Advisory, &database.url, &[]).await;
    case.watch(&[&stable.replica.base], &database.url).await;
    case.fires().await;
    case.follow().await.has("background_task_ended{task=\"retention\"} 1").has("\"ended\":[\"retention\"]");
    let line = logged(&stable.replica, "a task ended").await;
    assert!(line.contains("panicked") && line.contains("\"task\":\"retention\""), "{line}");
    case.says("Save the log (`a task ended`), then restart the replica");
    db.batch_execute("delete from sweeps where job = 'ghost'").await.unwrap();
    let _stable = stable.restart(Mode::Advisory, &database.url, &[]).await;
    case.resolves().await;
}

pub async fn an_upgrade_is_not_finished(case: &mut Case) {
    let database = database().await;
    let program = other_version();
    let new = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let port = Port::reserve();
    let settings = [("SERVER_PORT", &*port.to_string())];
    let old = Replica::start_program(program.path(), Mode::Advisory, &database.url, &settings).await;
    case.watch(&[&old.base, &new.base], &database.url).await;
    case.fires().await;
    case.follow().await.has(&format!("version=\"{}\"", program.version()));
    case.says("Finish the upgrade");
    assert_eq!(old.terminate().await, Some(0));
    let _upgraded = Replica::start(Mode::Advisory, &database.url, &settings).await;
    case.resolves().await;
}

pub async fn bodies_take_the_memory_of_a_small_container(case: &mut Case) {
    /// Bodies that arrive, and their bytes.
    const BODIES: usize = 12;
    const BYTES: usize = 19 << 20;
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    case.watch(&[&replica.base], &database.url).await;
    let cgroup = Cgroup::create();
    cgroup.limit(replica.memory() + (BODIES * BYTES * 11 / 10) as u64);
    cgroup.add(&replica);
    let uploads = Uploads::start(&replica.base, BODIES, BYTES).await;
    case.fires().await;
    case.follow().await.has("process_memory_limit_bytes").has("http_connections_open");
    case.says("The limit of the container must hold the sum");
    cgroup.limit(2 << 30);
    case.resolves().await;
    drop(uploads);
}

pub async fn idle_clients_keep_their_connections(case: &mut Case) {
    const MOST: usize = 40;
    let database = database().await;
    let settings = [("MAX_CONNECTIONS", &*MOST.to_string())];
    let replica = Replica::start(Mode::Advisory, &database.url, &settings).await;
    case.watch(&[&replica.base], &database.url).await;
    let mut idle = Vec::new();
    for _ in 0..MOST * 9 / 10 {
        let mut connection = TcpStream::connect(replica.base.trim_start_matches("http://")).await.unwrap();
        connection.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        connection.read_exact(&mut [0; 12]).await.unwrap();
        idle.push(connection);
    }
    case.fires().await;
    case.follow().await.has(&format!("http_connections_max {MOST}")).has("event_streams_open 0");
    case.says("Otherwise clients or a proxy do not reuse connections");
    drop(idle);
    case.resolves().await;
}

pub async fn there_are_many_streams(case: &mut Case) {
    const STREAMS: usize = 95;
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("MAX_CONNECTIONS", "110")]).await;
    case.watch(&[&replica.base], &database.url).await;
    let callers: Vec<Xrpc> = (0..STREAMS / 10 + 1).map(|_| validated(&replica.base, &random_did())).collect();
    let mut streams = Vec::new();
    for n in 0..STREAMS {
        let mut stream = callers[n % callers.len()].follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
        stream.skip().await.unwrap();
        streams.push(stream);
    }
    case.fires().await;
    case.follow().await.has(&format!("event_streams_open {STREAMS}")).has("event_streams_max 100");
    case.says("Add a replica");
    streams.truncate(STREAMS / 2);
    let other = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let mut moved =
        validated(&other.base, &random_did()).follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    moved.skip().await.unwrap();
    case.resolves().await;
}
