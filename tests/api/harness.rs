//! Kit of the method tests: both serializers, the content of the database, parts of requests, and conversations that
//! are too long or large to be made through requests.

use std::collections::BTreeMap;

use actix_web::dev::ServerHandle;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use catbird_client::mls::Staged;
use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::{Download, Reply, Xrpc, base64_text, bytes_value};
use catbird_server::app::App;
use catbird_server::clock::Clock;
use catbird_server::config::Config;
use catbird_server::lifecycle::Lifecycle;
use catbird_server::server;
use catbird_testkit::app::{TestApp, variables};
use catbird_testkit::cluster::blob_folder;
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;

/// Runs each test twice, with the advisory lock and with the actors, and checks the invariants afterwards.
macro_rules! either_serializer {
    ($($name:ident $(with $settings:expr)?;)*) => {
        mod advisory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let app = crate::harness::start(&[("ENABLE_ACTOR_SYSTEM", "false") $(, $settings)?]).await;
                super::$name(&app).await;
                app.finish().await;
            })*
        }
        mod actors {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let app = crate::harness::start(&[("ENABLE_ACTOR_SYSTEM", "true") $(, $settings)?]).await;
                super::$name(&app).await;
                app.finish().await;
            })*
        }
    };
}

/// Runs each test once: its result does not depend on how writes are serialised.
macro_rules! any_serializer {
    ($($name:ident $(with $settings:expr)?;)*) => {
        mod any {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let app = crate::harness::start(&[$($settings)?]).await;
                super::$name(&app).await;
                app.finish().await;
            })*
        }
    };
}

pub async fn start(settings: &[(&str, &str)]) -> TestApp {
    TestApp::with(settings).await
}

/// A second replica on the same database.
pub struct Beside {
    app: App,
    base: String,
    server: ServerHandle,
}

impl Beside {
    pub async fn start(other: &TestApp, actors: bool) -> Self {
        Self::with(other, &[("ENABLE_ACTOR_SYSTEM", &actors.to_string())]).await
    }

    /// Starts it with these settings on top of the tests' own.
    pub async fn with(other: &TestApp, settings: &[(&str, &str)]) -> Self {
        let blobs = format!("file://{}", blob_folder(&other.database.config).display());
        let settings: Vec<_> = std::iter::once(("BLOB_STORE_URL", &*blobs)).chain(settings.iter().copied()).collect();
        let config = Config::from_variables(variables(&settings)).unwrap();
        let app = App::new(config, other.database.config.clone(), Clock::system()).await.unwrap();
        app.enter(Lifecycle::Serving);
        let listener = server::bind(&app.config).unwrap();
        let (address, running) = server::build(app.clone(), listener).unwrap();
        let server = running.handle();
        tokio::spawn(running);
        Self { app, base: format!("http://{address}"), server }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns a connection of the persona to this replica.
    pub fn xrpc(&self, who: &Persona) -> Xrpc {
        let mut there = who.xrpc.clone();
        there.base = self.base.parse().unwrap();
        there
    }

    pub async fn stop(self) {
        server::drain(&self.app, &self.server).await;
    }
}

/// Calls a procedure and returns its reply.
pub async fn ask(caller: &Persona, method: &str, body: &Value) -> Reply {
    caller.xrpc.procedure(method, body).await.unwrap()
}

/// Calls a query and returns its reply.
pub async fn get(caller: &Persona, method: &str, parameters: &[(&str, &str)]) -> Reply {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    caller.xrpc.query(method, &parameters).await.unwrap()
}

/// Calls a procedure whose body is these bytes.
pub async fn upload(caller: &Persona, method: &str, parameters: &[(&str, &str)], body: &[u8]) -> Reply {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let length = body.len() as u64;
    caller.xrpc.upload(method, &parameters, "application/octet-stream", body.to_vec(), length).await.unwrap()
}

/// Calls a query whose reply is bytes, or returns the reply that refuses it.
pub async fn download(
    caller: &Persona,
    method: &str,
    parameters: &[(&str, &str)],
    headers: &[(&'static str, &str)],
) -> Result<Download, Reply> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    caller.xrpc.download(method, &parameters, headers).await.unwrap()
}

/// Returns the reply, which must be a success.
#[track_caller]
pub fn ok(reply: Reply) -> Reply {
    assert_eq!(reply.status, 200, "{reply}");
    reply
}

/// Returns the reply, which must be this refusal.
#[track_caller]
pub fn refused(reply: Reply, status: u16, error: &str) -> Reply {
    assert_eq!((reply.status, reply.error()), (status, Some(error)), "{reply}");
    reply
}

/// Returns the epoch and seq of a reply.
#[track_caller]
pub fn landed(reply: &Reply) -> (u64, u64) {
    (reply.number("epoch").unwrap(), reply.number("seq").unwrap())
}

/// Returns the id of a persona's conversation.
pub fn convo(member: &Persona) -> String {
    member.convo().unwrap().to_owned()
}

/// Returns the body of an opaque message in the sender's epoch.
pub fn message(sender: &Persona, ciphertext: &[u8]) -> Value {
    json!({ "convoId": convo(sender), "ciphertext": bytes_value(ciphertext), "epoch": sender.epoch().unwrap() })
}

/// Returns `body` with some fields replaced or added; null removes one.
pub fn with(body: &Value, changes: Value) -> Value {
    let mut body = body.clone();
    let fields = body.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => _ = fields.remove(name),
            value => _ = fields.insert(name.clone(), value.clone()),
        }
    }
    body
}

