//! The cost of retention: old messages are deleted from a large table while members send.
//!
//! Half of the messages of each conversation are older than they may become. Sends are measured alone and beside the sweep of a pass that
//! is behind, which is its fastest; then the sweep is measured alone, and VACUUM of what it leaves. It prints rows per second, bytes of
//! write-ahead log, dead rows and sizes. Seeding takes longer than measuring: `cargo bench -- retention --rows 50000000 --seconds 60`.

use std::time::{Duration, Instant};

use catbird_bench_report::results::{Sample, Who};
use catbird_server::check;
use catbird_server::mls::DEFAULT_SUITE;
use tokio_postgres::{Client as Database, Config};

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::Load;
use crate::support::plan::{Plan, Turn};
use crate::support::seed::{self, Convo, Convos};
use crate::support::server::Server;
use crate::support::stage::connect;

pub const NAME: &str = "retention";

const WHO: Who = Who::Advisory;
/// Few enough that the two cores are not used up by sends.
const CONNECTIONS: u32 = 8;
const MEMBERS: i64 = 5;
/// Messages in the database.
const ROWS: u32 = 5_000_000;
const QUICK_ROWS: u32 = 10_000;
/// Messages of each conversation. The older half is to be deleted.
const MESSAGES: i64 = 500;
/// Number of conversations that members send to.
const USED: i64 = 100;
/// Number of conversations that one statement seeds.
const CONVOS_AT_ONCE: i64 = 1_000;
/// Maximum time until the first deletion.
const PATIENCE: Duration = Duration::from_secs(600);

/// Settings without and with the deletion of messages. With an interval of a second, each pass is behind.
const KEPT: [(&str, &str); 1] = [("MESSAGE_TTL_DAYS", "0")];
const SWEPT: [(&str, &str); 2] = [("MESSAGE_TTL_DAYS", "30"), ("RETENTION_INTERVAL_SECONDS", "1")];

pub fn time(plan: &Plan) -> Duration {
    (plan.timing.warm_up + plan.timing.measured) * plan.rounds * 3
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let database = bench.stage.another_database(NAME).await?;
    let client = connect(&database).await?;
    let begin = Instant::now();
    let rows = bench.plan.rows(ROWS, QUICK_ROWS);
    let convos = seed(&client, rows).await?;
    eprintln!("{NAME}: {rows} messages seeded in {} s", begin.elapsed().as_secs());
    eprintln!("{NAME}: {}", state(&client).await?);
    let plan = bench.plan.clone();
    for round in 1..=plan.rounds {
        let server = bench.stage.server_of(WHO, NAME, &KEPT).await?;
        let sample = sends(bench, &client, &server, &convos).await?;
        record(bench, round, "sends", sample)?;
        drop(server);
        let server = bench.stage.server_of(WHO, NAME, &SWEPT).await?;
        wait_for_deletions(&client).await?;
        let sample = sends(bench, &client, &server, &convos).await?;
        record(bench, round, "sends beside the sweep", sample)?;
        let (before, begin) = (Counts::read(&client).await?, Instant::now());
        tokio::time::sleep(plan.timing.measured).await;
        let sample = Counts::read(&client).await?.sample_since(before, begin.elapsed());
        record(bench, round, "sweep alone", Sample { rate: sample.extra["rows_deleted_per_s"], ..sample })?;
    }
    eprintln!("{NAME}: {}", state(&client).await?);
    let begin = Instant::now();
    client.batch_execute("vacuum messages").await?;
    eprintln!("{NAME}: vacuum took {:.1} s; {}", begin.elapsed().as_secs_f64(), state(&client).await?);
    is_sound(&database).await
}

fn record(bench: &mut Bench, round: u32, variant: &str, sample: Sample) -> Result<()> {
    let figures = sample.extra.iter().map(|(name, value)| format!("{name} {value:.0}"));
    eprintln!("{NAME}: {variant}: {}", figures.collect::<Vec<_>>().join(", "));
    let unit = if variant == "sweep alone" { "rows/s" } else { "messages/s" };
    let figure = Figure { scenario: NAME, variant, unit, note: "" };
    bench.record(&figure, Turn { round, connections: CONNECTIONS, who: WHO }, sample)
}

/// Measures sends, and what is deleted beside them.
async fn sends(bench: &mut Bench, client: &Database, server: &Server, convos: &Convos) -> Result<Sample> {
    let clients = Sender::several(CONNECTIONS, convos);
    let (before, begin) = (Counts::read(client).await?, Instant::now());
    let [sample] = bench.loads([Load { servers: vec![server.address], clients }]).await?;
    let counts = Counts::read(client).await?.sample_since(before, begin.elapsed());
    let mut extra = sample.extra.clone();
    extra.extend(counts.extra);
    extra.insert("p50_us".to_owned(), sample.p50_us);
    extra.insert("p99_us".to_owned(), sample.p99_us);
    Ok(Sample { extra, ..sample })
}

/// Counters of PostgreSQL.
#[derive(Clone, Copy)]
struct Counts {
    deleted: i64,
    log_bytes: i64,
}

