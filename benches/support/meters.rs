//! Resources that a load uses: processor time of the server and of PostgreSQL, bytes of write-ahead log, statements and
//! dead rows, for each entry of the log.
//!
//! PostgreSQL's processes are those of the whole cluster, which does no other work. The bytes of write-ahead log are the
//! distance between two positions: `pg_stat_wal` counts the same, but backends report to it with a delay of up to a
//! second.

use std::time::Duration;

use catbird_bench_report::results::{Sample, Who};
use tokio_postgres::Client;

use super::processes::{family_cpu, process};
use super::{Failure, Result};

/// Prepares a database for [`Meters::read`].
pub async fn prepare(database: &Client) -> Result<()> {
    database.batch_execute("create extension if not exists pg_stat_statements").await.map_err(|e| {
        format!("pg_stat_statements is missing, on Debian and Ubuntu in the package postgresql-contrib: {e}").into()
    })
}

/// The process id of the postmaster that a connection belongs to.
pub async fn postmaster(database: &Client) -> Result<u32> {
    let backend: i32 = database.query_one("select pg_backend_pid()", &[]).await?.get(0);
    Ok(process(backend.unsigned_abs())?.parent)
}

/// Resources used so far.
pub struct Meters {
    server_cpu: Option<Duration>,
    postgres_cpu: Duration,
    /// A position in the write-ahead log.
    wal_bytes: u64,
    statements: u64,
    /// Time of the statement with which a replica learns of new entries, `events/news`, in µs.
    news_us: u64,
    /// Rows that were updated or deleted, and those of them that were updated on their page. Backends report them with a
    /// delay, so [`Meters::since`] divides them by the messages that they have reported.
    dead_rows: u64,
    updated_on_page: u64,
    reported_messages: u64,
    /// Messages in the database's log.
    messages: u64,
}

impl Meters {
    /// Reads them. `server` is its process id, if it is measured too.
    pub async fn read(database: &Client, who: Who, server: Option<u32>) -> Result<Self> {
        let schema = if who == Who::Yardstick { "yardstick" } else { "public" };
        let row = database
            .query_one(
                &format!(
                    "select pg_backend_pid(), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
                            (select sum(calls)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid
                              where d.datname = current_database()),
                            (select sum(1000 * total_exec_time)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid
                              where d.datname = current_database() and query like '%events/news:%'),
                            (select sum(last_seq)::bigint from {schema}.conversations),
                            sum(n_tup_upd + n_tup_del)::bigint, sum(n_tup_hot_upd)::bigint,
                            sum(n_tup_ins) filter (where relname = 'messages')::bigint
                       from pg_stat_user_tables where schemaname = '{schema}'"
                ),
                &[],
            )
            .await?;
        let count = |column| row.get::<_, Option<i64>>(column).unwrap_or_default().unsigned_abs();
        let backend: i32 = row.get(0);
        Ok(Self {
            server_cpu: server.map(|pid| Ok::<_, Failure>(process(pid)?.cpu)).transpose()?,
            postgres_cpu: family_cpu(process(backend.unsigned_abs())?.parent)?,
            wal_bytes: count(1),
            statements: count(2),
            news_us: count(3),
            messages: count(4),
            dead_rows: count(5),
            updated_on_page: count(6),
            reported_messages: count(7),
        })
    }

    /// Adds the resources used since then, per message.
    pub fn since(&self, before: &Self, sample: &mut Sample) {
        let messages = self.messages - before.messages;
        if messages == 0 {
            return;
        }
        let each = |used: f64| used / messages as f64;
        let us = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() * 1e6;
        let mut add = |name: &str, figure| sample.extra.insert(name.to_owned(), figure);
        if let (Some(now), Some(then)) = (self.server_cpu, before.server_cpu) {
            add("server_cpu_us_per_message", each(us(now, then)));
        }
        add("postgres_cpu_us_per_message", each(us(self.postgres_cpu, before.postgres_cpu)));
        add("wal_bytes_per_message", each((self.wal_bytes - before.wal_bytes) as f64));
        add("statements_per_message", each((self.statements - before.statements) as f64));
        add("tail_us_per_message", each((self.news_us - before.news_us) as f64));
        let reported = self.reported_messages - before.reported_messages;
        if reported > 0 {
            add("dead_rows_per_message", (self.dead_rows - before.dead_rows) as f64 / reported as f64);
            let on_page = self.updated_on_page - before.updated_on_page;
            add("updates_on_their_page_per_message", on_page as f64 / reported as f64);
        }
    }
}
