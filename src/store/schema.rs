//! The schema, which the first replica to start brings up to date, under a lock.
//!
//! Refinery applies each migration once, in order, and checks that applied files were not edited. Views hold no data,
//! so they are recreated when their text has changed.

use refinery::{Migration, Runner};
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::lanes::Lane;
use super::query::{query, sql};
use super::session::Queries;
use super::{Applied, ConnectError, Reader, Store, connect};

macro_rules! migrations {
    ($($name:literal),* $(,)?) => {
        [$(($name, sql!("migrations", $name))),*]
    };
}

/// Migrations in order. A released migration is never edited; a change is a new file.
const MIGRATIONS: &[(&str, &str)] = &migrations![
    "V001__conversations",
    "V002__messages",
    "V003__key_packages",
    "V004__welcomes",
    "V005__requests",
    "V006__delivery",
    "V007__positions_per_statement",
    "V008__nonce_age",
    "V009__events",
    "V010__retention",
    "V011__mailboxes",
    "V012__rosters",
    "V013__roster_counts",
    "V014__background",
    "V015__suspensions",
    "V016__did_documents",
    "V017__incarnations",
    "V018__fan_out_positions",
    "V019__mailbox_proofs",
    "V020__allowances",
    "V021__ends",
    "V022__used_tokens",
    "V023__caller_names",
    "V024__who_was_there",
    "V025__hour_long_tokens",
    "V026__key_package_references",
    "V027__comments",
    "V028__commit_reports",
    "V029__group_infos",
    "V030__proposals",
    "V031__named_members",
    "V032__devices",
    "V033__readditions",
    "V034__external_commits",
    "V035__key_package_upkeep",
    "V036__generations",
    "V037__cheaper_triggers",
    "V038__column_comments",
    "V039__owner_functions",
    "V040__device_announcements",
    "V041__replicas",
    "V042__counted_members",
    "V043__admin_audit",
    "V044__attachments",
    "V045__message_bodies",
    "V046__tokens_before_the_ring",
    "V047__positions_after_updates",
];

query! {
    EXISTS = "schema/exists" ();
    VERSION = "schema/version" ();
}

/// Lock that serializes migrations. Seed 2 keeps it apart from the locks of conversations and owners.
const LOCK: &str = "select 1 from pg_advisory_xact_lock(hashtextextended('catbird-server/schema', 2))";

/// Views in order of creation.
const VIEWS: [&str; 7] = [
    sql!("views", "conversation_locks"),
    sql!("views", "member_unread"),
    sql!("views", "message_recipients"),
    sql!("views", "convo_groups"),
    sql!("views", "commits"),
    sql!("views", "dead_envelopes"),
    sql!("views", "legacy"),
];

const DROP_VIEWS: &str = "drop schema if exists legacy cascade;
    drop view if exists commits, convo_groups, dead_envelopes, message_recipients, member_unread, conversation_locks;";

/// True if this role may create tables. The role of an application that only reads and writes rows may not.
const MAY_CREATE: &str = "select coalesce(has_schema_privilege(current_schema(), 'create'), true) as may_create";

/// Reason why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error(transparent)]
    Connection(#[from] ConnectError),
    #[error("a migration failed: {0}")]
    Migration(#[from] refinery::Error),
    #[error(
        "the schema is older than this build (version {found} of {required}), and this role may not create tables; \
         run `catbird-server migrate` as their owner"
    )]
    NotOwner { found: i64, required: i64 },
}

impl From<tokio_postgres::Error> for MigrationError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Connection(error.into())
    }
}

/// Returns the newest migration of this build, which readiness requires.
pub fn required_version() -> i64 {
    runner().get_migrations().iter().map(|migration| i64::from(migration.version())).max().unwrap_or(0)
}

fn runner() -> Runner {
    let migrations: Vec<Migration> = MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, sql).expect("migrations are named V<number>__<name>"))
        .collect();
    Runner::new(&migrations)
}

/// Returns the migrations of this build, in order.
pub fn migrations() -> Vec<Applied> {
    let of_build = |migration: &Migration| Applied {
        version: migration.version().into(),
        name: migration.name().to_owned(),
        checksum: migration.checksum().to_string(),
    };
    let mut migrations: Vec<Applied> = runner().get_migrations().iter().map(of_build).collect();
    migrations.sort_by_key(|migration| migration.version);
    migrations
}

