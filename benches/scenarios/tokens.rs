//! What the proof of identity costs: signatures by HS256, ES256 and ES256K, and spending a token once or not at all, each without
//! and with Redis. PostgreSQL decides; through Redis replicas tell each other which tokens are used (and hints and rate limits, which
//! is why not spending is measured with it too).
//!
//! Each way of spending has a server of its own per mode. The request is the cheapest there is, `getEpoch`, so that the token
//! is what differs; `send` shows how much of that is left where there is work to do. Tokens are minted before a load begins,
//! since signing on a curve costs the load generator more than the request.

use std::sync::Arc;
use std::time::Duration;

use catbird_bench_report::results::{Sample, Who};
use catbird_server::clock::Clock;
use catbird_testkit::account::{Key, Spelling, document};
use catbird_testkit::directory::{Answer, Directory};
use catbird_testkit::redis::Redis;
use serde_json::json;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Load, Reply, Verdict};
use crate::support::mix::{Dice, fresh};
use crate::support::plan::{Plan, SERVERS};
use crate::support::seed::{self, Convos};
use crate::support::server::Server;
use crate::support::tokens::{Minter, SERVICE_DID};

pub const NAME: &str = "tokens";

/// One connection shows what a token adds to a request, 32 what it takes from the rate.
const CONNECTIONS: &[u32] = &[1, 32];
const QUICK_CONNECTIONS: &[u32] = &[8];

/// Whose tokens they are. Each has a key on either curve.
const ACCOUNTS: u32 = 10;
/// For sending, as in `send`.
const CONVOS: u32 = 1_000;
const QUICK_CONVOS: u32 = 50;
const MEMBERS: u32 = 10;

const NSID: &str = "blue.catbird.mls.getEpoch";
/// How many requests per second a load has minted tokens for. Beyond that they are minted while it runs.
const MINTED_PER_SECOND: u32 = 8_000;
/// A build without optimisation mints slowly, and asks slowly.
const QUICK_MINTED_PER_SECOND: u32 = 1_000;
/// How long before its use a token is minted at most; it lives longer.
const MINTED_AHEAD: Duration = Duration::from_secs(30);
/// How long a token lives.
const LIFETIME_SECONDS: i64 = 240;

/// How tokens are spent, and the end of a variant's name.
const SPENDING: [(Spending, &str); 4] = [
    (Spending::Off, "jti off"),
    (Spending::Postgres, "jti in PostgreSQL"),
    (Spending::OffWithRedis, "jti off, Redis"),
    (Spending::Redis, "jti and Redis"),
];
/// How they are signed, and the beginning of its name.
const SIGNING: [(Signing, &str); 3] = [(Signing::Secret, "HS256"), (Signing::P256, "ES256"), (Signing::K256, "ES256K")];
const SENDING: &str = "send";

#[derive(Clone, Copy)]
enum Spending {
    Off,
    Postgres,
    OffWithRedis,
    Redis,
}

#[derive(Clone, Copy)]
enum Signing {
    Secret,
    P256,
    K256,
}

pub fn time(plan: &Plan) -> Duration {
    let loads = SPENDING.len() * (SIGNING.len() + 1);
    proving(plan).time(loads as u32, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let redis = Redis::start();
    let accounts = Accounts::open();
    // A conversation of all the accounts, and for each way of spending conversations that only its server writes: an actor
    // would notice anybody else.
    let club = accounts.club(bench).await?;
    let mut houses = Vec::new();
    for (spending, name) in SPENDING {
        let convos = bench.stage.seed(bench.plan.size(CONVOS, QUICK_CONVOS), MEMBERS).await?;
        let mut servers = Vec::new();
        for who in SERVERS {
            servers.push((who, accounts.server(bench, who, spending, &redis).await?));
        }
        houses.push((name, convos, servers));
    }
    for turn in proving(&bench.plan).turns(&SERVERS) {
        let figure = |signing: &str, spending: &str| format!("{signing}, {spending}");
        for (signing, signed) in SIGNING {
            for (spent, _, servers) in &houses {
                let callers = accounts.callers(turn.connections, signing, &club, &bench.plan);
                let sample = load(bench, servers, turn.who, callers).await?;
                bench.record(&requests(&figure(signed, spent), "requests/s"), turn, sample)?;
            }
        }
        for (spent, convos, servers) in &houses {
            let sample = load(bench, servers, turn.who, Sender::several(turn.connections, convos)).await?;
            bench.record(&requests(&figure(SENDING, spent), "messages/s"), turn, sample)?;
        }
    }
    Ok(())
}

fn requests<'a>(variant: &'a str, unit: &'static str) -> Figure<'a> {
    Figure { scenario: NAME, variant, unit, note: "" }
}

async fn load(bench: &mut Bench, servers: &[(Who, Server)], who: Who, clients: Vec<Box<dyn Client>>) -> Result<Sample> {
    let server = servers.iter().find(|(of, _)| *of == who).ok_or("a mode has a server")?.1.address;
    let [sample] = bench.loads([Load { servers: vec![server], clients }]).await?;
    Ok(sample)
}

/// The plan with the connections of this scenario.
fn proving(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_CONNECTIONS } else { CONNECTIONS }, ..plan.clone() }
}

