//! The cost of a grown database: the same loads on a small one and on one with a thousand times as many rows.
//!
//! Ten million messages, three million memberships of 30,000 people in 300,000 conversations, and forty million used
//! tokens are written directly into the tables. The requests are the same at both, and should cost the same. Seeding
//! takes longer than measuring, so this scenario runs only if it is named: `cargo bench -- grown`.

use std::time::{Duration, Instant};

use catbird_bench_report::results::{Sample, Who};
use catbird_client::xrpc::{self, EventStream};
use catbird_server::check;
use catbird_server::mls::DEFAULT_SUITE;
use serde_json::json;
use tokio_postgres::{Client as Database, Config};

use super::clients::{Reader, Sender};
use super::{commits, events};
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Load};
use crate::support::http::Request;
use crate::support::measurement::Latencies;
use crate::support::plan::{Plan, Turn};
use crate::support::seed::{self, Convo, Convos};
use crate::support::server::Server;
use crate::support::stage::connect;

pub const NAME: &str = "grown";

const WHO: Who = Who::Advisory;
const CONNECTIONS: u32 = 32;
/// Members of each conversation.
const MEMBERS: i64 = 10;
const MESSAGES: i64 = 33;
/// Number of conversations of each person.
const CONVOS_OF_EACH: i64 = 100;
/// Number of conversations for messages, and of as many others for commits.
const USED: i64 = 100;
/// One conversation in this many is old, so that a sweep finds rows.
const OLD: i64 = 100;
/// Number of people with mailboxes. A small database has fewer.
const MAILBOXES: [i64; 2] = [1, 10_000];
/// Number of streams that one sample resumes, and of events that it waits for.
const STREAMS: usize = 50;
/// Number of conversations and tokens that one statement seeds.
const CONVOS_AT_ONCE: i64 = 30_000;
const PEOPLE_AT_ONCE: i64 = 3_000;
/// Maximum time for background work.
const PATIENCE: Duration = Duration::from_secs(1_800);
const POLL: Duration = Duration::from_millis(20);
/// Minimum size of a reply in bytes. A smaller one is not the requested data.
const PAGE_BYTES: usize = 30 * 128 * 4 / 3;
const CONVOS_BYTES: usize = 100 * 50;

/// Size of a database.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    convos: i64,
    tokens_of_each: i64,
}

const SMALL: Size = Size { name: "grown_small", convos: 300, tokens_of_each: 10 };
const GROWN: Size = Size { name: "grown", convos: 300_000, tokens_of_each: 1_334 };
const QUICK_GROWN: Size = Size { name: "grown", convos: 3_000, tokens_of_each: 20 };

/// The requests to both databases.
#[derive(Clone, Copy)]
enum Work {
    Send,
    Commit,
    List,
    Page,
    Resume,
    Event,
}

/// The loads, with the names of their variants (small, grown) and their unit.
const WORK: [(Work, [&str; 2], &str); 6] = [
    (Work::Send, ["send, small", "send, grown"], "messages/s"),
    (Work::Commit, ["commits, small", "commits, grown"], "commits/s"),
    (Work::List, ["getConvos of 100, small", "getConvos of 100, grown"], "requests/s"),
    (Work::Page, ["getMessages, small", "getMessages, grown"], "requests/s"),
    (Work::Resume, ["resume, small", "resume, grown"], "streams/s"),
    (Work::Event, ["event, small", "event, grown"], "events/s"),
];
const FAN_OUT: [[&str; 2]; 2] =
    [["fan-out to 1, small", "fan-out to 1, grown"], ["fan-out to all, small", "fan-out to 10,000, grown"]];

