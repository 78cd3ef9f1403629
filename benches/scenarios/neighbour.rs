//! What honest callers notice of one account that asks for dear things as often as it is allowed to.
//!
//! Twenty honest requests per second, over ten methods and from many people, first alone and then beside each kind of
//! neighbour. What counts is the honest ones' p99, and that each of them is answered. The server has the rate limits that
//! operators get; the number of connections is the neighbour's, who shares 100 requests per second among them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::json;

use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Load, Reply, Verdict};
use crate::support::http::Request;
use crate::support::mix::{Dice, fresh};
use crate::support::mls::{self, Content};
use crate::support::plan::{Plan, Turn};
use crate::support::results::Who;
use crate::support::seed::{self, Convo, Convos};
use crate::support::tokens::Minter;

pub const NAME: &str = "neighbour";

/// The settings under which operators run, where a bench differs from them otherwise.
const SETTINGS: [(&str, &str); 3] =
    [("RATE_LIMIT_PER_DID", "100"), ("RATE_LIMIT_PER_CONVO", "500"), ("ENFORCE_JTI", "true")];

const HONEST_CONNECTIONS: u32 = 4;
/// Between two requests of an honest connection: 20 per second over all of them.
const HONEST_PAUSE: Duration = Duration::from_millis(200);
/// The neighbour's connections, and what each waits so that they make 100 requests per second together.
const CONNECTIONS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(500);

/// The neighbour's conversations, and the members of each.
const CONVOS: u32 = 101;
const MEMBERS: u32 = 999;
/// Two such messages fill the largest page.
const PAGE_HALF: usize = 8 << 20;

const fn figure(variant: &'static str) -> Figure<'static> {
    Figure { scenario: NAME, variant, unit: "requests/s", note: "20 honest requests per second, over ten methods" }
}

pub fn time(plan: &Plan) -> Duration {
    (plan.timing.warm_up + plan.timing.measured) * plan.rounds * (1 + DEAR.len() as u32)
}

/// What a neighbour does, in the order in which it is measured.
const DEAR: [&str; 4] =
    ["beside lists of conversations", "beside new conversations", "beside key packages", "beside full pages"];

pub async fn run(bench: &mut Bench) -> Result<()> {
    // The mode makes no difference to what is limited here, so one of them is enough.
    let who = Who::Advisory;
    let scene = Scene::seed(bench, who).await?;
    let server = bench.stage.another_server(who, NAME, &SETTINGS).await?;
    for round in 1..=bench.plan.rounds {
        let turn = Turn { round, connections: CONNECTIONS, who };
        let honest = || Load { servers: vec![server.address], clients: scene.honest() };
        let [alone] = bench.loads([honest()]).await?;
        bench.record(&figure("alone"), turn, alone)?;
        for (kind, variant) in DEAR.into_iter().enumerate() {
            let neighbour = Load { servers: vec![server.address], clients: scene.neighbour(kind) };
            let [beside, neighbour] = bench.loads([honest(), neighbour]).await?;
            bench.record(&figure(variant), turn, beside)?;
            let figure = Figure { unit: "requests/s", note: "the neighbour's own", ..figure(OWN[kind]) };
            bench.record(&figure, turn, neighbour)?;
        }
    }
    Ok(())
}

/// The neighbour's own series beside those of [`DEAR`].
const OWN: [&str; 4] = ["lists of conversations", "new conversations", "key packages", "full pages"];

/// Everybody's conversations, and what is asked of them.
struct Scene {
    convos: Convos,
    /// One request of each of the ten methods, for each conversation.
    asked: Arc<[[Request; 10]]>,
    account: String,
    dear: [Dear; 4],
}

/// What the neighbour asks.
#[derive(Clone)]
enum Dear {
    Same(Request),
    /// A conversation with nobody who exists. Its group id is new each time, and everything else the same.
    NewConvo,
}

impl Scene {
    async fn seed(bench: &Bench, who: Who) -> Result<Self> {
        let convos = bench.stage.seed(bench.plan.size(1_000, 10), 10).await?;
        let account = seed::person();
        let mut own = seed::convos(bench.plan.size(CONVOS, 3), bench.plan.size(MEMBERS, 10));
        for convo in Arc::get_mut(&mut own).into_iter().flatten() {
            convo.members[0].clone_from(&account);
        }
        let database = bench.stage.connect(who).await?;
        seed::write(&database, &own).await?;
        fill(&database, &own[0], bench.plan.size(PAGE_HALF as u32, 1 << 16)).await?;
        database.batch_execute("vacuum analyze conversations, members, messages").await?;
        let victims: Vec<String> = convos.iter().flat_map(|convo| &convo.members).take(100).cloned().collect();
        let dear = [
            Dear::Same(Request::query("getConvos", "limit=100")),
            Dear::NewConvo,
            Dear::Same(Request::query("getKeyPackages", &format!("dids={}", victims.join("&dids=")))),
            Dear::Same(Request::query("getMessages", &format!("convoId={}&limit=100&peek=true", own[0].id))),
        ];
        Ok(Self { asked: convos.iter().map(ten_methods).collect(), convos, account, dear })
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

    fn neighbour(&self, kind: usize) -> Vec<Box<dyn Client>> {
        let neighbour = |_| -> Box<dyn Client> {
            Box::new(Neighbour { account: self.account.clone(), dear: self.dear[kind].clone(), minter: Minter::new() })
        };
        (0..CONNECTIONS).map(neighbour).collect()
    }
}

/// Gives a conversation two messages of so many bytes, which no compression makes smaller.
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
        Request::query("getMessages", &here),
        Request::query("getCommits", &format!("{here}&fromEpoch=0")),
        Request::query("getConvos", "limit=10"),
        Request::query("getKeyPackages", &format!("dids={}", convo.members[0])),
        Request::procedure("getSubscriptionTicket", &json!({})),
        Request::query("getEpoch", &here),
    ]
}

/// One person after another, a method at a time.
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
        reply.must_be_ok()
    }

    fn pause(&self) -> Duration {
        HONEST_PAUSE
    }
}

struct Neighbour {
    account: String,
    dear: Dear,
    minter: Minter,
}

impl Client for Neighbour {
    fn ask(&mut self, request: &mut Vec<u8>) {
        match &self.dear {
            Dear::Same(dear) => dear.render(&mut self.minter, &self.account, request),
            Dear::NewConvo => new_convo().render(&mut self.minter, &self.account, request),
        }
    }

    /// To be refused is what limits are for; to be failed is not.
    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        match reply.status {
            200 => Verdict::Accepted,
            429 | 503 => Verdict::Refused,
            _ => Verdict::Failed,
        }
    }

    fn pause(&self) -> Duration {
        PAUSE
    }
}

fn new_convo() -> Request {
    let members: Vec<String> = (1..MEMBERS).map(|_| seed::person()).collect();
    let group_id = format!("{:032x}", u128::from(fresh()) | 1 << 100);
    Request::procedure(
        "createConvo",
        &json!({"groupId": group_id, "initialMembers": members, "cipherSuite": catbird_server::mls::DEFAULT_SUITE}),
    )
}
