//! The effect on honest callers of one account, or of callers without a token, that repeat one expensive or hostile
//! action as often as allowed.
//!
//! Twenty honest requests per second, over ten methods and from many people, run first alone and then beside each kind
//! of neighbour. The result is their p99, with refused requests among the slowest. The server has the default rate limits. The
//! neighbour is allowed a burst of 200 requests and then 100 per second ([`attack`]). It starts with the load, without
//! a warm-up.

mod attack;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use catbird_bench_report::results::{Sample, Who};
use serde_json::json;

use self::attack::{Act, CONNECTIONS, Neighbour};
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Load, Reply, Timing, Verdict};
use crate::support::http::Request;
use crate::support::mix::Dice;
use crate::support::mls::{self, Content};
use crate::support::plan::{Plan, Turn};
use crate::support::seed::{self, Convo, Convos};
use crate::support::tokens::Minter;

pub const NAME: &str = "neighbour";

/// Default settings, where the other scenarios use different ones. Daily quotas are off, because they would end some of
/// these loads within seconds.
const SETTINGS: [(&str, &str); 8] = [
    ("RATE_LIMIT_PER_DID", "100"),
    ("RATE_LIMIT_PER_CONVO", "500"),
    ("COMMITS_PER_MINUTE", "0"),
    ("KEY_PACKAGES_PER_CALLER", "0"),
    ("STORED_BYTES_PER_DAY", "0"),
    ("CONVOS_PER_DAY", "0"),
    ("STRANGERS_PER_DAY", "0"),
    ("INVITATIONS_PER_HOUR", "0"),
];

const HONEST_CONNECTIONS: u32 = 4;
/// Interval between two requests of an honest connection: 20 per second over all connections.
const HONEST_PAUSE: Duration = Duration::from_millis(200);

/// Time of a refused request: the longest that the server lets a request take.
const REFUSED: Duration = Duration::from_millis(8_500);

/// Number of conversations that the neighbour lists, and of the members of each.
const CONVOS: u32 = 101;
const MEMBERS: u32 = 999;
/// Size of a message in bytes. Two of them fill the largest page.
const PAGE_HALF: usize = 7 << 19;
/// Messages that the neighbour with an old cursor has missed: three of 1 MiB.
const MISSED: (usize, usize) = (3, 1 << 20);
/// Sizes of the largest Welcome and the largest bodies in bytes.
const WELCOME_BYTES: usize = (7 << 20) - 64;
const BODY_BYTES: usize = 19 << 20;

/// Kinds of neighbours, in the order of measurement.
const KINDS: [&str; 12] = [
    "beside lists of conversations",
    "beside new conversations",
    "beside key packages",
    "beside full pages",
    "beside slow readers",
    "beside silent bodies",
    "beside replays of events",
    "beside streams that come and go",
    "beside Welcomes of nothing",
    "beside bodies to be quoted",
    "beside endless lists of DIDs",
    "beside probes without a token",
];

