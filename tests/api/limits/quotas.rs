//! Quotas: stored bytes and new conversations of one caller per day, and invitations of one DID.

use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, Xrpc, base64_text, bytes_value};
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::limits::{metric, told_to_wait, until};

const DAY: Duration = Duration::from_secs(86_400);

/// A conversation of the caller with these DIDs.
fn conversation(with: &[&str]) -> Value {
    json!({
        "groupId": ulid::Ulid::new().to_bytes().map(|byte| format!("{byte:02x}")).concat(),
        "cipherSuite": "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519",
        "initialMembers": with,
    })
}

async fn create(caller: &Xrpc, with: &[&str]) -> Reply {
    caller.procedure("createConvo", &conversation(with)).await.unwrap()
}

/// Counts how often the caller can create a conversation with these DIDs, up to `most`.
async fn creates(caller: &Xrpc, with: &[&str], most: usize) -> usize {
    for created in 0..most {
        let reply = create(caller, with).await;
        if reply.status != 200 {
            told_to_wait(&reply);
            return created;
        }
    }
    most
}

/// Waits until the replicas have settled this usage.
async fn settled(db: &Client, used: i64) {
    let query = "select coalesce(sum(used), 0)::bigint from allowances where quota = 'convos'";
    until("the settlement", async || db.query_one(query, &[]).await.unwrap().get::<_, i64>(0) == used).await;
    // The replica reads it a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_replicas_keep_a_quota_together_until_its_window_ends() {
    let database = database().await;
    let limited = [("CONVOS_PER_DAY", "3")];
    let fleet = Fleet::with(&[Mode::Advisory, Mode::Actors], &database.config, &database.url, &limited).await;
    let db = database.connect().await;
    let alice = random_did();
    let (here, there) = (fleet.xrpc(0, &alice), fleet.xrpc(1, &alice));

    assert_eq!(creates(&here, &[], 10).await, 3);
    let wait = told_to_wait(&create(&here, &[]).await);
    assert!(wait <= DAY && wait > DAY - Duration::from_secs(60), "{wait:?}");
    settled(&db, 3).await;
    // The other replica does not know her usage before it settles.
    assert_eq!(creates(&there, &[], 1).await, 1);
    settled(&db, 4).await;
    assert_eq!(creates(&there, &[], 10).await, 0);
    assert_eq!(creates(&fleet.xrpc(1, &random_did()), &[], 10).await, 3, "it is her own quota");
    settled(&db, 7).await;

    // The window is over according to the table; a replica without her account asks it.
    db.batch_execute("update allowances set ends_at = now()").await.unwrap();
    let third = catbird_testkit::fleet::Replica::start(Mode::Advisory, &database.url, &limited).await;
    let anew = here.at(third.base.parse().unwrap());
    assert_eq!(creates(&anew, &[], 1).await, 1);
    settled(&db, 4).await;
    assert_eq!(creates(&anew, &[], 10).await, 2);
    assert!(metric(&third.base, "quota_settlements_total{outcome=\"done\"}").await >= Some(1.0));
    assert_eq!(metric(&fleet.replicas[0].base, "quota_exceeded_total{quota=\"convos\"}").await, Some(2.0));
    assert_eq!(third.terminate().await, Some(0));
    settled(&db, 6).await;
    fleet.check().await;
}

async fn send(sender: &Persona, id: &str, epoch: u64, bytes: usize) -> Reply {
    let convo = sender.convo().unwrap();
    let body = json!({ "convoId": convo, "msgId": id, "ciphertext": bytes_value(&vec![0xff; bytes]), "epoch": epoch });
    sender.xrpc.procedure("sendMessage", &body).await.unwrap()
}

macro_rules! either_serializer {
    ($($name:ident with $setting:expr;)*) => {
        mod advisory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let app = super::TestApp::with(&[$setting, ("ENABLE_ACTOR_SYSTEM", "false")]).await;
                super::$name(&app).await;
                app.finish().await;
            })*
        }
        mod actors {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let app = super::TestApp::with(&[$setting, ("ENABLE_ACTOR_SYSTEM", "true")]).await;
                super::$name(&app).await;
                app.finish().await;
            })*
        }
    };
}

