//! A conversation may be named by its MLS group id wherever a request names one.

use catbird_client::persona::hex;
use catbird_client::random_did;
use catbird_server::xrpc::Kind;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::events::try_follow;
use crate::examples::{examples, methods};
use crate::harness::*;

either_serializer! {
    every_method_answers_alike_by_id_and_by_group_id;
}
any_serializer! {
    p7_a_stranger_sees_no_difference_between_a_group_id_that_exists_and_one_that_does_not;
    a_group_id_may_have_128_digits;
    an_id_that_looks_like_a_group_id_is_an_id;
    a_stream_is_opened_by_group_id;
}

/// Returns the group id of a conversation.
async fn group_of(app: &TestApp, id: &str) -> String {
    let find = "select group_id from conversations where id = $1";
    app.database.connect().await.query_one(find, &[&id]).await.unwrap().get(0)
}

/// Replaces what differs between two equal requests: times and tickets.
fn comparable(body: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in body.as_object_mut().into_iter().flatten() {
        if name == "ticket" || name.ends_with("At") {
            *value = json!("");
        }
    }
    body
}

async fn every_method_answers_alike_by_id_and_by_group_id(app: &TestApp) {
    for method in methods().into_iter().filter(|method| method.has("convoId") && !method.streams) {
        for example in examples(app, method.name).await {
            let by_id = example.input();
            let group = group_of(app, by_id["convoId"].as_str().unwrap()).await;
            assert_ne!(group, by_id["convoId"]);
            // A write is repeated, and so gets its first reply.
            let first = ok(example.send(&by_id).await);
            for name in [group.clone(), group.to_uppercase()] {
                let again = ok(example.send(&with(&by_id, json!({ "convoId": name }))).await);
                // Each upload is another one.
                if method.uploads || method.name == "createBlobUpload" {
                    continue;
                }
                assert_eq!(comparable(&again.body), comparable(&first.body), "{} {:?}", method.name, method.kind);
            }
        }
        if method.kind == Kind::Procedure {
            for example in examples(app, method.name).await {
                let group = group_of(app, example.input()["convoId"].as_str().unwrap()).await;
                ok(example.send(&with(&example.input(), json!({ "convoId": group }))).await);
            }
        }
    }
}

async fn p7_a_stranger_sees_no_difference_between_a_group_id_that_exists_and_one_that_does_not(app: &TestApp) {
    for method in methods().into_iter().filter(|method| method.has("convoId")) {
        for example in examples(app, method.name).await {
            let (stranger, input) = (app.persona(), example.input());
            let group = group_of(app, input["convoId"].as_str().unwrap()).await;
            let missing = hex(random_did().as_bytes());
            let mut replies = Vec::new();
            for name in [&group, &missing] {
                let reply = example.send_as(&stranger, &with(&input, json!({ "convoId": name }))).await;
                replies.push(refused(reply, 404, "ConvoNotFound").sentence().to_owned());
            }
            assert_eq!(replies[0], replies[1], "{}", method.name);
        }
    }
}

async fn a_group_id_may_have_128_digits(app: &TestApp) {
    let (mut alice, bob) = (app.persona(), app.published_persona().await);
    let id: Vec<u8> = random_did().bytes().cycle().take(64).collect();
    alice.create(&id, "long").await.unwrap();
    alice.add(&[bob.did()]).await.unwrap();
    let named = hex(&id);
    assert_eq!(named.len(), 128);
    let epoch = ok(get(&alice, "getEpoch", &[("convoId", &named)]).await).body;
    assert_eq!((&epoch["convoId"], &epoch["currentEpoch"]), (&json!(convo(&alice)), &json!(1)));
    let welcome = ok(get(&bob, "getWelcome", &[("convoId", &named)]).await).body;
    assert_eq!(welcome["convoId"], convo(&alice));
    for bad in [format!("{named}00"), named[..127].to_owned()] {
        refused(get(&alice, "getEpoch", &[("convoId", &bad)]).await, 400, "InvalidRequest");
    }
}

async fn an_id_that_looks_like_a_group_id_is_an_id(app: &TestApp) {
    let (mut alice, bob) = (app.persona(), app.persona());
    let name = "01234567890123456789abcdef";
    let bytes: Vec<u8> = (0..13).map(|n| u8::from_str_radix(&name[2 * n..2 * n + 2], 16).unwrap()).collect();
    alice.create(random_did().as_bytes(), "an id").await.unwrap();
    let id = convo(&alice);
    for table in ["conversations set id", "members set convo_id", "conversation_metadata set convo_id"] {
        let column = table.split(' ').next_back().unwrap();
        sql(app, &format!("update {table} = $1 where {column} = $2"), &[&name, &id]).await;
    }
    // It records the reply of createConvo, with the former id.
    sql(app, "delete from idempotency_records", &[]).await;
    alice.convo_id = None;
    alice.create(&bytes, "a group id").await.unwrap();
    ok(ask(&alice, "addMembers", &json!({ "convoId": name, "didList": [bob.did()] })).await);
    let reached = |reply: catbird_client::xrpc::Reply| ok(reply).body["convoId"].clone();
    assert_eq!(reached(get(&alice, "getEpoch", &[("convoId", name)]).await), name);
    assert_eq!(reached(get(&bob, "getEpoch", &[("convoId", name)]).await), name, "it was added to that one");
    // A member of the other one alone has no other meaning for it.
    let carol = app.persona();
    ok(ask(&alice, "addMembers", &json!({ "convoId": convo(&alice), "didList": [carol.did()] })).await);
    assert_eq!(reached(get(&carol, "getEpoch", &[("convoId", name)]).await), convo(&alice));
}

async fn a_stream_is_opened_by_group_id(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let group = group_of(app, &convo(&members[0])).await;
    let mut stream = try_follow(&members[1], &[("convoId", &group)], None).await.unwrap();
    stream.next_id().await;
    members[0].send("hello").await.unwrap();
    assert_eq!(stream.expect("messageEvent").await["message"]["convoId"], convo(&members[0]));
}