pub fn time(plan: &Plan) -> Duration {
    (plan.timing.warm_up + plan.timing.measured) * plan.rounds * 2 * WORK.len() as u32
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let grown = if bench.plan.quick { QUICK_GROWN } else { GROWN };
    let setups = [Setup::build(bench, SMALL).await?, Setup::build(bench, grown).await?];
    let figure = |variant, unit, note| Figure { scenario: NAME, variant, unit, note };
    for round in 1..=bench.plan.rounds {
        for (work, variants, unit) in WORK {
            for (setup, variant) in setups.iter().zip(variants) {
                let sample = setup.sample(bench, work).await?;
                bench.record(&figure(variant, unit, ""), Turn { round, connections: CONNECTIONS, who: WHO }, sample)?;
            }
        }
    }
    for (people, variants) in MAILBOXES.into_iter().zip(FAN_OUT) {
        for (setup, variant) in setups.iter().zip(variants) {
            let sample = setup.fan_out(people).await?;
            let note = "from the first message until the last envelope is written";
            bench.record(&figure(variant, "messages/s", note), Turn { round: 1, connections: 1, who: WHO }, sample)?;
        }
    }
    for setup in &setups {
        setup.swept().await?;
        let report = check::run(&setup.database).await?;
        if !report.is_clean() {
            return Err(format!("the database {} is not sound:\n{report}", setup.name).into());
        }
    }
    Ok(())
}

/// A database and its server.
struct Setup {
    name: &'static str,
    database: Config,
    server: Server,
    /// Conversations for messages, and those for commits.
    sent_to: Convos,
    committed: Convos,
}

impl Setup {
    async fn build(bench: &Bench, size: Size) -> Result<Self> {
        let begin = Instant::now();
        let database = bench.stage.another_database(size.name).await?;
        let client = connect(&database).await?;
        seed(&client, size).await?;
        let mut sent_to = some(&client, size.convos).await?;
        let committed = sent_to.split_off(sent_to.len() / 2);
        // So that the server knows that there are any.
        client.execute(MAILBOXES_OF, &[&MAILBOXES[0]]).await?;
        eprintln!("{}: seeded in {} s", size.name, begin.elapsed().as_secs());
        let server = bench.stage.server_of(WHO, size.name, &[]).await?;
        Ok(Self { name: size.name, database, server, sent_to: sent_to.into(), committed: committed.into() })
    }

    async fn sample(&self, bench: &mut Bench, work: Work) -> Result<Sample> {
        let clients = match work {
            Work::Send => Sender::several(CONNECTIONS, &self.sent_to),
            Work::Commit => {
                let epochs = commits::epochs(&connect(&self.database).await?, &self.committed).await?;
                commits::committers(CONNECTIONS, &self.committed, &epochs)
            }
            Work::List => {
                let callers: Vec<String> = self.sent_to.iter().map(|convo| convo.members[0].clone()).collect();
                Reader::new(Request::query("getConvos", "limit=100"), &callers, CONVOS_BYTES).several(CONNECTIONS)
            }
            Work::Page => {
                // One conversation for each connection, so that the pages are in many places.
                let pages = self.sent_to.iter().take(CONNECTIONS as usize).flat_map(|convo| {
                    let page = Request::query("getMessages", &format!("convoId={}&limit=30&markRead=true", convo.id));
                    Reader::new(page, &convo.members, PAGE_BYTES).several(1)
                });
                pages.collect()
            }
            Work::Resume => return self.resume().await,
            Work::Event => return self.event().await,
        };
        self.load(bench, clients).await
    }

    async fn load(&self, bench: &mut Bench, clients: Vec<Box<dyn Client>>) -> Result<Sample> {
        let [sample] = bench.loads([Load { servers: vec![self.server.address], clients }]).await?;
        Ok(sample)
    }

    /// Measures a resume: the time from the reconnection until the one missed message arrives.
    async fn resume(&self) -> Result<Sample> {
        let (begin, mut latencies) = (Instant::now(), Latencies::new());
        for convo in self.sent_to.iter().cycle().take(STREAMS) {
            let who = events::sign_in(&self.server, &convo.members[1])?;
            let mut stream = events::open(&who, None).await?;
            stream.skip().await?;
            let cursor = stream.last_id.take().ok_or("a stream begins with a cursor")?;
            drop(stream);
            let seq = self.send(convo).await?;
            let back = Instant::now();
            let mut stream = events::open(&who, Some(&cursor)).await?;
            arrival(&mut stream, convo, seq).await?;
            latencies.add(back.elapsed());
        }
        Ok(Sample { rate: STREAMS as f64 / begin.elapsed().as_secs_f64(), ..latencies.sample() })
    }