either_serializer! {
    p4_repeated_requests_succeed_beyond_the_quota_and_refused_ones_change_nothing with ("STORED_BYTES_PER_DAY", "60000");
    failed_requests_do_not_count with ("CONVOS_PER_DAY", "2");
}

async fn p4_repeated_requests_succeed_beyond_the_quota_and_refused_ones_change_nothing(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let bob = members.remove(1);
    let mut alice = members.remove(0);
    let (convo, epoch) = (alice.convo().unwrap().to_owned(), alice.epoch().unwrap());
    let package = alice.mls.key_package().unwrap();
    let publish = json!({ "keyPackage": base64_text(&package), "cipherSuite": alice.mls.suite_name() });
    let ask = async |alice: &Persona, method: &str, body: &Value| alice.xrpc.procedure(method, body).await.unwrap();
    let carol = app.published_persona().await;
    let hash = &carol.publish_key_packages(1).await.unwrap()[0];
    let staged = alice.mls.add(&alice.group_id, &[carol.mls.key_package().unwrap()]).unwrap();
    let dave = random_did();
    let add = json!({ "convoId": convo, "didList": [dave], "commit": base64_text(&staged.commit) });
    let begun = json!({ "idempotencyKey": "k", "groupId": &hash[..32], "cipherSuite": alice.mls.suite_name() });

    let first: Vec<Reply> = vec![
        ask(&alice, "publishKeyPackage", &publish).await,
        ask(&alice, "createConvo", &begun).await,
        send(&alice, "one", epoch, 10_000).await,
        ask(&alice, "addMembers", &add).await,
    ];
    assert!(first.iter().all(|reply| reply.status == 200), "{first:?}");
    alice.mls.apply(&alice.group_id, &staged.commit).unwrap();
    assert_eq!(send(&alice, "two", epoch + 1, 30_000).await.status, 200);
    let contents = async || {
        let db = app.database.connect().await;
        let rows = "select (select count(*) from messages) + (select count(*) from key_packages) + (select count(*) from conversations)";
        db.query_one(rows, &[]).await.unwrap().get::<_, i64>(0)
    };
    let before = contents().await;
    let refused = send(&alice, "three", epoch + 1, 30_000).await;
    told_to_wait(&refused);
    assert!(refused.body["message"].as_str().unwrap().contains("60000 bytes"), "{refused}");
    // Messages that still fit are accepted.
    let mut more = 0;
    for bytes in [2_000, 1] {
        while send(&alice, &format!("more-{more}"), epoch + 1, bytes).await.status == 200 {
            more += 1;
        }
    }
    assert!((1..20).contains(&more), "{more}");
    assert_eq!(contents().await, before + more);

    let again: Vec<Reply> = vec![
        ask(&alice, "publishKeyPackage", &publish).await,
        ask(&alice, "createConvo", &begun).await,
        send(&alice, "one", epoch, 10_000).await,
    ];
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((first.status, &first.body), (again.status, &again.body));
    }
    let added = ask(&alice, "addMembers", &add).await;
    assert_eq!((added.status, &added.body), (200, &first[3].body));
    told_to_wait(&ask(&alice, "createConvo", &conversation(&[])).await);
    let more_packages =
        json!({ "keyPackage": base64_text(&alice.mls.key_package().unwrap()), "cipherSuite": alice.mls.suite_name() });
    told_to_wait(&ask(&alice, "publishKeyPackage", &more_packages).await);
    assert_eq!(contents().await, before + more);

    // Other callers have their own quotas, and reading and leaving are free.
    assert_eq!(create(&bob.xrpc, &[]).await.status, 200);
    let read = alice.xrpc.query("getMessages", &[("convoId", convo.clone())]).await.unwrap();
    assert_eq!(read.status, 200, "{read}");
    let left = ask(&alice, "leaveConvo", &json!({ "convoId": convo })).await;
    assert_eq!(left.status, 200, "{left}");
}