/// Returns the same bytes in every spelling that clients have used.
pub fn spellings(bytes: &[u8]) -> Vec<Value> {
    let texts = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].map(|engine| engine.encode(bytes));
    texts.iter().flat_map(|text| [json!(text), json!({ "$bytes": text })]).collect()
}

/// An addition that was made but not sent. It stays pending with its maker.
pub struct Offer {
    pub staged: Staged,
    /// Body of addMembers, without key package hashes.
    pub body: Value,
}

/// Makes the commit that adds these, with a new key package of each that the server does not know.
pub fn offer(member: &mut Persona, joiners: &[&Persona]) -> Offer {
    let packages: Vec<_> = joiners.iter().map(|joiner| joiner.mls.key_package().unwrap()).collect();
    offer_with(member, joiners, &packages)
}

/// Like [`offer`], with these key packages.
pub fn offer_with(member: &mut Persona, joiners: &[&Persona], packages: &[Vec<u8>]) -> Offer {
    let staged = member.mls.add(&member.group_id, packages).unwrap();
    let body = json!({
        "convoId": convo(member),
        "didList": joiners.iter().map(|joiner| joiner.did()).collect::<Vec<_>>(),
        "commit": base64_text(&staged.commit),
        "welcomeMessage": base64_text(&staged.welcome),
    });
    Offer { staged, body }
}

/// Makes the member's proposal to be removed. It forgets the proposal.
pub fn propose_leave(member: &mut Persona) -> Vec<u8> {
    member.mls.propose_leave(&member.group_id).unwrap()
}

/// Returns the body of submitProposal.
pub fn proposal_body(member: &Persona, proposal: &[u8]) -> Value {
    json!({ "convoId": convo(member), "proposal": base64_text(proposal) })
}

/// Merges the member's pending commit, which was accepted.
pub fn merge(member: &mut Persona) {
    member.mls.merge_pending(&member.group_id).unwrap();
}

/// Discards the member's pending commit, which was refused.
pub fn discard(member: &mut Persona) {
    member.mls.discard_pending(&member.group_id).unwrap();
}

/// Returns the entries of `keyPackageHashes` for these packages.
pub fn hashes(owners: &[&Persona], packages: &[Vec<u8>]) -> Value {
    let entries = owners.iter().zip(packages);
    entries.map(|(owner, package)| json!({ "did": owner.did(), "hash": sha256_hex(package) })).collect()
}

/// Publishes a key package.
pub async fn publish(owner: &Persona, package: &[u8]) -> Reply {
    let body = json!({ "keyPackage": base64_text(package), "cipherSuite": owner.mls.suite_name() });
    ask(owner, "publishKeyPackage", &body).await
}

/// Returns the key package of `owner` that getKeyPackages issues to the caller, if there is one.
pub async fn claim(caller: &Persona, owner: &str) -> Option<Vec<u8>> {
    let reply = ok(get(caller, "getKeyPackages", &[("dids", owner)]).await);
    let packages = reply.list("keyPackages").unwrap();
    assert!(packages.len() <= 1, "{reply}");
    assert_eq!(reply.body["missing"] == json!([owner]), packages.is_empty(), "{reply}");
    packages.first().map(|package| reply.bytes_in(package, "keyPackage").unwrap())
}

/// Returns the caller's only conversation from getConvos.
pub async fn only_convo(caller: &Persona) -> Value {
    let reply = ok(get(caller, "getConvos", &[]).await);
    assert_eq!(reply.list("conversations").unwrap().len(), 1, "{reply}");
    reply.body["conversations"][0].clone()
}

