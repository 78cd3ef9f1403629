//! The limit of one conversation, with either serializer.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::persona::Persona;
use crate::support::client::xrpc::{Reply, bytes_value};
use crate::{metric, most, told_to_wait};

/// One write a second: what was used up stays so for a while.
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
    p10_writes_that_were_refused_use_nothing_up;
}

/// An opaque message in the member's epoch.
async fn send(sender: &Persona, convo: &str, epoch: u64) -> Reply {
    let body = json!({ "convoId": convo, "ciphertext": bytes_value(b"opaque"), "epoch": epoch });
    sender.xrpc.procedure("sendMessage", &body).await.unwrap()
}

/// Everything that the log holds.
async fn log(member: &Persona, convo: &str) -> Vec<Value> {
    let parameters = [("convoId", convo.to_owned()), ("sinceSeq", "0".to_owned()), ("limit", "100".to_owned())];
    member.xrpc.query("getMessages", &parameters).await.unwrap().list("messages").unwrap().to_vec()
}

/// Sends until the conversation is over its limit: how often that went well, and the refusal.
async fn exhaust(senders: &[&Persona], convo: &str, epoch: u64) -> (usize, Reply) {
    for accepted in 0.. {
        let reply = send(senders[accepted % senders.len()], convo, epoch).await;
        if reply.status != 200 {
            return (accepted, reply);
        }
    }
    unreachable!("a limit that lets everything through")
}

/// Sends many messages at once, most of which begin before any of them counts: how many were accepted. The conversation is far
/// over its limit afterwards.
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
    // Nothing but the request's own id may differ.
    let refused = async |convo: &str| {
        let reply = send(&stranger, convo, epoch).await;
        assert_eq!((reply.status, reply.error()), (404, Some("ConvoNotFound")), "{reply}");
        assert!(reply.retry_after().is_none(), "{reply}");
        let mut body = reply.body;
        body.as_object_mut().unwrap().remove("requestId");
        body
    };
    let missing = refused("01JB2N0W3E8Z6TQ9K4M5V7X1YA").await;
    // So that the conversation has an actor, where there are any.
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
        assert_eq!(send(&alice, convo, epoch + 7).await.error(), Some("EpochMismatch"));
    }
    for _ in 0..2 {
        assert_eq!(send(&alice, convo, epoch).await.status, 200);
    }
}
