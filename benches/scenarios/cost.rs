//! The cost of an accepted message apart from latency: processor time of the server and of PostgreSQL, bytes of
//! write-ahead log, and statements. Messages are spread over 1,000 conversations on 32 connections.
//!
//! Everything is counted over the whole load, including its warm-up, and divided by the messages that it appended.
//! PostgreSQL's processes are those of the whole cluster, which does no other work. The bytes of write-ahead log are
//! the distance between two positions: `pg_stat_wal` counts the same, but backends report to it with a delay of up to a
//! second.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use catbird_bench_report::results::{Sample, Who};
use nix::unistd::{SysconfVar, sysconf};
use tokio_postgres::Client as Database;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::plan::{Plan, SUBJECTS};
use crate::support::yardstick::Script;

pub const NAME: &str = "cost";

const CONNECTIONS: &[u32] = &[32];
const QUICK_CONNECTIONS: &[u32] = &[8];
const CONVOS: u32 = 1_000;
const MEMBERS: u32 = 10;

const FIGURE: Figure<'_> = Figure { scenario: NAME, variant: "spread", unit: "messages/s", note: "" };

pub fn time(plan: &Plan) -> Duration {
    costing(plan).time(1, &SUBJECTS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.reset_yardstick().await?;
    let convos = bench.stage.seed(CONVOS, MEMBERS).await?;
    for who in SUBJECTS {
        let database = bench.stage.connect(who).await?;
        database.batch_execute("create extension if not exists pg_stat_statements").await.map_err(|e| {
            format!("pg_stat_statements is missing, on Debian and Ubuntu in the package postgresql-contrib: {e}")
        })?;
    }
    for turn in costing(&bench.plan).turns(&SUBJECTS) {
        let database = bench.stage.connect(turn.who).await?;
        let server = match turn.who {
            Who::Yardstick => None,
            server => Some(bench.stage.server(server)?.pid()),
        };
        let before = Meters::read(&database, turn.who, server).await?;
        let mut sample = match turn.who {
            Who::Yardstick => bench.yardstick(Script::Send, turn.connections).await?,
            server => bench.load(server, Sender::several(turn.connections, &convos)).await?,
        };
        let after = Meters::read(&database, turn.who, server).await?;
        after.since(&before, &mut sample);
        bench.record(&FIGURE, turn, sample)?;
    }
    Ok(())
}

/// Returns the plan with the connections of this scenario.
fn costing(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_CONNECTIONS } else { CONNECTIONS }, ..plan.clone() }
}

/// Resources used so far.
struct Meters {
    server_cpu: Option<Duration>,
    postgres_cpu: Duration,
    /// A position in the write-ahead log.
    wal_bytes: u64,
    statements: u64,
    /// Messages in the database's log.
    messages: u64,
}

impl Meters {
    async fn read(database: &Database, who: Who, server: Option<u32>) -> Result<Self> {
        let conversations = if who == Who::Yardstick { "yardstick.conversations" } else { "conversations" };
        let row = database
            .query_one(
                &format!(
                    "select pg_backend_pid(), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
                            (select sum(calls)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid
                              where d.datname = current_database()),
                            (select sum(last_seq)::bigint from {conversations})"
                ),
                &[],
            )
            .await?;
        let count = |column| row.get::<_, Option<i64>>(column).unwrap_or_default().unsigned_abs();
        let backend: i32 = row.get(0);
        Ok(Self {
            server_cpu: server.map(|pid| Ok::<_, crate::support::Failure>(process(pid)?.cpu)).transpose()?,
            postgres_cpu: family_cpu(process(backend.unsigned_abs())?.parent)?,
            wal_bytes: count(1),
            statements: count(2),
            messages: count(3),
        })
    }

    /// Adds the resources used since then, per message.
    fn since(&self, before: &Self, sample: &mut Sample) {
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
    }
}

/// Processor time of a process from `/proc/<pid>/stat`.
struct Process {
    parent: u32,
    /// Processor time of all its threads.
    cpu: Duration,
    /// Processor time of its children that have ended.
    children_cpu: Duration,
}

fn process(pid: u32) -> Result<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program is in parentheses and may contain any character. The fields after it, from the third on,
    // are numbers.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |number: usize| -> Result<u64> {
        let text = fields.get(number - 3).ok_or_else(|| format!("/proc/{pid}/stat has no field {number}"))?;
        Ok(text.parse()?)
    };
    let ticks_per_second =
        sysconf(SysconfVar::CLK_TCK)?.ok_or("the system does not report the length of a clock tick")?;
    let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64);
    Ok(Process {
        parent: u32::try_from(field(4)?)?,
        cpu: time(field(14)? + field(15)?),
        children_cpu: time(field(16)? + field(17)?),
    })
}

/// A process with its children, including those that have ended.
fn family_cpu(parent: u32) -> Result<Duration> {
    let head = process(parent)?;
    let mut cpu = head.cpu + head.children_cpu;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match process(pid) {
            Ok(child) if child.parent == parent => cpu += child.cpu,
            Ok(_) => {}
            Err(failure) if has_ended(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(cpu)
}

/// Whether a process ended before it was read.
fn has_ended(failure: &crate::support::Failure) -> bool {
    const NO_SUCH_PROCESS: i32 = nix::errno::Errno::ESRCH as i32;
    failure
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS))
}
