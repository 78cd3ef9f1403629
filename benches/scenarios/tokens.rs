//! The cost of authentication: signatures by HS256, ES256 and ES256K, and single use of tokens or none, each without
//! and with Redis. PostgreSQL decides. Redis distributes used tokens (and notifications and rate limits, so no single
//! use is measured with Redis too).
//!
//! Each variant of single use has its own server per mode. The request is the cheapest one, `getEpoch`, so that only
//! the token differs; `send` shows the difference for a request that writes. Tokens are created before a load begins,
//! because a signature on a curve costs the load generator more than the request.

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

/// Numbers of connections. One shows what a token adds to the latency, 32 what it takes from the rate.
const CONNECTIONS: &[u32] = &[1, 32];
const QUICK_CONNECTIONS: &[u32] = &[8];

/// Number of accounts. Each has a key on either curve.
const ACCOUNTS: u32 = 10;
/// Number of conversations for messages, as in `send`.
const CONVOS: u32 = 1_000;
const QUICK_CONVOS: u32 = 50;
const MEMBERS: u32 = 10;

const NSID: &str = "blue.catbird.mls.getEpoch";
/// Requests per second for which tokens are created before a load. Further tokens are created during the load.
const MINTED_PER_SECOND: u32 = 8_000;
/// An unoptimised build creates tokens slowly, and sends slowly.
const QUICK_MINTED_PER_SECOND: u32 = 1_000;
/// Maximum age of a token at its use; its lifetime is longer.
const MINTED_AHEAD: Duration = Duration::from_secs(30);
/// Lifetime of a token.
const LIFETIME_SECONDS: i64 = 240;

/// Single use of tokens, and the end of a variant's name.
const SINGLE_USE: [(SingleUse, &str); 4] = [
    (SingleUse::Off, "jti off"),
    (SingleUse::Postgres, "jti in PostgreSQL"),
    (SingleUse::OffWithRedis, "jti off, Redis"),
    (SingleUse::Redis, "jti and Redis"),
];
/// Signature of tokens, and the beginning of a variant's name.
const SIGNING: [(Signing, &str); 3] = [(Signing::Secret, "HS256"), (Signing::P256, "ES256"), (Signing::K256, "ES256K")];
const SENDING: &str = "send";

#[derive(Clone, Copy)]
enum SingleUse {
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
    let loads = SINGLE_USE.len() * (SIGNING.len() + 1);
    proving(plan).time(loads as u32, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let redis = Redis::start();
    let accounts = Accounts::open();
    // One conversation of all accounts, and for each variant conversations that only its server writes. An actor would
    // detect another writer.
    let club = accounts.club(bench).await?;
    let mut setups = Vec::new();
    for (single_use, name) in SINGLE_USE {
        let convos = bench.stage.seed(bench.plan.size(CONVOS, QUICK_CONVOS), MEMBERS).await?;
        let mut servers = Vec::new();
        for who in SERVERS {
            servers.push((who, accounts.server(bench, who, single_use, &redis).await?));
        }
        setups.push((name, convos, servers));
    }
    for turn in proving(&bench.plan).turns(&SERVERS) {
        let figure = |signing: &str, single_use: &str| format!("{signing}, {single_use}");
        for (signing, signed) in SIGNING {
            for (single_use, _, servers) in &setups {
                let callers = accounts.callers(turn.connections, signing, &club, &bench.plan);
                let sample = load(bench, servers, turn.who, callers).await?;
                bench.record(&requests(&figure(signed, single_use), "requests/s"), turn, sample)?;
            }
        }
        for (single_use, convos, servers) in &setups {
            let sample = load(bench, servers, turn.who, Sender::several(turn.connections, convos)).await?;
            bench.record(&requests(&figure(SENDING, single_use), "messages/s"), turn, sample)?;
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

/// Returns the plan with the connections of this scenario.
fn proving(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_CONNECTIONS } else { CONNECTIONS }, ..plan.clone() }
}

/// Accounts with DID documents on the bench's own host.
struct Accounts {
    directory: Directory,
    /// Keys by curve, with their DIDs.
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

    /// A conversation of all accounts.
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

    async fn server(&self, bench: &Bench, who: Who, single_use: SingleUse, redis: &Redis) -> Result<Server> {
        let (directory, redis) = (self.directory.url(), redis.url());
        let mut settings = vec![("PLC_DIRECTORY_URL", directory.as_str()), ("ALLOW_PRIVATE_DID_HOSTS", "true")];
        let name = match single_use {
            SingleUse::Off => "jti_off",
            SingleUse::Postgres => {
                settings.push(("ENFORCE_JTI", "true"));
                "jti_postgres"
            }
            SingleUse::OffWithRedis => {
                settings.push(("REDIS_URL", &redis));
                "jti_off_redis"
            }
            SingleUse::Redis => {
                settings.extend([("ENFORCE_JTI", "true"), ("REDIS_URL", &redis)]);
                "jti_redis"
            }
        };
        bench.stage.another_server(who, name, &settings).await
    }

    /// Returns clients that request the epoch of that conversation, with tokens created now.
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

/// Repeats one request with a new token each time.
struct Caller {
    /// The request up to its token. Only the end of the head follows.
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

/// Creates tokens of the accounts: with their own keys, or with the servers' shared secret.
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
