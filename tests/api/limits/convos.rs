//! Limit of one conversation, with either serializer.

use std::time::Instant;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, bytes_value};
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::limits::{metric, most, told_to_wait};

/// One write per second, so that the limit stays used up for a while.
const RATE: u32 = 1;
const LIMITED: (&str, &str) = ("RATE_LIMIT_PER_CONVO", "1");

macro_rules! either_serializer {
    ($($name:ident;)*) => {
        mod advisory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let app = super::TestApp::with(&[super::LIMITED, ("ENABLE_ACTOR_SYSTEM", "false")]).await;
                super::$name(&app).await;
                app.finish().await;
            })*
        }
        mod actors {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let app = super::TestApp::with(&[super::LIMITED, ("ENABLE_ACTOR_SYSTEM", "true")]).await;
                super::$name(&app).await;
                app.finish().await;
            })*
        }
    };
}

either_serializer! {
    p10_members_together_are_held_to_the_conversations_limit_and_refusals_change_nothing;
    p7_strangers_neither_use_a_limit_up_nor_learn_of_it;
    p7_members_and_strangers_in_one_membership_query_are_distinguished;
    p10_writes_that_were_refused_use_nothing_up;
    p7_writes_of_strangers_start_no_transaction;
    a_former_member_that_goes_on_writing_is_kept_away_from_the_lock;
}

/// Sends an opaque message in the member's epoch.
async fn send(sender: &Persona, convo: &str, epoch: u64) -> Reply {
    let body = json!({ "convoId": convo, "ciphertext": bytes_value(b"opaque"), "epoch": epoch });
    sender.xrpc.procedure("sendMessage", &body).await.unwrap()
}

/// Returns the whole log.
async fn log(member: &Persona, convo: &str) -> Vec<Value> {
    let parameters = [("convoId", convo.to_owned()), ("sinceSeq", "0".to_owned()), ("limit", "100".to_owned())];
    member.xrpc.query("getMessages", &parameters).await.unwrap().list("messages").unwrap().to_vec()
}

/// Sends until the conversation is over its limit; returns the number of successes, and the refusal.
async fn exhaust(senders: &[&Persona], convo: &str, epoch: u64) -> (usize, Reply) {
    for accepted in 0.. {
        let reply = send(senders[accepted % senders.len()], convo, epoch).await;
        if reply.status != 200 {
            return (accepted, reply);
        }
    }
    unreachable!("a limit that lets everything through")
}

/// Sends many messages at once, most of which start before any of them counts; returns how many were accepted. The
/// conversation is far over its limit afterwards.
async fn flood(sender: &Persona, convo: &str, epoch: u64) -> usize {
    let replies = join_all((0..8).map(|_| send(sender, convo, epoch))).await;
    let accepted = replies.iter().filter(|reply| reply.status == 200).count();
    replies.iter().filter(|reply| reply.status != 200).for_each(|reply| _ = told_to_wait(reply));
    accepted
}

async fn p10_members_together_are_held_to_the_conversations_limit_and_refusals_change_nothing(app: &TestApp) {
    let members = app.conversation(2).await;
    let (alice, bob) = (&members[0], &members[1]);
    let (convo, epoch) = (alice.convo().unwrap(), alice.epoch().unwrap());
    let before = log(alice, convo).await.len();
    let start = Instant::now();
    let (accepted, refusal) = exhaust(&[alice, bob], convo, epoch).await;
    assert!(accepted as f64 <= most(RATE, start), "{accepted} in {:?}", start.elapsed());
    tokio::time::sleep(told_to_wait(&refusal)).await;
    let flooded = flood(bob, convo, epoch).await;
    assert!(flooded > 0, "nothing is accepted after the wait that was named");

    let refusals = join_all([alice, bob].map(async |member| {
        let leave = json!({ "convoId": convo, "targetDid": member.did() });
        let left = member.xrpc.procedure("leaveConvo", &leave).await.unwrap();
        told_to_wait(&left).max(told_to_wait(&send(member, convo, epoch).await))
    }));
    let wait = refusals.await.into_iter().max().unwrap();
    let all = before + accepted + flooded;
    assert_eq!(log(alice, convo).await.len(), all, "reading is not limited, and nothing else was written");

    let mut elsewhere = app.conversation(1).await.remove(0);
    elsewhere.send("another conversation").await.unwrap();
    tokio::time::sleep(wait).await;
    assert_eq!(send(bob, convo, epoch).await.status, 200, "after the wait that was named");
    assert_eq!(log(alice, convo).await.len(), all + 1);
    assert!(metric(&app.base, "rate_limited_total{scope=\"convo\"}").await >= Some(5.0));
}

async fn p7_strangers_neither_use_a_limit_up_nor_learn_of_it(app: &TestApp) {
    let alice = app.conversation(1).await.remove(0);
    let (convo, epoch) = (alice.convo().unwrap(), alice.epoch().unwrap());
    let stranger = app.persona();
    // Only the request's own id may differ.
    let refused = async |convo: &str| {
        let reply = send(&stranger, convo, epoch).await;
        assert_eq!((reply.status, reply.error()), (404, Some("ConvoNotFound")), "{reply}");
        assert!(reply.retry_after().is_none(), "{reply}");
        let sentence = reply.sentence().to_owned();
        let mut body = reply.body;
        body.as_object_mut().unwrap().remove("requestId");
        body["message"] = json!(sentence);
        body
    };
    let missing = refused("01JB2N0W3E8Z6TQ9K4M5V7X1YA").await;
    // This starts the conversation's actor, if there are actors.
    assert_eq!(send(&alice, convo, epoch).await.status, 200);
    for _ in 0..20 {
        assert_eq!(refused(convo).await, missing);
    }
    assert_eq!(send(&alice, convo, epoch).await.status, 200, "strangers have used the conversation's limit up");

    let (_, refusal) = exhaust(&[&alice], convo, epoch).await;
    tokio::time::sleep(told_to_wait(&refusal)).await;
    flood(&alice, convo, epoch).await;
    for reply in join_all((0..5).map(|_| refused(convo))).await {
        assert_eq!(reply, missing, "while the conversation is over its limit");
    }
    told_to_wait(&send(&alice, convo, epoch).await);
}

