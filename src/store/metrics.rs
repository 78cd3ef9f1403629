//! Metrics of statements, transactions and connections.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::{Buckets, Counters, Histograms, Register, Registry, register};

use super::{Cause, Lane};

/// Outcome of a COMMIT whose reply was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostCommit {
    Committed,
    RolledBack,
    /// PostgreSQL could not tell, and a retry committed.
    SentAgain,
    /// PostgreSQL could not tell in time.
    Unknown,
}

impl LostCommit {
    /// All outcomes.
    const ALL: [Self; 4] = [Self::Committed, Self::RolledBack, Self::SentAgain, Self::Unknown];

    fn label(self) -> &'static str {
        match self {
            LostCommit::Committed => "committed",
            LostCommit::RolledBack => "rolled_back",
            LostCommit::SentAgain => "sent_again",
            LostCommit::Unknown => "unknown",
        }
    }
}

/// Connections to PostgreSQL at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connections {
    /// Connections of the pool.
    pub open: usize,
    /// Those of them that are not in use.
    pub idle: usize,
    /// Largest number of connections in the pool.
    pub max: usize,
    /// Requests and tasks that wait for a connection.
    pub waiting: usize,
    /// Connections that the pool has discarded and that are not closed yet.
    pub unanswered: usize,
}

/// State of the PostgreSQL server at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerState {
    /// Size of the database in bytes.
    pub bytes: i64,
    /// Age of the oldest transaction id that the cluster still has to know, in transactions.
    pub transaction_id_age: i64,
    /// Age of the oldest transaction that is open, in seconds.
    pub oldest_transaction: f64,
    /// Connections of all clients of the cluster.
    pub sessions: i64,
    /// Largest number of them.
    pub max_sessions: i64,
    /// Sessions that wait for a lock, as far as the role may see them.
    pub lock_waiters: i64,
}

