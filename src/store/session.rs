//! One connection in use: runs [`Query`]s, counts them, and goes back to the pool only in a known state.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use deadpool_postgres::Object;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use crate::metrics::Metrics;
use crate::timing::{Stage, measure};

use super::query::Query;

/// The values of a statement's parameters, in order.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection taken from the pool. It goes back there when this value ends, unless it is in doubt.
pub struct Session {
    /// There until this value is dropped.
    client: Option<Object>,
    /// How much has begun on it and not ended, so that nobody knows what state it is in: inside a transaction, or with a statement
    /// that has not been answered.
    in_doubt: AtomicUsize,
    /// False behind a pooler that cannot carry prepared statements.
    prepared: bool,
    metrics: Metrics,
}

impl Session {
    pub(super) fn new(client: Object, prepared: bool, metrics: Metrics) -> Self {
        Self { client: Some(client), in_doubt: AtomicUsize::new(0), prepared, metrics }
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("only drop takes it")
    }

    /// Something begins that may leave the connection in any state. If this value ends before [`Session::settle`], by an error,
    /// a wait that ran out, a panic or a client that went away, the connection is thrown away.
    pub(super) fn doubt(&self) {
        self.in_doubt.fetch_add(1, Ordering::Relaxed);
    }

    /// What began has ended, and PostgreSQL has said how.
    pub(super) fn settle(&self) {
        self.in_doubt.fetch_sub(1, Ordering::Relaxed);
    }

    /// It did not answer in time. Whatever silenced it has most likely silenced the others too, so those that are idle are thrown
    /// away with it: each of them would cost somebody the same wait.
    pub(super) fn suspect_all(&self) {
        if let Some(pool) = Object::pool(self.client()) {
            pool.retain(|_, _| false);
        }
    }

    /// Throws the connection away without asking PostgreSQL to stop: a COMMIT may be waiting there for a standby, and a cancelled
    /// wait would look like one that had ended.
    pub(super) fn abandon(mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }

    /// Runs a statement and returns its rows.
    pub(super) async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
        let start = Instant::now();
        let rows = if self.prepared {
            let statement = self.client().prepare_typed_cached(query.text, query.types).await?;
            self.client().query(&statement, params).await
        } else {
            let typed: Vec<(&(dyn ToSql + Sync), Type)> =
                params.iter().copied().zip(query.types.iter().cloned()).collect();
            self.client().query_typed(query.text, &typed).await
        };
        self.metrics.query(query.name, start.elapsed());
        rows
    }

    /// Prepares statements that are not yet prepared, so that several can go in one flush: each is sent when it is polled for the
    /// first time, and preparing would let one overtake the other.
    pub(super) async fn prepare(&self, queries: &[&Query]) -> Result<(), tokio_postgres::Error> {
        for query in queries.iter().filter(|_| self.prepared) {
            self.client().prepare_typed_cached(query.text, query.types).await?;
        }
        Ok(())
    }

    /// Runs a statement without parameters by the simple protocol, such as BEGIN.
    pub(super) async fn simple(&self, text: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        self.client().simple_query(text).await
    }
}

impl Drop for Session {
    /// Throws a connection in doubt away. PostgreSQL is asked to stop what still runs on it, so that no lock outlives the
    /// request.
    fn drop(&mut self) {
        if self.in_doubt.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(client) = self.client.take() else { return };
        let cancel = client.cancel_token();
        drop(Object::take(client));
        // At the end of the process there is no runtime left, and no connection either.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            // The token goes over a connection of its own without TLS; where that is refused, closing the connection and
            // idle_in_transaction_session_timeout do the same work later.
            let _ = tokio::time::timeout(super::deadline::CONNECT, cancel.cancel_query(tokio_postgres::NoTls)).await;
        });
    }
}

/// A connection that can only read: what endpoints get. Each statement sees what was committed when it began.
pub struct Reader(pub(super) Session);

/// Something that queries can run on: a [`Reader`], or a transaction.
pub(crate) trait Queries {
    /// Runs a statement and returns its rows.
    fn rows(&self, query: &Query, params: Params<'_>) -> impl Future<Output = Result<Vec<Row>, super::Abort>> + Send;

    /// Runs a statement that returns at most one row.
    fn find(&self, query: &Query, params: Params<'_>) -> impl Future<Output = Result<Option<Row>, super::Abort>> + Send
    where
        Self: Sync,
    {
        async move { Ok(self.rows(query, params).await?.into_iter().next()) }
    }
}

impl Queries for Reader {
    async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, super::Abort> {
        self.rows_within(super::deadline::READ, query, params).await
    }
}

impl Reader {
    /// Runs a statement, within a time.
    pub(super) async fn rows_within(
        &self,
        time: std::time::Duration,
        query: &Query,
        params: Params<'_>,
    ) -> Result<Vec<Row>, super::Abort> {
        self.0.doubt();
        match measure(Stage::Query, tokio::time::timeout(time, self.0.rows(query, params))).await {
            Ok(rows) => {
                self.0.settle();
                Ok(rows?)
            }
            Err(_) => {
                self.0.suspect_all();
                Err(super::failure::overloaded("a read").into())
            }
        }
    }
}
