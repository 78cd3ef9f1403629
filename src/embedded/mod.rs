//! Private PostgreSQL: without `DATABASE_URL` the server runs its own database under `DATA_DIR`, and tests run a
//! throw-away one.
//!
//! It is a real PostgreSQL, created with the machine's `initdb` and reachable through a socket in a directory that only
//! its owner can enter, so the socket needs no password. This module creates it once, starts it with the server, stops
//! it after the server, and recovers it after a crash of either. It never shares its directory with another live
//! server.
//!
//! A supervisor process, a short shell script ([`supervisor`]), ends PostgreSQL when the server is gone. Machines lose
//! power too, so a start handles anything that an earlier one left ([`leftovers`]). An init system should signal the
//! server alone (systemd: `KillMode=mixed`): a SIGTERM makes PostgreSQL refuse new connections while the server still
//! drains.

mod account;
mod binaries;
mod error;
mod home;
mod initdb;
mod leftovers;
mod log;
mod running;
mod supervisor;

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Config, NoTls};
use ulid::Ulid;

use binaries::Binaries;
pub use error::EmbeddedError;
use home::Home;
pub use running::config_of;
pub use supervisor::Shutdown;
use supervisor::{State, Supervisor};

/// Maximum time until PostgreSQL accepts connections, crash recovery included.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// Maximum time of a shutdown before a harder one follows.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Role that owns the cluster.
pub const ROLE: &str = "catbird";

/// Database of the server.
pub const DATABASE: &str = "catbird";

/// Module that counts statements, for finding slow ones.
const STATEMENTS: &str = "pg_stat_statements";

/// Interval at which a starting PostgreSQL is tried.
const POLL: Duration = Duration::from_millis(20);

/// Durability of a cluster's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Everything committed survives a power failure; the cluster stays when it is stopped.
    Durable,
    /// Nothing survives: there is no `fsync`, and the directory is removed with the cluster. Commits are otherwise the
    /// same.
    ThrowAway,
}

/// Settings of a cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of the cluster's files. A throw-away cluster creates and removes it.
    pub data_dir: PathBuf,
    pub durability: Durability,
    pub max_connections: u32,
    /// Directory of `postgres` and `initdb`; without it they are searched for.
    pub bin_dir: Option<PathBuf>,
    /// Port of 127.0.0.1 to listen on in addition to the socket, without a password: for tests that cut connections.
    pub loopback_port: Option<u16>,
    /// Further settings of PostgreSQL, by name.
    pub extra: Vec<(String, String)>,
}

impl Settings {
    /// Settings of a durable cluster.
    pub fn durable(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            durability: Durability::Durable,
            max_connections: 100,
            bin_dir: None,
            loopback_port: None,
            extra: Vec::new(),
        }
    }

    /// Settings of a test cluster in a new directory under the temporary directory.
    pub fn throw_away() -> Self {
        let name = format!("catbird-{}", Ulid::new().to_string().to_lowercase());
        Self {
            durability: Durability::ThrowAway,
            max_connections: 400,
            ..Self::durable(std::env::temp_dir().join(name))
        }
    }

    /// Returns the port, which also names the socket.
    fn port(&self) -> u16 {
        self.loopback_port.unwrap_or(5432)
    }
}

/// A running private PostgreSQL. Dropped without [`EmbeddedPostgres::stop`], it is stopped a moment later.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    // Drop order matters: the supervisor is dismissed before the lock on the directory is released.
    supervisor: Supervisor,
    config: Config,
    bounding_log: tokio::task::JoinHandle<()>,
    home: Home,
}

/// Returns the directory of PostgreSQL's programs that a new cluster would use.
pub fn programs(bin_dir: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    Ok(Binaries::find(bin_dir, Path::new(""))?.dir)
}

/// Returns true if a cluster was ever created in this directory.
pub fn exists(data_dir: &Path) -> bool {
    // A directory that cannot be read counts as existing.
    data_dir.join("postgres").try_exists().unwrap_or(true)
}

