//! Databases for tests. Each test gets its own migrated database from [`database`]; tests that harm PostgreSQL itself
//! get a cluster from [`OwnCluster::start`]. Tests share nothing but the machine's time: advisory locks, connections
//! and statistics are per database.
//!
//! The databases are in one throw-away cluster per test process, or on the server of `TEST_DATABASE_URL`, whose role
//! must be allowed to create databases. They are dropped with their [`TestDatabase`], and the cluster with the process.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use catbird_server::config::BlobStore;
use catbird_server::embedded::{EmbeddedPostgres, Settings, Shutdown};
use catbird_server::metrics::Registry;
use catbird_server::objects::{ObjectMetrics, Objects};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Config, NoTls};
use ulid::Ulid;

use crate::port::Port;

/// Maximum time for which the processes of a killed PostgreSQL hold their memory.
const REMAINS: Duration = Duration::from_secs(20);

/// Prefix of test databases, which identifies leftovers of killed tests.
const PREFIX: &str = "catbird_test_";

/// Creates a fresh database with the schema of this build.
pub async fn database() -> TestDatabase {
    let server = SERVER.get_or_init(Server::find).await;
    let database = server.create_database(server.copy.unwrap_or_default()).await;
    if server.copy.is_none() {
        migrate(&database.config).await;
    }
    database
}

/// Creates an empty database.
pub async fn empty_database() -> TestDatabase {
    SERVER.get_or_init(Server::find).await.create_database("").await
}

/// Database of one test, dropped with this value even if connections are open.
#[derive(Debug)]
pub struct TestDatabase {
    pub config: Config,
    pub url: String,
    name: String,
    admin: Config,
}

impl TestDatabase {
    /// Opens a connection outside every pool.
    pub async fn connect(&self) -> Client {
        connect(&self.config).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // On a thread of its own, because this one may be driving the test's runtime.
        let (admin, drop) = (self.admin.clone(), format!("drop database \"{}\" with (force)", self.name));
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { connect(&admin).await.batch_execute(&drop).await.unwrap() });
        });
        let _ = std::fs::remove_dir_all(blob_folder(&self.config));
        assert!(dropped.join().is_ok() || std::thread::panicking(), "cannot drop the test database {}", self.name);
    }
}

/// Folder with the blobs of the servers on a test database.
pub fn blob_folder(database: &Config) -> PathBuf {
    std::env::temp_dir()
        .join(format!("catbird-blobs-{}", Uid::effective()))
        .join(database.get_dbname().unwrap_or("postgres"))
}

/// Opens the blob store of the servers on a test database.
pub fn blob_store(database: &Config) -> Objects {
    let metrics = ObjectMetrics::register(&mut Registry::default());
    Objects::open(&BlobStore::Folder(blob_folder(database)), metrics).unwrap()
}

/// Server with the databases of this process. It lives as long as the process, whose end ends the cluster too.
static SERVER: OnceCell<Server> = OnceCell::const_new();

struct Server {
    url: String,
    /// Databases are copied from a migrated template on our own cluster, and created empty on an external server, where
    /// a template would stay behind.
    copy: Option<&'static str>,
    _cluster: Option<EmbeddedPostgres>,
}

impl Server {
    async fn find() -> Self {
        if let Some(url) = setting("TEST_DATABASE_URL") {
            return Self { url, copy: None, _cluster: None };
        }
        let cluster = EmbeddedPostgres::start(&settings()).await.unwrap();
        migrate(&cluster.config()).await;
        let url = with_database(&cluster.url(), "postgres");
        let client = connect(&url.parse().unwrap()).await;
        let version = client.query_one("select current_setting('server_version_num')::int", &[]).await.unwrap();
        // Copying files costs a checkpoint, which is free without fsync, and took a third of the time of the new
        // default, which copies through the write-ahead log. PostgreSQL 14 supports only file copies.
        let copy = match version.get::<_, i32>(0) {
            ..150_000 => "template catbird",
            _ => "template catbird strategy file_copy",
        };
        Self { url, copy: Some(copy), _cluster: Some(cluster) }
    }

    async fn create_database(&self, how: &str) -> TestDatabase {
        let name = format!("{PREFIX}{}", Ulid::new().to_string().to_lowercase());
        let admin: Config = self.url.parse().expect("TEST_DATABASE_URL is a PostgreSQL connection string");
        connect(&admin).await.batch_execute(&format!("create database \"{name}\" {how}")).await.unwrap();
        let url = with_database(&self.url, &name);
        TestDatabase { config: url.parse().unwrap(), url, name, admin }
    }
}

/// A cluster of one test, which may stop and crash it. Its database is migrated. It is removed at the end.
#[derive(Debug)]
pub struct OwnCluster {
    cluster: EmbeddedPostgres,
    port: Port,
}

impl OwnCluster {
    pub async fn start() -> Self {
        let cluster = Self::start_empty().await;
        migrate(&cluster.config()).await;
        cluster
    }