/// People with DID documents on a host of our own.
struct Accounts {
    directory: Directory,
    /// By curve, with their DIDs.
    p256: Arc<[(String, Key)]>,
    k256: Arc<[(String, Key)]>,
}

impl Accounts {
    fn open() -> Self {
        let directory = Directory::start();
        let open = |key: fn(u8) -> Key| -> Arc<[(String, Key)]> {
            let account = |seed: u32| {
                let (did, key) = (seed::person(), key(seed as u8));
                let methods = [key.method("#atproto", Spelling::Multikey)];
                directory.put(&format!("/{did}"), Answer::Document(document(&did, &methods)));
                (did, key)
            };
            (1..=ACCOUNTS).map(account).collect()
        };
        let (p256, k256) = (open(Key::p256), open(Key::secp256k1));
        Self { directory, p256, k256 }
    }

    /// A conversation that all of them are in.
    async fn club(&self, bench: &Bench) -> Result<Convos> {
        let mut convos = seed::convos(1, 0);
        for convo in Arc::get_mut(&mut convos).into_iter().flatten() {
            convo.members = self.p256.iter().chain(&*self.k256).map(|(did, _)| did.clone()).collect();
        }
        for who in SERVERS {
            seed::write(&bench.stage.connect(who).await?, &convos).await?;
        }
        Ok(convos)
    }

    async fn server(&self, bench: &Bench, who: Who, spending: Spending, redis: &Redis) -> Result<Server> {
        let (directory, redis) = (self.directory.url(), redis.url());
        let mut settings = vec![("PLC_DIRECTORY_URL", directory.as_str()), ("ALLOW_PRIVATE_DID_HOSTS", "true")];
        let name = match spending {
            Spending::Off => "jti_off",
            Spending::Postgres => {
                settings.push(("ENFORCE_JTI", "true"));
                "jti_postgres"
            }
            Spending::OffWithRedis => {
                settings.push(("REDIS_URL", &redis));
                "jti_off_redis"
            }
            Spending::Redis => {
                settings.extend([("ENFORCE_JTI", "true"), ("REDIS_URL", &redis)]);
                "jti_redis"
            }
        };
        bench.stage.another_server(who, name, &settings).await
    }

    /// Clients who ask where the club stands, with tokens minted now.
    fn callers(&self, count: u32, signing: Signing, club: &Convos, plan: &Plan) -> Vec<Box<dyn Client>> {
        let time = (plan.timing.warm_up + plan.timing.measured).min(MINTED_AHEAD);
        let per_second = plan.size(MINTED_PER_SECOND, QUICK_MINTED_PER_SECOND);
        let minted = (f64::from(per_second) * time.as_secs_f64() / f64::from(count)) as usize;
        let caller = |_| -> Box<dyn Client> {
            let mut caller = Caller {
                before: format!(
                    "GET /xrpc/{NSID}?convoId={} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer ",
                    club[0].id
                ),
                signer: self.signer(signing),
                minted: Vec::with_capacity(minted),
            };
            for _ in 0..minted {
                let token = caller.signer.token();
                caller.minted.push(token);
            }
            Box::new(caller)
        };
        (0..count).map(caller).collect()
    }

    fn signer(&self, signing: Signing) -> Signer {
        let accounts = if matches!(signing, Signing::K256) { &self.k256 } else { &self.p256 };
        let secret = matches!(signing, Signing::Secret).then(Minter::new);
        Signer { accounts: accounts.clone(), secret, clock: Clock::system(), dice: Dice::new() }
    }
}

/// Asks the same question with a new token each time.
struct Caller {
    /// The request up to its token, after which nothing but the end of the head follows.
    before: String,
    signer: Signer,
    minted: Vec<String>,
}

impl Client for Caller {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let token = self.minted.pop().unwrap_or_else(|| self.signer.token());
        for part in [&self.before, &token, "\r\n\r\n"] {
            request.extend_from_slice(part.as_bytes());
        }
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        reply.must_be_ok()
    }
}

/// Mints tokens of one account or another: with its own key, or with the secret that servers share.
struct Signer {
    accounts: Arc<[(String, Key)]>,
    secret: Option<Minter>,
    clock: Clock,
    dice: Dice,
}

impl Signer {
    fn token(&mut self) -> String {
        let (did, key) = &self.accounts[self.dice.throw(self.accounts.len())];
        if let Some(minter) = &mut self.secret {
            return minter.token(did, NSID).to_owned();
        }
        let now = self.clock.now().timestamp();
        let jti = format!("bench-{:016x}", fresh());
        let header = json!({"alg": key.alg(), "typ": "JWT"});
        let (iat, exp) = (now, now + LIFETIME_SECONDS);
        key.token(&header, &json!({"iss": did, "aud": SERVICE_DID, "iat": iat, "exp": exp, "jti": jti, "lxm": NSID}))
    }
}
