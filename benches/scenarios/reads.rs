//! The cost of reading: the epoch of a conversation, pages of a short and of a very long log, a list of many
//! conversations, and claims of key packages, which also write.
//!
//! A page should cost the same at any position in a log of any length. Beside each load are the microseconds of a request
//! inside the server: those that it waits for PostgreSQL, and the others. Most readable on one connection, where no
//! request waits for another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use catbird_server::mls::DEFAULT_SUITE;
use tokio_postgres::Client as Database;

use super::clients::Reader;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Reply, Verdict};
use crate::support::http::Request;
use crate::support::mix::fresh;
use crate::support::plan::{Plan, SERVERS};
use crate::support::seed::{self, Convo, Convos};
use crate::support::server_timing::Times;
use crate::support::tokens::Minter;

pub const NAME: &str = "reads";

const MEMBERS: u32 = 10;
/// Number of conversations of one person, and of its unread messages in each.
const CONVOS: u32 = 500;
const UNREAD: i64 = 10;
/// Number of owners of key packages, and of those who claim them: nearly as many as connections, so that few requests of
/// one caller wait for each other.
const OWNERS: u32 = 1_000;
const CLAIMERS: u32 = 125;
/// Key packages for each second of a load. They are one-time, so each load needs new ones.
const PACKAGES_PER_SECOND: f64 = 15_000.0;

/// Minimum size of a page in bytes: 50 messages of 512 bytes in base64.
pub(super) const PAGE_BYTES: usize = 50 * 512 * 4 / 3;
/// Minimum size of a list of a hundred conversations in bytes; ids and group ids alone are larger.
const CONVOS_BYTES: usize = 100 * 50;
/// Minimum size of an epoch or of one key package in bytes.
pub(super) const SMALL_BYTES: usize = 20;

const LOADS: u32 = 6;

pub fn time(plan: &Plan) -> Duration {
    plan.time(LOADS, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let library = Library::seed(bench).await?;
    for turn in bench.plan.turns(&SERVERS) {
        for reading in &library.readings {
            let figure = Figure { scenario: NAME, variant: reading.variant, unit: "requests/s", note: "" };
            let times = Times::default();
            let mut sample = bench.load(turn.who, times.of(reading.reader.several(turn.connections))).await?;
            times.note(&mut sample);
            bench.record(&figure, turn, sample)?;
        }
        let database = bench.stage.connect(turn.who).await?;
        publish(&database, &library.owners, packages(&bench.plan)).await?;
        let callers: Arc<[String]> = (0..CLAIMERS).map(|_| seed::person()).collect();
        seed::accounts(&database, &callers.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        let figure = Figure { scenario: NAME, variant: "getKeyPackages", unit: "claims/s", note: "one each" };
        let claimers = claimers(&library.claims, &callers, turn.connections);
        let sample = bench.load(turn.who, claimers).await?;
        bench.record(&figure, turn, sample)?;
    }
    Ok(())
}

/// Returns the number of key packages for one load.
fn packages(plan: &Plan) -> i64 {
    let time = plan.timing.warm_up + plan.timing.measured;
    (PACKAGES_PER_SECOND * time.as_secs_f64()) as i64
}

/// The data to read.
struct Library {
    readings: Vec<Reading>,
    owners: Vec<String>,
    /// A request for a key package of each owner.
    claims: Arc<[Request]>,
}

/// One kind of request, and its callers.
struct Reading {
    variant: &'static str,
    reader: Reader,
}

impl Library {
    /// Writes the data into both databases.
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
            reader: Reader::new(request, callers, least_bytes),
        };
        let pages = |variant, place: &str, of: &Convo| {
            let place = format!("{place}&markRead=true");
            reading(variant, Request::query("getMessages", &place), &of.members, PAGE_BYTES)
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

/// Conversations with the same first member.
fn convos_of_one(count: u32) -> Convos {
    let one = seed::person();
    let mut convos = seed::convos(count, MEMBERS);
    for convo in Arc::get_mut(&mut convos).into_iter().flatten() {
        convo.members[0].clone_from(&one);
    }
    convos
}

/// Gives each of the conversations, which are empty, this many messages of its second member.
///
/// Triggers are disabled, because they took most of the time for a million rows. The rows satisfy them by construction,
/// and the check at the end of a run proves it.
pub(super) async fn fill(database: &Database, convos: &[Convo], messages: i64) -> Result<()> {
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

/// Gives the owners this many new key packages in all. The server parses them only when they are published.
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

/// Returns this many clients that claim key packages of the owners in turn. A random owner may have none left while
/// others do.
fn claimers(claims: &Arc<[Request]>, callers: &Arc<[String]>, count: u32) -> Vec<Box<dyn Client>> {
    let next = Arc::new(AtomicUsize::new(0));
    let claimer = |_| -> Box<dyn Client> {
        Box::new(Claimer {
            claims: claims.clone(),
            callers: callers.clone(),
            next: next.clone(),
            minter: Minter::new(),
        })
    };
    (0..count).map(claimer).collect()
}

/// Claims a key package of another owner than the last one, as another caller. No caller claims twice of one owner,
/// because it gets the same one twice.
struct Claimer {
    claims: Arc<[Request]>,
    callers: Arc<[String]>,
    /// Number of claims, shared by all claimers of a load.
    next: Arc<AtomicUsize>,
    minter: Minter,
}

impl Client for Claimer {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let (callers, owners) = (self.callers.len(), self.claims.len());
        let claim = self.next.fetch_add(1, Relaxed);
        let (caller, round) = (claim % callers, claim / callers);
        let owner = (caller * (owners / callers) + round) % owners;
        self.claims[owner].render(&mut self.minter, &self.callers[caller], request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        // If an owner has none left, the reply names the owner.
        let missing = reply.body.windows(9).any(|part| part == b"\"missing\"");
        if missing || reply.body.len() < SMALL_BYTES { Verdict::Failed } else { reply.must_be_ok() }
    }
}
