//! Statements of operator commands, on a connection outside the pool.

use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row};

use super::connect::{ConnectError, connect};
use super::query::Query;
use super::session::Params;

/// A connection for operator commands. It is closed when this is dropped.
pub struct Operator {
    client: Client,
    connection: JoinHandle<()>,
}

impl Operator {
    pub async fn connect(database: &Config) -> Result<Self, ConnectError> {
        let (client, connection) = connect(database).await?;
        Ok(Self { client, connection })
    }

    /// Runs a statement, which is a transaction by itself, and returns its rows.
    pub(super) async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, ConnectError> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = params.iter().copied().zip(query.types.iter().cloned()).collect();
        Ok(self.client.query_typed(query.text, &typed).await?)
    }

    /// Runs a statement that always returns one row.
    pub(super) async fn row(&self, query: &Query, params: Params<'_>) -> Result<Row, ConnectError> {
        Ok(self.rows(query, params).await?.pop().expect("a select of values returns one row"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
