//! Failures of the embedded PostgreSQL. Each sentence says what to do, because it is all that a new user sees.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::binaries::MIN_MAJOR;

/// Failure to start or stop the private cluster.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error(
        "no PostgreSQL {MIN_MAJOR} or newer was found{}; install it (Debian and Ubuntu: apt-get install postgresql; \
         Fedora: dnf install postgresql-server; Alpine: apk add postgresql; macOS: brew install postgresql@17), \
         name the directory of its programs in PG_BIN_DIR, or set DATABASE_URL to a server of yours",
        among(.rejected)
    )]
    NoBinaries {
        /// Unsuitable installations that were found, as "version in directory".
        rejected: Vec<String>,
    },

    #[error(
        "the cluster in {dir} was made by PostgreSQL {made_by}, which is not installed{}; install postgresql-{made_by}, \
         move the data with pg_upgrade, or choose another DATA_DIR", among(.rejected)
    )]
    OtherVersion { dir: PathBuf, made_by: u32, rejected: Vec<String> },

    #[error(
        "{dir} is in use by another server{}; stop it or choose another DATA_DIR",
        .pid.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse { dir: PathBuf, pid: Option<String> },

    #[error("{0} already exists; a throw-away cluster needs a new directory, because it deletes it at the end")]
    NotNew(PathBuf),

    #[error(
        "PostgreSQL does not run as root, and there is no user postgres, nobody or daemon to run it as; create one"
    )]
    NoAccount,

    #[error(
        "the cluster in {dir} belongs to user {owner}, but this server runs as {us}; start it as {owner} or as root"
    )]
    ForeignOwner { dir: PathBuf, owner: String, us: String },

    #[error(
        "PostgreSQL runs as user {account}, who cannot enter {barrier}; choose a directory elsewhere \
         (DATA_DIR for a server, TMPDIR for tests) or run chmod o+x {barrier}"
    )]
    Unreachable { account: String, barrier: PathBuf },

    #[error("{0} is not a private directory of this user (its owner or permissions differ); remove it")]
    NotPrivate(PathBuf),

    #[error("initdb failed:\n{0}")]
    Initdb(String),

    #[error("PostgreSQL ended while it was starting (status {status}); the end of {log}:\n{tail}")]
    Ended { status: i32, log: PathBuf, tail: String },

    #[error("PostgreSQL did not accept connections within {} s; the end of {log}:\n{tail}", .limit.as_secs())]
    StartTimeout { limit: Duration, log: PathBuf, tail: String },

    #[error("the supervisor of PostgreSQL is gone; the end of {log}:\n{tail}")]
    SupervisorGone { log: PathBuf, tail: String },

    #[error("the PostgreSQL in {dir} outlived a fast shutdown, an immediate one and SIGKILL")]
    Immortal { dir: PathBuf },

    #[error("cannot prepare the database: {0}")]
    Prepare(#[from] tokio_postgres::Error),

    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
}

impl EmbeddedError {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    // The arguments are the path and the end of the log.

    pub(super) fn ended(status: i32, (log, tail): (PathBuf, String)) -> Self {
        Self::Ended { status, log, tail }
    }

    pub(super) fn start_timeout(limit: Duration, (log, tail): (PathBuf, String)) -> Self {
        Self::StartTimeout { limit, log, tail }
    }

    pub(super) fn supervisor_gone((log, tail): (PathBuf, String)) -> Self {
        Self::SupervisorGone { log, tail }
    }
}

fn among(rejected: &[String]) -> String {
    if rejected.is_empty() { String::new() } else { format!(" (there is {})", rejected.join(", ")) }
}