    /// Starts a cluster with an empty database.
    pub async fn start_empty() -> Self {
        let port = Port::reserve();
        let settings = Settings { loopback_port: Some(port.number()), ..settings() };
        let cluster = EmbeddedPostgres::start(&settings).await.unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, port }
    }

    /// Port of 127.0.0.1 that the cluster listens on, the same after every start.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// URL of the database through TCP.
    pub fn url(&self) -> String {
        format!("postgresql://catbird@127.0.0.1:{}/catbird", self.port)
    }

    /// Connection settings of the database through TCP.
    pub fn config(&self) -> Config {
        self.url().parse().unwrap()
    }

    /// URL of the database through the socket.
    pub fn socket_url(&self) -> String {
        self.cluster.url()
    }

    /// Connection settings of the database through the socket.
    pub fn socket_config(&self) -> Config {
        self.cluster.config()
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Client {
        connect(&self.config()).await
    }

    /// Starts a standby that follows this cluster by streaming replication, with the name `standby`.
    pub async fn standby(&self) -> Self {
        let mut standby = Self::start_empty().await;
        standby.stop().await;
        let pgdata = standby.pgdata();
        std::fs::remove_dir_all(&pgdata).unwrap();
        let from = format!("postgresql://catbird@127.0.0.1:{}", self.port);
        let mut copy = Command::new("pg_basebackup");
        copy.args(["--checkpoint=fast", "--no-sync", "--dbname", &from, "--pgdata"]).arg(&pgdata);
        let copied = tokio::task::spawn_blocking(move || copy.output().unwrap()).await.unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let conf = pgdata.join("postgresql.auto.conf");
        let primary =
            format!("primary_conninfo = 'host=127.0.0.1 port={} user=catbird application_name=standby'\n", self.port);
        std::fs::write(&conf, std::fs::read_to_string(&conf).unwrap() + &primary).unwrap();
        give(&pgdata, pgdata.parent().unwrap());
        standby.stand_by();
        standby.resume().await;
        standby
    }

    /// Directory of its data.
    pub fn pgdata(&self) -> std::path::PathBuf {
        self.cluster.dir().join("postgres")
    }

    /// Makes the cluster, from its next start on, a standby that waits for its primary's writes (PostgreSQL manual
    /// 27.2.2). The start may follow [`OwnCluster::stop`].
    pub fn stand_by(&self) {
        let signal = self.pgdata().join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        give(&signal, &self.pgdata());
    }

    /// Appends lines to postgresql.conf. They take effect at the next start, except where the command line says otherwise.
    pub fn configure(&self, lines: &str) {
        let conf = self.pgdata().join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        std::fs::write(&conf, text + "\n" + lines).unwrap();
    }

    /// Runs a command of the shell as the owner of the data, with the programs of the cluster's PostgreSQL on the path. The cluster has
    /// been started before.
    pub async fn run_as_owner(&self, command: &str) {
        let owner = std::fs::metadata(self.pgdata()).unwrap();
        let options = std::fs::read_to_string(self.pgdata().join("postmaster.opts")).unwrap();
        let postgres = Path::new(options.split_whitespace().next().unwrap());
        let path = format!("PATH={}:$PATH; {command}", postgres.parent().unwrap().display());
        let mut shell = Command::new("sh");
        shell.args(["-euc", &path]).current_dir("/");
        if nix::unistd::Uid::effective().is_root() {
            shell.uid(owner.uid()).gid(owner.gid());
        }
        let ran = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Shuts down in order: clients are disconnected, open transactions are rolled back.
    pub async fn stop(&mut self) {
        self.cluster.halt(Shutdown::Fast).await.unwrap();
    }

    /// Shuts down like a crash.
    pub async fn crash(&mut self) {
        self.cluster.halt(Shutdown::Immediate).await.unwrap();
    }

    /// Returns the process that all others of PostgreSQL are children of.
    fn postmaster(&self) -> Pid {
        let pid = std::fs::read_to_string(self.pgdata().join("postmaster.pid")).unwrap();
        Pid::from_raw(pid.lines().next().unwrap().trim().parse().unwrap())
    }

    /// SIGKILL: PostgreSQL can do nothing. Its other processes notice a moment later.
    pub async fn kill(&mut self) {
        kill(self.postmaster(), Signal::SIGKILL).unwrap();
        self.cluster.ended().await;
    }

    /// Kills all processes at once, as a host does that loses power. After a SIGKILL of the postmaster alone, COMMITs stop to wait for a standby
    /// and are visible for a moment (PostgreSQL's syncrep.c).
    pub async fn lose_power(&mut self) {
        let postmaster = self.postmaster();
        kill(postmaster, Signal::SIGSTOP).unwrap();
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let children: Vec<Pid> = children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect();
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for child in &children {
                // It may have ended meanwhile.
                let _ = kill(*child, signal);
            }
        }
        kill(postmaster, Signal::SIGKILL).unwrap();
        self.cluster.ended().await;
    }

    /// Starts again after [`OwnCluster::stop`], [`OwnCluster::crash`] or [`OwnCluster::kill`].
    pub async fn resume(&mut self) {
        let begin = Instant::now();
        while let Err(error) = self.cluster.resume().await {
            let remains = error.to_string().contains("pre-existing shared memory");
            assert!(remains && begin.elapsed() < REMAINS, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Crashes and recovers.
    pub async fn restart_immediate(&mut self) {
        self.crash().await;
        self.resume().await;
    }
}

/// Changes the owner of a file, or of a directory with its content, to that of another.
fn give(path: &Path, as_is: &Path) {
    let owner = std::fs::metadata(as_is).unwrap();
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), as_is));
    }
}

/// Migrates a database to the schema of this build.
async fn migrate(config: &Config) {
    catbird_server::store::migrate(config).await.unwrap();
}

fn settings() -> Settings {
    Settings {
        bin_dir: setting("PG_BIN_DIR").map(Into::into),
        extra: vec![("shared_buffers".to_owned(), "64MB".to_owned())],
        ..Settings::throw_away()
    }
}

#[expect(clippy::disallowed_methods, reason = "these settings are of the tests, not of the server")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Returns the connection string of another database on the same server. Both forms of connection strings are
/// supported.
fn with_database(url: &str, name: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return format!("{url} dbname={name}") };
    let (place, options) = rest.split_once('?').map_or((rest, String::new()), |(p, o)| (p, format!("?{o}")));
    let server = place.split_once('/').map_or(place, |(server, _)| server);
    format!("{scheme}://{server}/{name}{options}")
}
