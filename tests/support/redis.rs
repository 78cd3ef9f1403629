//! A Redis of one test, on loopback, without persistence. It ends with its value.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ulid::Ulid;

use crate::port::Port;

/// Maximum time of a start.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Redis {
    port: Port,
    dir: PathBuf,
    process: Option<Child>,
}

impl Redis {
    pub fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("catbird-redis-{}", Ulid::new()));
        std::fs::create_dir(&dir).unwrap();
        let port = Port::reserve();
        let mut redis = Self { port, dir, process: None };
        redis.resume();
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it like a crash. Its data is lost.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, empty, on the same port.
    pub fn resume(&mut self) {
        let port = self.port.to_string();
        let process = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(&self.dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port.number())).is_err() {
            assert!(Instant::now() < deadline, "Redis does not listen on {}", self.port);
            std::thread::yield_now();
        }
    }

    /// Stops the process: connections stay open and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Continues a stopped process.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("only a running Redis takes signals");
        kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
    }

    /// Runs a command with `redis-cli` and returns its output by line.
    pub fn run(&self, command: &[&str]) -> Vec<String> {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}
