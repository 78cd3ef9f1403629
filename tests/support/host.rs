//! A machine with PostgreSQL as an operator has it: a cluster that `initdb` made and `pg_ctl` runs, which demands passwords through TCP.
//! Commands of the documents run on it as PostgreSQL's user.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use catbird_server::embedded;
use nix::unistd::{Uid, User, chown};
use tokio_postgres::{Client, NoTls};
use ulid::Ulid;

use crate::port::Port;

/// Password of the server's role.
const PASSWORD: &str = "the password of the server's role";
/// Ends what runs in the directory, and removes it, when the process of the test has ended in any way.
const WATCH: &str = r#"read -r _; pg_ctl --silent --mode=immediate stop; rm -rf -- "$HOME""#;
/// Creates a cluster as Debian does, with small segments, and without flushes, since no test switches the machine off.
const CREATE: &str = r#"initdb --no-sync --auth-local=peer --auth-host=scram-sha-256 --encoding=UTF8 --locale=C --wal-segsize=1 >/dev/null
echo "include '../host.conf'" >>"$PGDATA/postgresql.conf"
"#;
/// Settings of this machine, beside the cluster, so that a copy of the cluster on another machine takes those of its own.
const SETTINGS: &str = r#"mkdir "$BACKUPS"
cat >host.conf <<CONF
port = $PGPORT
listen_addresses = '127.0.0.1'
unix_socket_directories = '$PGHOST'
fsync = off
max_connections = 60
shared_buffers = 32MB
min_wal_size = 8MB
CONF
"#;
const START: &str = r#"pg_ctl --silent --log="$LOG" start"#;

/// The machine. What is in it ends with this value.
pub struct Host {
    dir: PathBuf,
    programs: PathBuf,
    port: Port,
    account: Option<User>,
    watch: Child,
    alive: Option<ChildStdin>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.alive = None;
        let _ = self.watch.wait();
    }
}

impl Host {
    /// Creates a machine without a cluster.
    pub async fn new() -> Self {
        let programs = embedded::programs(None).unwrap();
        let account =
            Uid::effective().is_root().then(|| User::from_name("postgres").unwrap().expect("a user postgres"));
        let dir = std::env::temp_dir().join(format!("catbird-host-{}", Ulid::new().to_string().to_lowercase()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
        if let Some(user) = &account {
            chown(&dir, Some(user.uid), Some(user.gid)).unwrap();
        }
        let port = Port::reserve();
        let mut watch = command(&dir, &programs, port.number(), account.as_ref(), WATCH);
        watch.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watch = watch.spawn().unwrap();
        let alive = watch.stdin.take();
        let host = Self { dir, programs, port, account, watch, alive };
        host.run(SETTINGS, &[]).await;
        host
    }

    /// Creates a machine with an empty cluster.
    pub async fn with_cluster() -> Self {
        let host = Self::new().await;
        host.run(&format!("{CREATE}{START}"), &[]).await;
        host
    }

    /// Creates a machine with a cluster that has an empty database and the role that owns it, `catbird`.
    pub async fn with_database() -> Self {
        let host = Self::with_cluster().await;
        let create = format!(
            "psql --no-psqlrc --quiet --dbname=postgres --set=password=\"{PASSWORD}\" <<'SQL'
create role catbird login password :'password';
create database catbird owner catbird;
SQL"
        );
        host.run(&create, &[]).await;
        host
    }

    /// Runs commands as PostgreSQL's user, with these settings, and returns what they print. Panics if one of them fails.
    pub async fn run(&self, commands: &str, settings: &[(&str, &str)]) -> String {
        let script = format!("set -euo pipefail\n{commands}");
        let mut command = command(&self.dir, &self.programs, self.port.number(), self.account.as_ref(), &script);
        command.envs(settings.iter().copied()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let log = || std::fs::read_to_string(self.dir.join("postgres.log")).unwrap_or_default();
        assert!(
            output.status.success(),
            "{commands}\n{}{}\n{}",
            text(&output.stdout),
            text(&output.stderr),
            log().lines().rev().take(20).collect::<Vec<_>>().join("\n")
        );
        text(&output.stdout)
    }

    /// Returns the only value of a query as text.
    pub async fn value(&self, query: &str) -> String {
        let printed =
            self.run(r#"psql --no-psqlrc -At --dbname=postgres --command="$QUERY""#, &[("QUERY", query)]).await;
        printed.trim().to_owned()
    }

    /// Writes a file that PostgreSQL's user can read, and returns its path.
    pub async fn keep(&self, name: &str, content: &str) -> String {
        self.run(r#"printf '%s' "$CONTENT" >"$NAME""#, &[("NAME", name), ("CONTENT", content)]).await;
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// Directory for backups.
    pub fn backups(&self) -> String {
        self.dir.join("backups").to_str().unwrap().to_owned()
    }

    /// Port of 127.0.0.1 that PostgreSQL listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// URL of the database, with the role that owns it.
    pub fn url(&self) -> String {
        url(&format!("127.0.0.1:{}", self.port))
    }

    /// Opens a connection to the database, with the role that owns it.
    pub async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

/// URL of the database on these hosts, such as `127.0.0.1:5432,127.0.0.1:5433`.
pub fn url(hosts: &str) -> String {
    format!("postgresql://catbird:{}@{hosts}/catbird", PASSWORD.replace(' ', "%20").replace('\'', "%27"))
}

fn command(dir: &Path, programs: &Path, port: u16, account: Option<&User>, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(dir).env_clear();
    for (name, value) in [
        ("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display())),
        ("LC_ALL", "C".to_owned()),
        ("HOME", dir.display().to_string()),
        ("PGDATA", dir.join("data").display().to_string()),
        ("PGHOST", dir.display().to_string()),
        ("PGPORT", port.to_string()),
        ("BACKUPS", dir.join("backups").display().to_string()),
        ("LOG", dir.join("postgres.log").display().to_string()),
    ] {
        command.env(name, value);
    }
    if let Some(user) = account {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}
