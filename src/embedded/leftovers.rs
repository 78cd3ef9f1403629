//! Cleans up after a server that did not stop in order: a PostgreSQL that still runs, or a `postmaster.pid` that names
//! an unrelated process. The caller holds the lock on the data directory, so no other server is affected.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::error::EmbeddedError;
use super::home::Home;

/// Interval at which a condition is checked.
const POLL: Duration = Duration::from_millis(20);

/// Ends every PostgreSQL process of this cluster and removes stale files that would prevent the next start.
pub(super) async fn clear(home: &Home, patience: Duration) -> Result<(), EmbeddedError> {
    end(&home.pgdata, patience).await?;
    remove_misleading_pid_files(home)
}

/// Ends running processes: a fast shutdown for the time of `patience`, then an immediate one, then SIGKILL.
async fn end(pgdata: &Path, patience: Duration) -> Result<(), EmbeddedError> {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        let deadline = Instant::now() + patience;
        let mut told = Vec::new();
        while Instant::now() < deadline {
            let running = running(pgdata);
            if running.is_empty() {
                return Ok(());
            }
            // A postmaster ends its children itself; children without a postmaster are signalled one by one.
            let postmaster = recorded_pid(&pgdata.join("postmaster.pid")).filter(|pid| running.contains(pid));
            for pid in postmaster.map_or(running, |pid| vec![pid]) {
                if !told.contains(&pid) {
                    tracing::info!(%pid, %signal, "ending a PostgreSQL that an earlier server left running");
                    send_signal(pid, signal)?;
                    told.push(pid);
                }
            }
            sleep(POLL).await;
        }
    }
    Err(EmbeddedError::Immortal { dir: pgdata.to_owned() })
}

fn send_signal(pid: Pid, signal: Signal) -> Result<(), EmbeddedError> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(EmbeddedError::io(format!("signal process {pid}"), e.into())),
    }
}

/// Removes lock files that name a living process. PostgreSQL refuses to start while the process in `postmaster.pid` or
/// in the socket's lock file is alive, even if the number now belongs to an unrelated process. PostgreSQL itself
/// handles files that name dead processes.
fn remove_misleading_pid_files(home: &Home) -> Result<(), EmbeddedError> {
    for file in [home.pgdata.join("postmaster.pid"), home.socket_lock()] {
        let alive = recorded_pid(&file).is_some_and(|pid| kill(pid, None) != Err(Errno::ESRCH));
        if alive {
            fs::remove_file(&file).map_err(|e| EmbeddedError::io(format!("remove {}", file.display()), e))?;
        }
    }
    Ok(())
}

/// Reads the process id in the first line of a lock file of PostgreSQL.
fn recorded_pid(file: &Path) -> Option<Pid> {
    fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

/// Returns the processes of this cluster. Every PostgreSQL process works in its cluster's directory.
#[cfg(target_os = "linux")]
fn running(pgdata: &Path) -> Vec<Pid> {
    let of_cluster = |process: &fs::DirEntry| {
        let is_postgres = fs::read_link(process.path().join("exe"))
            .is_ok_and(|exe| exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres")));
        is_postgres && fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == pgdata)
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            of_cluster(&process).then_some(Pid::from_raw(pid))
        })
        .collect()
}

/// Returns the process in `postmaster.pid` if its command line names this cluster.
#[cfg(not(target_os = "linux"))]
fn running(pgdata: &Path) -> Vec<Pid> {
    let of_cluster = |pid: &Pid| {
        std::process::Command::new("ps")
            .args(["-o", "command=", "-p", &pid.to_string()])
            .output()
            .is_ok_and(|ps| String::from_utf8_lossy(&ps.stdout).contains(&*pgdata.to_string_lossy()))
    };
    recorded_pid(&pgdata.join("postmaster.pid")).filter(of_cluster).into_iter().collect()
}
