//! State of the PostgreSQL server, for the metrics: what operators of the database watch, and what delays all replicas
//! alike.

use crate::error::Error;

use super::lanes::Lane;
use super::metrics::ServerState;
use super::query::query;
use super::session::Queries;
use super::{Abort, Store};

query! {
    STATE = "server/state" ();
    TABLES = "server/tables" ();
}

impl Store {
    /// Records the state of the PostgreSQL server and of the tables in the metrics.
    pub async fn measure_server(&self) -> Result<(), Error> {
        Ok(self.measure_state().await?)
    }

    async fn measure_state(&self) -> Result<(), Abort> {
        let reader = self.session(Lane::Background).await.map(super::Reader)?;
        if let Some(row) = reader.find(&STATE, &[]).await? {
            self.metrics.server(ServerState {
                bytes: row.get("bytes"),
                transaction_id_age: row.get("transaction_id_age"),
                oldest_transaction: row.get("oldest_transaction"),
                sessions: row.get("sessions"),
                max_sessions: row.get("max_sessions"),
                lock_waiters: row.get("lock_waiters"),
            });
        }
        for row in reader.rows(&TABLES, &[]).await? {
            self.metrics.table(row.get("name"), row.get("bytes"), row.get("dead_rows"));
        }
        Ok(())
    }
}