async fn failed_requests_do_not_count(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let taken = conversation(&[]);
    assert_eq!(bob.xrpc.procedure("createConvo", &taken).await.unwrap().status, 200);
    for _ in 0..5 {
        let reply = alice.xrpc.procedure("createConvo", &taken).await.unwrap();
        assert_eq!((reply.status, reply.error()), (409, Some("ConvoAlreadyExists")), "{reply}");
    }
    let mut once = conversation(&[]);
    once["idempotencyKey"] = json!("once");
    for _ in 0..5 {
        assert_eq!(alice.xrpc.procedure("createConvo", &once).await.unwrap().status, 200);
    }
    assert_eq!(creates(&alice.xrpc, &[], 10).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_only_so_many_strangers_can_be_named() {
    let app = TestApp::with(&[("STRANGERS_PER_DAY", "3")]).await;
    let (mallory, bob) = (app.persona().xrpc, app.persona().xrpc);
    let first = create(&mallory, &[&bob.did]).await;
    let convo = first.string("id").unwrap().to_owned();
    // An earlier invitation alone does not make them acquainted.
    assert_eq!(create(&mallory, &[&bob.did]).await.status, 200);
    let add = async |did: &str| {
        let body = json!({ "convoId": convo, "didList": [did] });
        mallory.procedure("addMembers", &body).await.unwrap()
    };
    let carol = random_did();
    assert_eq!(add(&carol).await.status, 200);
    told_to_wait(&add(&random_did()).await);
    told_to_wait(&create(&mallory, &[&random_did(), &random_did()]).await);
    told_to_wait(&create(&mallory, &[&bob.did]).await);
    assert_eq!(create(&mallory, &[]).await.status, 200);

    // A non-member learns nothing from it.
    let stranger = app.persona().xrpc;
    let reply = stranger.procedure("addMembers", &json!({ "convoId": convo, "didList": [carol] })).await.unwrap();
    assert_eq!((reply.status, reply.error()), (404, Some("ConvoNotFound")), "{reply}");

    let message = json!({ "convoId": convo, "ciphertext": bytes_value(b"hello"), "epoch": 0 });
    assert_eq!(mallory.procedure("sendMessage", &message).await.unwrap().status, 200);
    // After he has read the conversation, they share one.
    let marking = [("convoId", convo.clone()), ("markRead", "true".to_owned())];
    assert_eq!(bob.query("getMessages", &marking).await.unwrap().status, 200);
    app.settle().await;
    assert_eq!(creates(&mallory, &[&bob.did], 3).await, 3);
    // She is not a stranger to him, since she created it.
    assert_eq!(creates(&bob, &[&mallory.did], 5).await, 5);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_invitations_by_strangers_are_limited() {
    let app = TestApp::with(&[("INVITATIONS_PER_HOUR", "8")]).await;
    let (bob, friend) = (app.persona().xrpc, app.persona().xrpc);
    assert_eq!(create(&bob, &[&friend.did]).await.status, 200);
    for _ in 0..4 {
        let mallory = app.persona().xrpc;
        assert_eq!(creates(&mallory, &[&bob.did], 5).await, 2, "one of them makes a quarter");
    }
    let refused = create(&app.persona().xrpc, &[&random_did(), &bob.did]).await;
    let wait = told_to_wait(&refused);
    assert!(wait <= Duration::from_secs(3_600) && wait > Duration::from_secs(3_540), "{wait:?}");
    assert!(!refused.body["message"].as_str().unwrap().contains(&bob.did), "{refused}");
    assert_eq!(creates(&friend, &[&bob.did], 3).await, 3, "whom he has to do with is not limited");
    assert!(metric(&app.base, "quota_exceeded_total{quota=\"invitations\"}").await >= Some(1.0));
    app.finish().await;
}
