//! Creates a cluster and the server's database in it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::process::Stdio;

use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};

use super::binaries::Binaries;
use super::error::EmbeddedError;
use super::home::{Home, own_privately};
use super::{DATABASE, Durability, ROLE, START_LIMIT};

/// Runs `initdb` unless there is a cluster. It works in a directory that is renamed when it is complete, so an
/// interrupted attempt is repeated.
pub(super) async fn create_unless_there(
    home: &Home,
    binaries: &Binaries,
    durability: Durability,
) -> Result<(), EmbeddedError> {
    if home.pgdata.join("PG_VERSION").exists() {
        return Ok(());
    }
    let new = home.dir.join("postgres.new");
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(EmbeddedError::io(format!("remove {}", new.display()), e));
        }
        _ => own_privately(&new, &home.account)?,
    }

    let mut initdb = home.account.command(binaries.initdb());
    initdb.arg("-D").arg(&new).args(["--username", ROLE, "--encoding=UTF8", "--locale=C", "--auth-local=trust"]);
    match durability {
        Durability::Durable => initdb.args(["--auth-host=reject", "--data-checksums"]),
        // Its only address is 127.0.0.1, and only if a test asks for it.
        Durability::ThrowAway => initdb.args(["--auth-host=trust", "--no-sync"]),
    };
    let mut initdb = tokio::process::Command::from(initdb);
    initdb.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(START_LIMIT, initdb.output())
        .await
        .map_err(|_| EmbeddedError::Initdb(format!("it did not finish within {} s", START_LIMIT.as_secs())))?
        .map_err(|e| EmbeddedError::io(format!("run initdb as user {}", home.account.name), e))?;
    if !output.status.success() {
        return Err(EmbeddedError::Initdb(String::from_utf8_lossy(&output.stderr).into_owned()));
    }

    fs::rename(&new, &home.pgdata)
        .and_then(|()| File::open(&home.dir)?.sync_all())
        .map_err(|e| EmbeddedError::io(format!("name the new cluster {}", home.pgdata.display()), e))
}

/// Creates the server's database unless it exists, and the extension that counts statements if its module is loaded.
pub(super) async fn create_database(config: &Config, statements: bool) -> Result<(), EmbeddedError> {
    let mut maintenance = config.clone();
    maintenance.dbname("postgres");
    let client = connect(&maintenance).await?;
    if client.query_opt("select from pg_database where datname = $1", &[&DATABASE]).await?.is_none() {
        client.batch_execute(&format!("create database {DATABASE}")).await?;
    }
    if statements {
        connect(config).await?.batch_execute("create extension if not exists pg_stat_statements").await?;
    }
    Ok(())
}

/// Opens a connection that ends when the client is dropped.
async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "the connection that prepares the database broke");
        }
    });
    Ok(client)
}
