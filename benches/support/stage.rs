//! The stage of a run: one PostgreSQL, a database for the yardstick and one for each mode, and a server for each mode.
//!
//! All share the cluster, its settings and its disk. The cluster is durable, so a commit waits for the disk as in
//! production. A quick run measures nothing and uses a cluster without fsync.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use catbird_bench_report::results::Who;
use catbird_server::check;
use catbird_server::embedded::{DATABASE, EmbeddedPostgres, Settings};
use catbird_server::store;
use tokio_postgres::{Client, Config, NoTls};
use ulid::Ulid;

use super::Result;
use super::plan::{Plan, SERVERS};
use super::responder::Responder;
use super::seed::{self, Convos};
use super::server::Server;
use super::yardstick::Yardstick;

/// Connections of pgbench, of the servers' pools, and of the stage.
const MAX_CONNECTIONS: u32 = 300;

/// Settings of a machine that is dedicated to PostgreSQL: memory for all data, and no checkpoint during a load.
const FULL: [(&str, &str); 3] = [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];
/// Settings of a quick run.
const QUICK: [(&str, &str); 3] = [("shared_buffers", "128MB"), ("fsync", "off"), ("full_page_writes", "off")];

/// The processes and databases of a run.
pub struct Stage {
    pub yardstick: Yardstick,
    advisory: Server,
    actors: Server,
    /// The directory of did:plc, for documents that are no longer current.
    directory: Responder,
    cluster: EmbeddedPostgres,
    home: Home,
    out: PathBuf,
}

/// The directory of the cluster, removed after all processes in it have ended.
struct Home(Vec<PathBuf>);

impl Drop for Home {
    fn drop(&mut self) {
        for dir in &self.0 {
            if let Err(e) = std::fs::remove_dir_all(dir)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                eprintln!("cannot remove {}: {e}", dir.display());
            }
        }
    }
}

impl Stage {
    /// Starts all processes. Logs go to the plan's directory.
    pub async fn set(plan: &Plan) -> Result<Self> {
        std::fs::create_dir_all(&plan.out)?;
        let out = plan.out.canonicalize()?;
        // On the disk of the build, because the directory for temporary files is often in memory.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", Ulid::new()));
        let mut home = Home(vec![dir.clone()]);
        let settings = if plan.quick { QUICK } else { FULL };
        let cluster = EmbeddedPostgres::start(&Settings {
            max_connections: MAX_CONNECTIONS,
            extra: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..Settings::durable(&dir)
        })
        .await?;
        home.0.push(cluster.dir().to_owned());

        let admin = connect(&cluster.config()).await?;
        for who in [Who::Yardstick, Who::Advisory, Who::Actors] {
            admin.batch_execute(&format!("create database {}", name_of(who))).await?;
        }
        let url = |who| with_database(&cluster.url(), name_of(who));
        let yardstick = Yardstick::find(&admin, url(Who::Yardstick), out.clone()).await?;
        let directory = Responder::directory()?;
        let log = |who| log_of(&out, name_of(who));
        let start = async |who| Server::start(who, &url(who), directory.address, &[], &log(who)).await;
        let (advisory, actors) = (start(Who::Advisory).await?, start(Who::Actors).await?);
        Ok(Self { yardstick, advisory, actors, directory, cluster, home, out })
    }

    /// The database of a mode, or the yardstick's.
    pub fn database(&self, who: Who) -> Config {
        let mut config = self.cluster.config();
        config.dbname(name_of(who));
        config
    }

    /// A connection to that database.
    pub async fn connect(&self, who: Who) -> Result<Client> {
        connect(&self.database(who)).await
    }

    /// The server of a mode, with default settings.
    pub fn server(&self, who: Who) -> Result<&Server> {
        match who {
            Who::Advisory => Ok(&self.advisory),
            Who::Actors => Ok(&self.actors),
            Who::Yardstick | Who::Generator => Err(format!("{who:?} is not a server").into()),
        }
    }

    /// The address of that server.
    pub fn address(&self, who: Who) -> Result<SocketAddr> {
        Ok(self.server(who)?.address)
    }

    /// Starts another server of that mode on the same database, with other settings. `name` names its log.
    pub async fn another_server(&self, who: Who, name: &str, settings: &[(&str, &str)]) -> Result<Server> {
        let log = log_of(&self.out, &format!("{}_{name}", name_of(who)));
        let url = with_database(&self.cluster.url(), name_of(who));
        Server::start(who, &url, self.directory.address, settings, &log).await
    }

    /// Creates a further database, migrated and empty.
    pub async fn another_database(&self, name: &str) -> Result<Config> {
        let admin = connect(&self.cluster.config()).await?;
        admin.batch_execute(&format!("create database {name}")).await?;
        let mut config = self.cluster.config();
        config.dbname(name);
        store::migrate(&config).await?;
        Ok(config)
    }

    /// Starts a server of that mode on such a database.
    pub async fn server_of(&self, who: Who, database: &str, settings: &[(&str, &str)]) -> Result<Server> {
        let (url, log) = (with_database(&self.cluster.url(), database), log_of(&self.out, database));
        Server::start(who, &url, self.directory.address, settings, &log).await
    }

    /// Creates new conversations, the same for both modes.
    pub async fn seed(&self, convos: u32, members: u32) -> Result<Convos> {
        let convos = seed::convos(convos, members);
        for who in SERVERS {
            let database = self.connect(who).await?;
            seed::write(&database, &convos).await?;
            database.batch_execute("vacuum analyze conversations, members, messages").await?;
        }
        Ok(convos)
    }

    /// Creates the yardstick's tables and data again.
    pub async fn reset_yardstick(&self) -> Result<()> {
        self.yardstick.reset(&self.connect(Who::Yardstick).await?).await
    }

    /// The version of PostgreSQL.
    pub async fn postgres_version(&self) -> Result<String> {
        Ok(self.connect(Who::Yardstick).await?.query_one("show server_version", &[]).await?.get(0))
    }

    /// Checks the invariants of both databases after the loads.
    pub async fn check(&self) -> Result<()> {
        for who in SERVERS {
            let report = check::run(&self.database(who)).await?;
            if !report.is_clean() {
                return Err(format!("the database of {who:?} is not sound:\n{report}").into());
            }
        }
        Ok(())
    }

    /// Ends all processes and removes everything but the logs.
    pub async fn clear(self) -> Result<()> {
        let Self { advisory, actors, cluster, home, .. } = self;
        drop((advisory, actors));
        cluster.stop().await?;
        drop(home);
        Ok(())
    }
}

fn name_of(who: Who) -> &'static str {
    match who {
        Who::Advisory => "bench_advisory",
        Who::Actors => "bench_actors",
        Who::Yardstick | Who::Generator => "bench_yardstick",
    }
}

fn log_of(out: &Path, name: &str) -> PathBuf {
    out.join(name).with_extension("log")
}

/// Returns the URL of another database of an embedded PostgreSQL.
fn with_database(url: &str, name: &str) -> String {
    url.replacen(&format!("/{DATABASE}?"), &format!("/{name}?"), 1)
}

/// A connection to a database.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
