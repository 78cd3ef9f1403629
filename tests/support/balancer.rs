//! Load balancers in front of a fleet, HAProxy and nginx, with the configurations in ops/. They end with their values.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ulid::Ulid;

use crate::port::Port;

/// Maximum time of a start or a reload.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running HAProxy.
pub struct HaProxy(Balancer);

impl HaProxy {
    /// Starts it in front of three replicas, with these variables of its configuration.
    pub fn start(replicas: [&str; 3], variables: &[(&str, &str)]) -> Self {
        let (dir, port) = (directory("haproxy"), Port::reserve());
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(configuration("haproxy/haproxy.cfg"));
        command.env("LISTEN", format!("127.0.0.1:{port}")).env("ADMIN_SOCKET", dir.join("admin.sock"));
        command.env("MAX_CONNECTIONS", "2000");
        for (name, replica) in ["REPLICA_A", "REPLICA_B", "REPLICA_C"].iter().zip(replicas) {
            command.env(name, address(replica));
        }
        command.envs(variables.iter().copied());
        let log = File::create(dir.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self(Balancer::start(command, dir, port, "log"))
    }

    /// Address for clients.
    pub fn base(&self) -> String {
        self.0.base()
    }

    /// Returns what it has logged.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Runs a command of the runtime API, and returns its output.
    pub fn command(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.0.dir.join("admin.sock")).unwrap();
        writeln!(socket, "{command}").unwrap();
        let mut output = String::new();
        socket.read_to_string(&mut output).unwrap();
        output
    }
}

/// A running nginx.
pub struct Nginx {
    balancer: Balancer,
    replicas: Vec<String>,
}

impl Nginx {
    /// Starts it in front of these replicas, with these lines in the file for the site.
    pub fn start(replicas: &[&str], site: &str) -> Self {
        let (dir, port) = (directory("nginx"), Port::reserve());
        let replicas: Vec<String> = replicas.iter().map(|replica| address(replica).to_owned()).collect();
        let at = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .collect();
        let conf = configuration("nginx/catbird.conf");
        let main = format!(
            "daemon off;\nworker_processes 1;\npid {at}/pid;\nerror_log {at}/log notice;\nevents {{ worker_connections 2000; }}\n\
             http {{\n{temporary}include {};\n}}\n",
            conf.display()
        );
        fs::write(dir.join("nginx.conf"), main).unwrap();
        let site = format!("listen 127.0.0.1:{port};\naccess_log {at}/access.log catbird;\n{site}");
        fs::write(dir.join("catbird-site.conf"), site).unwrap();
        write_replicas(&dir, &replicas, None);
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(dir.join("log")).arg("-c").arg(dir.join("nginx.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self { balancer: Balancer::start(command, dir, port, "log"), replicas }
    }

    /// Address for clients.
    pub fn base(&self) -> String {
        self.balancer.base()
    }

    /// Returns the lines of its access log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.balancer.dir.join("access.log")).unwrap()
    }

    /// Sends no more requests to the `n`-th replica, or to all of them again. Returns when it has reloaded.
    pub async fn take_out(&self, n: Option<usize>) {
        let left = || self.balancer.log().matches("gracefully shutting down").count();
        let before = left();
        write_replicas(&self.balancer.dir, &self.replicas, n);
        self.balancer.signal(Signal::SIGHUP);
        let deadline = Instant::now() + PATIENCE;
        while left() == before {
            assert!(Instant::now() < deadline, "nginx did not reload: {}", self.balancer.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn write_replicas(dir: &Path, replicas: &[String], out: Option<usize>) {
    let line = |(n, replica): (usize, &String)| {
        let down = if out == Some(n) { " down" } else { "" };
        format!("server {replica} max_fails=1 fail_timeout=2s{down};\n")
    };
    let text: String = replicas.iter().enumerate().map(line).collect();
    fs::write(dir.join("catbird-replicas.conf"), text).unwrap();
}

/// A process with its directory and its port.
struct Balancer {
    process: Child,
    dir: PathBuf,
    port: Port,
    log: &'static str,
}

impl Balancer {
    /// Starts the program and waits until it listens.
    fn start(mut command: Command, dir: PathBuf, port: Port, log: &'static str) -> Self {
        let process = command.stdin(Stdio::null()).spawn().expect("the balancer is installed");
        let mut balancer = Self { process, dir, port, log };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", balancer.port.number())).is_err() {
            let ended = balancer.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "it does not listen: {ended:?}\n{}", balancer.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        balancer
    }

    fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join(self.log)).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // SIGTERM, so that nginx ends its worker processes.
        self.signal(Signal::SIGTERM);
        self.process.wait().unwrap();
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("catbird-{name}-{}", Ulid::new()));
    fs::create_dir(&dir).unwrap();
    dir
}

/// Path of a file in ops/.
fn configuration(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops").join(name)
}

fn address(base: &str) -> &str {
    base.trim_start_matches("http://")
}
