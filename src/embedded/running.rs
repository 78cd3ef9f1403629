//! The way into a cluster that another process of ours is running: for commands that look at a live database.

use std::path::Path;

use tokio_postgres::Config;

use super::{DATABASE, ROLE};

/// How to connect to the cluster in `dir`, as its own pid file has it (PostgreSQL manual, "postmaster.pid": the port is in the
/// fourth line, the directory of the socket in the fifth). `None` if it is not running or says neither.
pub fn config_of(dir: &Path) -> Option<Config> {
    let pid_file = std::fs::read_to_string(dir.join("postgres").join("postmaster.pid")).ok()?;
    let mut lines = pid_file.lines().skip(3);
    let port = lines.next()?.trim().parse().ok()?;
    let sockets = lines.next().map(str::trim).filter(|sockets| !sockets.is_empty())?;
    let mut config = Config::new();
    config.host_path(sockets).port(port).user(ROLE).dbname(DATABASE);
    Some(config)
}