/// Returns the members of the conversation as one of them sees them, in order of joining.
pub async fn roster(member: &Persona) -> Vec<String> {
    let convo = only_convo(member).await;
    convo["members"].as_array().unwrap().iter().map(|one| one["did"].as_str().unwrap().to_owned()).collect()
}

/// Content of the database by table: the number of rows and a digest. Used tokens are omitted, since every request uses
/// one, and so are the rows that begin an incarnation, which the event tail writes at its first pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents(BTreeMap<String, (i64, String)>);

/// Returns the content of the database once read positions, which are written after the replies, are stored.
pub async fn contents(app: &TestApp) -> Contents {
    app.settle().await;
    Contents::of(&app.database.connect().await).await
}

impl Contents {
    pub async fn of(db: &tokio_postgres::Client) -> Self {
        let mut parts = Vec::new();
        for table in tables(db).await {
            parts.push(format!(
                "select '{table}', count(*), coalesce(md5(string_agg(md5(t::text), '' order by md5(t::text))), '') from {table} t"
            ));
        }
        let rows = db.query(&parts.join(" union all "), &[]).await.unwrap();
        Self(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
    }

    /// Returns the number of rows of a table.
    pub fn count(&self, table: &str) -> i64 {
        self.0[table].0
    }
}

async fn tables(db: &tokio_postgres::Client) -> Vec<String> {
    let rows = db
        .query(
            "select table_name::text from information_schema.tables
              where table_schema = 'public' and table_type = 'BASE TABLE'
                and table_name not in ('auth_nonces', 'refinery_schema_history', 'incarnations', 'incarnation_witness',
                                       'event_horizon')
                and table_name not like 'used_tokens%'",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Counts the row versions of each table that transactions from `first` on have written.
pub async fn written_since(app: &TestApp, first: i64) -> BTreeMap<String, i64> {
    let db = app.database.connect().await;
    let mut written = BTreeMap::new();
    for table in tables(&db).await {
        let count = format!("select count(*) from {table} where xmin::text::bigint >= $1");
        written.insert(table, db.query_one(&count, &[&first]).await.unwrap().get(0));
    }
    written
}

/// Returns the next writer's transaction id, or a later one, after the writes of earlier reads.
pub async fn next_transaction(app: &TestApp) -> i64 {
    app.settle().await;
    let db = app.database.connect().await;
    db.query_one("select txid_snapshot_xmax(txid_current_snapshot())", &[]).await.unwrap().get(0)
}

/// Changes the database directly, as another replica would.
pub async fn sql(app: &TestApp, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> u64 {
    app.database.connect().await.execute(statement, parameters).await.unwrap()
}

/// Adds `n` members to the roster.
pub async fn seed_members(app: &TestApp, convo: &str, n: i64) {
    // It counts them itself. The trigger would update the conversation once for each, and each reader would step over all those versions.
    let seed =
        "with counted as (
           update conversations set member_count = member_count + $2::bigint::int, roster_version = roster_version + 1 where id = $1
           returning *
         )
         insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, roster_version)
         select id, 'did:plc:seeded' || n, last_seq, current_epoch, last_seq, roster_version from counted, generate_series(1, $2) n";
    assert_eq!(sql(app, seed, &[&convo, &n]).await, n as u64);
}

/// Appends `n` entries of `bytes` bytes each, as another replica would: opaque commits or messages.
pub async fn seed_entries(app: &TestApp, sender: &Persona, kind: &str, n: u64, bytes: i32) {
    let mut db = app.database.connect().await;
    let seed = db.transaction().await.unwrap();
    let step = i64::from(kind == "commit");
    for _ in 0..n {
        let at = seed
            .query_one(
                "update conversations set current_epoch = current_epoch + $2, last_seq = last_seq + 1 where id = $1
                 returning current_epoch, last_seq",
                &[&convo(sender), &step],
            )
            .await
            .unwrap();
        let (epoch, seq): (i64, i64) = (at.get(0), at.get(1));
        seed.execute(
            "insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
             values ($1, $2, 'seeded-' || $2::bigint, $3, $4, $5, decode(repeat('5a', $6), 'hex'),
                     case $4 when 'app' then null else sha256($2::bigint::text::bytea) end)",
            &[&convo(sender), &seq, &sender.did(), &kind, &epoch, &bytes],
        )
        .await
        .unwrap();
    }
    seed.commit().await.unwrap();
}
