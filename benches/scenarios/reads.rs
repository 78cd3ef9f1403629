//! What reading costs: where a conversation stands, pages of a short and of a very long log, a list of many conversations, and
//! taking key packages, which is a read that writes.
//!
//! A page should cost the same wherever it lies in a log of any length.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use catbird_server::mls::DEFAULT_SUITE;
use tokio_postgres::Client as Database;

use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Reply, Verdict};
use crate::support::http::Request;
use crate::support::mix::{Dice, fresh};
use crate::support::plan::{Plan, SERVERS};
use crate::support::seed::{self, Convo, Convos};
use crate::support::tokens::Minter;

pub const NAME: &str = "reads";

const MEMBERS: u32 = 10;
/// How many conversations one person is in, and the messages that it has not read in each.
const CONVOS: u32 = 500;
const UNREAD: i64 = 10;
/// Whose key packages are taken.
const OWNERS: u32 = 1_000;
/// Key packages are one-time, so each load finds new ones: as many as a server could give out in a second.
const PACKAGES_PER_SECOND: f64 = 15_000.0;

/// An answer with less in it is not what was asked for. A page has 50 messages of 512 bytes, in base64.
const PAGE_BYTES: usize = 50 * 512 * 4 / 3;
/// A hundred conversations, of which ids and group ids alone are more.
const CONVOS_BYTES: usize = 100 * 50;
/// A position, or one key package.
const SMALL_BYTES: usize = 20;

const LOADS: u32 = 6;