impl EmbeddedPostgres {
    /// Finds PostgreSQL, creates the cluster if there is none, starts it and waits until it accepts connections.
    pub async fn start(settings: &Settings) -> Result<Self, EmbeddedError> {
        let mut home = Home::open(settings)?;
        let binaries = Binaries::find(settings.bin_dir.as_deref(), &home.pgdata)?;
        leftovers::clear(&home, STOP_LIMIT).await?;

        // Started before initdb, so that a throw-away directory is removed whatever happens to this process.
        let (parting, doomed) = match settings.durability {
            Durability::Durable => (Shutdown::Fast, [None, None]),
            Durability::ThrowAway => (Shutdown::Immediate, [Some(&*home.dir), Some(&*home.sockets)]),
        };
        let log = log::open(&home.log).map_err(|e| EmbeddedError::io(format!("open {}", home.log.display()), e))?;
        let statements = settings.durability == Durability::Durable && binaries.has_module(STATEMENTS);
        let command = command_line(settings, &home, &binaries, statements);
        let supervisor = Supervisor::spawn(&home.account, parting, doomed, log, &command)
            .map_err(|e| EmbeddedError::io("start the supervisor of PostgreSQL", e))?;
        home.hand_over();
        if settings.durability == Durability::Durable && home.account.is_shared() {
            let user = &home.account.name;
            tracing::warn!(
                user,
                "PostgreSQL runs as a user that other programs may run as, and they can open it; make a user postgres"
            );
        }
        initdb::create_unless_there(&home, &binaries, settings.durability).await?;

        let mut config = Config::new();
        config.host_path(&home.sockets).port(settings.port()).user(ROLE).dbname(DATABASE);
        let bounding_log = tokio::spawn(log::keep_bounded(home.log.clone()));
        let mut postgres = Self { supervisor, config, bounding_log, home };
        postgres.resume().await?;
        initdb::create_database(&postgres.config, statements).await?;
        tracing::info!(
            "PostgreSQL {} runs privately in {} (psql '{}')",
            binaries.major,
            postgres.home.dir.display(),
            postgres.url()
        );
        Ok(postgres)
    }

