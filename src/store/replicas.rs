//! The replicas that serve, which `doctor` compares.

use std::time::Duration;

use serde_json::Value;

use crate::error::Error;

use super::lanes::Lane;
use super::query::query;
use super::session::Queries;
use super::{Abort, ConnectError, Operator, Reader, Store, Transaction, Tx};

query! {
    NOTE = "replicas/note" (TEXT, TEXT, INT4, JSONB);
    LEAVE = "replicas/leave" (TEXT);
    LIST = "replicas/list" (FLOAT8);
    WITHOUT_SETTING = "replicas/without_setting" (FLOAT8, TEXT);
}

/// A replica that serves.
#[derive(Debug, Clone)]
pub struct Replica {
    /// ULID of the process.
    pub id: String,
    pub version: String,
    /// Role with which it serves. The database knows it, so it is empty in a row to be written.
    pub role: String,
    /// Most connections that it opens.
    pub connections: i32,
    /// An object of texts: settings by name.
    pub settings: Value,
}

struct Note(Replica);

impl Transaction for Note {
    const NAME: &'static str = "noteReplica";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let Replica { id, version, connections, settings, .. } = &self.0;
        tx.rows(&NOTE, &[id, version, connections, settings]).await?;
        Ok(())
    }
}

struct Leave(String);

impl Transaction for Leave {
    const NAME: &'static str = "leaveReplica";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        tx.rows(&LEAVE, &[&self.0]).await?;
        Ok(())
    }
}

impl Store {
    /// Notes that a replica serves.
    pub(crate) async fn note_replica(&self, replica: Replica) -> Result<(), Error> {
        self.transact(Note(replica)).await
    }

    /// Notes that a replica has stopped.
    pub(crate) async fn leave_replica(&self, id: String) -> Result<(), Error> {
        self.transact(Leave(id)).await
    }
}

impl Reader {
    /// Returns whether a replica was alive within this time whose build does not know a setting.
    pub async fn replica_without(&self, setting: &str, within: Duration) -> Result<bool, Error> {
        let row = self.find(&WITHOUT_SETTING, &[&within.as_secs_f64(), &setting]).await?;
        Ok(row.ok_or_else(|| Error::internal("an expression has no value"))?.get("found"))
    }
}

impl Operator {
    /// Returns the replicas that were alive within this time, in the order of their start.
    pub async fn replicas(&self, within: Duration) -> Result<Vec<Replica>, ConnectError> {
        let replica = |row: &tokio_postgres::Row| Replica {
            id: row.get("id"),
            version: row.get("version"),
            role: row.get("role"),
            connections: row.get("connections"),
            settings: row.get("settings"),
        };
        Ok(self.rows(&LIST, &[&within.as_secs_f64()]).await?.iter().map(replica).collect())
    }
}