impl Counts {
    async fn read(client: &Database) -> Result<Self> {
        let counts = "select pg_stat_get_tuples_deleted('messages'::regclass),
                             (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8";
        let row = client.query_one(counts, &[]).await?;
        Ok(Self { deleted: row.get(0), log_bytes: row.get(1) })
    }

    fn sample_since(self, before: Self, took: Duration) -> Sample {
        let per_second = |now: i64, before: i64| (now - before) as f64 / took.as_secs_f64();
        let extra = [
            ("rows_deleted_per_s".to_owned(), per_second(self.deleted, before.deleted)),
            ("wal_bytes_per_s".to_owned(), per_second(self.log_bytes, before.log_bytes)),
        ];
        Sample { extra: extra.into(), ..Sample::default() }
    }
}

/// Describes the table.
async fn state(client: &Database) -> Result<String> {
    let state = "select pg_stat_get_live_tuples(c.oid) || ' live and ' || pg_stat_get_dead_tuples(c.oid) || ' dead rows, table '
                        || pg_size_pretty(pg_table_size(c.oid)) || ', indexes ' || pg_size_pretty(pg_indexes_size(c.oid))
                   from pg_class c where c.oid = 'messages'::regclass";
    Ok(client.query_one(state, &[]).await?.get(0))
}

async fn wait_for_deletions(client: &Database) -> Result<()> {
    let (before, begin) = (Counts::read(client).await?.deleted, Instant::now());
    while Counts::read(client).await?.deleted <= before {
        if begin.elapsed() > PATIENCE {
            return Err(format!("nothing was deleted in {} s", PATIENCE.as_secs()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn is_sound(database: &Config) -> Result<()> {
    let report = check::run(database).await?;
    if report.is_clean() { Ok(()) } else { Err(format!("the database is not sound:\n{report}").into()) }
}

const PERSON: &str = "create function pg_temp.person(n bigint) returns text language sql immutable as
    $$ select 'did:plc:' || translate(substr(md5('person ' || n), 1, 24), '0189', 'ghij') $$";
/// $1, $2 first and last conversation $3 cipher suite $4 last seq $5 members
const CONVERSATIONS: &str = "
insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch, last_seq, member_count)
select '01' || lpad(n::text, 24, '0'), md5('group ' || n), pg_temp.person(n * $5), $3, 0, 0, $4, $5
  from generate_series($1::bigint, $2::bigint) n";
const ROSTERS: &str = "
insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
select '01' || lpad(n::text, 24, '0'), pg_temp.person(n * $3 + k), 0, 0, 0
  from generate_series($1::bigint, $2::bigint) n, generate_series(0, $3::bigint - 1) k";
/// The n-th half of each log, in the order in which it would be written. $5 first seq $6 days
const LOGS: &str = "
insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, created_at)
select '01' || lpad(n::text, 24, '0'), seq, '02' || lpad((n * 1000 + seq)::text, 24, '0'), pg_temp.person(n * $3 + seq % $3), 'app', 0,
       decode(repeat(md5(seq::text), 8), 'hex'), now() - make_interval(days => $6)
  from generate_series($5::bigint, $5::bigint + $4::bigint / 2 - 1) seq, generate_series($1::bigint, $2::bigint) n";

/// Writes the rows without triggers, and returns the conversations that are used. The rows satisfy the triggers by construction, and the
/// check at the end proves it.
async fn seed(client: &Database, rows: i64) -> Result<Convos> {
    let convos = (rows / MESSAGES).max(1);
    client.batch_execute("set session_replication_role = replica; set synchronous_commit = off").await?;
    client.batch_execute(PERSON).await?;
    for first in (0..convos).step_by(CONVOS_AT_ONCE as usize) {
        let last = (first + CONVOS_AT_ONCE).min(convos) - 1;
        client.execute(CONVERSATIONS, &[&first, &last, &DEFAULT_SUITE, &MESSAGES, &MEMBERS]).await?;
        client.execute(ROSTERS, &[&first, &last, &MEMBERS]).await?;
    }
    for (first_seq, days) in [(1, 40), (MESSAGES / 2 + 1, 1)] {
        for first in (0..convos).step_by(CONVOS_AT_ONCE as usize) {
            let last = (first + CONVOS_AT_ONCE).min(convos) - 1;
            client.execute(LOGS, &[&first, &last, &MEMBERS, &MESSAGES, &first_seq, &days]).await?;
        }
        eprintln!("{NAME}: messages of {days} days ago are written");
    }
    client.batch_execute("vacuum analyze").await?;
    let used = "select id, decode(group_id, 'hex'), array(select member_did from members where convo_id = id)
                  from conversations order by md5(id) limit $1";
    let rows = client.query(used, &[&USED]).await?;
    let used: Vec<Convo> =
        rows.iter().map(|row| Convo { id: row.get(0), group_id: row.get(1), members: row.get(2) }).collect();
    seed::of_members(client, &used).await?;
    Ok(used.into())
}