pub fn time(plan: &Plan) -> Duration {
    plan.time(LOADS, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let library = Library::seed(bench).await?;
    for turn in bench.plan.turns(&SERVERS) {
        for reading in &library.readings {
            let figure = Figure { scenario: NAME, variant: reading.variant, unit: "requests/s", note: "" };
            let Reading { request, callers, least_bytes, .. } = reading;
            let sample = bench.load(turn.who, readers(request, callers, *least_bytes, turn.connections)).await?;
            bench.record(&figure, turn, sample)?;
        }
        publish(&bench.stage.connect(turn.who).await?, &library.owners, packages(&bench.plan)).await?;
        let figure = Figure { scenario: NAME, variant: "getKeyPackages", unit: "claims/s", note: "one each" };
        let claimers = claimers(&library.claims, turn.connections);
        let sample = bench.load(turn.who, claimers).await?;
        bench.record(&figure, turn, sample)?;
    }
    Ok(())
}

/// Enough key packages for one load.
fn packages(plan: &Plan) -> i64 {
    let time = plan.timing.warm_up + plan.timing.measured;
    (PACKAGES_PER_SECOND * time.as_secs_f64()) as i64
}

/// What there is to read.
struct Library {
    readings: Vec<Reading>,
    owners: Vec<String>,
    /// A request for a key package of each owner.
    claims: Arc<[Request]>,
}

/// One kind of request, and who makes it.
struct Reading {
    variant: &'static str,
    request: Request,
    callers: Arc<[String]>,
    least_bytes: usize,
}

impl Library {
    /// Writes it into both databases.
    async fn seed(bench: &Bench) -> Result<Self> {
        let (short, long) = (1_000, i64::from(bench.plan.size(1_000_000, 2_000)));
        let logs = seed::convos(2, MEMBERS);
        let many = convos_of_one(CONVOS);
        let owners: Vec<String> = (0..OWNERS).map(|_| seed::person()).collect();
        for who in SERVERS {
            let database = bench.stage.connect(who).await?;
            seed::write(&database, &logs).await?;
            seed::write(&database, &many).await?;
            fill(&database, &logs[..1], short).await?;
            fill(&database, &logs[1..], long).await?;
            fill(&database, &many, UNREAD).await?;
            database.batch_execute("vacuum analyze").await?;
        }
        let [short, long] = [&logs[0], &logs[1]].map(|convo| format!("convoId={}", convo.id));
        let middle = i64::from(bench.plan.size(500_000, 1_000));
        let reading = |variant, request, callers: &[String], least_bytes| Reading {
            variant,
            request,
            callers: callers.into(),
            least_bytes,
        };
        let pages = |variant, place: &str, of: &Convo| {
            reading(variant, Request::query("getMessages", place), &of.members, PAGE_BYTES)
        };
        let readings = vec![
            reading("getEpoch", Request::query("getEpoch", &short), &logs[0].members, SMALL_BYTES),
            pages("last page of 1,000", &short, &logs[0]),
            pages("last page of 1,000,000", &long, &logs[1]),
            pages("deep in 1,000,000", &format!("{long}&cursor={middle}"), &logs[1]),
            reading("getConvos of 500", Request::query("getConvos", "limit=100"), &many[0].members[..1], CONVOS_BYTES),
        ];
        let claims = owners.iter().map(|owner| Request::query("getKeyPackages", &format!("dids={owner}"))).collect();
        Ok(Self { readings, owners, claims })
    }
}

/// Conversations that have their first member in common.
fn convos_of_one(count: u32) -> Convos {
    let one = seed::person();
    let mut convos = seed::convos(count, MEMBERS);
    for convo in Arc::get_mut(&mut convos).into_iter().flatten() {
        convo.members[0].clone_from(&one);
    }
    convos
}

/// Gives each of the conversations, which are empty, so many messages of its second member.
///
/// Triggers are left out, which took most of the time for a million rows. What they hold to is held to here by construction,
/// and proved by the check that ends a run.
async fn fill(database: &Database, convos: &[Convo], messages: i64) -> Result<()> {
    let (ids, senders): (Vec<&str>, Vec<&str>) =
        convos.iter().map(|convo| (convo.id.as_str(), convo.members[1].as_str())).unzip();
    database.batch_execute("set session_replication_role = replica").await?;
    database.execute("update conversations set last_seq = $2 where id = any($1)", &[&ids, &messages]).await?;
    database
        .execute(
            "insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
             select id, seq, '01' || lpad(seq::text, 24, '0'), sender, 'app', 0, decode(repeat(md5(seq::text), 32), 'hex')
               from unnest($1::text[], $2::text[]) c (id, sender), generate_series(1, $3::bigint) seq
              order by id, seq",
            &[&ids, &senders, &messages],
        )
        .await?;
    database.batch_execute("reset session_replication_role").await?;
    Ok(())
}

/// Gives the owners new key packages, so many in all. The server only looks into them when they are published.
async fn publish(database: &Database, owners: &[String], packages: i64) -> Result<()> {
    let batch = i64::try_from(fresh())?;
    database
        .execute(
            "insert into key_packages (hash, init_key_hash, owner_did, cipher_suite, key_package, last_resort, expires_at)
             select sha256(('hash ' || name)::bytea), sha256(('init key ' || name)::bytea),
                    ($1::text[])[1 + n % cardinality($1)], $2, decode(repeat(md5(name), 20), 'hex'), false,
                    now() + interval '30 days'
               from generate_series(1, $3::bigint) n, lateral (select $4::bigint || '/' || n) named (name)",
            &[&owners, &DEFAULT_SUITE, &packages, &batch],
        )
        .await?;
    database.batch_execute("analyze key_packages").await?;
    Ok(())
}

/// So many clients that make the same request, each time as one of the callers.
pub(super) fn readers(
    request: &Request,
    callers: &Arc<[String]>,
    least_bytes: usize,
    count: u32,
) -> Vec<Box<dyn Client>> {
    let reader = |_| -> Box<dyn Client> {
        Box::new(Reader {
            request: request.clone(),
            callers: callers.clone(),
            least_bytes,
            minter: Minter::new(),
            dice: Dice::new(),
        })
    };
    (0..count).map(reader).collect()
}

/// Makes the same request again and again, as one caller or another.
struct Reader {
    request: Request,
    callers: Arc<[String]>,
    least_bytes: usize,
    minter: Minter,
    dice: Dice,
}

impl Client for Reader {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let caller = &self.callers[self.dice.throw(self.callers.len())];
        self.request.render(&mut self.minter, caller, request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        if reply.body.len() < self.least_bytes { Verdict::Failed } else { reply.must_be_ok() }
    }
}

/// So many clients that take key packages of the owners in turn: an owner chosen at random may have none left while others do.
fn claimers(claims: &Arc<[Request]>, count: u32) -> Vec<Box<dyn Client>> {
    let next = Arc::new(AtomicUsize::new(0));
    let claimer = |_| -> Box<dyn Client> {
        Box::new(Claimer { claims: claims.clone(), next: next.clone(), minter: Minter::new() })
    };
    (0..count).map(claimer).collect()
}

/// Takes a key package of the next owner, each time as somebody new: who asks twice gets the same one twice.
struct Claimer {
    claims: Arc<[Request]>,
    /// The next owner's place, one count for all claimers of a load.
    next: Arc<AtomicUsize>,
    minter: Minter,
}

impl Client for Claimer {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let claim = &self.claims[self.next.fetch_add(1, Relaxed) % self.claims.len()];
        claim.render(&mut self.minter, &seed::person(), request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        // Where none was left, the answer says whose.
        let missing = reply.body.windows(9).any(|part| part == b"\"missing\"");
        if missing || reply.body.len() < SMALL_BYTES { Verdict::Failed } else { reply.must_be_ok() }
    }
}
