//! The cost of messages of 1 MiB in the database and in the blob store, and their effect on other conversations.
//!
//! Eight connections send small messages to 1,000 conversations at a fixed rate: first alone, and then beside two connections that send messages
//! of 1 MiB to conversations of one storage model, at a fixed rate as well. Each large message has a figure for the write-ahead log and for the
//! table, in which the small ones count too: they are the same beside both models. The blob store is a folder on the disk of the database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use catbird_bench_report::results::{Sample, Who};
use serde_json::json;
use tokio_postgres::Client as Database;
use ulid::Ulid;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Load, Reply, Verdict};
use crate::support::http::Request;
use crate::support::mix::{Dice, mix};
use crate::support::plan::{Plan, Turn};
use crate::support::seed::Convos;
use crate::support::tokens::Minter;

pub const NAME: &str = "bodies";

const CONVOS: u32 = 1_000;
const MEMBERS: u32 = 10;
const CONNECTIONS: u32 = 8;
/// Interval between two small messages of a connection: 200 per second over all connections, far from what the server can take.
const PAUSE: Duration = Duration::from_millis(40);
/// Conversations with large messages, and the connections that send them.
const LARGE_CONVOS: u32 = 10;
const LARGE_CONNECTIONS: u32 = 2;
/// Interval between two large messages of a connection: ten per second over all connections.
const LARGE_PAUSE: Duration = Duration::from_millis(200);
const LARGE_BYTES: u32 = 1 << 20;
/// The storage models, and their variants.
const MODELS: [(&str, &str, &str); 2] =
    [("database", "beside database", "1 MiB in database"), ("blob", "beside blob", "1 MiB in blob")];

const fn figure<'a>(variant: &'a str, note: &'static str) -> Figure<'a> {
    Figure { scenario: NAME, variant, unit: "messages/s", note }
}

pub fn time(plan: &Plan) -> Duration {
    (plan.timing.warm_up + plan.timing.measured) * plan.rounds * 3
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    // The ciphertexts take the same path in both modes, so one mode is enough.
    let who = Who::Advisory;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-blobs-{}", Ulid::new()));
    let store = format!("file://{}", folder.display());
    let small = bench.stage.seed(CONVOS, MEMBERS).await?;
    let database = bench.stage.connect(who).await?;
    let mut large = Vec::new();
    for (model, ..) in MODELS {
        let convos = bench.stage.seed(LARGE_CONVOS, MEMBERS).await?;
        let ids: Vec<&str> = convos.iter().map(|convo| convo.id.as_str()).collect();
        let set = "update conversations set storage_model = nullif($2, 'database') where id = any($1)";
        database.execute(set, &[&ids, &model]).await?;
        large.push(Large::requests(&convos, bench.plan.size(LARGE_BYTES, 1 << 16)));
    }
    let server = bench.stage.another_server(who, NAME, &[("BLOB_STORE_URL", &store)]).await?;
    let servers = || vec![server.address];
    let paced = || -> Vec<Box<dyn Client>> {
        let senders = Sender::several(CONNECTIONS, &small).into_iter();
        senders.map(|sender| -> Box<dyn Client> { Box::new(Paced(sender)) }).collect()
    };
    for round in 1..=bench.plan.rounds {
        let turn = Turn { round, connections: CONNECTIONS, who };
        let [alone] = bench.loads([Load { servers: servers(), clients: paced() }]).await?;
        bench.record(&figure("alone", "small messages"), turn, alone)?;
        for ((_, beside, cost), sent) in MODELS.into_iter().zip(&large) {
            let before = Meters::read(&database, sent).await?;
            let client = |_| -> Box<dyn Client> { Box::new(Large { dice: Dice::new(), ..sent.clone() }) };
            let clients = (0..LARGE_CONNECTIONS).map(client).collect();
            let loads = [Load { servers: servers(), clients: paced() }, Load { servers: servers(), clients }];
            let [others, mut of_large] = bench.loads(loads).await?;
            Meters::read(&database, sent).await?.since(&before, &mut of_large);
            eprintln!("{NAME} {beside}: p50 {:.2} ms, p99 {:.2} ms", others.p50_us / 1e3, others.p99_us / 1e3);
            bench.record(&figure(beside, "small messages"), turn, others)?;
            bench.record(&figure(cost, ""), Turn { connections: LARGE_CONNECTIONS, ..turn }, of_large)?;
        }
    }
    drop(server);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// A sender of small messages that pauses.
struct Paced(Box<dyn Client>);

impl Client for Paced {
    fn ask(&mut self, request: &mut Vec<u8>) {
        self.0.ask(request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        self.0.hear(reply)
    }

    fn pause(&self) -> Duration {
        PAUSE
    }
}

/// A sender of large messages that pauses.
#[derive(Clone)]
struct Large {
    convos: Convos,
    requests: Arc<[Request]>,
    minter: Minter,
    dice: Dice,
}

impl Large {
    fn requests(convos: &Convos, bytes: u32) -> Self {
        // Ciphertexts cannot be compressed.
        let ciphertext: Vec<u8> = (0..u64::from(bytes / 8)).flat_map(|n| mix(n).to_be_bytes()).collect();
        let text = STANDARD_NO_PAD.encode(ciphertext);
        let request = |id: &str| {
            Request::procedure("sendMessage", &json!({"convoId": id, "ciphertext": {"$bytes": text}, "epoch": 0}))
        };
        let requests = convos.iter().map(|convo| request(&convo.id)).collect();
        Self { convos: convos.clone(), requests, minter: Minter::new(), dice: Dice::new() }
    }
}

impl Client for Large {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let convo = self.dice.throw(self.convos.len());
        self.requests[convo].render(&mut self.minter, &self.convos[convo].members[0], request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        reply.must_be_ok()
    }

    fn pause(&self) -> Duration {
        LARGE_PAUSE
    }
}

/// What was written so far.
struct Meters {
    /// A position in the write-ahead log.
    wal_bytes: i64,
    /// Size of the log's table.
    table_bytes: i64,
    /// Large messages.
    messages: i64,
}

impl Meters {
    async fn read(database: &Database, large: &Large) -> Result<Self> {
        let ids: Vec<&str> = large.convos.iter().map(|convo| convo.id.as_str()).collect();
        let query =
            "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, pg_total_relation_size('messages'),
                            (select sum(last_seq)::bigint from conversations where id = any($1))";
        let row = database.query_one(query, &[&ids]).await?;
        Ok(Self { wal_bytes: row.get(0), table_bytes: row.get(1), messages: row.get(2) })
    }

    /// Adds what was written since then, per large message.
    fn since(&self, before: &Self, sample: &mut Sample) {
        let messages = self.messages - before.messages;
        if messages == 0 {
            return;
        }
        let mut add = |name: &str, used: i64| sample.extra.insert(name.to_owned(), used as f64 / messages as f64);
        add("wal_bytes_per_message", self.wal_bytes - before.wal_bytes);
        add("table_bytes_per_message", self.table_bytes - before.table_bytes);
    }
}