/// Returns whether the database has any schema of this server.
pub async fn is_migrated(database: &tokio_postgres::Config) -> Result<bool, ConnectError> {
    let (client, connection) = connect(database).await?;
    let is_there = value(&client, EXISTS.text, "is_there").await?;
    connection.abort();
    Ok(is_there.as_deref() == Some("t"))
}

/// Brings the schema up to date, and returns the number of applied migrations. Waits while another replica migrates. A role
/// that may not create tables applies none; the schema must be new enough then. The schema and the views of a newer build stay as they
/// are, so that a release can be rolled back, and a replica of the previous build can start while others are upgraded.
pub async fn migrate(database: &tokio_postgres::Config) -> Result<usize, MigrationError> {
    let mut database = database.clone();
    database.application_name("catbird-server migrate");
    let (lock, lock_connection) = connect(&database).await?;
    let required = required_version();
    if value(&lock, MAY_CREATE, "may_create").await?.as_deref() == Some("f") {
        let found = version(&lock).await?;
        lock_connection.abort();
        return if found >= required { Ok(0) } else { Err(MigrationError::NotOwner { found, required }) };
    }
    // A transaction holds the lock, so that a pooler in transaction mode keeps the connection.
    lock.batch_execute("begin").await?;
    lock.batch_execute(LOCK).await?;
    let found = version(&lock).await?;
    if found > required {
        tracing::info!(found, required, "the schema is of a newer build");
        lock_connection.abort();
        return Ok(0);
    }
    let (mut client, connection) = connect(&database).await?;
    let report = runner().run_async(&mut client).await?;
    make_views(&client).await?;
    lock.batch_execute("commit").await?;
    for connection in [lock_connection, connection] {
        connection.abort();
    }
    Ok(report.applied_migrations().len())
}

/// Recreates the views, unless their comment has the digest of this text.
async fn make_views(client: &Client) -> Result<(), tokio_postgres::Error> {
    let digest = format!("{:x}", Sha256::digest(VIEWS.concat()));
    let made =
        value(client, "select obj_description(to_regnamespace('legacy')::oid, 'pg_namespace') as digest", "digest");
    let made = made.await?;
    if made.as_deref() == Some(digest.as_str()) {
        return Ok(());
    }
    let views = VIEWS.join("\n");
    client.batch_execute(&format!("begin; {DROP_VIEWS} {views} comment on schema legacy is '{digest}'; commit")).await
}

/// Returns the newest applied migration; 0 without a schema.
async fn version(client: &Client) -> Result<i64, tokio_postgres::Error> {
    if value(client, EXISTS.text, "is_there").await?.as_deref() != Some("t") {
        return Ok(0);
    }
    Ok(value(client, VERSION.text, "version").await?.and_then(|version| version.parse().ok()).unwrap_or(0))
}

/// Returns the first value of a column as text. A pooler in transaction mode knows no prepared statements.
async fn value(client: &Client, query: &str, column: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let messages = client.simple_query(query).await?;
    Ok(messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(column).map(str::to_owned),
        _ => None,
    }))
}

/// State of a database that answers.
#[derive(Debug, Clone, Copy)]
pub struct Fitness {
    /// True if it accepts writes: it is not a standby and not read-only.
    pub writes: bool,
    /// True if it has at least the schema of this build.
    pub current: bool,
}

impl Store {
    /// Returns the state of the database. Errors: the database does not answer.
    pub async fn fitness(&self) -> Result<Fitness, crate::error::Error> {
        let reader: Reader = self.reader_for(Lane::Vital).await?;
        // A probe may run before the first migration, which is not an error.
        let row = reader.find(&EXISTS, &[]).await?;
        let writes = row.as_ref().is_some_and(|row| !row.get::<_, bool>("read_only"));
        if !writes {
            reader.0.demoted();
        }
        if !row.is_some_and(|row| row.get("is_there")) {
            return Ok(Fitness { writes, current: false });
        }
        let row = reader.find(&VERSION, &[]).await?;
        Ok(Fitness { writes, current: row.is_some_and(|row| row.get::<_, i64>("version") >= required_version()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_in_the_folder_is_applied_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let named: Vec<String> = MIGRATIONS.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(named, files);
        let versions: Vec<u64> = runner().get_migrations().iter().map(|m| u64::from(m.version() as u32)).collect();
        assert_eq!(versions, (1..=MIGRATIONS.len() as u64).collect::<Vec<_>>());
    }
}
