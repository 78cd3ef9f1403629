//! The stage of a run: one PostgreSQL, a database for the yardstick and one for each mode, and a server for each mode.
//!
//! All share the cluster, its settings and its disk. The cluster is durable, so a commit waits for the disk as it would for an
//! operator; only a quick run does without, since it measures nothing.

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
use super::seed::{self, Convos};
use super::server::Server;
use super::yardstick::Yardstick;

/// pgbench's connections, the servers' pools, and our own.
const MAX_CONNECTIONS: u32 = 300;

/// What a machine that is only there for PostgreSQL would be given: room for all the data, and no checkpoint in a load.
const FULL: [(&str, &str); 3] = [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];
/// For a run that only has to work.
const QUICK: [(&str, &str); 3] = [("shared_buffers", "128MB"), ("fsync", "off"), ("full_page_writes", "off")];

/// See the module.
pub struct Stage {
    pub yardstick: Yardstick,
    advisory: Server,
    actors: Server,
    cluster: EmbeddedPostgres,
    home: Home,
    out: PathBuf,
}

/// The directory of the cluster; removed when everything in it has ended.
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
    /// Starts everything. Logs go to the plan's directory.
    pub async fn set(plan: &Plan) -> Result<Self> {
        std::fs::create_dir_all(&plan.out)?;
        let out = plan.out.canonicalize()?;
        // On the disk of the build, since the directory for temporary files is often no disk at all.
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
        let start = async |who| Server::start(who, &url(who), &[], &log_of(&out, name_of(who))).await;
        let (advisory, actors) = (start(Who::Advisory).await?, start(Who::Actors).await?);
        Ok(Self { yardstick, advisory, actors, cluster, home, out })
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

    /// The server of a mode, with the settings that operators get.
    pub fn server(&self, who: Who) -> Result<&Server> {
        match who {
            Who::Advisory => Ok(&self.advisory),
            Who::Actors => Ok(&self.actors),
            Who::Yardstick | Who::Generator => Err(format!("{who:?} is not a server").into()),
        }
    }

    /// Where that server listens.
    pub fn address(&self, who: Who) -> Result<SocketAddr> {
        Ok(self.server(who)?.address)
    }

    /// Another server of that mode on the same database, with other settings. `name` is for its log.
    pub async fn another_server(&self, who: Who, name: &str, settings: &[(&str, &str)]) -> Result<Server> {
        let log = log_of(&self.out, &format!("{}_{name}", name_of(who)));
        Server::start(who, &with_database(&self.cluster.url(), name_of(who)), settings, &log).await
    }

    /// A database of its own that is migrated and empty, beside those of the modes.
    pub async fn another_database(&self, name: &str) -> Result<Config> {
        let admin = connect(&self.cluster.config()).await?;
        admin.batch_execute(&format!("create database {name}")).await?;
        let mut config = self.cluster.config();
        config.dbname(name);
        store::migrate(&config).await?;
        Ok(config)
    }

    /// A server of that mode on such a database.
    pub async fn server_of(&self, who: Who, database: &str, settings: &[(&str, &str)]) -> Result<Server> {
        Server::start(who, &with_database(&self.cluster.url(), database), settings, &log_of(&self.out, database)).await
    }

    /// New conversations, the same ones for both modes.
    pub async fn seed(&self, convos: u32, members: u32) -> Result<Convos> {
        let convos = seed::convos(convos, members);
        for who in SERVERS {
            let database = self.connect(who).await?;
            seed::write(&database, &convos).await?;
            database.batch_execute("vacuum analyze conversations, members, messages").await?;
        }
        Ok(convos)
    }

    /// The yardstick's tables and data, made anew.
    pub async fn reset_yardstick(&self) -> Result<()> {
        self.yardstick.reset(&self.connect(Who::Yardstick).await?).await
    }

    /// The version of PostgreSQL.
    pub async fn postgres_version(&self) -> Result<String> {
        Ok(self.connect(Who::Yardstick).await?.query_one("show server_version", &[]).await?.get(0))
    }

    /// Proves the invariants on what the loads have left in both databases.
    pub async fn check(&self) -> Result<()> {
        for who in SERVERS {
            let report = check::run(&self.database(who)).await?;
            if !report.is_clean() {
                return Err(format!("the database of {who:?} is not sound:\n{report}").into());
            }
        }
        Ok(())
    }

    /// Ends everything and leaves nothing but the logs.
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

/// The URL of an embedded PostgreSQL with another database.
fn with_database(url: &str, name: &str) -> String {
    url.replacen(&format!("/{DATABASE}?"), &format!("/{name}?"), 1)
}

/// A connection to a database.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