    /// Measures an event: the time from the reply to a message until its event arrives.
    async fn event(&self) -> Result<Sample> {
        let (begin, mut latencies) = (Instant::now(), Latencies::new());
        for convo in self.sent_to.iter().cycle().take(STREAMS) {
            let mut stream = events::open(&events::sign_in(&self.server, &convo.members[1])?, None).await?;
            stream.skip().await?;
            let seq = self.send(convo).await?;
            let sent = Instant::now();
            arrival(&mut stream, convo, seq).await?;
            latencies.add(sent.elapsed());
        }
        Ok(Sample { rate: STREAMS as f64 / begin.elapsed().as_secs_f64(), ..latencies.sample() })
    }

    /// Sends a message as the first member, and returns its seq.
    async fn send(&self, convo: &Convo) -> Result<u64> {
        let who = events::sign_in(&self.server, &convo.members[0])?;
        let message = json!({ "convoId": convo.id, "ciphertext": "eHh4", "epoch": 0 });
        let reply = who.procedure("sendMessage", &message).await?;
        if reply.status != 200 {
            return Err(reply.to_string().into());
        }
        Ok(reply.number("seq")?)
    }

    /// Gives this many people a mailbox, sends one message to each conversation, and waits until all envelopes are
    /// written.
    async fn fan_out(&self, people: i64) -> Result<Sample> {
        let database = connect(&self.database).await?;
        database.execute(MAILBOXES_OF, &[&people]).await?;
        let begin = Instant::now();
        for convo in self.sent_to.iter() {
            self.send(convo).await?;
        }
        let ids: Vec<&str> = self.sent_to.iter().map(|convo| convo.id.as_str()).collect();
        until("fan-out", async || {
            let left = "select exists (select from fan_out where below <= (
                            select tx from messages where convo_id = any($1) order by tx desc limit 1))";
            Ok(!database.query_one(left, &[&ids]).await?.get::<_, bool>(0))
        })
        .await?;
        let took = begin.elapsed().as_secs_f64();
        let envelopes: i64 = database.query_one("select count(*) from envelopes", &[]).await?.get(0);
        let extra = [("envelopes".to_owned(), envelopes as f64), ("seconds".to_owned(), took)].into();
        Ok(Sample { rate: self.sent_to.len() as f64 / took, extra, ..Sample::default() })
    }

    /// Waits until each job has completed its first pass, and prints the times.
    async fn swept(&self) -> Result<()> {
        let page = format!("http://{}/metrics", self.server.address);
        let took = async || -> Result<Vec<String>> {
            let text = xrpc::http()?.get(&page).send().await?.text().await?;
            let sums = text.lines().filter_map(|line| line.strip_prefix("sweep_duration_seconds_sum"));
            Ok(sums.map(str::to_owned).collect())
        };
        until("the first sweep", async || Ok(took().await?.len() >= catbird_server::jobs::JOBS.len())).await?;
        eprintln!("{}: the first sweeps took, in seconds: {}", self.name, took().await?.join(" "));
        Ok(())
    }
}

