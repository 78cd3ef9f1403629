//! A PgBouncer in front of one PostgreSQL. It ends with its value.

use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::Config;
use tokio_postgres::config::Host;
use ulid::Ulid;

use crate::port::Port;

/// Maximum time of a start.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct PgBouncer {
    port: Port,
    dir: PathBuf,
    database: String,
    process: Child,
}

impl PgBouncer {
    /// Starts a pooler in transaction mode with this many connections to this database.
    pub fn start(database: &Config, connections: usize) -> Self {
        Self::start_in("transaction", database, connections, "")
    }

    /// Starts a pooler in another mode, with further lines of settings.
    pub fn start_in(mode: &str, database: &Config, connections: usize, further: &str) -> Self {
        let port = Port::reserve();
        let dir = std::env::temp_dir().join(format!("catbird-pgbouncer-{}", Ulid::new()));
        std::fs::create_dir(&dir).unwrap();
        let settings = dir.join("pgbouncer.ini");
        let (user, name) = (database.get_user().unwrap(), database.get_dbname().unwrap());
        let upstream = database.get_ports().first().copied().unwrap_or(5432);
        let (host, owner) = match &database.get_hosts()[0] {
            // Only the cluster's owner may enter the directory of its socket.
            Host::Unix(socket) => (socket.display().to_string(), socket.metadata().ok()),
            Host::Tcp(host) => (host.clone(), None),
        };
        let password = database.get_password().map(String::from_utf8_lossy);
        let password = password.map(|password| format!(" password={password}")).unwrap_or_default();
        std::fs::write(
            &settings,
            format!(
                "[databases]\n* = host={host} port={upstream} user={user}{password}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = {mode}\ndefault_pool_size = {connections}\nmax_client_conn = 200\n{further}\n"
            ),
        )
        .unwrap();
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg("-q").arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
        // It refuses to run as root.
        if nix::unistd::Uid::effective().is_root() {
            let (uid, gid) = owner.map_or((65_534, 65_534), |owner| (owner.uid(), owner.gid()));
            command.uid(uid).gid(gid);
        }
        let process = command.spawn().expect("PgBouncer is installed");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port.number())).is_err() {
            assert!(Instant::now() < deadline, "PgBouncer does not listen on {port}");
            std::thread::yield_now();
        }
        Self { port, dir, database: name.to_owned(), process }
    }

    /// URL of the database through the pooler.
    pub fn url(&self) -> String {
        format!("postgresql://anybody@127.0.0.1:{}/{}", self.port, self.database)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}