/// Gauges by table of the schema.
type TableGauges = Family<[(&'static str, String); 1], Gauge>;

/// Metrics of the store. Cheap to clone.
#[derive(Clone)]
pub struct StoreMetrics {
    queries: Counters<1>,
    query_seconds: Histograms<1>,
    transactions: Counters<2>,
    transaction_seconds: Histograms<1>,
    retries: Counters<2>,
    commits_recovered: Counters<1>,
    lock_wait_seconds: Histogram,
    connections_active: Gauge,
    connections_max: Gauge,
    connections_waiting: Gauge,
    connections_unanswered: Gauge,
    connection_timeouts: Counters<1>,
    size: Gauge,
    transaction_id_age: Gauge,
    oldest_transaction: Gauge<f64, AtomicU64>,
    sessions: Gauge,
    max_sessions: Gauge,
    lock_waiters: Gauge,
    table_bytes: TableGauges,
    dead_rows: TableGauges,
}

impl StoreMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            queries: r.counters("database_queries", "SQL statements run, by file"),
            query_seconds: r.seconds_by(
                "database_query_duration",
                "Time of an SQL statement, by file",
                Buckets::COARSE,
            ),
            transactions: r.counters("database_transactions", "Transactions, by name and outcome"),
            transaction_seconds: r.seconds_by(
                "database_transaction_duration",
                "Time of a transaction with its retries, by name",
                Buckets::COARSE,
            ),
            retries: r.counters("database_transaction_retries", "Retries of transactions, by name and cause"),
            commits_recovered: r.counters_of(
                "database_commits_recovered",
                "COMMITs whose reply was lost, by the outcome that was found",
                LostCommit::ALL.map(|outcome| [("outcome", outcome.label())]),
            ),
            lock_wait_seconds: r.seconds(
                "conversation_lock_wait",
                "Time to begin a transaction and to lock its conversation, or until the wait ran out",
                Buckets::COARSE,
            ),
            connections_active: r.gauge("database_connections_active", "Connections in use"),
            connections_max: r.gauge("database_connections_max", "Largest number of connections in the pool"),
            connections_waiting: r.gauge(
                "database_connections_waiting",
                "Requests and tasks that wait for a connection",
            ),
            connections_unanswered: r.gauge(
                "database_connections_unanswered",
                "Connections that were discarded and are not closed yet, such as those whose COMMIT waits for a standby",
            ),
            connection_timeouts: r.counters_of(
                "database_connection_timeouts",
                "Requests and tasks that got no connection in time, by class of work",
                Lane::ALL.map(|lane| [("lane", lane.label())]),
            ),
            size: r.gauge("database_size_bytes", "Size of the database"),
            transaction_id_age: r.gauge(
                "database_transaction_id_age",
                "Age of the oldest transaction id that PostgreSQL has not frozen yet, in transactions",
            ),
            oldest_transaction: register(
                r,
                "database_oldest_transaction_seconds",
                "Age of the oldest open transaction in the cluster, prepared ones included",
            ),
            sessions: r.gauge("database_sessions", "Connections of all clients of the PostgreSQL server"),
            max_sessions: r.gauge("database_sessions_max", "Connections that the PostgreSQL server allows"),
            lock_waiters: r.gauge("database_lock_waiters", "Sessions that wait for a lock of PostgreSQL"),
            table_bytes: register(r, "database_table_bytes", "Size of a table with its indexes, by table"),
            dead_rows: register(r, "database_dead_rows", "Dead rows that VACUUM has not removed yet, by table"),
        }
    }

    /// Records one statement.
    pub(super) fn query(&self, name: &'static str, took: Duration) {
        self.queries.get_or_create(&[("query", name)]).inc();
        self.query_seconds.get_or_create(&[("query", name)]).observe(took.as_secs_f64());
    }

    /// Records one transaction with all its attempts.
    pub(super) fn transaction(&self, name: &'static str, took: Duration, committed: bool) {
        let outcome = if committed { "committed" } else { "refused" };
        self.transactions.get_or_create(&[("name", name), ("outcome", outcome)]).inc();
        self.transaction_seconds.get_or_create(&[("name", name)]).observe(took.as_secs_f64());
    }

    /// Counts an attempt that failed and is retried.
    pub(super) fn transaction_retried(&self, name: &'static str, cause: Cause) {
        self.retries.get_or_create(&[("name", name), ("cause", cause.label())]).inc();
    }

    /// Counts a COMMIT whose reply was lost.
    pub(super) fn commit_recovered(&self, outcome: LostCommit) {
        self.commits_recovered.get_or_create(&[("outcome", outcome.label())]).inc();
    }

    /// Records a wait for a conversation's lock.
    pub(super) fn lock_waited(&self, took: Duration) {
        self.lock_wait_seconds.observe(took.as_secs_f64());
    }

    /// Counts work that got no connection in time.
    pub(super) fn connection_timed_out(&self, lane: Lane) {
        self.connection_timeouts.get_or_create(&[("lane", lane.label())]).inc();
    }

    /// Records the state of the PostgreSQL server.
    pub(super) fn server(&self, now: ServerState) {
        self.size.set(now.bytes);
        self.transaction_id_age.set(now.transaction_id_age);
        self.oldest_transaction.set(now.oldest_transaction);
        self.sessions.set(now.sessions);
        self.max_sessions.set(now.max_sessions);
        self.lock_waiters.set(now.lock_waiters);
    }

    /// Records the state of one table of the schema.
    pub(super) fn table(&self, name: &str, bytes: i64, dead_rows: i64) {
        let label = [("table", name.to_owned())];
        self.table_bytes.get_or_create(&label).set(bytes);
        self.dead_rows.get_or_create(&label).set(dead_rows);
    }

    /// Records the state of the connections.
    pub(super) fn connections(&self, now: Connections) {
        self.connections_active.set(now.open.saturating_sub(now.idle) as i64);
        self.connections_max.set(now.max as i64);
        self.connections_waiting.set(now.waiting as i64);
        self.connections_unanswered.set(now.unanswered as i64);
    }
}
