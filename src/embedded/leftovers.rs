//! What a server that did not end in order leaves behind: a PostgreSQL that still runs, or a `postmaster.pid` that names a
//! process which has nothing to do with it any more. Called with the data directory locked, so no other server is concerned.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::error::EmbeddedError;
use super::home::Home;

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// Ends every PostgreSQL process of this cluster, gently first, and clears the way for the next start.
pub(super) async fn clear(home: &Home, patience: Duration) -> Result<(), EmbeddedError> {
    end(&home.pgdata, patience).await?;
    remove_misleading_pid_files(home)
}

/// Ends what runs: a fast shutdown for as long as `patience` lasts, then an immediate one, then SIGKILL.
async fn end(pgdata: &Path, patience: Duration) -> Result<(), EmbeddedError> {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        let deadline = Instant::now() + patience;
        let mut told = Vec::new();
        while Instant::now() < deadline {
            let running = running(pgdata);
            if running.is_empty() {
                return Ok(());
            }
            // A postmaster ends its children itself; children that lost theirs have to be told one by one.
            let postmaster = recorded_pid(&pgdata.join("postmaster.pid")).filter(|pid| running.contains(pid));
            for pid in postmaster.map_or(running, |pid| vec![pid]) {
                if !told.contains(&pid) {
                    tracing::info!(%pid, %signal, "ending a PostgreSQL that an earlier server left running");
                    tell(pid, signal)?;
                    told.push(pid);
                }
            }
            sleep(POLL).await;
        }
    }
    Err(EmbeddedError::Immortal { dir: pgdata.to_owned() })
}

fn tell(pid: Pid, signal: Signal) -> Result<(), EmbeddedError> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(EmbeddedError::io(format!("signal process {pid}"), e.into())),
    }
}

/// PostgreSQL refuses to start while the process in `postmaster.pid`, or in the lock file of the socket, is alive, also when
/// the number has been given to an innocent process since. Dead ones are PostgreSQL's own business: it looks closer.
fn remove_misleading_pid_files(home: &Home) -> Result<(), EmbeddedError> {
    for file in [home.pgdata.join("postmaster.pid"), home.socket_lock()] {
        let alive = recorded_pid(&file).is_some_and(|pid| kill(pid, None) != Err(Errno::ESRCH));
        if alive {
            fs::remove_file(&file).map_err(|e| EmbeddedError::io(format!("remove {}", file.display()), e))?;
        }
    }
    Ok(())
}

/// The process id in the first line of a lock file of PostgreSQL.
fn recorded_pid(file: &Path) -> Option<Pid> {
    fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

/// The processes that run this very cluster. Every PostgreSQL process works in its cluster's directory.
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

/// The process in `postmaster.pid`, if its command line names this very cluster.
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
