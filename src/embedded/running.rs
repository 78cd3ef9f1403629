//! Connects to a cluster that another server process runs, for commands on a live database.

use std::path::Path;

use tokio_postgres::Config;

use super::{DATABASE, ROLE};

/// Returns the connection settings of the running cluster in `dir`, from its pid file (PostgreSQL manual,
/// "postmaster.pid": the fourth line is the port, the fifth the directory of the socket). `None` if it is not running
/// or the file lacks either.
pub fn config_of(dir: &Path) -> Option<Config> {
    let pid_file = std::fs::read_to_string(dir.join("postgres").join("postmaster.pid")).ok()?;
    let mut lines = pid_file.lines().skip(3);
    let port = lines.next()?.trim().parse().ok()?;
    let sockets = lines.next().map(str::trim).filter(|sockets| !sockets.is_empty())?;
    let mut config = Config::new();
    config.host_path(sockets).port(port).user(ROLE).dbname(DATABASE);
    Some(config)
}