const fn figure(variant: &'static str) -> Figure<'static> {
    Figure { scenario: NAME, variant, unit: "requests/s", note: "20 honest requests per second, over ten methods" }
}

/// Shortest load. In a quick run's fifth of a second there are four honest requests.
const MIN_MEASURED: Duration = Duration::from_secs(1);

fn timing(plan: &Plan) -> Timing {
    Timing { measured: plan.timing.measured.max(MIN_MEASURED), ..plan.timing }
}

pub fn time(plan: &Plan) -> Duration {
    let timing = timing(plan);
    (timing.warm_up + timing.measured) * plan.rounds * (1 + KINDS.len() as u32)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    // These limits are the same in both modes, so one mode is enough.
    let who = Who::Advisory;
    let mut scene = Scene::seed(bench, who).await?;
    let server = bench.stage.another_server(who, NAME, &SETTINGS).await?;
    let address = server.address;
    scene.miss_something(bench, address).await?;
    let timing = timing(&bench.plan);
    let all_of_it = Timing { warm_up: Duration::ZERO, measured: timing.warm_up + timing.measured };
    for round in 1..=bench.plan.rounds {
        let turn = Turn { round, connections: CONNECTIONS, who };
        let honest = || [Load { servers: vec![address], clients: scene.honest() }];
        let [alone] = bench.loads_for(timing, honest()).await?;
        let p99_alone = alone.p99_us;
        bench.record(&figure("alone"), turn, alone)?;
        for (variant, (account, act)) in KINDS.into_iter().zip(&scene.neighbours) {
            let neighbour = Neighbour::begin(address, account, act)?;
            let [mut beside] = bench.loads_for(all_of_it, honest()).await?;
            let (accepted, refused) = neighbour.end();
            let seconds = all_of_it.measured.as_secs_f64();
            beside.p99_us = with_refusals(&beside, seconds);
            eprintln!(
                "{NAME} {variant}: p99 {:.1} ms, {:.2} × that alone, {} refused; the neighbour: {accepted} done, {refused} refused",
                beside.p99_us / 1_000.0,
                beside.p99_us / p99_alone,
                beside.refused,
            );
            beside.extra.insert("neighbour_accepted_per_second".to_owned(), accepted as f64 / seconds);
            beside.extra.insert("neighbour_refused_per_second".to_owned(), refused as f64 / seconds);
            bench.record(&figure(variant), turn, beside)?;
        }
    }
    Ok(())
}

/// Returns the p99 in microseconds. A refused request counts as one that took [`REFUSED`].
fn with_refusals(honest: &Sample, seconds: f64) -> f64 {
    let all = honest.rate * seconds + honest.refused as f64;
    if honest.refused as f64 * 100.0 > all { REFUSED.as_micros() as f64 } else { honest.p99_us }
}

/// All conversations, and the requests about them.
struct Scene {
    convos: Convos,
    /// One request of each of the ten methods, for each conversation.
    asked: Arc<[[Request; 10]]>,
    /// Neighbours by index of [`KINDS`]. Each has its own budget.
    neighbours: Vec<(String, Act)>,
}

impl Scene {
    async fn seed(bench: &Bench, who: Who) -> Result<Self> {
        let plan = &bench.plan;
        let convos = bench.stage.seed(plan.size(1_000, 10), 10).await?;
        let lister = seed::person();
        let mut listed = seed::convos(plan.size(CONVOS, 3), plan.size(MEMBERS, 10));
        for convo in Arc::get_mut(&mut listed).into_iter().flatten() {
            convo.members[0].clone_from(&lister);
        }
        let own = seed::convos(KINDS.len() as u32, 2);
        let database = bench.stage.connect(who).await?;
        seed::write(&database, &listed).await?;
        seed::write(&database, &own).await?;
        let [full, sipped] = [&own[3], &own[4]];
        for convo in [full, sipped] {
            fill(&database, convo, plan.size(PAGE_HALF as u32, 1 << 16)).await?;
        }
        database.batch_execute("vacuum analyze conversations, members, messages").await?;
        let victims: Vec<String> = convos.iter().flat_map(|convo| &convo.members).take(100).cloned().collect();
        let page = |convo: &Convo| Request::query("getMessages", &format!("convoId={}&limit=100&peek=true", convo.id));
        let size = |bytes: usize| plan.size(bytes as u32, 1 << 16) as usize;
        let acts = [
            Act::Ask(Request::query("getConvos", "limit=100")),
            Act::NewConvo(plan.size(MEMBERS, 10)),
            Act::Ask(Request::query("getKeyPackages", &format!("dids={}", victims.join("&dids=")))),
            Act::Ask(page(full)),
            Act::Sip(page(sipped)),
            Act::Silence,
            // [`Scene::miss_something`] adds the cursor.
            Act::Follow(Request::query("streamConvoEvents", ""), "\nid: "),
            Act::Follow(Request::query("streamConvoEvents", ""), "\nid: "),
            Act::Ask(welcome_of_nothing(size(WELCOME_BYTES))),
            Act::Ask(Request::procedure(
                "sendMessage",
                &json!({"convoId": "x", "ciphertext": "", "epoch": "\u{e000}".repeat(size(BODY_BYTES) / 3)}),
            )),
            Act::Ask(Request::procedure(
                "createConvo",
                &json!({"groupId": "ab", "cipherSuite": "", "initialMembers": vec!["did:plc:a"; size(BODY_BYTES) / 12]}),
            )),
            Act::Page("/health/ready"),
        ];
        let mut accounts: Vec<String> = own.iter().map(|convo| convo.members[0].clone()).collect();
        accounts[0] = lister;
        let asked = convos.iter().map(ten_methods).collect();
        Ok(Self { asked, convos, neighbours: accounts.into_iter().zip(acts).collect() })
    }

    /// Gives the neighbour that replays events to replay.
    async fn miss_something(&mut self, bench: &Bench, server: std::net::SocketAddr) -> Result<()> {
        let (account, act) = &mut self.neighbours[6];
        let cursor = attack::cursor(server, account).await?;
        let group_id = format!("{:032x}", u128::from(crate::support::mix::fresh()) | 1 << 101);
        let made =
            json!({"groupId": group_id, "initialMembers": [], "cipherSuite": catbird_server::mls::DEFAULT_SUITE});
        attack::must(server, account, Request::procedure("createConvo", &made)).await?;
        let database = bench.stage.connect(Who::Advisory).await?;
        let row = database.query_one("select id from conversations where group_id = $1", &[&group_id]).await?;
        let (convo, text): (&str, _) =
            (row.get(0), STANDARD_NO_PAD.encode(vec![9; bench.plan.size(MISSED.1 as u32, 1 << 10) as usize]));
        for _ in 0..MISSED.0 {
            let sent = json!({"convoId": convo, "ciphertext": {"$bytes": text}, "epoch": 0});
            attack::must(server, account, Request::procedure("sendMessage", &sent)).await?;
        }
        *act = Act::Follow(Request::query("streamConvoEvents", &format!("cursor={cursor}")), "replayed");
        Ok(())
    }

    fn honest(&self) -> Vec<Box<dyn Client>> {
        let honest = |_| -> Box<dyn Client> {
            Box::new(Honest {
                convos: self.convos.clone(),
                asked: self.asked.clone(),
                minter: Minter::new(),
                dice: Dice::new(),
            })
        };
        (0..HONEST_CONNECTIONS).map(honest).collect()
    }
}

/// A conversation with a Welcome that has as many empty secrets as fit (RFC 9420, section 12.4.3.1): each is three
/// empty vectors.
fn welcome_of_nothing(bytes: usize) -> Request {
    let secrets = bytes / 3 * 3;
    let mut welcome = vec![0, 1, 0, 3, 0, 1];
    welcome.extend((0x8000_0000 | secrets as u32).to_be_bytes());
    welcome.resize(welcome.len() + secrets + 1, 0);
    Request::procedure(
        "createConvo",
        &json!({
            "groupId": "ab", "cipherSuite": catbird_server::mls::DEFAULT_SUITE, "initialMembers": [seed::person()],
            "welcomeMessage": {"$bytes": STANDARD_NO_PAD.encode(welcome)},
        }),
    )
}

/// Gives a conversation two incompressible messages of this size.
async fn fill(database: &tokio_postgres::Client, convo: &Convo, bytes: u32) -> Result<()> {
    let blocks = i64::from(bytes / 32);
    database.batch_execute("set session_replication_role = replica").await?;
    database
        .execute(
            "insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
             select $1, seq, '01' || lpad(seq::text, 24, '0'), $2, 'app', 0,
                    (select string_agg(sha256((seq || '/' || n)::bytea), '') from generate_series(1, $3::bigint) n)
               from generate_series(1, 2::bigint) seq",
            &[&convo.id, &convo.members[0], &blocks],
        )
        .await?;
    database.execute("update conversations set last_seq = 2 where id = $1", &[&convo.id]).await?;
    database.batch_execute("reset session_replication_role").await?;
    Ok(())
}

fn ten_methods(convo: &Convo) -> [Request; 10] {
    let id = &convo.id;
    let here = format!("convoId={id}");
    let message = STANDARD_NO_PAD.encode(mls::private_message(&convo.group_id, 0, Content::Application));
    let sent = json!({"convoId": id, "ciphertext": {"$bytes": message}, "epoch": 0});
    [
        Request::procedure("sendMessage", &sent),
        Request::procedure("sendTypingIndicator", &json!({"convoId": id, "isTyping": true})),
        Request::procedure("updateRead", &json!({"convoId": id})),
        Request::query("getEpoch", &here),
        Request::query("getMessages", &format!("{here}&markRead=true")),
        Request::query("getCommits", &format!("{here}&fromEpoch=0")),
        Request::query("getConvos", "limit=10"),
        Request::query("getKeyPackages", &format!("dids={}", convo.members[0])),
        Request::procedure("getSubscriptionTicket", &json!({})),
        Request::query("getEpoch", &here),
    ]
}

/// Honest callers: one person after another, one method after another.
struct Honest {
    convos: Convos,
    asked: Arc<[[Request; 10]]>,
    minter: Minter,
    dice: Dice,
}

impl Client for Honest {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let convo = self.dice.throw(self.convos.len());
        let members = &self.convos[convo].members;
        let caller = &members[self.dice.throw(members.len())];
        let method = self.dice.throw(self.asked[convo].len());
        self.asked[convo][method].render(&mut self.minter, caller, request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        // An overloaded server asks the caller to repeat the request. `with_refusals` counts it.
        if reply.status == 503 { Verdict::Refused } else { reply.must_be_ok() }
    }

    fn pause(&self) -> Duration {
        HONEST_PAUSE
    }
}
