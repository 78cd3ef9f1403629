//! Server processes: one or several instances of the real binary on one database, which tests may kill.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{self, Xrpc};
use catbird_server::check;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::Config;

use super::app::{validated, variables};
use super::cluster::blob_store;

/// Maximum time until a process is ready.
const START: Duration = Duration::from_secs(60);

/// Serializer of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Advisory,
    Actors,
}

impl Mode {
    fn flag(self) -> &'static str {
        match self {
            Mode::Advisory => "false",
            Mode::Actors => "true",
        }
    }
}

/// One server process, killed when dropped.
pub struct Replica {
    pub base: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Replica {
    /// Starts a server on a database and waits until it is ready.
    pub async fn start(mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        let replica = Self::spawn(mode, database_url, settings).await;
        replica.ready().await;
        replica
    }

    /// Like [`Replica::start`], of another program than the one that Cargo has built.
    pub async fn start_program(program: &Path, mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        let replica = Self::of(program, mode, database_url, settings).await;
        replica.ready().await;
        replica
    }

    /// Starts a server and waits until it listens.
    pub async fn spawn(mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        Self::of(&program(), mode, database_url, settings).await
    }

    /// Starts the server of another build, and waits until it listens.
    pub async fn of(program: &Path, mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .env_clear()
            .envs(variables(&[("DATABASE_URL", database_url), ("ENABLE_ACTOR_SYSTEM", mode.flag())]))
            .envs(settings.iter().copied())
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        let (told, address) = mpsc::channel();
        // Reads to the end, so that the server never blocks on its log.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if let ("listening", Some(address)) =
                    (entry["message"].as_str().unwrap_or_default(), entry["address"].as_str())
                {
                    let _ = told.send(address.to_owned());
                }
                if entry["level"] == "ERROR" {
                    eprintln!("{line}");
                }
                kept.lock().unwrap().push(line);
            }
        });
        let address = tokio::task::spawn_blocking(move || address.recv_timeout(START)).await.unwrap();
        Self { base: format!("http://{}", address.expect("the server said where it listens")), child, log }
    }

    /// Id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory of the process, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Returns the lines that it has logged.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the server accepts requests.
    pub async fn ready(&self) {
        let http = xrpc::http().unwrap();
        let url = format!("{}/health/ready", self.base);
        let start = Instant::now();
        while !http.get(&url).send().await.is_ok_and(|reply| reply.status().is_success()) {
            assert!(start.elapsed() < START, "{} did not become ready", self.base);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL: it cannot finish anything.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the process a signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Sends SIGTERM and returns the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        tokio::task::spawn_blocking(move || self.child.wait().unwrap().code()).await.unwrap()
    }

    /// Waits until the process ends by itself, and returns its exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < START, "{} goes on running", self.base);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary with this argument on a database; returns the exit code and both outputs.
pub async fn run(argument: &'static str, database_url: &str) -> (Option<i32>, String, String) {
    run_with(&[argument], database_url).await
}

/// Like [`run`], with several arguments.
pub async fn run_with(arguments: &[&str], database_url: &str) -> (Option<i32>, String, String) {
    run_as(arguments, database_url, &[]).await
}

/// Like [`run_with`], with these settings.
pub async fn run_as(
    arguments: &[&str],
    database_url: &str,
    settings: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .env_clear()
        .envs(variables(&[("DATABASE_URL", database_url)]))
        .envs(settings.iter().copied())
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The server's program. Cargo builds it before it runs a test or a bench, and puts it beside the directory of their programs.
pub fn program() -> PathBuf {
    let ours = std::env::current_exe().unwrap();
    ours.parent().and_then(Path::parent).unwrap().join("catbird-server")
}

/// Several servers on one database, as behind a round-robin load balancer.
pub struct Fleet {
    pub replicas: Vec<Replica>,
    database: Config,
}

impl Fleet {
    pub async fn start(modes: &[Mode], database: &Config, database_url: &str) -> Self {
        Self::with(modes, database, database_url, &[]).await
    }

    /// Like [`Fleet::start`], with these settings for each server.
    pub async fn with(modes: &[Mode], database: &Config, database_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut replicas = Vec::new();
        for mode in modes {
            replicas.push(Replica::spawn(*mode, database_url, settings).await);
        }
        for replica in &replicas {
            replica.ready().await;
        }
        Self { replicas, database: database.clone() }
    }

    /// Returns a signed-in connection to the `n`-th replica, modulo their number.
    pub fn xrpc(&self, n: usize, did: &str) -> Xrpc {
        validated(&self.replicas[n % self.replicas.len()].base, did)
    }

    /// Creates a persona at the `n`-th replica, with key packages.
    pub async fn persona(&self, n: usize) -> Persona {
        let persona = Persona::new(self.xrpc(n, &random_did()));
        persona.publish_key_packages(2).await.unwrap();
        persona
    }

    /// Creates a conversation of `n` members, spread over the replicas; its creator first.
    pub async fn conversation(&self, n: usize) -> Vec<Persona> {
        let mut members = vec![self.persona(0).await];
        members[0].create(random_did().as_bytes(), "race").await.unwrap();
        let mut others = Vec::new();
        for other in 1..n {
            others.push(self.persona(other).await);
        }
        for others in others.chunks(50) {
            let dids: Vec<&str> = others.iter().map(Persona::did).collect();
            members[0].add(&dids).await.unwrap();
        }
        let convo = members[0].convo().unwrap().to_owned();
        for mut other in others {
            other.join(&convo).await.unwrap();
            other.catch_up().await.unwrap();
            members.push(other);
        }
        members[0].catch_up().await.unwrap();
        members
    }

    /// Checks the invariants of the database now.
    pub async fn check(&self) {
        let report = check::with_objects(&self.database, &blob_store(&self.database)).await.unwrap();
        assert!(report.is_clean(), "{report}");
    }
}