async fn p10_writes_that_were_refused_use_nothing_up(app: &TestApp) {
    let alice = app.conversation(1).await.remove(0);
    let (convo, epoch) = (alice.convo().unwrap(), alice.epoch().unwrap());
    for _ in 0..20 {
        assert_eq!(send(&alice, convo, epoch + 7).await.error(), Some("EpochAhead"));
    }
    for _ in 0..2 {
        assert_eq!(send(&alice, convo, epoch).await.status, 200);
    }
}

/// Returns the write statements that were run.
async fn statements(app: &TestApp) -> Vec<String> {
    let http = catbird_client::xrpc::http().unwrap();
    let text = http.get(format!("{}/metrics", app.base)).send().await.unwrap().text().await.unwrap();
    let counts = |line: &&str| {
        ["database_transactions_total{", "database_queries_total{query=\"tx/", "database_queries_total{query=\"epochs/"]
            .iter()
            .any(|name| line.starts_with(name) && !line.contains("Sweep"))
    };
    text.lines().filter(counts).map(str::to_owned).collect()
}

async fn p7_writes_of_strangers_start_no_transaction(app: &TestApp) {
    let mut alice = app.conversation(1).await.remove(0);
    let (convo, epoch) = (alice.convo().unwrap().to_owned(), alice.epoch().unwrap());
    let stranger = app.persona();
    let staged = alice.mls.add(&alice.group_id, &[app.persona().mls.key_package().unwrap()]).unwrap();
    let commit = catbird_client::xrpc::base64_text(&staged.commit);
    let before = statements(app).await;
    for convo in [convo.as_str(), "01JB2N0W3E8Z6TQ9K4M5V7X1YA"] {
        assert_eq!(send(&stranger, convo, epoch).await.error(), Some("ConvoNotFound"));
        for (method, body) in [
            ("addMembers", json!({ "convoId": convo, "didList": ["did:plc:bob"], "commit": commit })),
            ("addMembers", json!({ "convoId": convo, "didList": ["did:plc:bob"] })),
            ("leaveConvo", json!({ "convoId": convo })),
            ("confirmWelcome", json!({ "convoId": convo, "success": true })),
        ] {
            let reply = stranger.xrpc.procedure(method, &body).await.unwrap();
            assert_eq!(reply.error(), Some("ConvoNotFound"), "{method}: {reply}");
        }
    }
    assert_eq!(statements(app).await, before);
}

async fn p7_members_and_strangers_in_one_membership_query_are_distinguished(app: &TestApp) {
    let (here, there) = (app.conversation(6).await, app.conversation(6).await);
    let (epoch, convos) = (here[0].epoch().unwrap(), [here[0].convo().unwrap(), there[0].convo().unwrap()]);
    // Each is a member of one of the two, and writes to both.
    let writing = here.iter().chain(&there).flat_map(|writer| convos.map(|convo| (writer, convo)));
    let replies =
        join_all(writing.map(async |(writer, convo)| (writer, convo, send(writer, convo, epoch).await))).await;
    for (writer, convo, reply) in replies {
        // Only members learn that the limit is reached.
        let told: &[u16] = if writer.convo().unwrap() == convo { &[200, 429] } else { &[404] };
        assert!(told.contains(&reply.status), "{reply}");
    }
}

/// Retries while the conversation is over its limit, which is not under test here.
async fn unhurried(asking: impl AsyncFn() -> Reply) -> Reply {
    loop {
        let reply = asking().await;
        if reply.status != 429 || !reply.body["message"].as_str().unwrap().contains("writes per second") {
            return reply;
        }
        tokio::time::sleep(told_to_wait(&reply)).await;
    }
}

async fn a_former_member_that_goes_on_writing_is_kept_away_from_the_lock(app: &TestApp) {
    let members = app.conversation(2).await;
    let (alice, bob) = (&members[0], &members[1]);
    let (convo, epoch) = (alice.convo().unwrap(), alice.epoch().unwrap());
    let leave = json!({ "convoId": convo, "idempotencyKey": "leave" });
    let left = unhurried(async || bob.xrpc.procedure("leaveConvo", &leave).await.unwrap()).await;
    assert_eq!(left.status, 200, "{left}");
    let mut refusals = 0;
    let told = loop {
        let reply = unhurried(async || send(bob, convo, epoch).await).await;
        if (reply.status, reply.error()) != (403, Some("NotMember")) {
            break reply;
        }
        refusals += 1;
    };
    assert!((60..70).contains(&refusals), "{refusals}");
    told_to_wait(&told);
    let before = statements(app).await;
    told_to_wait(&send(bob, convo, epoch).await);
    assert_eq!(statements(app).await, before);
    assert!(metric(&app.base, "rate_limited_total{scope=\"former\"}").await >= Some(2.0));
    // A member that was added again is not a former member.
    let add = json!({ "convoId": convo, "didList": [bob.did()] });
    let added = unhurried(async || alice.xrpc.procedure("addMembers", &add).await.unwrap()).await;
    assert_eq!(added.status, 200, "{added}");
    let sent = unhurried(async || send(bob, convo, epoch).await).await;
    assert_eq!(sent.status, 200, "{sent}");
}
