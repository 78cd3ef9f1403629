//! What `doctor` reads about PostgreSQL and about the server's tables, on an operator's connection.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::query::query;
use super::{ConnectError, Operator, schema};

query! {
    SETTINGS = "doctor/settings" (TEXT_ARRAY, TEXT_ARRAY);
    SERVER = "doctor/server" ();
    COLLATION = "doctor/collation" ();
    HISTORY = "doctor/history" ();
    OBJECTS = "doctor/objects" ();
    TABLES = "doctor/tables" ();
    TRANSACTIONS = "doctor/transactions" (FLOAT8);
    MAILBOXES = "doctor/mailboxes" (INT8);
    AGES = "background/ages" ();
    CLOCK = "schema/clock" ();
}

/// Number up to which dead envelopes are counted.
const MAX_COUNTED: i64 = 100_000;

/// A setting of PostgreSQL.
#[derive(Debug, Clone)]
pub struct ServerSetting {
    pub name: String,
    pub value: String,
    /// Where the value comes from, as `pg_settings.source` says.
    pub source: String,
    /// The role that has it by ALTER ROLE; `None` for the present session.
    pub role: Option<String>,
}

/// PostgreSQL, the database and the role of a connection.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// As `server_version_num`.
    pub version: i32,
    pub is_standby: bool,
    pub encoding: String,
    /// `c` for the C library, `i` for ICU, `b` for PostgreSQL's own.
    pub provider: String,
    pub locale: String,
    pub role: String,
    pub is_superuser: bool,
    /// Connections that this role may have in this database.
    pub connections: i64,
    /// Entries of the lock table.
    pub locks: i64,
    /// `synchronous_standby_names`.
    pub standbys: String,
    /// True if a COMMIT waits for a standby that is not connected.
    pub lacks_standby: bool,
}

/// Versions of the database's collation.
#[derive(Debug, Clone)]
pub struct CollationVersions {
    /// The one that the indexes were built with.
    pub built: Option<String>,
    /// The one that the system has now.
    pub present: Option<String>,
}

/// An applied migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub version: i64,
    pub name: String,
    pub checksum: String,
}

/// An index, a constraint or a trigger of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaObject {
    /// `index`, `constraint` or `trigger`.
    pub kind: String,
    pub table: String,
    pub name: String,
    /// True if it keeps rows right; false for an index that only makes reading fast.
    pub guards: bool,
    /// False if it is invalid or disabled.
    pub in_force: bool,
}

/// State of a table.
#[derive(Debug, Clone)]
pub struct TableFacts {
    pub name: String,
    pub rows: i64,
    pub dead: i64,
    /// Time since it was last vacuumed, if it ever was.
    pub vacuumed: Option<Duration>,
    /// True if autovacuum leaves it out.
    pub is_left_out: bool,
}

/// State of the delivery to mailboxes.
#[derive(Debug, Clone)]
pub struct MailboxFacts {
    /// Time since the most overdue envelope was due; zero if none is.
    pub overdue: Duration,
    /// Age of the oldest entry that was not expanded into envelopes; zero if there is none.
    pub unexpanded: Duration,
    /// Dead envelopes, up to a limit.
    pub dead: i64,
}

impl Operator {
    /// Returns these settings of the session, and those that these roles have of their own.
    pub async fn server_settings(&self, names: &[&str], roles: &[&str]) -> Result<Vec<ServerSetting>, ConnectError> {
        let setting = |row: &Row| ServerSetting {
            name: row.get("name"),
            value: row.get("value"),
            source: row.get("source"),
            role: row.get("role"),
        };
        Ok(self.rows(&SETTINGS, &[&names, &roles]).await?.iter().map(setting).collect())
    }

    pub async fn server_facts(&self) -> Result<ServerFacts, ConnectError> {
        let row = self.row(&SERVER, &[]).await?;
        Ok(ServerFacts {
            version: row.get("version"),
            is_standby: row.get("is_standby"),
            encoding: row.get("encoding"),
            provider: row.get("provider"),
            locale: row.get("locale"),
            role: row.get("role"),
            is_superuser: row.get("is_superuser"),
            connections: row.get("connections"),
            locks: row.get("locks"),
            standbys: row.get("standbys"),
            lacks_standby: row.get("lacks_standby"),
        })
    }

    /// Returns the versions of the database's collation. Needs PostgreSQL 15.
    pub async fn collation_versions(&self) -> Result<CollationVersions, ConnectError> {
        let row = self.row(&COLLATION, &[]).await?;
        Ok(CollationVersions { built: row.get("built"), present: row.get("present") })
    }

    /// Returns PostgreSQL's time.
    pub async fn server_time(&self) -> Result<DateTime<Utc>, ConnectError> {
        Ok(self.row(&CLOCK, &[]).await?.get("now"))
    }

    /// Returns the applied migrations, in order; `None` if the database has no table of them.
    pub async fn applied_migrations(&self) -> Result<Option<Vec<Applied>>, ConnectError> {
        if !self.row(&schema::EXISTS, &[]).await?.get::<_, bool>("is_there") {
            return Ok(None);
        }
        let applied =
            |row: &Row| Applied { version: row.get("version"), name: row.get("name"), checksum: row.get("checksum") };
        Ok(Some(self.rows(&HISTORY, &[]).await?.iter().map(applied).collect()))
    }

    /// Returns the indexes, constraints and triggers of the server's tables, in order.
    pub async fn schema_objects(&self) -> Result<Vec<SchemaObject>, ConnectError> {
        let object = |row: &Row| SchemaObject {
            kind: row.get("kind"),
            table: row.get("table"),
            name: row.get("name"),
            guards: row.get("guards"),
            in_force: row.get("in_force"),
        };
        Ok(self.rows(&OBJECTS, &[]).await?.iter().map(object).collect())
    }

    pub async fn table_facts(&self) -> Result<Vec<TableFacts>, ConnectError> {
        let table = |row: &Row| TableFacts {
            name: row.get("name"),
            rows: row.get("rows"),
            dead: row.get("dead"),
            vacuumed: row.get::<_, Option<f64>>("vacuumed").map(seconds),
            is_left_out: row.get("is_left_out"),
        };
        Ok(self.rows(&TABLES, &[]).await?.iter().map(table).collect())
    }

    /// Returns the names and ages of transactions that have been open for longer than this.
    pub async fn old_transactions(&self, than: Duration) -> Result<Vec<(String, Duration)>, ConnectError> {
        let rows = self.rows(&TRANSACTIONS, &[&than.as_secs_f64()]).await?;
        Ok(rows.iter().map(|row| (row.get("name"), seconds(row.get("age")))).collect())
    }

    pub async fn mailbox_facts(&self) -> Result<MailboxFacts, ConnectError> {
        let row = self.row(&MAILBOXES, &[&MAX_COUNTED]).await?;
        let time = |column| row.get::<_, Option<f64>>(column).map(seconds).unwrap_or_default();
        Ok(MailboxFacts { overdue: time("overdue"), unexpanded: time("unexpanded"), dead: row.get("dead") })
    }

    /// Returns for each kind of sweep its name, the time since a pass was last finished, and the items that are set aside.
    pub async fn sweep_ages(&self) -> Result<Vec<(String, Duration, i64)>, ConnectError> {
        let rows = self.rows(&AGES, &[]).await?;
        Ok(rows.iter().map(|row| (row.get("job"), seconds(row.get("age")), row.get("aside"))).collect())
    }
}

/// Returns a time that PostgreSQL has measured; none if it is negative, as after a change of its clock.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
