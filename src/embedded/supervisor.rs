//! Shell process between the server and its PostgreSQL.
//!
//! It starts PostgreSQL, ends it on order, and ends it when the server is gone, even after `kill -9`, which no handler
//! in the server could notice. It has its own process group, so a Ctrl-C in the terminal reaches only the server, which
//! drains and stops PostgreSQL last. Only [`super::EmbeddedPostgres`] uses it.
//! alone, which drains and stops PostgreSQL last. Only [`super::EmbeddedPostgres`] talks to it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use tokio::sync::watch;

use super::account::Account;

const SCRIPT: &str = include_str!("supervisor.sh");

/// Shutdown mode of PostgreSQL, named as in its manual; the smart mode is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Disconnects every client, rolls back open transactions and writes a checkpoint.
    Fast,
    /// Ends at once like a crash: the next start replays the write-ahead log.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> &'static str {
        match self {
            Self::Fast => "INT",
            Self::Immediate => "QUIT",
        }
    }
}

/// State of PostgreSQL as last reported by the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Never started, or a start is in progress.
    Idle,
    /// Process id of the postmaster.
    Running(i32),
    /// Exit status of the postmaster, as the shell reports it (128 + signal).
    Ended(i32),
    /// The supervisor has ended, after its cleanup.
    Gone,
}

#[derive(Debug)]
pub(super) struct Supervisor {
    orders: Option<ChildStdin>,
    state: watch::Sender<State>,
}

impl Supervisor {
    /// Starts the supervisor, but not PostgreSQL. `doomed` are removed when it ends; `postgres` is the program with its
    /// arguments.
    pub fn spawn(
        account: &Account,
        parting: Shutdown,
        doomed: [Option<&Path>; 2],
        log: File,
        postgres: &[OsString],
    ) -> io::Result<Self> {
        let mut child = account
            .command("/bin/sh")
            .args(["-c", &bare_script(), "catbird-postgres-supervisor", parting.signal()])
            .args(doomed.map(|path| path.unwrap_or(Path::new(""))))
            .args(postgres)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let orders = child.stdin.take();
        let state = watch::Sender::new(State::Idle);
        let said = state.clone();
        std::thread::Builder::new().name("postgres-supervisor".to_owned()).spawn(move || listen(child, &said))?;
        Ok(Self { orders, state })
    }

    /// Orders PostgreSQL to start. `Supervisor::watch` shows the result.
    pub fn start(&mut self) -> io::Result<()> {
        self.state.send_replace(State::Idle);
        self.order("start")
    }

    /// Orders a running PostgreSQL to end.
    pub fn end(&mut self, how: Shutdown) -> io::Result<()> {
        self.order(how.signal())
    }

    /// Dismisses the supervisor, which ends PostgreSQL and then itself.
    pub fn dismiss(&mut self) {
        self.orders = None;
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Waits for a state; the present one counts.
    pub async fn reaches(&self, wanted: fn(&State) -> bool) -> State {
        // Receiving fails once every sender is gone, and `self` holds one.
        self.state.subscribe().wait_for(wanted).await.map_or(State::Gone, |state| *state)
    }

    fn order(&mut self, line: &str) -> io::Result<()> {
        let orders = self.orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        orders.write_all(format!("{line}\n").as_bytes())
    }
}

/// Returns the script without comments, since all of it shows in the list of processes.
fn bare_script() -> String {
    SCRIPT.lines().filter(|line| !line.is_empty() && !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// This is a thread because it must reap the child even after the runtime that started it is gone.
fn listen(mut child: Child, said: &watch::Sender<State>) {
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let state = match line.split_once(' ').map(|(word, number)| (word, number.parse())) {
                Some(("running", Ok(pid))) => State::Running(pid),
                Some(("ended", Ok(status))) => State::Ended(status),
                _ => continue,
            };
            said.send_replace(state);
        }
    }
    if let Err(error) = child.wait() {
        tracing::warn!(%error, "waiting for the supervisor of the embedded PostgreSQL failed");
    }
    said.send_replace(State::Gone);
}
