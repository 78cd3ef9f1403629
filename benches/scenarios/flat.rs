//! Costs that must not grow: the same request where there is little and where there is much of what it does not ask for.
//!
//! - the messages of a conversation, 1,000 and a million or `--rows`: for a message and for the newest page;
//! - the unread messages of each of 50 listed conversations, 10 and 10,000;
//! - the conversations of a person, 1 or 50 and 10,000: for a message and for a list of 50.
//!
//! The members of a conversation are in `group_size`, and the conversations of a database in `grown`. Beside each load are
//! the microseconds of PostgreSQL for each request (`pg_stat_statements`, with everything that runs beside it), which say
//! more than rates on a machine that does other work too.

use std::sync::Arc;
use std::time::Duration;

use catbird_bench_report::results::{Sample, Who};
use tokio_postgres::Client as Database;

use super::clients::{Reader, Sender};
use super::reads;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::Client;
use crate::support::http::Request;
use crate::support::plan::{Plan, Turn};
use crate::support::seed::{self, Convo, Convos};
use crate::support::server_timing::Times;

pub const NAME: &str = "flat";
/// Name of the figure of PostgreSQL.
pub const POSTGRES_US: &str = "postgres_us_per_request";

/// The statements are the same in both modes, apart from those of a message.
const WHO: Who = Who::Advisory;
/// Few, so that no request waits for another one.
const CONNECTIONS: u32 = 4;
const SHORT: i64 = 1_000;
const LONG: u32 = 1_000_000;
const QUICK_LONG: u32 = 2_000;
/// Conversations of a page of `getConvos`, and the unread messages in each.
const PAGE: u32 = 50;
const FEW_UNREAD: i64 = 10;
const MANY_UNREAD: u32 = 10_000;
const QUICK_MANY_UNREAD: u32 = 50;
/// Conversations of the person who has many.
const MANY_CONVOS: u32 = 10_000;
const QUICK_MANY_CONVOS: u32 = 200;
const MEMBERS: u32 = 10;
/// Minimum size of a page of conversations in bytes; the ids alone are larger.
const PAGE_BYTES: usize = PAGE as usize * 50;

pub fn time(plan: &Plan) -> Duration {
    (plan.timing.warm_up + plan.timing.measured) * plan.rounds * LOADS as u32
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let database = bench.stage.connect(WHO).await?;
    let loads = loads(&bench.plan, &database).await?;
    for round in 1..=bench.plan.rounds {
        let turn = Turn { round, connections: CONNECTIONS, who: WHO };
        for (variant, work) in &loads {
            let (before, times) = (statements_ms(&database).await?, Times::default());
            let mut sample = bench.load(WHO, times.of(work.clients())).await?;
            times.note(&mut sample);
            note(&mut sample, &bench.plan, statements_ms(&database).await? - before);
            let unit = if matches!(work, Work::Send(_)) { "messages/s" } else { "requests/s" };
            bench.record(&Figure { scenario: NAME, variant, unit, note: "" }, turn, sample)?;
        }
    }
    Ok(())
}

/// Adds PostgreSQL's time to a sample. It is that of the whole load, whose rate is about the same in the warm-up.
fn note(sample: &mut Sample, plan: &Plan, statements_ms: f64) {
    let requests = sample.rate * (plan.timing.warm_up + plan.timing.measured).as_secs_f64();
    if requests > 0.0 {
        sample.extra.insert(POSTGRES_US.to_owned(), statements_ms * 1_000.0 / requests);
    }
}

/// Time of all statements in this database so far, in milliseconds.
async fn statements_ms(database: &Database) -> Result<f64> {
    let sum = "select coalesce(sum(total_exec_time), 0) from pg_stat_statements s join pg_database d on d.oid = s.dbid
                where d.datname = current_database()";
    Ok(database.query_one(sum, &[]).await?.get(0))
}

/// What the clients of a load do.
enum Work {
    Send(Convos),
    Read(Box<Reader>),
}

impl Work {
    fn clients(&self) -> Vec<Box<dyn Client>> {
        match self {
            Work::Send(convos) => Sender::several(CONNECTIONS, convos),
            Work::Read(reader) => reader.several(CONNECTIONS),
        }
    }
}

const LOADS: usize = 9;

/// Seeds the data. Returns the loads.
async fn loads(plan: &Plan, database: &Database) -> Result<[(&'static str, Work); LOADS]> {
    database.batch_execute("create extension if not exists pg_stat_statements").await?;
    let logs = seed::convos(2, MEMBERS);
    seed::write(database, &logs).await?;
    reads::fill(database, &logs[..1], SHORT).await?;
    reads::fill(database, &logs[1..], plan.rows(LONG, QUICK_LONG)).await?;

    // The first member of all of them has read nearly everything, and the third one nothing.
    let [mut listed, alone, mut many] =
        [PAGE, 1, plan.size(MANY_CONVOS, QUICK_MANY_CONVOS)].map(|count| seed::convos(count, 3));
    for convos in [&mut listed, &mut many] {
        let [one, .., other] = [0, 1, 2].map(|_| seed::person());
        for convo in Arc::get_mut(convos).into_iter().flatten() {
            convo.members[0].clone_from(&one);
            convo.members[2].clone_from(&other);
        }
    }
    let unread = i64::from(plan.size(MANY_UNREAD, QUICK_MANY_UNREAD));
    for (convos, messages) in [(&listed, unread), (&alone, FEW_UNREAD), (&many, FEW_UNREAD)] {
        seed::write(database, convos).await?;
        reads::fill(database, convos, messages).await?;
    }
    let read = "update members set last_read_seq = $2 where member_did = $1";
    database.execute(read, &[&listed[0].members[0], &(unread - FEW_UNREAD)]).await?;
    database.batch_execute("vacuum analyze").await?;

    let page = |convo: &Convo| {
        let request = Request::query("getMessages", &format!("convoId={}&markRead=true", convo.id));
        Work::Read(Box::new(Reader::new(request, &convo.members, reads::PAGE_BYTES)))
    };
    let list = |caller: &str| {
        let request = Request::query("getConvos", &format!("limit={PAGE}"));
        Work::Read(Box::new(Reader::new(request, &[caller.to_owned()], PAGE_BYTES)))
    };
    let to = |convo: &Convo, senders: &[String]| {
        let Convo { id, group_id, .. } = convo;
        Work::Send(Arc::new([Convo { id: id.clone(), group_id: group_id.clone(), members: senders.to_vec() }]))
    };
    Ok([
        ("send, short log", to(&logs[0], &logs[0].members)),
        ("send, long log", to(&logs[1], &logs[1].members)),
        ("getMessages, short log", page(&logs[0])),
        ("getMessages, long log", page(&logs[1])),
        ("getConvos, 10 unread in each of 50", list(&listed[0].members[0])),
        ("getConvos, 10,000 unread in each of 50", list(&listed[0].members[2])),
        ("getConvos, 10 unread in each of 10,000", list(&many[0].members[0])),
        ("send, sender of 1 conversation", to(&alone[0], &alone[0].members[..1])),
        ("send, sender of 10,000", to(&many[0], &many[0].members[..1])),
    ])
}
