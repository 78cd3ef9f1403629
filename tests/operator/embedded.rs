//! The private PostgreSQL: data stays, crashes of either side recover without help, a cluster is never shared, and
//! throw-away clusters leave nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use catbird_server::embedded::{EmbeddedError, EmbeddedPostgres, Settings, Shutdown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::{Client, NoTls};
use ulid::Ulid;

/// Maximum time until a condition holds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells the helper which cluster to run.
const HELPER_DATA_DIR: &str = "CATBIRD_TEST_HELPER_DATA_DIR";
const HELPER_THROWS_AWAY: &str = "CATBIRD_TEST_HELPER_THROWS_AWAY";

#[tokio::test]
async fn data_survives_a_restart() {
    let dir = Scratch::new();
    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    remember(&postgres, "before").await;
    postgres.stop().await.unwrap();

    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    assert_eq!(remembered(&postgres).await, ["before"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_durable_cluster_is_durable_and_counts_statements() {
    let dir = Scratch::new();
    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    let client = connect(&postgres).await;
    for (setting, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("listen_addresses", ""),
        ("max_connections", "100"),
    ] {
        let row = client.query_one("select current_setting($1)", &[&setting]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value, "{setting}");
    }
    client.query("select from pg_stat_statements limit 1", &[]).await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn the_url_and_the_config_lead_to_the_same_database() {
    let postgres = EmbeddedPostgres::start(&Settings::throw_away()).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let by_url: i64 = client.query_one(IDENTITY, &[]).await.unwrap().get(0);
    let by_config: i64 = connect(&postgres).await.query_one(IDENTITY, &[]).await.unwrap().get(0);
    assert_eq!(by_url, by_config);
    postgres.stop().await.unwrap();
}

const IDENTITY: &str = "select system_identifier from pg_control_system() where current_database() = 'catbird'";

#[tokio::test]
async fn two_servers_cannot_share_a_data_directory() {
    let dir = Scratch::new();
    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    let refused = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap_err();
    assert!(matches!(&refused, EmbeddedError::InUse { pid: Some(pid), .. } if *pid == std::process::id().to_string()));
    assert!(refused.to_string().contains("another server"), "{refused}");

    remember(&postgres, "undisturbed").await;
    postgres.stop().await.unwrap();
    EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_cluster_is_stopped_and_can_be_started_again_at_once() {
    let dir = Scratch::new();
    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    remember(&postgres, "dropped").await;
    drop(postgres);

    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    assert_eq!(remembered(&postgres).await, ["dropped"]);
    drop(postgres);
    until("PostgreSQL is gone", || processes_in(&dir.0).is_empty()).await;
}

#[tokio::test]
async fn a_server_that_is_killed_takes_its_postgres_along() {
    let dir = Scratch::new();
    let mut helper = Helper::start(&dir.0, false).await;
    helper.kill();
    until("PostgreSQL is gone", || processes_in(&dir.0).is_empty()).await;

    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    assert_eq!(remembered(&postgres).await, ["by the helper"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_takes_over_from_a_postgres_that_was_left_running() {
    let dir = Scratch::new();
    let mut helper = Helper::start(&dir.0, false).await;
    let postmaster = postmaster(&dir.0);
    for supervisor in group_of(postmaster).into_iter().filter(|pid| *pid != postmaster) {
        kill(supervisor, Signal::SIGKILL).unwrap();
    }
    helper.kill();
    assert!(is_alive(postmaster), "without its supervisor PostgreSQL outlives the server");

    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    assert!(!is_alive(postmaster));
    assert_eq!(remembered(&postgres).await, ["by the helper"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_recovers_when_everything_was_killed_at_once() {
    let dir = Scratch::new();
    let mut helper = Helper::start(&dir.0, false).await;
    let postmaster = postmaster(&dir.0);
    let children = children_of(postmaster);
    for pid in group_of(postmaster) {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    helper.kill();
    // Children in groups of their own keep the shared memory until they notice that the postmaster has died.
    while children.iter().chain([&postmaster]).any(|pid| is_alive(*pid)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(dir.0.join("postgres/postmaster.pid").exists());

    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    assert_eq!(remembered(&postgres).await, ["by the helper"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_stale_pid_that_now_belongs_to_an_innocent_process_does_not_prevent_a_start() {
    let dir = Scratch::new();
    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    let pid_file = dir.0.join("postgres/postmaster.pid");
    let socket_lock = dir.0.join("socket/.s.PGSQL.5432.lock");
    let was = fs::read_to_string(&pid_file).unwrap();
    let account = fs::metadata(&pid_file).unwrap();
    postgres.stop().await.unwrap();

    // The unrelated process has PostgreSQL's owner: the case that PostgreSQL itself cannot detect.
    let mut innocent = Helper(as_owner(&account, "sleep").arg("600").stdout(Stdio::null()).spawn().unwrap());
    let stale = was.lines().skip(1).fold(innocent.0.id().to_string(), |text, line| format!("{text}\n{line}"));
    fs::write(&pid_file, &stale).unwrap();
    fs::write(&socket_lock, &stale).unwrap();

    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    assert!(innocent.0.try_wait().unwrap().is_none(), "the innocent process was left alone");
    innocent.kill();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_creation_is_made_again() {
    let dir = Scratch::new();
    fs::create_dir_all(dir.0.join("postgres.new/base")).unwrap();
    EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap().stop().await.unwrap();
    assert!(!dir.0.join("postgres.new").exists());
}

#[tokio::test]
async fn a_crashed_cluster_resumes_and_keeps_what_was_committed() {
    let dir = Scratch::new();
    let mut postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    remember(&postgres, "committed").await;
    postgres.halt(Shutdown::Immediate).await.unwrap();
    assert!(postgres.config().connect(NoTls).await.is_err());
    postgres.resume().await.unwrap();
    assert_eq!(remembered(&postgres).await, ["committed"]);

    kill(postmaster(&dir.0), Signal::SIGKILL).unwrap();
    assert_eq!(postgres.ended().await, Some(128 + Signal::SIGKILL as i32));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn without_postgres_the_error_names_the_package_to_install() {
    let (dir, empty) = (Scratch::new(), Scratch::new());
    fs::create_dir(&empty.0).unwrap();
    let settings = Settings { bin_dir: Some(empty.0.clone()), ..Settings::durable(&dir.0) };
    let error = EmbeddedPostgres::start(&settings).await.unwrap_err().to_string();
    for hint in ["apt-get install postgresql", "PG_BIN_DIR", "DATABASE_URL"] {
        assert!(error.contains(hint), "{error}");
    }

    let settings = Settings { bin_dir: Some(empty.0.clone()), ..Settings::throw_away() };
    EmbeddedPostgres::start(&settings).await.unwrap_err();
    assert!(!settings.data_dir.exists());
}

#[tokio::test]
async fn a_start_that_fails_shows_the_end_of_the_log() {
    let settings = Settings { extra: vec![("shared_buffers".into(), "nonsense".into())], ..Settings::throw_away() };
    let error = EmbeddedPostgres::start(&settings).await.unwrap_err().to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\": \"nonsense\""), "{error}");
    until("the directory is gone", || !settings.data_dir.exists()).await;
}

#[tokio::test]
async fn a_data_directory_too_deep_for_a_socket_works() {
    let dir = Scratch::new();
    let deep = dir.0.join("with a space, a comma/".repeat(6));
    let postgres = EmbeddedPostgres::start(&Settings::durable(&deep)).await.unwrap();
    let sockets = socket_directory(&postgres).await;
    assert!(!sockets.starts_with(&dir.0));
    assert_eq!(fs::metadata(&sockets).unwrap().permissions().mode() & 0o777, 0o700);
    remember(&postgres, "deep").await;
    postgres.stop().await.unwrap();
    assert!(!sockets.exists());
}

#[tokio::test]
async fn a_data_directory_with_odd_characters_works() {
    let dir = Scratch::new();
    let postgres = EmbeddedPostgres::start(&Settings::durable(dir.0.join("ä %20, b"))).await.unwrap();
    let (_client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.unwrap();
    drop(connection);
    assert!(socket_directory(&postgres).await.starts_with(&dir.0));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_data_directory_behind_a_door_that_only_root_opens_leads_to_a_cluster_elsewhere() {
    // For a server that is not root, this is an ordinary directory.
    let dir = Scratch::new();
    fs::create_dir(&dir.0).unwrap();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o700)).unwrap();
    let settings = Settings::durable(dir.0.join("data"));

    let postgres = EmbeddedPostgres::start(&settings).await.unwrap();
    remember(&postgres, "elsewhere").await;
    let home = Scratch(postgres.dir().to_owned());
    postgres.stop().await.unwrap();
    assert_eq!(home.0.starts_with(&dir.0), !nix::unistd::Uid::effective().is_root());

    let postgres = EmbeddedPostgres::start(&settings).await.unwrap();
    assert_eq!(remembered(&postgres).await, ["elsewhere"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn only_the_owner_can_enter_the_directory_of_the_socket() {
    let dir = Scratch::new();
    let postgres = EmbeddedPostgres::start(&Settings::durable(&dir.0)).await.unwrap();
    for private in ["socket", "postgres"] {
        assert_eq!(fs::metadata(dir.0.join(private)).unwrap().permissions().mode() & 0o777, 0o700, "{private}");
    }
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_stopped_throw_away_cluster_leaves_nothing() {
    let settings = Settings::throw_away();
    let postgres = EmbeddedPostgres::start(&settings).await.unwrap();
    assert!(!processes_in(&settings.data_dir).is_empty());
    postgres.stop().await.unwrap();
    assert_eq!(processes_in(&settings.data_dir), Vec::<String>::new());
    assert!(!settings.data_dir.exists());
}

#[tokio::test]
async fn a_killed_owner_of_a_throw_away_cluster_leaves_nothing() {
    let settings = Settings::throw_away();
    let mut helper = Helper::start(&settings.data_dir, true).await;
    helper.kill();
    until("everything is gone", || processes_in(&settings.data_dir).is_empty() && !settings.data_dir.exists()).await;
}

#[tokio::test]
async fn a_throw_away_cluster_refuses_a_directory_that_exists() {
    let dir = Scratch::new();
    fs::create_dir(&dir.0).unwrap();
    let refused = EmbeddedPostgres::start(&Settings { data_dir: dir.0.clone(), ..Settings::throw_away() }).await;
    assert!(matches!(refused, Err(EmbeddedError::NotNew(_))));
    assert!(dir.0.exists());
}

#[tokio::test]
#[ignore = "the helper process of other tests; does nothing by itself"]
#[expect(clippy::disallowed_methods, reason = "this is how the parent talks to its helper")]
async fn helper_that_owns_a_cluster_until_it_is_killed() {
    let Some(data_dir) = std::env::var_os(HELPER_DATA_DIR) else { return };
    let settings = match std::env::var_os(HELPER_THROWS_AWAY) {
        Some(_) => Settings { data_dir: data_dir.into(), ..Settings::throw_away() },
        None => Settings::durable(PathBuf::from(data_dir)),
    };
    let postgres = EmbeddedPostgres::start(&settings).await.unwrap();
    remember(&postgres, "by the helper").await;
    fs::write(settings.data_dir.join("helper-is-ready"), "").unwrap();
    std::future::pending::<()>().await;
}

/// Another process, which runs a cluster or sleeps.
struct Helper(Child);

impl Helper {
    async fn start(data_dir: &Path, throws_away: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "embedded::helper_that_owns_a_cluster_until_it_is_killed", "--ignored"])
            .env(HELPER_DATA_DIR, data_dir)
            .stdout(Stdio::null());
        if throws_away {
            command.env(HELPER_THROWS_AWAY, "yes");
        }
        let helper = Self(command.spawn().unwrap());
        until("the helper is ready", || data_dir.join("helper-is-ready").exists()).await;
        helper
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // A test that succeeded has already killed it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path under the temporary directory, removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("catbird-test-{}", Ulid::new().to_string().to_lowercase())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed may have left a PostgreSQL that is still ending.
        let removed = fs::remove_dir_all(&self.0);
        assert!(removed.is_ok() || !self.0.exists() || std::thread::panicking(), "{removed:?}");
    }
}

async fn connect(postgres: &EmbeddedPostgres) -> Client {
    let (client, connection) = postgres.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn remember(postgres: &EmbeddedPostgres, fact: &str) {
    let client = connect(postgres).await;
    client.batch_execute("create table if not exists facts (fact text)").await.unwrap();
    client.execute("insert into facts values ($1)", &[&fact]).await.unwrap();
}

async fn remembered(postgres: &EmbeddedPostgres) -> Vec<String> {
    let rows = connect(postgres).await.query("select fact from facts", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn socket_directory(postgres: &EmbeddedPostgres) -> PathBuf {
    let row =
        connect(postgres).await.query_one("select current_setting('unix_socket_directories')", &[]).await.unwrap();
    PathBuf::from(row.get::<_, String>(0).trim_matches('"'))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn postmaster(data_dir: &Path) -> Pid {
    let file = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
    Pid::from_raw(file.lines().next().unwrap().parse().unwrap())
}

/// Returns PostgreSQL and the processes of its supervisor.
fn group_of(postmaster: Pid) -> Vec<Pid> {
    let group = nix::unistd::getpgid(Some(postmaster)).unwrap();
    let ps = Command::new("ps").args(["-eo", "pid=,pgid="]).output().unwrap();
    let all = String::from_utf8(ps.stdout).unwrap();
    let numbers = |line: &str| line.split_whitespace().map(|n| Pid::from_raw(n.parse().unwrap())).collect::<Vec<_>>();
    all.lines().map(numbers).filter(|line| line[1] == group).map(|line| line[0]).collect()
}

/// Returns the children of the postmaster, which may be in groups of their own.
fn children_of(postmaster: Pid) -> Vec<Pid> {
    let ps = Command::new("ps").args(["-o", "pid=", "--ppid", &postmaster.to_string()]).output().unwrap();
    let all = String::from_utf8(ps.stdout).unwrap();
    all.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Returns true for a living process; zombies do not count.
fn is_alive(pid: Pid) -> bool {
    let ps = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    String::from_utf8(ps.stdout).unwrap().trim_start().starts_with(|state| state != 'Z')
}

/// Returns the processes whose command line names a directory: PostgreSQL's and its supervisor's.
fn processes_in(dir: &Path) -> Vec<String> {
    let ps = Command::new("ps").args(["-eo", "pid=,args="]).output().unwrap();
    let all = String::from_utf8_lossy(&ps.stdout).into_owned();
    all.lines().filter(|line| line.contains(dir.to_str().unwrap())).map(str::to_owned).collect()
}

fn as_owner(owner: &fs::Metadata, program: &str) -> Command {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    if nix::unistd::Uid::effective().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command
}
