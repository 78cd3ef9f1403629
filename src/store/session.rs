//! One connection in use: runs [`Query`]s, counts them, and goes back to the pool only in a known state.

use std::time::Instant;

use deadpool_postgres::Object;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use crate::metrics::Metrics;

use super::query::Query;

/// The values of a statement's parameters, in order.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection taken from the pool.
pub struct Session {
    client: Object,
    /// False behind a pooler that cannot carry prepared statements.
    prepared: bool,
    metrics: Metrics,
}

impl Session {
    pub(super) fn new(client: Object, prepared: bool, metrics: Metrics) -> Self {
        Self { client, prepared, metrics }
    }

    /// Runs a statement and returns its rows.
    pub(super) async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
        let start = Instant::now();
        let rows = if self.prepared {
            let statement = self.client.prepare_typed_cached(query.text, query.types).await?;
            self.client.query(&statement, params).await
        } else {
            let typed: Vec<(&(dyn ToSql + Sync), Type)> =
                params.iter().copied().zip(query.types.iter().cloned()).collect();
            self.client.query_typed(query.text, &typed).await
        };
        self.metrics.query(query.name, start.elapsed());
        rows
    }

    /// Runs a statement without parameters by the simple protocol, such as BEGIN.
    pub(super) async fn simple(&self, text: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        self.client.simple_query(text).await
    }

    /// Throws the connection away: it is in a state that nobody knows. PostgreSQL is asked to stop what still runs on it, so
    /// that no lock outlives the request.
    pub(super) fn discard(self) {
        let cancel = self.client.cancel_token();
        drop(Object::take(self.client));
        // At the end of the process there is no runtime left, and no connection either.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            // The token goes over a connection of its own without TLS; where that is refused, closing the connection and
            // idle_in_transaction_session_timeout do the same work later.
            let _ = tokio::time::timeout(super::deadline::CONNECT, cancel.cancel_query(tokio_postgres::NoTls)).await;
        });
    }
}

/// A connection that is or may be inside a transaction. Only [`Open::release`] gives it back to the pool; however else this value
/// ends, by an error, a wait that ran out or a panic, nobody knows what state the connection is in, and it is thrown away.
pub(super) struct Open(Option<Session>);

impl Open {
    pub(super) fn new(session: Session) -> Self {
        Self(Some(session))
    }

    pub(super) fn session(&self) -> &Session {
        self.0.as_ref().expect("only release and drop take it, and both end this value")
    }

    /// The transaction has ended, and PostgreSQL has said so.
    pub(super) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.discard();
        }
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
        match tokio::time::timeout(super::deadline::READ, self.0.rows(query, params)).await {
            Ok(rows) => Ok(rows?),
            Err(_) => Err(super::failure::overloaded("a read").into()),
        }
    }
}