/// Waits for background work.
async fn until(what: &str, done: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !done().await? {
        if begin.elapsed() > PATIENCE {
            return Err(format!("{what} did not end in {} s", PATIENCE.as_secs()).into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Reads until a message arrives.
async fn arrival(stream: &mut EventStream, convo: &Convo, seq: u64) -> Result<()> {
    while let Some(event) = stream.next().await? {
        if event.data["message"]["convoId"] == convo.id.as_str() && event.data["message"]["seq"] == seq {
            return Ok(());
        }
    }
    Err("a stream ended before a message was there".into())
}

const PERSON: &str = "create function pg_temp.person(n bigint) returns text language sql immutable as
    $$ select 'did:plc:' || translate(substr(md5('person ' || n), 1, 24), '0189', 'ghij') $$";

const MAILBOXES_OF: &str = "
insert into mailboxes (member_did, convo_id, provider, url, host, secret, state)
select member_did, '', 'webhook', 'https://mailbox.invalid/', 'mailbox.invalid', decode(repeat('00', 32), 'hex'), 'verified'
  from (select distinct member_did from members where convo_id = any (array(select id from conversations order by id limit 2000))) m
 limit $1
on conflict do nothing";

/// $1, $2 first and last conversation $3 number of people
const CONVERSATIONS: &str = "
insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch, last_seq, member_count)
select '01' || lpad(n::text, 24, '0'), md5('group ' || n), pg_temp.person(n % $3::bigint), $4, 0, 0, $5, $6
  from generate_series($1::bigint, $2::bigint) n";
const ROSTERS: &str = "
insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
select '01' || lpad(n::text, 24, '0'), pg_temp.person((n + k * $3::bigint / $4) % $3), 0, 0, 0
  from generate_series($1::bigint, $2::bigint) n, generate_series(0, $4::bigint - 1) k";
const LOGS: &str = "
insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, created_at)
select '01' || lpad(n::text, 24, '0'), seq, '02' || lpad((n * 100 + seq)::text, 24, '0'),
       pg_temp.person((n + seq % $4::bigint * $3::bigint / $4) % $3), 'app', 0, decode(repeat(md5(seq::text), 8), 'hex'),
       now() - case when n % $6::bigint = 0 then interval '40 days' else interval '1 day' end
  from generate_series($1::bigint, $2::bigint) n, generate_series(1, $5::bigint) seq";
/// Development tokens, as in the loads. $1, $2 first and last person $3 tokens of each
const TOKENS: &str = "
insert into auth_nonces (issuer_did, jti, expires_at, lasting)
select pg_temp.person(p), 'grown-' || n, now() + interval '5 min' - n * interval '65 min' / $3, true
  from generate_series($1::bigint, $2::bigint) p, generate_series(1, $3::bigint) n";

/// Writes all rows. Triggers are disabled, because they took most of the time. The rows satisfy them by construction,
/// and the check at the end of a run proves it.
async fn seed(database: &Database, size: Size) -> Result<()> {
    let people = size.convos * MEMBERS / CONVOS_OF_EACH;
    database.batch_execute("set session_replication_role = replica; set synchronous_commit = off").await?;
    database.batch_execute(PERSON).await?;
    for first in (0..size.convos).step_by(CONVOS_AT_ONCE as usize) {
        let last = (first + CONVOS_AT_ONCE).min(size.convos) - 1;
        database.execute(CONVERSATIONS, &[&first, &last, &people, &DEFAULT_SUITE, &MESSAGES, &MEMBERS]).await?;
        database.execute(ROSTERS, &[&first, &last, &people, &MEMBERS]).await?;
        database.execute(LOGS, &[&first, &last, &people, &MEMBERS, &MESSAGES, &OLD]).await?;
        eprintln!("{}: {} of {} conversations", size.name, last + 1, size.convos);
    }
    for first in (0..people).step_by(PEOPLE_AT_ONCE as usize) {
        let last = (first + PEOPLE_AT_ONCE).min(people) - 1;
        database.execute(TOKENS, &[&first, &last, &size.tokens_of_each]).await?;
        eprintln!("{}: used tokens of {} of {people} people", size.name, last + 1);
    }
    database.batch_execute("vacuum analyze").await?;
    Ok(())
}

/// Conversations from the whole database, with their members. None is old, and few share a member, because a caller's
/// requests take turns.
async fn some(database: &Database, convos: i64) -> Result<Vec<Convo>> {
    let rows = database
        .query(
            "select c.id, decode(c.group_id, 'hex'), array(select member_did from members m where m.convo_id = c.id)
               from (select n from generate_series(0, $2::bigint - 1) n where n % $3 <> 0 order by md5(n::text) limit $1) n
               join conversations c on c.id = '01' || lpad(n.n::text, 24, '0')",
            &[&(2 * USED), &convos, &OLD],
        )
        .await?;
    let convos: Vec<Convo> =
        rows.iter().map(|row| Convo { id: row.get(0), group_id: row.get(1), members: row.get(2) }).collect();
    seed::of_members(database, &convos).await?;
    Ok(convos)
}
