//! PostgreSQL's settings and its kind, on one durable cluster that is misconfigured step by step.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use catbird_server::embedded::{EmbeddedPostgres, Settings, Shutdown};
use catbird_testkit::fleet::{Mode, Replica, run};
use tokio_postgres::{Client, NoTls};
use ulid::Ulid;

use super::{doctor, registered};

/// A durable cluster whose server's role `app` owns the database and is no superuser.
struct Cluster {
    postgres: EmbeddedPostgres,
    dir: PathBuf,
}

impl Cluster {
    async fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("catbird-doctor-{}", Ulid::new().to_string().to_lowercase()));
        let postgres = EmbeddedPostgres::start(&Settings::durable(&dir)).await.unwrap();
        let cluster = Self { postgres, dir };
        let superuser = cluster.superuser("catbird").await;
        let roles = "create role app login; create role other login in role app; alter database catbird owner to app;
            alter schema public owner to app";
        superuser.batch_execute(roles).await.unwrap();
        let (code, said, errors) = run("migrate", &cluster.url("app", "catbird")).await;
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{said}");
        cluster
    }

    fn url(&self, role: &str, database: &str) -> String {
        self.postgres.url().replace("//catbird@/catbird", &format!("//{role}@/{database}"))
    }

    async fn superuser(&self, database: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url("catbird", database), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Changes settings as a superuser whose COMMIT waits for nobody, and reloads.
    async fn set(&self, statements: &[&str]) {
        let superuser = self.superuser("catbird").await;
        superuser
            .batch_execute("set synchronous_commit = local; set default_transaction_read_only = off")
            .await
            .unwrap();
        for statement in statements {
            superuser.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        superuser.batch_execute("select pg_reload_conf()").await.unwrap();
    }

    /// Starts again as a standby that waits for its primary's writes.
    async fn stand_by(&mut self) {
        self.postgres.halt(Shutdown::Fast).await.unwrap();
        let pgdata = self.dir.join("postgres");
        let (signal, owner) = (pgdata.join("standby.signal"), std::fs::metadata(&pgdata).unwrap());
        std::fs::write(&signal, "").unwrap();
        std::os::unix::fs::chown(&signal, Some(owner.uid()), Some(owner.gid())).unwrap();
        self.postgres.resume().await.unwrap();
    }

    async fn remove(self) {
        self.postgres.stop().await.unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// Settings that each have one bad value, with the severity of that.
const BAD: &[(&str, &str, &str)] = &[
    ("fsync", "off", "fatal"),
    ("full_page_writes", "off", "fatal"),
    ("synchronous_commit", "off", "weak"),
    ("zero_damaged_pages", "on", "fatal"),
    ("session_replication_role", "replica", "fatal"),
    ("default_transaction_isolation", "serializable", "weak"),
    ("default_transaction_read_only", "on", "fatal"),
    ("autovacuum", "off", "weak"),
    ("track_counts", "off", "weak"),
    ("statement_timeout", "5000", "weak"),
    ("lock_timeout", "5000", "weak"),
    ("idle_in_transaction_session_timeout", "60000", "weak"),
    ("idle_session_timeout", "600000", "weak"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_postgresql_is_ok_and_each_bad_setting_of_it_is_named() {
    let mut cluster = Cluster::start().await;
    let url = cluster.url("app", "catbird");
    let sound = doctor(&url, &[]).await;
    sound.names_only(&[]);
    assert_eq!(
        (sound.code, sound.report["unexamined"].as_array().map(Vec::len)),
        (Some(0), Some(0)),
        "{}",
        sound.report
    );
    doctor(&cluster.postgres.url(), &[]).await.names_only(&["role"]);

    settings_of_the_server(&cluster).await;
    settings_of_roles_and_databases(&cluster).await;
    room(&cluster).await;
    encoding_and_collation(&cluster).await;

    // A standby that does not come, and a standby in place of the primary.
    cluster.set(&["alter system set synchronous_standby_names = 'ghost'"]).await;
    let lonely = doctor(&url, &[]).await;
    lonely.names_only(&["synchronous_standby"]);
    lonely.names("synchronous_standby", "fatal", "'ghost'");
    assert_eq!(lonely.code, Some(1));
    cluster.set(&["alter system reset all"]).await;
    cluster.stand_by().await;
    let standby = doctor(&url, &[]).await;
    standby.names("primary", "fatal", "is a standby");
    assert_eq!(standby.code, Some(1));
    cluster.remove().await;
}

async fn settings_of_the_server(cluster: &Cluster) {
    let set: Vec<String> = BAD.iter().map(|(name, value, _)| format!("alter system set {name} = '{value}'")).collect();
    let logs = ["alter system set log_statement = 'mod'", "alter system set log_parameter_max_length = 100"];
    let set: Vec<&str> = set.iter().map(String::as_str).chain(logs).collect();
    cluster.set(&set).await;
    let said = doctor(&cluster.url("app", "catbird"), &[]).await;
    for (name, value, severity) in BAD {
        said.names(name, severity, &format!("{name} is {value}"));
    }
    said.names("logged_values", "weak", "log_statement = mod");
    assert_eq!((said.code, said.against().len()), (Some(1), BAD.len() + 1), "{:#?}", said.report);
    cluster.set(&["alter system reset all"]).await;
}

async fn settings_of_roles_and_databases(cluster: &Cluster) {
    let url = cluster.url("app", "catbird");
    for (place, words) in [
        ("database catbird", "off for this database"),
        ("role app", "off for the role app"),
        ("role app in database catbird", "off for the role app in this database"),
    ] {
        cluster.set(&[&format!("alter {place} set synchronous_commit = off")]).await;
        let said = doctor(&url, &[]).await;
        said.names_only(&["synchronous_commit"]);
        said.names("synchronous_commit", "weak", words);
        assert_eq!(said.code, Some(0), "a weak promise still holds");
        cluster.set(&[&format!("alter {place} reset synchronous_commit")]).await;
    }
    // The role with which a replica serves counts, and not that of somebody who only looks.
    cluster
        .set(&[
            "alter role other set synchronous_commit = 'no'",
            "alter role app set default_transaction_read_only = on",
        ])
        .await;
    let said = doctor(&url, &[]).await;
    said.names_only(&["default_transaction_read_only"]);
    assert_eq!(said.code, Some(1));
    let replica = Replica::start(Mode::Advisory, &cluster.url("other", "catbird"), &[]).await;
    registered(&cluster.superuser("catbird").await, 1).await;
    let said = doctor(&url, &[]).await;
    said.names_only(&["synchronous_commit"]);
    said.names("synchronous_commit", "weak", "no for the role other");
    assert_eq!(replica.terminate().await, Some(0));
    cluster.set(&["alter role other reset all", "alter role app reset all"]).await;
    let said = doctor(&format!("{url}&options=-c%20lock_timeout%3D1s"), &[]).await;
    said.names("lock_timeout", "weak", "1000 in the options of the connection");
}

async fn room(cluster: &Cluster) {
    let url = cluster.url("app", "catbird");
    let said = doctor(&url, &[("DATABASE_MAX_CONNECTIONS", "100")]).await;
    said.names("max_connections", "fatal", "up to 101 connections, and PostgreSQL allows 97");
    let said = doctor(&url, &[("DATABASE_MAX_CONNECTIONS", "60")]).await;
    said.names_only(&["max_connections", "max_locks_per_transaction"]);
    said.names("max_locks_per_transaction", "weak", "room for 6400");
    cluster.set(&["alter role app connection limit 20"]).await;
    let said = doctor(&url, &[]).await;
    said.names_only(&["max_connections"]);
    said.names("max_connections", "weak", "PostgreSQL allows 20");
    cluster.set(&["alter role app connection limit -1", "alter database catbird connection limit 10"]).await;
    doctor(&url, &[]).await.names("max_connections", "fatal", "PostgreSQL allows 10");
    cluster.set(&["alter database catbird connection limit -1"]).await;
}

async fn encoding_and_collation(cluster: &Cluster) {
    let superuser = cluster.superuser("catbird").await;
    let create = [
        "create database latin owner app encoding 'LATIN1' locale 'C' template template0",
        "create database dutch owner app locale_provider icu icu_locale 'nl' template template0",
    ];
    for database in create {
        superuser.batch_execute(database).await.unwrap();
    }
    let said = doctor(&cluster.url("app", "latin"), &[]).await;
    said.names("encoding", "fatal", "LATIN1");
    said.names("schema_version", "fatal", "does not have this server's tables");
    let dutch = cluster.url("app", "dutch");
    doctor(&dutch, &[]).await.names("collation", "weak", "nl may change");
    superuser.batch_execute("update pg_database set datcollversion = '1' where datname = 'dutch'").await.unwrap();
    let said = doctor(&dutch, &[]).await;
    said.names("collation", "fatal", "built with version 1 of the collation nl");
}