    /// Returns the connection settings of the server's database, with the role that owns it.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Returns [`EmbeddedPostgres::config`] as a URL for `psql`, `pg_dump` and the like.
    pub fn url(&self) -> String {
        let mut host = String::new();
        for &byte in self.home.sockets.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
                host.push(char::from(byte));
            } else {
                // Writing to a string does not fail.
                let _ = write!(host, "%{byte:02X}");
            }
        }
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("postgresql://{ROLE}@/{DATABASE}?host={host}&port={port}")
    }

    /// Returns the directory of the cluster, which may differ from the one in the settings (see
    /// [`Settings::data_dir`]).
    pub fn dir(&self) -> &Path {
        &self.home.dir
    }

    /// Waits until PostgreSQL ends unexpectedly, and returns its exit status if there is one. The server cannot
    /// continue then.
    pub async fn ended(&self) -> Option<i32> {
        match self.supervisor.reaches(over).await {
            State::Ended(status) => Some(status),
            _ => None,
        }
    }

    /// Stops PostgreSQL but keeps the cluster's directory; [`EmbeddedPostgres::resume`] starts it again.
    pub async fn halt(&mut self, how: Shutdown) -> Result<(), EmbeddedError> {
        let running = self.supervisor.reaches(|state| *state != State::Idle).await;
        if over(&running) {
            return Ok(());
        }
        if let Err(error) = self.supervisor.end(how) {
            tracing::warn!(%error, "cannot reach the supervisor of PostgreSQL; ending PostgreSQL without it");
            return leftovers::clear(&self.home, STOP_LIMIT).await;
        }
        self.await_ending(running, over).await
    }

    /// Starts PostgreSQL again and waits until it accepts connections.
    pub async fn resume(&mut self) -> Result<(), EmbeddedError> {
        let path = &self.home.log;
        let written = path.metadata().map_or(0, |metadata| metadata.len());
        let log = || (path.clone(), log::tail(path, written));

        self.supervisor.start().map_err(|_| EmbeddedError::supervisor_gone(log()))?;
        let outcome = timeout(START_LIMIT, async {
            tokio::select! {
                () = accepts_connections(&self.config) => None,
                state = self.supervisor.reaches(over) => Some(state),
            }
        });
        match outcome.await {
            Ok(None) => Ok(()),
            Ok(Some(State::Ended(status))) => Err(EmbeddedError::ended(status, log())),
            Ok(Some(_)) => Err(EmbeddedError::supervisor_gone(log())),
            Err(_) => Err(EmbeddedError::start_timeout(START_LIMIT, log())),
        }
    }

    /// Stops PostgreSQL for good and waits for it, with a fast shutdown, or an immediate one for a throw-away cluster.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        let running = self.supervisor.state();
        self.supervisor.dismiss();
        self.await_ending(running, |state| *state == State::Gone).await?;
        // If the supervisor was killed, its work is still to be done.
        leftovers::clear(&self.home, STOP_LIMIT).await?;
        self.home.remove_outlying_sockets()
    }

    /// Waits for a shutdown that was ordered, and uses force if it takes too long: a durable cluster recovers from its
    /// write-ahead log.
    async fn await_ending(&self, running: State, ending: fn(&State) -> bool) -> Result<(), EmbeddedError> {
        for force in [Some(Signal::SIGQUIT), Some(Signal::SIGKILL), None] {
            if timeout(STOP_LIMIT, self.supervisor.reaches(ending)).await.is_ok() {
                return Ok(());
            }
            if let (Some(signal), State::Running(pid)) = (force, running) {
                tracing::warn!(pid, %signal, "PostgreSQL did not stop within {} s", STOP_LIMIT.as_secs());
                // It may have ended in this moment; the next wait shows it.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        Err(EmbeddedError::Immortal { dir: self.home.dir.clone() })
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        self.bounding_log.abort();
    }
}

/// Returns true if PostgreSQL has ended in any way.
fn over(state: &State) -> bool {
    matches!(state, State::Ended(_) | State::Gone)
}

/// Retries until a connection succeeds. The server's database may still be missing, so the maintenance database is
/// used.
async fn accepts_connections(config: &Config) {
    let mut maintenance = config.clone();
    maintenance.dbname("postgres");
    while maintenance.connect(NoTls).await.is_err() {
        sleep(POLL).await;
    }
}

/// Builds the command that runs PostgreSQL. All other settings are the operator's, in `postgresql.conf`.
fn command_line(settings: &Settings, home: &Home, binaries: &Binaries, statements: bool) -> Vec<OsString> {
    let mut sockets = OsString::from("unix_socket_directories=\"");
    sockets.push(&home.sockets);
    sockets.push("\"");
    let mut command: Vec<OsString> = vec![binaries.postgres().into(), "-D".into(), home.pgdata.clone().into()];
    command.extend(["-c".into(), sockets]);

    let mut set = |name: &str, value: &str| command.extend(["-c".into(), format!("{name}={value}").into()]);
    set("listen_addresses", if settings.loopback_port.is_some() { "127.0.0.1" } else { "" });
    set("port", &settings.port().to_string());
    set("max_connections", &settings.max_connections.to_string());
    set("log_line_prefix", "%m [%p] ");
    set("log_timezone", "UTC");
    if statements {
        set("shared_preload_libraries", STATEMENTS);
    }
    if settings.durability == Durability::ThrowAway {
        set("fsync", "off");
        set("full_page_writes", "off");
    }
    for (name, value) in &settings.extra {
        set(name, value);
    }
    command
}
