//! A connection in use: runs [`Query`]s, counts them, and returns to the pool only in a known state.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use deadpool_postgres::Object;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use crate::timing::{Stage, Timings, measure, within};
use crate::trace::Part;

use super::lanes::Place;
use super::query::Query;
use super::{Store, deadline, failure};

/// The values of a statement's parameters, in order.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection taken from the pool. It goes back there when this value is dropped, unless it is dirty.
pub struct Session {
    /// Present until this value is dropped.
    client: Option<Object>,
    /// Its place among the connections that may exist; present for as long as `client` is.
    place: Option<Place>,
    /// Operations in flight: an open transaction, or a statement without a reply. While there are any, the connection's state is unknown.
    dirty: AtomicUsize,
    store: Store,
}

impl Session {
    pub(super) fn new(client: Object, place: Place, store: Store) -> Self {
        Self { client: Some(client), place: Some(place), dirty: AtomicUsize::new(0), store }
    }

    /// False behind a pooler, which cannot carry prepared statements.
    fn prepared(&self) -> bool {
        !self.store.pooler
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("only drop takes it")
    }

    /// Marks the beginning of an operation that may leave the connection in any state. If this value is dropped before
    /// [`Session::mark_clean`], by an error, a timeout, a panic or a client that went away, the connection is closed.
    pub(super) fn mark_dirty(&self) {
        self.dirty.fetch_add(1, Ordering::Relaxed);
    }

    /// Marks the end of an operation, whose result PostgreSQL has reported.
    pub(super) fn mark_clean(&self) {
        self.dirty.fetch_sub(1, Ordering::Relaxed);
    }

    /// Closes the idle connections of the pool, because this one did not answer in time. Most likely they would not answer either, and each
    /// would cost a request the same wait.
    pub(super) fn evict_idle(&self) {
        if let Some(pool) = Object::pool(self.client()) {
            pool.retain(|_, _| false);
        }
    }

    /// Discards the connection without a cancel request: a COMMIT may be waiting there for a standby, and a cancelled wait would look like
    /// one that had ended. Its place is kept until the connection is answered or closed, or until PostgreSQL reports that no COMMIT hangs
    /// any more: then the network has lost this one.
    pub(super) fn discard(mut self) {
        let (Some(client), Some(place)) = (self.client.take(), self.place.take()) else { return };
        let client = Object::take(client);
        let (store, kept) = (self.store.clone(), self.store.lanes.unanswered(place));
        self.store.runtime.spawn(async move {
            // Answered after everything that was sent before it.
            let mut answered = std::pin::pin!(client.simple_query(""));
            while tokio::time::timeout(deadline::COMMIT, &mut answered).await.is_err() {
                if store.commits_hang().await.is_ok_and(|hang| !hang) {
                    break;
                }
            }
            drop(kept);
        });
    }

    /// Closes all connections if the server refuses to write: it is a standby, or was demoted, and new connections find the server that took
    /// over.
    fn check<T>(&self, result: Result<T, tokio_postgres::Error>) -> Result<T, tokio_postgres::Error> {
        if let Err(error) = &result
            && error.code().is_some_and(failure::is_read_only)
        {
            self.demoted();
        }
        result
    }

    /// Closes this connection and the idle ones.
    pub(super) fn demoted(&self) {
        self.mark_dirty();
        self.evict_idle();
    }

    /// Runs a statement and returns its rows.
    pub(super) async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
        let _span = Timings::span(Part::Statement(query.name));
        let start = Instant::now();
        let rows = if self.prepared() {
            match self.client().prepare_typed_cached(query.text, query.types).await {
                Ok(statement) => self.client().query(&statement, params).await,
                Err(error) => Err(error),
            }
        } else {
            let typed: Vec<(&(dyn ToSql + Sync), Type)> =
                params.iter().copied().zip(query.types.iter().cloned()).collect();
            self.client().query_typed(query.text, &typed).await
        };
        self.store.metrics.query(query.name, start.elapsed());
        self.check(rows)
    }

    /// Runs a single statement. Behind a pooler the session has no time limits, so there it runs in a transaction that sets them, in one
    /// flush.
    async fn rows_alone(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
        if self.prepared() {
            return self.rows(query, params).await;
        }
        // In this order: what is polled first is sent first.
        let (begun, rows, committed) = tokio::join!(
            biased;
            self.simple(self.store.begin()),
            self.rows(query, params),
            self.simple("commit"),
        );
        begun?;
        let rows = rows?;
        committed?;
        Ok(rows)
    }

    /// Prepares statements, so that several can go in one flush: each is sent when it is first polled, and preparing would let one overtake
    /// another.
    pub(super) async fn prepare(&self, queries: &[&Query]) -> Result<(), tokio_postgres::Error> {
        for query in queries.iter().filter(|_| self.prepared()) {
            self.client().prepare_typed_cached(query.text, query.types).await?;
        }
        Ok(())
    }

    /// Runs a statement without parameters by the simple protocol, such as BEGIN.
    pub(super) async fn simple(&self, text: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        self.check(self.client().simple_query(text).await)
    }
}

impl Drop for Session {
    /// Closes a dirty connection. PostgreSQL is asked to cancel what still runs on it, so that no lock outlives the request.
    fn drop(&mut self) {
        if self.dirty.load(Ordering::Relaxed) == 0 {
            return;
        }
        let (Some(client), Some(place)) = (self.client.take(), self.place.take()) else { return };
        let client = Object::take(client);
        // At the end of the process there is no runtime left, and no connection either.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let kept = self.store.lanes.unanswered(place);
        self.store.runtime.spawn(async move {
            // The token goes over a connection of its own without TLS; where that is refused, closing the connection and
            // idle_in_transaction_session_timeout do the same work later.
            let cancel = client.cancel_token();
            let _ = tokio::time::timeout(deadline::CONNECT, cancel.cancel_query(tokio_postgres::NoTls)).await;
            let _ = tokio::time::timeout(deadline::CONNECT, client.simple_query("rollback")).await;
            drop((client, kept));
        });
    }
}

/// A connection for reads, which endpoints get. Each statement sees what was committed when it began.
pub struct Reader(pub(super) Session);

/// Something that queries can run on: a [`Reader`], or a transaction.
pub(crate) trait Queries: Sync {
    /// Runs a statement and returns its rows.
    fn rows(&self, query: &Query, params: Params<'_>) -> impl Future<Output = Result<Vec<Row>, super::Abort>> + Send;

    /// Runs a statement that returns at most one row.
    fn find(
        &self,
        query: &Query,
        params: Params<'_>,
    ) -> impl Future<Output = Result<Option<Row>, super::Abort>> + Send {
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
        self.0.mark_dirty();
        let begun = Instant::now();
        match measure(Stage::Query, within(time, self.0.rows_alone(query, params))).await {
            Ok(rows) => {
                self.0.mark_clean();
                Ok(rows?)
            }
            Err(_) => {
                // Otherwise the request had no time left.
                if begun.elapsed() >= time {
                    self.0.evict_idle();
                }
                Err(super::failure::overloaded("a read").into())
            }
        }
    }
}
