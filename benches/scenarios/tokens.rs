//! The cost of authentication: signatures by HS256, ES256 and ES256K, and single use of tokens or none, each without
//! and with Redis. PostgreSQL decides. Redis distributes used tokens (and notifications and rate limits, so no single
//! use is measured with Redis too).
//!
//! Each variant of single use has its own server per mode. Signatures are compared with the cheapest request, `getEpoch`,
//! so that only the token differs. Single use is compared for that one, for a page of messages and for a message. All
//! other scenarios have ES256K and single use, which is the default and what a PDS signs with.

use std::time::Duration;

use catbird_bench_report::results::{Sample, Who};
use catbird_testkit::redis::Redis;

use super::clients::{Reader, Sender};
use super::reads;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Load};
use crate::support::http::Request;
use crate::support::plan::{Plan, SERVERS};
use crate::support::seed::{self, Convos};
use crate::support::server::Server;
use crate::support::tokens::Signing;

pub const NAME: &str = "tokens";

/// Numbers of connections. One shows what a token adds to the latency, 32 what it takes from the rate.
const CONNECTIONS: &[u32] = &[1, 32];
const QUICK_CONNECTIONS: &[u32] = &[8];

/// Number of conversations for messages, as in `send`.
const CONVOS: u32 = 1_000;
const QUICK_CONVOS: u32 = 50;
const MEMBERS: u32 = 10;
/// Members of the conversation that is read. As many again have keys on P-256.
const READERS: u32 = 100;
/// Messages in it, more than one page.
const MESSAGES: i64 = 100;

/// Single use of tokens: the end of a variant's name, and the settings, to which Redis is added. The variants without
/// Redis are also measured with other signatures.
struct SingleUse {
    name: &'static str,
    setting: (&'static str, &'static str),
    redis: bool,
}

const SINGLE_USE: [SingleUse; 4] = [
    SingleUse { name: "jti off", setting: ("ENFORCE_JTI", "false"), redis: false },
    SingleUse { name: "jti in PostgreSQL", setting: ("ENFORCE_JTI", "true"), redis: false },
    SingleUse { name: "jti off, Redis", setting: ("ENFORCE_JTI", "false"), redis: true },
    SingleUse { name: "jti and Redis", setting: ("ENFORCE_JTI", "true"), redis: true },
];

/// The request, as the beginning of a variant's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Epoch(Signing),
    Page,
    Send,
}

const WORK: [(Work, &str); 5] = [
    (Work::Epoch(Signing::Hs256), "getEpoch by HS256"),
    (Work::Epoch(Signing::Es256), "getEpoch by ES256"),
    (Work::Epoch(Signing::Es256k), "getEpoch"),
    (Work::Page, "getMessages"),
    (Work::Send, "send"),
];

/// The loads.
fn loads() -> impl Iterator<Item = (usize, Work, String)> {
    let all = WORK.into_iter().flat_map(|work| SINGLE_USE.iter().enumerate().map(move |(n, single)| (work, n, single)));
    // Redis has nothing to do with signatures.
    all.filter(|((work, _), _, single)| !single.redis || !matches!(work, Work::Epoch(Signing::Hs256 | Signing::Es256)))
        .map(|((work, request), n, single)| (n, work, format!("{request}, {}", single.name)))
}

pub fn time(plan: &Plan) -> Duration {
    proving(plan).time(loads().count() as u32, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let redis = Redis::start();
    let url = redis.url();
    let library = library(bench).await?;
    // For each variant conversations that only its server writes. An actor would detect another writer.
    let mut setups = Vec::new();
    for single_use in &SINGLE_USE {
        let convos = bench.stage.seed(bench.plan.size(CONVOS, QUICK_CONVOS), MEMBERS).await?;
        let mut settings = vec![single_use.setting];
        settings.extend(single_use.redis.then_some(("REDIS_URL", &*url)));
        let mut servers = Vec::new();
        for who in SERVERS {
            let log = single_use.name.replace([' ', ','], "_");
            servers.push((who, bench.stage.another_server(who, &log, &settings).await?));
        }
        setups.push((convos, servers));
    }
    for turn in proving(&bench.plan).turns(&SERVERS) {
        for (single_use, work, variant) in loads() {
            let (convos, servers) = &setups[single_use];
            let (clients, unit) = match work {
                Work::Epoch(signing) => (library.epochs(signing).several(turn.connections), "requests/s"),
                Work::Page => (library.pages.several(turn.connections), "requests/s"),
                Work::Send => (Sender::several(turn.connections, convos), "messages/s"),
            };
            let sample = load(bench, servers, turn.who, clients).await?;
            bench.record(&Figure { scenario: NAME, variant: &variant, unit, note: "" }, turn, sample)?;
        }
    }
    Ok(())
}

async fn load(bench: &mut Bench, servers: &[(Who, Server)], who: Who, clients: Vec<Box<dyn Client>>) -> Result<Sample> {
    let server = servers.iter().find(|(of, _)| *of == who).ok_or("a mode has a server")?.1.address;
    let [sample] = bench.loads([Load { servers: vec![server], clients }]).await?;
    Ok(sample)
}

/// Returns the plan with the connections of this scenario.
fn proving(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_CONNECTIONS } else { CONNECTIONS }, ..plan.clone() }
}

/// The conversation that is read, by members with keys on either curve.
struct Library {
    convos: Convos,
    pages: Reader,
}

async fn library(bench: &Bench) -> Result<Library> {
    let mut convos = seed::convos(1, READERS);
    for convo in std::sync::Arc::get_mut(&mut convos).into_iter().flatten() {
        convo.members.extend((0..READERS).map(|_| seed::person_of_p256()));
    }
    for who in SERVERS {
        let database = bench.stage.connect(who).await?;
        seed::write(&database, &convos).await?;
        reads::fill(&database, &convos, MESSAGES).await?;
    }
    let page = Request::query("getMessages", &format!("convoId={}&markRead=true", convos[0].id));
    let pages = Reader::new(page, &convos[0].members[..READERS as usize], reads::PAGE_BYTES);
    Ok(Library { convos, pages })
}

impl Library {
    fn epochs(&self, signing: Signing) -> Reader {
        let convo = &self.convos[0];
        let (secp256k1, p256) = convo.members.split_at(READERS as usize);
        let callers = if signing == Signing::Es256 { p256 } else { secp256k1 };
        let request = Request::query("getEpoch", &format!("convoId={}", convo.id));
        Reader::new(request, callers, reads::SMALL_BYTES).signing(signing)
    }
}
